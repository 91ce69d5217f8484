"""A pull of a model that Ollama already has costs nothing."""

import asyncio
from collections.abc import Callable

import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.ollama_log import created, weight_uploads
from tests.kit.repeated_pulls import (
    NAME,
    WEIGHTS,
    Pull,
    assert_nothing_but_metadata,
    assert_only_looked,
    clear,
    lines_of_held,
    with_settings,
)
from tests.kit.support import Client
from tests.kit.tiny_gguf import tiny_gguf


@pytest.mark.parametrize("shards", [1, 3])
async def test_an_unchanged_model_costs_only_metadata(
    client: Client, hub: StandInHub, ollama: StandInOllama, shards: int
) -> None:
    """The client gets the lines that Ollama itself sends for a model that it has."""
    files = tiny_llama(shards=shards)
    hub.add("acme/tiny", files)
    await client.pull(NAME)
    model = ollama.models[NAME]
    for _ in range(2):
        clear(hub, ollama)
        lines = await client.pull(NAME)
        assert lines == lines_of_held(
            content for path, content in sorted(files.items()) if path.endswith(".safetensors")
        )
        assert_nothing_but_metadata(hub, ollama)
    assert ollama.models[NAME] is model


async def test_without_a_stream_the_answer_is_success(
    client: Client, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    await client.pull(NAME)
    clear(hub, ollama)
    assert await client.pull_at_once(NAME) == (200, {"status": "success"})
    assert_nothing_but_metadata(hub, ollama)


async def test_a_name_in_another_case_is_the_same_model(
    client: Client, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    await client.pull(NAME)
    clear(hub, ollama)
    assert await client.pull("HF.co/acme/tiny:Q4_k_m") == lines_of_held([files[WEIGHTS]])
    assert_nothing_but_metadata(hub, ollama)
    assert list(ollama.models) == [NAME]


async def test_a_restart_does_not_forget_a_model(
    pull: Pull, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    await pull()
    clear(hub, ollama)
    assert await pull() == lines_of_held([files[WEIGHTS]])
    assert_nothing_but_metadata(hub, ollama)


@pytest.mark.parametrize("reclaim", [True, False])
async def test_a_lost_journal_costs_one_check_of_the_model(
    pull: Pull,
    lose_journal: Callable[[], None],
    files: dict[str, bytes],
    hub: StandInHub,
    ollama: StandInOllama,
    reclaim: bool,
) -> None:
    """The next pulls find it in the journal again."""
    sections = {"ollama": {"reclaim": reclaim}}
    await pull(**sections)
    model, blobs = ollama.models[NAME], dict(ollama.blobs)
    lose_journal()
    clear(hub, ollama)
    assert await pull(**sections) == lines_of_held([files[WEIGHTS]])
    assert_only_looked(hub, ollama)
    clear(hub, ollama)
    assert await pull(**sections) == lines_of_held([files[WEIGHTS]])
    assert_nothing_but_metadata(hub, ollama)
    assert ollama.models[NAME] is model
    assert ollama.blobs == blobs


@pytest.mark.parametrize(("version", "tag"), [("0.24.0", "f16"), ("0.24.0", "q8_0"), ("0.33.0", "Q4_K_S")])
async def test_a_quantization_is_recognised_in_ollamas_answer(
    pull: Pull,
    lose_journal: Callable[[], None],
    files: dict[str, bytes],
    hub: StandInHub,
    ollama: StandInOllama,
    version: str,
    tag: str,
) -> None:
    ollama.version = version
    await pull(f"hf.co/acme/tiny:{tag}")
    lose_journal()
    clear(hub, ollama)
    assert await pull(f"hf.co/acme/tiny:{tag}") == lines_of_held([files[WEIGHTS]])
    assert_only_looked(hub, ollama)


async def test_a_gguf_is_recognised_by_its_size(
    pull: Pull, lose_journal: Callable[[], None], hub: StandInHub, ollama: StandInOllama
) -> None:
    whole = tiny_gguf()
    hub.add("acme/tiny-gguf", {"m-Q4_K_M.gguf": whole})
    name = "hf.co/acme/tiny-gguf:Q4_K_M"
    await pull(name)
    lose_journal()
    clear(hub, ollama)
    assert await pull(name) == lines_of_held([whole])
    assert not created(ollama)
    assert not weight_uploads(ollama)
    ollama.models[name].size *= 2
    lose_journal()
    assert (await pull(name))[-1] == {"status": "success"}
    assert ollama.models[name].size < 2 * len(whole)
    assert not created(ollama)


async def test_a_users_settings_are_recognised_too(
    pull: Pull, lose_journal: Callable[[], None], files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    await pull(**with_settings())
    lose_journal()
    clear(hub, ollama)
    assert await pull(**with_settings()) == lines_of_held([files[WEIGHTS]])
    assert_only_looked(hub, ollama)


async def test_updating_twenty_models_at_once_costs_metadata(
    client: Client, hub: StandInHub, ollama: StandInOllama
) -> None:
    files = tiny_llama()
    names = [f"hf.co/acme/tiny{number}:q8_0" for number in range(20)]
    for number in range(20):
        hub.add(f"acme/tiny{number}", files)
    for name in names:
        assert (await client.pull(name))[-1] == {"status": "success"}
    clear(hub, ollama)
    answers = await asyncio.gather(*(client.pull(name) for name in names))
    assert answers == [lines_of_held([files[WEIGHTS]])] * 20
    assert_nothing_but_metadata(hub, ollama, "acme/tiny")
