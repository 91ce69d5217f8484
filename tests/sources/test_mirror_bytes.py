"""Bytes of mirrors need no trust: they are of one commit, and compared with the digests of the endpoint."""

import re

import aiohttp
import pytest

from proxy.app import App
from proxy.sources.huggingface import HuggingFace
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.kit.mirrors import DIGEST, NAME, SIZE, SPAN, SUCCESS, WEIGHTS, Pull, check_success, ranges, resolved
from tests.kit.support import Client, fetched, settings

pytestmark = pytest.mark.usefixtures("surroundings")


async def test_damaged_bytes_come_again_from_the_next_mirror(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, second: StandInHub, ollama: StandInOllama
) -> None:
    hub.faults.append(Fault(WEIGHTS, "status", status=503, times=-1))
    mirror.faults.append(Fault(WEIGHTS, "corrupt", after=SIZE - 5, times=-1))
    async with proxy(mirror, second) as client:
        check_success(await client.pull(NAME), ollama)
    assert ranges(mirror)
    assert sorted(ranges(second)) == [(start, min(start + SPAN, SIZE)) for start in range(0, SIZE, SPAN)]


async def test_a_mirror_that_damages_is_named(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, ollama: StandInOllama
) -> None:
    hub.faults.append(Fault(WEIGHTS, "status", status=503, times=-1))
    mirror.faults.append(Fault(WEIGHTS, "corrupt", after=SIZE - 5, times=-1))
    async with proxy(mirror) as client:
        error = (await client.pull(NAME))[-1]["error"]
    assert f"acme/tiny/{WEIGHTS}: {hub.endpoint}: 127.0.0.1 answered 503 Service Unavailable; " in error
    assert f"; {mirror.endpoint}: it sent other bytes than the file has; given up" in error
    assert DIGEST not in ollama.blobs


async def test_a_mirror_that_described_what_it_damages_is_named(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, ollama: StandInOllama
) -> None:
    await hub.close()
    mirror.faults.append(Fault(WEIGHTS, "corrupt", after=SIZE - 5, times=-1))
    async with proxy(mirror) as client:
        error = (await client.pull(NAME))[-1]["error"]
    assert f"acme/tiny/{WEIGHTS} arrived damaged" in error
    assert f"came from {mirror.endpoint}" in error
    assert DIGEST not in ollama.blobs


async def test_a_small_file_of_a_mirror_has_to_be_the_endpoints_too(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, second: StandInHub, ollama: StandInOllama
) -> None:
    """Its digest is git's name, not a SHA-256."""
    hub.faults.append(Fault("config.json", "status", status=500, at="resolve", times=-1))
    mirror.faults.append(Fault("config.json", "corrupt", after=20, times=-1))
    async with proxy(mirror, second) as client:
        check_success(await client.pull(NAME), ollama)
    assert resolved(mirror, "/config.json")
    assert resolved(second, "/config.json")


async def test_a_file_without_any_digest_is_asked_of_no_mirror(
    proxy: Pull, hub: StandInHub, mirror: StandInHub
) -> None:
    hub.listing, hub.trees = "sizes", False
    hub.faults.append(Fault("config.json", "status", status=500, at="resolve", times=-1))
    async with proxy(mirror) as client:
        error = (await client.pull(NAME))[-1]["error"]
    assert f"acme/tiny/config.json: {hub.endpoint}: 127.0.0.1 answered 500" in error
    assert not resolved(mirror, "/config.json")


@pytest.mark.parametrize(("model", "checked"), [("mixtral", False), ("qwen3", True)])
async def test_bytes_without_a_digest_check_never_come_from_a_mirror(
    hub: StandInHub,
    mirror: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    model: str,
    checked: bool,
) -> None:
    """The experts of one tensor are spread over a file, so it is not read in order and cannot be checked."""
    files = REPOSITORIES[model].files()
    for each in (hub, mirror):
        each.add("acme/tiny", files)
    weights = [path for path in files if path.endswith(".safetensors")]
    hub.faults += [Fault(path, "status", status=503, times=-1) for path in weights]
    table = {"mirrors": [mirror.endpoint]}
    async with App(settings(hub.endpoint, ollama.url, hub=table)) as app:
        [*_, last] = await Client(app.address.url, session).pull("hf.co/acme/tiny:F16")
    assert bool(fetched(mirror)) is checked
    if checked:
        assert last == SUCCESS
    else:
        assert f"{hub.endpoint}: 127.0.0.1 answered 503" in last["error"]


async def test_a_mirror_without_the_file_is_asked_once(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, second: StandInHub, ollama: StandInOllama
) -> None:
    hub.faults.append(Fault(WEIGHTS, "status", status=503, times=-1))
    mirror.faults.append(Fault(WEIGHTS, "status", status=404, at="resolve", times=-1))
    async with proxy(mirror, second) as client:
        check_success(await client.pull(NAME), ollama)
    assert len(resolved(mirror)) == 1


@pytest.mark.parametrize("pinned", [True, False])
async def test_a_mirror_is_asked_for_the_endpoints_commit(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, ollama: StandInOllama, pinned: bool
) -> None:
    if pinned:
        mirror.repositories["acme/tiny"].update({WEIGHTS: b"newer", "config.json": b"{}"})
    else:
        hub.repositories["acme/tiny"].update({"README.md": b"newer"})
    hub.faults.append(Fault(WEIGHTS, "status", status=503, times=-1))
    async with proxy(mirror) as client:
        lines = await client.pull(NAME)
    assert all(hub.repositories["acme/tiny"].commit in request.path for request in resolved(mirror))
    if pinned:
        check_success(lines, ollama)
    else:
        assert f"{hub.endpoint}: 127.0.0.1 answered 503" in lines[-1]["error"]
        assert f"{mirror.endpoint}: 127.0.0.1 answered 404" in lines[-1]["error"]
        assert "given up after" in lines[-1]["error"]


async def test_a_mirror_that_redirects_to_another_commit_is_refused(
    proxy: Pull, hub: StandInHub, mirror: StandInHub
) -> None:
    hub.faults.append(Fault(WEIGHTS, "status", status=503, times=-1))
    mirror.faults.append(Fault(WEIGHTS, "headers", headers={"X-Repo-Commit": "d" * 40}, at="resolve", times=-1))
    async with proxy(mirror) as client:
        error = (await client.pull(NAME))[-1]["error"]
    assert re.search(rf"{mirror.endpoint}: .*its commit is now {'d' * 40}", error)


async def test_a_mirror_without_ranges_sends_whole_files(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, ollama: StandInOllama
) -> None:
    """If no other endpoint sends the file."""
    hub.faults.append(Fault(WEIGHTS, "status", status=503, times=-1))
    mirror.mirror = True
    async with proxy(mirror) as client:
        check_success(await client.pull(NAME), ollama)


async def test_a_mirror_without_ranges_costs_the_others_none(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, second: StandInHub, ollama: StandInOllama
) -> None:
    hub.faults.append(Fault(WEIGHTS, "status", status=503, times=-1))
    mirror.mirror = True
    async with proxy(mirror, second) as client:
        check_success(await client.pull(NAME), ollama)
    assert len(ranges(second)) == len(range(0, SIZE, SPAN))


async def test_with_mirrors_no_pull_is_left_to_ollama(
    hub: StandInHub, mirror: StandInHub, public_hub: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for others, public in (((), True), ((mirror.endpoint,), False)):
        source = HuggingFace(hub.endpoint, "", ("hf.co",), mirrors=others)
        assert (await source.open("acme/tiny", None)).public is public
        await source.close()
