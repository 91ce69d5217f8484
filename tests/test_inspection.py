"""`inspect`: the fields that scripts rely on."""

from dataclasses import replace
from io import StringIO

import orjson
import pytest
from rich.console import Console

from proxy.config.sections import ModelSettings
from proxy.inspection import Inspection, inspect
from proxy.planning.plan import Base, Format, Plan
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.conversions import converted
from tests.kit.support import digest_of, fetched, settings
from tests.kit.tiny_gguf import tiny_gguf, tiny_projector
from tests.planning.listings import listing

KEYS = {
    "name",
    "repository",
    "commit",
    "format",
    "files",
    "quantization",
    "converter",
    "template",
    "system",
    "parameters",
    "repairs",
    "warnings",
    "refusal",
    "bytes_to_move",
}
MORE_KEYS = {"reason", "base", "result_size", "free_disk", "offers"}
"""In addition to those of the contract."""


async def test_the_plan_has_every_field_and_moves_nothing(hub: StandInHub, ollama: StandInOllama) -> None:
    files = tiny_llama()
    repository = hub.add("acme/tiny", files)
    models = {"hf.co/acme/tiny": {"system": "Be terse.", "parameters": {"temperature": 0.3}}}
    inspection = (await inspect(settings(hub.endpoint, ollama.url, models=models), "hf.co/acme/tiny")).to_json()
    assert set(inspection) == KEYS | MORE_KEYS
    assert (inspection["name"], inspection["repository"]) == ("hf.co/acme/tiny:latest", "acme/tiny")
    assert (inspection["commit"], inspection["format"]) == (repository.commit, "safetensors")
    assert (inspection["quantization"], inspection["converter"]) == ("Q4_K_M", "proxy")
    assert inspection["template"] == {"source": "tokenizer_config.json", "exact": True}
    assert inspection["system"] == "Be terse."
    assert inspection["parameters"] == {"temperature": 0.3, "repeat_penalty": 1.0, "stop": ["<|eot_id|>"]}
    assert (inspection["repairs"], inspection["warnings"], inspection["refusal"]) == ([], [], None)
    size = len(converted(files, quantization="Q4_K_M"))
    assert inspection["files"] == [{"path": "model.gguf", "size": size, "digest": None, "held": False}]
    assert inspection["bytes_to_move"] == len(files["model.safetensors"])
    assert not fetched(hub)
    assert not [request for request in ollama.requests if request.method == "POST"]


async def test_held_blobs_do_not_move(hub: StandInHub, ollama: StandInOllama) -> None:
    whole, projector = tiny_gguf(), tiny_projector()
    hub.add("acme/tiny", {"m-Q4_K_M.gguf": whole, "mmproj-F16.gguf": projector})
    ollama.blobs[digest_of(whole)] = len(whole)
    inspection = (await inspect(settings(hub.endpoint, ollama.url), "hf.co/acme/tiny")).to_json()
    held, moves = inspection["files"]
    assert held == {"path": "m-Q4_K_M.gguf", "size": len(whole), "digest": digest_of(whole), "held": True}
    assert (moves["path"], moves["held"]) == ("mmproj-F16.gguf", False)
    assert inspection["bytes_to_move"] == len(projector)


async def test_a_repositorys_texts_cannot_control_a_terminal(hub: StandInHub, ollama: StandInOllama) -> None:
    template = {"chat_template": "{{ raise_exception('\x1b]0;owned\x07\x1b[2J') }}"}
    files = {"tokenizer_config.json": orjson.dumps(template), "system": b"Be\nbrief.\x1b[2J"}
    hub.add("acme/tiny", tiny_llama() | files)
    shown = Console(file=StringIO(), width=500)
    (await inspect(settings(hub.endpoint, ollama.url), "hf.co/acme/tiny")).print(shown)
    assert isinstance(shown.file, StringIO)
    output = shown.file.getvalue()
    assert "cannot be rendered" in output
    assert "Be\nbrief. [2J" in output
    assert output.replace("\n", "").isprintable()


