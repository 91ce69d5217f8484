"""Mirrors that stand in for the endpoint: for what is said of a repository, and for bytes, which need no trust."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import hdrs

from proxy.app import App
from proxy.errors import Interrupted, Refusal, SourceError
from proxy.sources import http_file, huggingface, mirrors
from proxy.sources.huggingface import HuggingFace
from proxy.sources.mirrors import Endpoint
from proxy.standins.hub import Fault, LoggedRequest, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.repository import tiny_llama
from proxy.transfer import retry, streams
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.kit.conversions import converted
from tests.kit.support import Client, digest_of, eventually, fetched, settings

NAME = "hf.co/acme/tiny:q4_K_M"
WEIGHTS = "model.safetensors"
SPAN = 256 * 1024
FILES = tiny_llama()
SIZE = len(FILES[WEIGHTS])
MADE = converted(FILES, quantization="Q4_K_M")
DIGEST = digest_of(MADE)
SUCCESS = {"status": "success"}
TOKEN = "hf_mine"

Lines = list[dict[str, Any]]
Pull = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, hub: StandInHub) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(streams, "LEAST_SPAN", SPAN)
    monkeypatch.setattr(streams, "MOST_SPAN", SPAN)
    hub.add("acme/tiny", FILES)


@asynccontextmanager
async def another_hub() -> AsyncIterator[StandInHub]:
    """One with the same repository. It must never hear a token."""
    async with StandInHub() as hub:
        hub.add("acme/tiny", FILES)
        yield hub
        assert not [request for request in hub.requests if hdrs.AUTHORIZATION in request.headers]


@pytest.fixture
async def mirror() -> AsyncIterator[StandInHub]:
    async with another_hub() as hub:
        yield hub


@pytest.fixture
async def second() -> AsyncIterator[StandInHub]:
    async with another_hub() as hub:
        yield hub


@pytest.fixture
def proxy(hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession) -> Pull:
    @asynccontextmanager
    async def run(*mirrors: StandInHub) -> AsyncIterator[Client]:
        """A proxy with a token and these mirrors, which has given every connection back when the block ends."""
        told = {"token": TOKEN, "mirrors": [mirror.endpoint for mirror in mirrors]}
        async with App(settings(hub.endpoint, ollama.url, hub=told)) as app:
            yield Client(app.address.url, session)
            await eventually(lambda: app._backend.streams.idle)

    return run


def ranges(hub: StandInHub, path: str = WEIGHTS) -> list[tuple[int, int]]:
    asked = [request.headers[hdrs.RANGE].removeprefix("bytes=").split("-") for request in fetched(hub, path)]
    return [(int(first), int(last) + 1) for first, last in asked]


def resolved(hub: StandInHub, path: str = WEIGHTS) -> list[LoggedRequest]:
    return [request for request in hub.requests if "/resolve/" in request.path and request.path.endswith(path)]


def check_success(lines: Lines, ollama: StandInOllama) -> None:
    assert lines[-1] == SUCCESS, lines[-1]
    assert ollama.blobs[DIGEST] == len(MADE)


async def test_while_the_endpoint_works_no_mirror_is_asked(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, ollama: StandInOllama
) -> None:
    async with proxy(mirror) as client:
        check_success(await client.pull(NAME), ollama)
    assert not mirror.requests
    assert [request for request in hub.requests if request.headers.get(hdrs.AUTHORIZATION) == f"Bearer {TOKEN}"]


@pytest.mark.parametrize("how", ["gone", "drop", "hang", "status"])
async def test_a_repository_is_described_by_a_mirror_where_the_endpoint_does_not_answer(
    proxy: Pull,
    hub: StandInHub,
    mirror: StandInHub,
    ollama: StandInOllama,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: Any,
) -> None:
    if how == "hang":
        monkeypatch.setattr(huggingface, "METADATA_SECONDS", 4)
    if how == "gone":
        await hub.close()
        mirror.listing = "names"
    else:
        hub.faults += [Fault("api", how, status=502, times=-1), Fault("*", how, at="resolve", status=502, times=-1)]
        monkeypatch.setattr(http_file, "READ_SECONDS", 0.3)
    async with proxy(mirror) as client:
        check_success(await client.pull(NAME), ollama)
    [warning] = [line for line in caplog.messages if "is taken instead" in line]
    assert hub.endpoint in warning
    assert f"what {mirror.endpoint} says of acme/tiny" in warning
    assert sorted(ranges(mirror)) == [(start, min(start + SPAN, SIZE)) for start in range(0, SIZE, SPAN)]


async def test_an_endpoint_that_hangs_leaves_every_mirror_its_share_of_the_time(
    hub: StandInHub, mirror: StandInHub, second: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface, "METADATA_SECONDS", 6)
    for each in (hub, mirror):
        each.faults.append(Fault("api", "hang", times=-1))
    source = HuggingFace(hub.endpoint, "", ("hf.co",), mirrors=(mirror.endpoint, second.endpoint))
    began = time.monotonic()
    repository = await source.open("acme/tiny", None)
    assert repository.described_by.url == second.endpoint
    assert time.monotonic() - began > 3.9
    await source.close()


async def test_where_nobody_describes_it_everybody_is_named(
    hub: StandInHub, mirror: StandInHub, second: StandInHub
) -> None:
    hub.faults.append(Fault("api", "status", status=502, times=-1))
    mirror.repositories.clear()
    second.faults.append(Fault("api", "status", status=503, times=-1))
    source = HuggingFace(hub.endpoint, "", ("hf.co",), mirrors=(mirror.endpoint, second.endpoint))
    with pytest.raises(SourceError) as failure:
        await source.open("acme/tiny", None)
    await source.close()
    assert [re.search(f"acme/tiny at {each.endpoint}[ ;]", str(failure.value)) for each in (hub, mirror, second)]
    assert "502" in str(failure.value)
    assert "there is no repository" in str(failure.value)
    assert "503" in str(failure.value)


@pytest.mark.parametrize("added", [{"gated": True}, {"private": True}])
async def test_what_the_endpoint_refuses_no_mirror_is_asked_for(
    hub: StandInHub, mirror: StandInHub, added: dict[str, bool]
) -> None:
    hub.add("acme/tiny", FILES, **added)  # type: ignore[arg-type]
    source = HuggingFace(hub.endpoint, "", ("hf.co",), mirrors=(mirror.endpoint,))
    with pytest.raises(Refusal):
        await source.open("acme/tiny", None)
    await source.close()
    assert not mirror.requests


@asynccontextmanager
async def opened(hub: StandInHub, *mirrors: StandInHub) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    """Reads ten bytes of the weights, once, without the tries that a pull makes."""
    source = HuggingFace(hub.endpoint, TOKEN, ("hf.co",), mirrors=tuple(mirror.endpoint for mirror in mirrors))
    repository = await source.open("acme/tiny", None)
    [file] = [file for file in repository.files if file.path == WEIGHTS]

    async def read() -> bytes:
        async with repository.stream(file, 5, 15) as chunks:
            return b"".join([chunk async for chunk in chunks])

    yield read
    await source.close()


@pytest.mark.parametrize("how", ["gone", "hang"])
async def test_an_endpoint_that_is_silent_is_left_at_once(
    hub: StandInHub, mirror: StandInHub, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(http_file, "READ_SECONDS", 2)  # which the mirror has too, and here nobody tries again
    hub.faults.append(Fault(WEIGHTS, "hang", times=-1))
    async with opened(hub, mirror) as read:
        if how == "gone":
            await hub.close()
        for _ in range(3):
            assert await read() == FILES[WEIGHTS][5:15]
    assert len(resolved(hub)) <= 1


async def test_failures_between_successes_do_not_add_up(hub: StandInHub, mirror: StandInHub) -> None:
    async with opened(hub, mirror) as read:
        for _ in range(2 * mirrors.MOST_FAILURES):
            hub.faults.append(Fault(WEIGHTS, "status", status=502))
            with pytest.raises(Interrupted, match="127.0.0.1 answered 502"):
                await read()
            await read()
    assert not mirror.requests


async def test_where_everybody_throttles_the_shortest_wait_is_told(
    hub: StandInHub, mirror: StandInHub, second: StandInHub
) -> None:
    for each, seconds in ((hub, "40"), (mirror, "20"), (second, "30")):
        each.faults.append(Fault(WEIGHTS, "status", status=429, headers={"Retry-After": seconds}))
    async with opened(hub, mirror, second) as read:
        with pytest.raises(Interrupted) as failure:
            await read()
        assert failure.value.wait == 20
        assert [each for each in (hub, mirror, second) if each.endpoint not in str(failure.value)] == []
        assert await read() == FILES[WEIGHTS][5:15]


async def test_an_endpoint_that_dies_in_mid_file_is_gone_on_from_where_it_died(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, ollama: StandInOllama
) -> None:
    hub.rate = 1_000_000
    async with proxy(mirror) as client:
        running = asyncio.create_task(client.pull(NAME))
        await eventually(lambda: any(0 < request.body_bytes < SPAN for request in fetched(hub, WEIGHTS)[4:]))
        await hub.close()
        check_success(await running, ollama)
    assert len([request for request in ollama.requests if request.received > SPAN]) == 1
    # What the endpoint has delivered does not come again.
    assert sum(stop - start for start, stop in ranges(mirror)) < SIZE - 4 * SPAN
    assert all(stop % SPAN == 0 or stop == SIZE for _, stop in ranges(mirror))
    assert any(start % SPAN for start, _ in ranges(mirror))
    assert all(hub.repositories["acme/tiny"].commit in request.path for request in resolved(mirror))


@pytest.mark.parametrize("after", [0, 50_000])
async def test_an_endpoint_that_stalls_is_left(
    proxy: Pull,
    hub: StandInHub,
    mirror: StandInHub,
    ollama: StandInOllama,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    monkeypatch.setattr(http_file, "READ_SECONDS", 0.5)
    hub.faults.append(Fault(WEIGHTS, "hang", after=after, times=-1))
    async with proxy(mirror) as client:
        check_success(await client.pull(NAME), ollama)
    assert len(fetched(hub, WEIGHTS)) <= 2 * streams.FIRST_STREAMS
    assert ranges(mirror)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow is what takes longer than a span in 1.3 seconds."""
    monkeypatch.setattr(mirrors, "SLOW_SECONDS", 0.3)
    monkeypatch.setattr(mirrors, "SLOW_RATE", 200_000)


