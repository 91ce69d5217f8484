"""A change beside the tensors moves no weights: a new manifest, or a new header before the data that Ollama has."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import CHAT_TEMPLATE, tiny_llama
from proxy.store.journal import Journal, state_file
from proxy.transfer.upload import NOT_COPIED
from tests.kit.conversions import converted, gguf_digest
from tests.kit.ollama_log import created, last_bars, weight_uploads
from tests.kit.repeated_pulls import NAME, WEIGHTS, Pull, assert_nothing_but_metadata, clear
from tests.kit.support import digest_of, fetched, settings

RECLAIM: dict[str, Any] = {"ollama": {"reclaim": True}}
CARD = b"---\nlicense: apache-2.0\ntags:\n- new\nbase_model: acme/large\nname: Another\n---\nMore.\n"


def changed_json(path: str, **values: object) -> dict[str, bytes]:
    return {path: orjson.dumps({**orjson.loads(tiny_llama().get(path, b"{}")), **values})}


TEMPLATE = changed_json("tokenizer_config.json", chat_template=CHAT_TEMPLATE.replace("\n\n", "\n"))
WARNING = f"warning: {NOT_COPIED}"


@pytest.mark.parametrize("tag", ["bf16", "q4_K_M"])
@pytest.mark.parametrize(
    ("update", "expected"),
    [
        (changed_json("generation_config.json", temperature=0.25, top_k=7), {"temperature": 0.25, "top_k": 7}),
        ({"LICENSE": b"All rights reserved.\n"}, "All rights reserved.\n"),
        ({"README.md": CARD}, "apache-2.0"),
        ({"template": b"{{ .Prompt }}!"}, "{{ .Prompt }}!"),
        ({"system": b"Be terse."}, "Be terse."),
        ({"params": b'{"num_ctx": 512}'}, {"num_ctx": 512}),
    ],
    ids=["generation_config", "license", "model card", "template", "system", "params"],
)
async def test_what_the_gguf_does_not_hold_costs_a_manifest(
    pull: Pull, hub: StandInHub, ollama: StandInOllama, tag: str, update: dict[str, bytes], expected: object
) -> None:
    files = {path: content for path, content in tiny_llama().items() if path != "LICENSE"}
    hub.add("acme/tiny", files)
    name = f"hf.co/acme/tiny:{tag}"
    await pull(name, **RECLAIM)
    [weights] = [layer for layer in ollama.models[name].layers if layer.kind == "model"]
    hub.repositories["acme/tiny"].update(update)
    clear(hub, ollama)
    assert (await pull(name, **RECLAIM))[-1] == {"status": "success"}
    assert not fetched(hub)
    assert not weight_uploads(ollama)
    assert not created(ollama)
    model = ollama.models[name]
    assert [layer for layer in model.layers if layer.kind == "model"] == [weights]
    if isinstance(expected, dict):
        assert model.parameters.items() >= expected.items()
    else:
        assert expected in (model.template, model.system, *model.licenses)
    clear(hub, ollama)
    assert (await pull(name, **RECLAIM))[-1] == {"status": "success"}
    assert_nothing_but_metadata(hub, ollama)


async def test_a_model_of_an_older_version_is_not_made_again(
    pull: Pull, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    """Older versions wrote more into the header, so their identity of the weights is another one."""
    await pull()
    state = state_file(settings(hub.endpoint, ollama.url))
    journal = Journal(state)
    record = journal.record(NAME.lower())
    assert record is not None
    journal.remember(NAME.lower(), replace(record, weights="of another header"))
    journal.close()
    clear(hub, ollama)
    assert (await pull())[-1] == {"status": "success"}
    assert_nothing_but_metadata(hub, ollama)


@pytest.fixture
async def pull_beside_ollama(
    pull: Pull, hub: StandInHub, ollama: StandInOllama, files: dict[str, bytes], tmp_path: Path
) -> Callable[..., Any]:
    """Pulls by a proxy that sees Ollama's folder. The first pull is done, and its blob lies in the folder."""
    folder = tmp_path / "models"
    sections = {"ollama": {"reclaim": True, "models": str(folder)}}
    assert (await pull(**sections))[-1] == {"status": "success"}
    content = converted(files, quantization="Q4_K_M")
    file = folder / "blobs" / digest_of(content).replace(":", "-")
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    clear(hub, ollama)

    async def pull_beside(**models: Any) -> Any:
        return await pull(**sections, **models)

    return pull_beside


def check_replaced(ollama: StandInOllama, files: dict[str, bytes]) -> None:
    [weights] = [layer for layer in ollama.models[NAME].layers if layer.kind == "model"]
    assert weights.digest == gguf_digest(files, NAME)
    assert ollama.blobs.keys() == ollama.models.used_digests()


async def test_another_chat_template_fetches_no_weights(
    pull_beside_ollama: Callable[..., Any], files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    """The new blob is, byte for byte, what a first pull makes, and nothing of the old one stays."""
    hub.repositories["acme/tiny"].update(TEMPLATE)
    lines = await pull_beside_ollama()
    assert lines[-1] == {"status": "success"}
    assert not any(line.get("status", "").startswith("warning") for line in lines)
    size = len(files[WEIGHTS])
    assert last_bars(lines) == {digest_of(files[WEIGHTS]): (size, size)}
    assert not fetched(hub)
    check_replaced(ollama, files | TEMPLATE)
    clear(hub, ollama)
    assert (await pull_beside_ollama())[-1] == {"status": "success"}
    assert_nothing_but_metadata(hub, ollama)


async def test_other_weights_and_another_config_are_fetched(
    pull_beside_ollama: Callable[..., Any], files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    """The transforms depend on config.json."""
    for update in ({WEIGHTS: tiny_llama(seed=1)[WEIGHTS]}, changed_json("config.json", rope_theta=10000.0)):
        hub.repositories["acme/tiny"].update(update)
        clear(hub, ollama)
        lines = await pull_beside_ollama()
        assert lines[-1] == {"status": "success"}
        assert {"status": WARNING} not in lines
        assert fetched(hub)
        files |= update
        check_replaced(ollama, files)


@pytest.mark.parametrize("damage", ["a byte", "cut off", "longer"])
async def test_a_damaged_blob_of_ollama_is_not_copied(
    pull_beside_ollama: Callable[..., Any],
    files: dict[str, bytes],
    hub: StandInHub,
    ollama: StandInOllama,
    tmp_path: Path,
    damage: str,
) -> None:
    """The weights come from the Hub, and the stream has a warning."""
    [file] = (tmp_path / "models" / "blobs").iterdir()
    content = file.read_bytes()
    match damage:
        case "a byte":
            content = content[:-100] + b"\0\1" + content[-98:]
        case "cut off":
            content = content[: len(content) // 4]
        case _:
            content += b"more"
    file.write_bytes(content)
    hub.repositories["acme/tiny"].update(TEMPLATE)
    lines = await pull_beside_ollama()
    assert lines[-1] == {"status": "success"}
    assert {"status": WARNING} in lines
    size = len(files[WEIGHTS])
    assert last_bars(lines) == {digest_of(files[WEIGHTS]): (size, size)}
    assert fetched(hub)
    check_replaced(ollama, files | TEMPLATE)


async def test_without_ollamas_folder_a_warning_says_why_weights_move(
    pull: Pull, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    await pull(**RECLAIM)
    hub.repositories["acme/tiny"].update(TEMPLATE)
    clear(hub, ollama)
    lines = await pull(**RECLAIM)
    assert lines[-1] == {"status": "success"}
    assert {"status": WARNING} in lines
    assert fetched(hub)
    check_replaced(ollama, files | TEMPLATE)