async def test_a_refusal_keeps_the_known_fields(hub: StandInHub, ollama: StandInOllama) -> None:
    repository = hub.add("acme/bin", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    inspection = (await inspect(settings(hub.endpoint, ollama.url), "hf.co/acme/bin:q8_0")).to_json()
    assert set(inspection) == KEYS | MORE_KEYS
    assert inspection["commit"] == repository.commit
    assert "no safetensors weights" in inspection["refusal"]
    assert (inspection["files"], inspection["quantization"], inspection["bytes_to_move"]) == ([], None, 0)


async def test_a_gguf_is_ollamas_own(hub: StandInHub, ollama: StandInOllama, public_hub: None) -> None:
    hub.add("acme/tiny-gguf", {"tiny.Q4_K_M.gguf": b"GGUF"})
    inspection = (await inspect(settings(hub.endpoint, ollama.url), "hf.co/acme/tiny-gguf")).to_json()
    assert (inspection["format"], inspection["refusal"], inspection["converter"]) == ("gguf", None, None)
    assert inspection["reason"] == "the GGUF Q4_K_M, one public file: Ollama pulls it by itself"


async def test_without_ollama_held_is_unknown(hub: StandInHub) -> None:
    files = tiny_llama()
    hub.add("acme/tiny", files)
    config = settings(hub.endpoint, "http://127.0.0.1:9", ollama={"version": "0.33.0"})
    inspection = (await inspect(config, "hf.co/acme/tiny")).to_json()
    assert {file["held"] for file in inspection["files"]} == {None}
    assert inspection["bytes_to_move"] == len(files["model.safetensors"])
    assert "cannot be reached" in inspection["warnings"][0]


@pytest.mark.parametrize("name", ["", "llama3.2", "registry.example/a/b", "hf.co/gpt2"])
async def test_a_name_of_no_source_is_refused(hub: StandInHub, ollama: StandInOllama, name: str) -> None:
    inspection = await inspect(settings(hub.endpoint, ollama.url), name)
    assert inspection.refusal is not None
    assert "hf.co/ORG/REPO[:TAG]" in inspection.refusal


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("none", "it embeds texts"),
        ("ollama", "Ollama renders the conversations of this architecture by itself"),
        ("tokenizer_config.json", "this Ollama renders the Jinja of tokenizer_config.json by itself"),
        ("gguf", "because of a test"),
        ("base", "of its base: inspect hf.co/acme/base --template"),
    ],
)
def test_why_no_template_is_sent(source: str, reason: str) -> None:
    base = Base("hf.co/acme/base", None) if source == "base" else None
    plan = Plan("x", listing(), Format.GGUF, "because of a test", (), template_source=source, base=base)
    inspection = Inspection("x", plan=plan)
    assert inspection.template is None
    assert reason in inspection.why_no_template
    assert replace(inspection, plan=replace(plan, settings=ModelSettings(template="mine"))).template == "mine"


async def test_each_gguf_has_a_tag_or_a_reason(hub: StandInHub, ollama: StandInOllama) -> None:
    long, incomplete = f"{'z' * 80}.gguf", "m-Q4_K_M-00001-of-00002.gguf"
    hub.add("acme/tiny-gguf", dict.fromkeys((long, incomplete, "m-Q8_0.gguf"), tiny_gguf("Q8_0")))
    inspection = (await inspect(settings(hub.endpoint, ollama.url), "hf.co/acme/tiny-gguf:q8_0")).to_json()
    assert inspection["refusal"] is None
    assert [offer["quantization"] for offer in inspection["offers"]] == ["Q8_0"]
    reason = f"{incomplete} is one of 2 shards, but number 2 is not in the repository: its upload is incomplete"
    assert inspection["warnings"][:2] == [
        f"acme/tiny-gguf: {reason}",
        f"no tag means {long}: the tag has 85 characters, and Ollama takes at most 80",
    ]