@pytest.mark.usefixtures("impatient")
async def test_an_endpoint_that_crawls_is_left(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, ollama: StandInOllama, caplog: pytest.LogCaptureFixture
) -> None:
    hub.rate = 50_000
    async with proxy(mirror) as client:
        check_success(await client.pull(NAME), ollama)
    assert f"{hub.endpoint} is asked after the others for 60 s" in caplog.text
    assert "bytes a second" in caplog.text
    assert sum(request.body_bytes for request in fetched(hub, WEIGHTS)) < SIZE / 4
    assert any(start % SPAN for start, _ in ranges(mirror))


@pytest.mark.usefixtures("impatient")
async def test_a_line_on_which_all_crawl_is_no_failure(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "LEFT_SECONDS", 0.5)
    hub.rate = mirror.rate = 150_000
    async with proxy(mirror) as client:
        check_success(await client.pull(NAME), ollama)


@pytest.mark.usefixtures("impatient")
async def test_a_proxy_that_is_not_fast_enough_blames_no_endpoint(
    hub: StandInHub, mirror: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    told = settings(hub.endpoint, ollama.url, hub={"mirrors": [mirror.endpoint]}, pull={"bandwidth": "1MB"})
    async with App(told) as app:
        check_success(await Client(app.address.url, session).pull(NAME), ollama)
    assert not ranges(mirror)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(WEIGHTS, "status", status=503, times=-1),
        Fault(WEIGHTS, "status", status=500, at="resolve", times=-1),
        Fault(WEIGHTS, "drop", after=30_000, times=-1),
        Fault(WEIGHTS, "cut", after=30_000, times=-1),
        Fault(WEIGHTS, "misplaced", times=-1),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.at}",
)
async def test_an_endpoint_that_fails_again_and_again_is_left_after_some_tries(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, ollama: StandInOllama, fault: Fault
) -> None:
    hub.faults.append(fault)
    async with proxy(mirror) as client:
        check_success(await client.pull(NAME), ollama)
    asked = [request for request in hub.requests if request.path.partition("?")[0].endswith(WEIGHTS)]
    assert mirrors.MOST_FAILURES <= len(asked) <= 2 * mirrors.MOST_FAILURES + 2 * streams.FIRST_STREAMS
    assert ranges(mirror)


