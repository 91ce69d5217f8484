"""Which endpoint or mirror is asked, and when the proxy fails over to another one."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import hdrs

from proxy.app import App
from proxy.errors import Interrupted, Refusal, SourceError
from proxy.sources import http_file, huggingface, mirrors
from proxy.sources.huggingface import HuggingFace
from proxy.sources.mirrors import Endpoint
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.transfer import streams
from tests.kit.mirrors import (
    FILES,
    NAME,
    SIZE,
    SPAN,
    SUCCESS,
    TOKEN,
    WEIGHTS,
    Pull,
    check_success,
    ranges,
    resolved,
)
from tests.kit.support import Client, eventually, fetched, settings

pytestmark = pytest.mark.usefixtures("surroundings")


async def test_while_the_endpoint_works_no_mirror_is_asked(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, ollama: StandInOllama
) -> None:
    async with proxy(mirror) as client:
        check_success(await client.pull(NAME), ollama)
    assert not mirror.requests
    assert [request for request in hub.requests if request.headers.get(hdrs.AUTHORIZATION) == f"Bearer {TOKEN}"]


@pytest.mark.parametrize("how", ["gone", "drop", "hang", "status"])
async def test_a_mirror_describes_if_the_endpoint_does_not_answer(
    proxy: Pull,
    hub: StandInHub,
    mirror: StandInHub,
    ollama: StandInOllama,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: Any,
) -> None:
    if how == "gone":
        await hub.close()
        mirror.listing = "names"
    else:
        hub.faults += [Fault("api", how, status=502, times=-1), Fault("*", how, at="resolve", status=502, times=-1)]
    if how == "hang":
        monkeypatch.setattr(huggingface, "METADATA_SECONDS", 4)
        monkeypatch.setattr(http_file, "READ_SECONDS", 0.3)
    async with proxy(mirror) as client:
        check_success(await client.pull(NAME), ollama)
    [warning] = [line for line in caplog.messages if "using the description of acme/tiny by" in line]
    assert hub.endpoint in warning
    assert f"by {mirror.endpoint} instead" in warning
    assert sorted(ranges(mirror)) == [(start, min(start + SPAN, SIZE)) for start in range(0, SIZE, SPAN)]


async def test_a_hanging_endpoint_leaves_time_for_the_mirrors(
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


async def test_if_all_endpoints_fail_the_error_names_all(
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
async def test_after_a_refusal_no_mirror_is_asked(hub: StandInHub, mirror: StandInHub, added: dict[str, bool]) -> None:
    hub.add("acme/tiny", FILES, **added)  # type: ignore[arg-type]
    source = HuggingFace(hub.endpoint, "", ("hf.co",), mirrors=(mirror.endpoint,))
    with pytest.raises(Refusal):
        await source.open("acme/tiny", None)
    await source.close()
    assert not mirror.requests


@asynccontextmanager
async def opened(hub: StandInHub, *mirrors: StandInHub) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    """Reads ten bytes of the weights, without the retries of a pull."""
    source = HuggingFace(hub.endpoint, TOKEN, ("hf.co",), mirrors=tuple(mirror.endpoint for mirror in mirrors))
    repository = await source.open("acme/tiny", None)
    [file] = [file for file in repository.files if file.path == WEIGHTS]

    async def read() -> bytes:
        async with repository.stream(file, 5, 15) as chunks:
            return b"".join([chunk async for chunk in chunks])

    yield read
    await source.close()


@pytest.mark.parametrize("how", ["gone", "hang"])
async def test_a_silent_endpoint_is_avoided_at_once(
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
        for _ in range(2 * mirrors.MAX_FAILURES):
            hub.faults.append(Fault(WEIGHTS, "status", status=502))
            with pytest.raises(Interrupted, match="127.0.0.1 answered 502"):
                await read()
            await read()
    assert not mirror.requests


async def test_if_all_throttle_the_shortest_wait_counts(
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


async def test_a_mirror_continues_where_the_endpoint_died(
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
async def test_a_stalling_endpoint_is_avoided(
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
    """A stream is slow below one span in 1.3 seconds."""
    monkeypatch.setattr(mirrors, "SLOW_SECONDS", 0.3)
    monkeypatch.setattr(mirrors, "SLOW_RATE", 200_000)


@pytest.mark.usefixtures("impatient")
async def test_a_slow_endpoint_is_avoided(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, ollama: StandInOllama, caplog: pytest.LogCaptureFixture
) -> None:
    hub.rate = 50_000
    async with proxy(mirror) as client:
        check_success(await client.pull(NAME), ollama)
    assert f"{hub.endpoint} is asked after the other endpoints for 60 s" in caplog.text
    assert "bytes a second" in caplog.text
    assert sum(request.body_bytes for request in fetched(hub, WEIGHTS)) < SIZE / 4
    assert any(start % SPAN for start, _ in ranges(mirror))


@pytest.mark.usefixtures("impatient")
async def test_if_all_are_slow_none_is_avoided(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "OPEN_SECONDS", 0.5)
    hub.rate = mirror.rate = 150_000
    async with proxy(mirror) as client:
        check_success(await client.pull(NAME), ollama)


@pytest.mark.usefixtures("impatient")
async def test_a_slow_proxy_does_not_blame_the_endpoint(
    hub: StandInHub, mirror: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    config = settings(hub.endpoint, ollama.url, hub={"mirrors": [mirror.endpoint]}, pull={"bandwidth": "1MB"})
    async with App(config) as app:
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
async def test_an_endpoint_that_keeps_failing_is_avoided(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, ollama: StandInOllama, fault: Fault
) -> None:
    """After MAX_FAILURES; requests that were already under way come on top."""
    hub.faults.append(fault)
    async with proxy(mirror) as client:
        check_success(await client.pull(NAME), ollama)
    requests = [request for request in hub.requests if request.path.partition("?")[0].endswith(WEIGHTS)]
    assert mirrors.MAX_FAILURES <= len(requests) <= 2 * mirrors.MAX_FAILURES + 2 * streams.FIRST_STREAMS
    assert ranges(mirror)


async def test_a_failure_or_two_are_no_reason_to_ask_a_mirror(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, ollama: StandInOllama
) -> None:
    hub.faults += [Fault(WEIGHTS, "status", status=500), Fault(WEIGHTS, "drop", after=30_000)]
    async with proxy(mirror) as client:
        check_success(await client.pull(NAME), ollama)
    assert not mirror.requests


async def test_a_throttling_endpoint_is_avoided_at_once(
    proxy: Pull, hub: StandInHub, mirror: StandInHub, ollama: StandInOllama
) -> None:
    hub.faults.append(Fault(WEIGHTS, "status", status=429, headers={"Retry-After": "30"}))
    async with proxy(mirror) as client:
        lines = await client.pull(NAME)
    check_success(lines, ollama)
    assert not [line for line in lines if line.get("status", "").startswith("waiting")]
    assert ranges(mirror)


async def test_a_circuit_breaker_stays_open_longer_each_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Until the endpoint delivers again."""
    clock = [1000.0]

    def is_left_after(seconds: float) -> bool:
        clock[0] += seconds
        return place.is_open

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    place, broken = Endpoint("https://mirror.example"), Interrupted("broken")
    for _ in range(mirrors.MAX_FAILURES - 1):
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
    monkeypatch.setattr(mirrors, "OPEN_SECONDS", 1)
    hub.faults.append(Fault(WEIGHTS, "status", status=429, headers={"Retry-After": "30"}))
    mirror.rate = 150_000
    async with proxy(mirror) as client:
        assert (await client.pull(NAME))[-1] == SUCCESS
    assert ranges(mirror)
    assert [request for request in fetched(hub, WEIGHTS) if request.status == 206]
