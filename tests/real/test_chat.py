"""Chats with a real model that is pulled as a safetensors repository: it answers correctly, and stops."""

from collections.abc import Mapping
from typing import Any

import jinja2
import orjson
import pytest
import tokenizers

from proxy.planning.capabilities import RUNS_SINCE
from proxy.standins.hub import StandInHub
from tests.chat.own_templates import LLAMA_SERVER_DIFFERS
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.byte_level import TEMPLATE
from tests.kit.real_ollama import RealOllama
from tests.kit.smollm2 import BOS, Smollm2
from tests.kit.support import Client

pytestmark = pytest.mark.timeout(300)

QUESTIONS = {
    "What is the capital of France? Answer in one sentence.": "Paris",
    "Which planet do we live on? Answer in one sentence.": "Earth",
}
USER = {"role": "user", "content": "How are you?"}
# No space before punctuation: Ollama (0.24, 0.33) does not know the pre-tokenizer `smollm`; its default splits there.
CONVERSATIONS = {
    "user": [USER],
    "system": [{"role": "system", "content": "Be terse."}, USER],
    "turns": [
        USER,
        {"role": "assistant", "content": "Fine."},
        {"role": "user", "content": "And\n\nthen?"},
        {"role": "assistant", "content": "Nothing."},
        {"role": "user", "content": 'Thanks!\nAnd é, x<b>&"y"?'},
    ],
}


@pytest.fixture(scope="module")
def files(real_ollama: RealOllama, smollm2: Smollm2) -> Mapping[str, bytes]:
    return smollm2.files()


@pytest.fixture(params=["tokenizer_config.json", "chat_template.jinja"])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def with_template(files: Mapping[str, bytes], smollm2: Smollm2, place: str) -> dict[str, bytes]:
    if place == "tokenizer_config.json":
        return {**files, place: smollm2.tokenizer_config(chat_template=smollm2.jinja)}
    return {**files, "tokenizer_config.json": smollm2.tokenizer_config(), place: smollm2.jinja.encode()}


async def pulled(client: Client, name: str) -> list[str]:
    """The lines of a pull that succeeds."""
    lines = await client.pull(name)
    assert lines[-1] == {"status": "success"}
    return [str(line.get("status")) for line in lines]


async def chat(client: Client, name: str, messages: list[dict[str, str]], **fields: Any) -> dict[str, Any]:
    options = {"temperature": 0, "seed": 1, "num_predict": 80, "num_ctx": 1024}
    body = {"model": name, "messages": messages, "stream": False, "options": options, **fields}
    status, answer = await client.post("/api/chat", body)
    assert status == 200, answer
    reply = orjson.loads(answer)
    assert isinstance(reply, dict)
    return reply


async def test_it_answers_and_stops(
    real_client: Client, hub: StandInHub, files: Mapping[str, bytes], smollm2: Smollm2, place: str
) -> None:
    hub.add("acme/SmolLM2", with_template(files, smollm2, place))
    name = "hf.co/acme/SmolLM2:q8_0"
    assert not [status for status in await pulled(real_client, name) if "template" in status]
    for question, word in QUESTIONS.items():
        reply = await chat(real_client, name, [{"role": "user", "content": question}])
        assert word in reply["message"]["content"]
        assert "<|im_" not in reply["message"]["content"]
        assert reply["done_reason"] == "stop"


async def test_the_prompt_is_the_jinja_templates(
    real_client: Client, hub: StandInHub, files: Mapping[str, bytes], smollm2: Smollm2, place: str
) -> None:
    """The text is equal, with its BOS token, which this tokenizer does not add. The number of tokens is equal too."""
    hub.add("acme/SmolLM2", with_template(files, smollm2, place))
    name = "hf.co/acme/SmolLM2:q8_0"
    await pulled(real_client, name)
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(smollm2.jinja)
    tokenizer = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    for messages in CONVERSATIONS.values():
        expected = template.render(messages=messages, add_generation_prompt=True)
        assert expected.startswith(BOS)
        rendered = await chat(real_client, name, messages, think=False, _debug_render_only=True)
        assert rendered["_debug_info"]["rendered_template"] == expected
        reply = await chat(real_client, name, messages)
        assert reply["prompt_eval_count"] == len(tokenizer.encode(expected).ids)


async def test_a_laguna_uses_its_own_jinja(real_ollama: RealOllama, real_client: Client, hub: StandInHub) -> None:
    """Ollama itself would render every Laguna like the first Laguna model."""
    if real_ollama.version < RUNS_SINCE["laguna"]:
        pytest.skip("this Ollama runs no Laguna")
    hub.add("acme/laguna", REPOSITORIES["laguna"].files())
    await pulled(real_client, "hf.co/acme/laguna:q8_0")
    rendered = await chat(real_client, "hf.co/acme/laguna:q8_0", [USER], _debug_render_only=True)
    expected = jinja2.Template(TEMPLATE, keep_trailing_newline=True).render(messages=[USER], add_generation_prompt=True)
    assert rendered["_debug_info"]["rendered_template"] == expected


@pytest.mark.parametrize("kind", LLAMA_SERVER_DIFFERS)
async def test_the_prompt_is_the_jinjas_despite_llama_server(
    real_client: Client, hub: StandInHub, files: Mapping[str, bytes], smollm2: Smollm2, kind: str
) -> None:
    """llama-server's own Jinja engine would render these templates differently."""
    source, repository = LLAMA_SERVER_DIFFERS[kind], f"acme/{kind.replace(' ', '-')}"
    hub.add(repository, {**files, "tokenizer_config.json": smollm2.tokenizer_config(chat_template=source)})
    name = f"hf.co/{repository}:q8_0"
    assert not [status for status in await pulled(real_client, name) if "exactly" in status]
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(source)
    for messages in CONVERSATIONS.values():
        rendered = await chat(real_client, name, messages, think=False, _debug_render_only=True)
        expected = template.render(messages=messages, add_generation_prompt=True)
        assert rendered["_debug_info"]["rendered_template"] == expected
    assert (await chat(real_client, name, [USER]))["message"]["content"]


async def test_a_model_without_a_chat_template_has_a_warning(
    real_client: Client, hub: StandInHub, files: Mapping[str, bytes], smollm2: Smollm2
) -> None:
    """The model then continues texts."""
    hub.add("acme/SmolLM2-base", {**files, "tokenizer_config.json": smollm2.tokenizer_config()})
    name = "hf.co/acme/SmolLM2-base:q8_0"
    warnings = [status for status in await pulled(real_client, name) if status.startswith("warning: ")]
    assert any("no chat template" in warning for warning in warnings)
    reply = await chat(real_client, name, [{"role": "user", "content": "The capital of France is"}])
    assert "Paris" in reply["message"]["content"]