async def test_a_failure_or_two_are_no_reason_to_ask_a_mirror(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, ollama: StandInOllama
) -> None:
    hub.faults += [Fault(WEIGHTS, "status", status=500), Fault(WEIGHTS, "drop", after=30_000)]
    async with proxy(mirror) as client:
        check_success(await client.pull(NAME), ollama)
    assert not mirror.requests


async def test_an_endpoint_that_throttles_is_left_alone_and_nobody_waits(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, ollama: StandInOllama
) -> None:
    hub.faults.append(Fault(WEIGHTS, "status", status=429, headers={"Retry-After": "30"}))
    async with proxy(mirror) as client:
        lines = await client.pull(NAME)
    check_success(lines, ollama)
    assert not [line for line in lines if line.get("status", "").startswith("waiting")]
    assert ranges(mirror)


async def test_damaged_bytes_of_a_mirror_are_refused_and_come_from_the_next(
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
    assert f"; {mirror.endpoint}: what it sent was not the file; given up" in error
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
    """It has no SHA-256, but git's name for it."""
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
async def test_bytes_that_no_digest_is_compared_with_are_asked_of_no_mirror(
    hub: StandInHub,
    mirror: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    model: str,
    checked: bool,
) -> None:
    """The experts of one tensor lie all over a file, which is then not read from its beginning to its end."""
    files = REPOSITORIES[model].files()
    for each in (hub, mirror):
        each.add("acme/tiny", files)
    weights = [path for path in files if path.endswith(".safetensors")]
    hub.faults += [Fault(path, "status", status=503, times=-1) for path in weights]
    told = {"mirrors": [mirror.endpoint]}
    async with App(settings(hub.endpoint, ollama.url, hub=told)) as app:
        [*_, last] = await Client(app.address.url, session).pull("hf.co/acme/tiny:F16")
    assert bool(fetched(mirror)) is checked
    if checked:
        assert last == SUCCESS
    else:
        assert f"{hub.endpoint}: 127.0.0.1 answered 503" in last["error"]


async def test_a_mirror_that_lacks_the_file_is_passed_over_and_asked_once(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, second: StandInHub, ollama: StandInOllama
) -> None:
    hub.faults.append(Fault(WEIGHTS, "status", status=503, times=-1))
    mirror.faults.append(Fault(WEIGHTS, "status", status=404, at="resolve", times=-1))
    async with proxy(mirror, second) as client:
        check_success(await client.pull(NAME), ollama)
    assert len(resolved(mirror)) == 1


@pytest.mark.parametrize("pinned", [True, False])
async def test_the_commit_of_the_endpoint_is_what_a_mirror_is_asked_for(
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


async def test_a_mirror_without_ranges_gives_whole_files_where_nobody_else_gives_any(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, ollama: StandInOllama
) -> None:
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


async def test_a_place_is_left_for_longer_each_time_until_it_delivers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [1000.0]

    def is_left_after(seconds: float) -> bool:
        clock[0] += seconds
        return place.is_open

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    place, broken = Endpoint("https://mirror.example"), Interrupted("broken")
    for _ in range(mirrors.MOST_FAILURES - 1):
        place.record_failure(broken)
    assert not is_left_after(0)
    for seconds in (60, 120, 240, 480, 900, 900):
        place.record_failure(broken)
        place.record_failure(broken)
        assert is_left_after(seconds - 1)
        assert not is_left_after(2)
    place.record_success()
    place.record_failure(broken)
    assert not is_left_after(0)
    place.record_failure(Interrupted("throttled", 3))
    assert is_left_after(59)
    assert not is_left_after(2)
    assert len(caplog.messages) == 7


async def test_the_endpoint_is_asked_first_again_after_a_while(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "LEFT_SECONDS", 1)
    hub.faults.append(Fault(WEIGHTS, "status", status=429, headers={"Retry-After": "30"}))
    mirror.rate = 150_000
    async with proxy(mirror) as client:
        assert (await client.pull(NAME))[-1] == SUCCESS
    assert ranges(mirror)
    assert [request for request in fetched(hub, WEIGHTS) if request.status == 206]
