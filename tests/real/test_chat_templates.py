"""Every chat template of a file: a real Ollama renders the Jinja's text, or the pull has a warning.

CHAT_TEMPLATES names a JSON file {name: Jinja}; without it, the templates of tests/chat/own_templates.py are used. Each
template takes a pull and a load of a tiny model.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.chat.conversations import Conversation, Dialect, compose, ordinary_text
from proxy.chat.detection import detect_dialect
from proxy.chat.facts import TokenizerFacts
from proxy.chat.renderer import Renderer
from proxy.chat.sandbox import Sandbox, Unrenderable
from proxy.chat.segmentation import UnsupportedTemplate
from proxy.chat.verify import CORE
from proxy.standins.hub import StandInHub
from tests.chat import own_templates
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.kit.real_ollama import RealOllama
from tests.kit.support import Client

pytestmark = pytest.mark.timeout(6 * 3600)

FACTS = TokenizerFacts(bos="<|endoftext|>", eos=("<|im_end|>",))
"""Of the tiny model."""
KINDS = {name: shapes[0] for name, shapes in CORE.items() if name != "long"}
SETTINGS = {"think not set": {}, "thinking off": {"think": False}}
LEAST = 0.97
"""The share of equal renderings."""


def templates() -> dict[str, str]:
    if "CHAT_TEMPLATES" in os.environ:
        sources = json.loads(Path(os.environ["CHAT_TEMPLATES"]).read_text())
        return {str(name): str(source) for name, source in sources.items()}
    return {**own_templates.PLAIN, **own_templates.CALLING, **own_templates.LLAMA_SERVER_DIFFERS}


def expectations(source: str) -> Iterator[tuple[str, str, Conversation, str]]:
    """Kind, setting of thinking, conversation and text for each conversation that the Jinja renders."""
    sandbox = Sandbox(source, FACTS)
    try:
        dialect = detect_dialect(sandbox)
    except (Unrenderable, UnsupportedTemplate):
        dialect = Dialect()
    for setting in SETTINGS if dialect.toggle else ["thinking off"]:
        for kind, shape in KINDS.items():
            think = "off" if dialect.toggle and setting == "thinking off" else ""
            conversation = compose(shape, ordinary_text, 0, think)
            try:
                yield kind, setting, conversation, Renderer(sandbox, dialect).render(conversation)
            except Unrenderable:
                continue


async def rendered(client: Client, name: str, conversation: Conversation, setting: str) -> str:
    """The text that Ollama renders without BOS, or its error."""
    messages = [{"role": message.role, "content": message.content} for message in conversation.messages]
    body: dict[str, Any] = {"model": name, "messages": messages, "stream": False, "_debug_render_only": True}
    # The tiny tokenizer has many tokens for few words: without this, Ollama would drop messages.
    body["truncate"] = False
    _, answer = await client.post("/api/chat", body | SETTINGS[setting])
    reply = orjson.loads(answer)
    return str(reply["_debug_info"]["rendered_template"] if "_debug_info" in reply else reply).removeprefix(FACTS.bos)


def is_warned_of(warning: str, kind: str, setting: str) -> bool:
    kinds = re.search("these differ: ([^;]*);", warning)
    named = kinds[1].split(", ") if kinds else []
    return kind in named or setting in named or "is not used" in warning or "could not be checked" in warning


async def test_what_differs_is_in_a_warning(real_ollama: RealOllama, real_client: Client, hub: StandInHub) -> None:
    files = REPOSITORIES["llama"].files()
    config = orjson.loads(files["tokenizer_config.json"])
    assert (config["bos_token"], config["eos_token"]) == (FACTS.bos, FACTS.eos[0])
    equal: Counter[str] = Counter()
    total: Counter[str] = Counter()
    faults = []
    for number, (name, source) in enumerate(templates().items()):
        hub.add(f"acme/t{number}", {**files, "tokenizer_config.json": orjson.dumps(config | {"chat_template": source})})
        model = f"hf.co/acme/t{number}:f16"
        lines = await real_client.pull(model)
        assert lines[-1] == {"status": "success"}, (name, lines[-1])
        warning = "; ".join(str(line["status"]) for line in lines if "warning: " in str(line.get("status")))
        for kind, setting, conversation, text in expectations(source):
            output = await rendered(real_client, model, conversation, setting)
            total[setting] += 1
            equal[setting] += output == text
            if output != text:
                is_known = is_warned_of(warning, kind, setting)
                print(f"{name}: {kind}, {setting}: {'warned of' if is_known else 'NOT WARNED OF'}: {output[-200:]!r}")
                faults += [] if is_known else [(name, kind, setting)]
        async with real_client.session.delete(f"{real_client.url}/api/delete", json={"model": model}) as answer:
            assert answer.status == 200
    print(real_ollama.version_text, {setting: f"{equal[setting]}/{total[setting]}" for setting in total})
    assert not faults
    assert equal["thinking off"] >= LEAST * total["thinking off"]
