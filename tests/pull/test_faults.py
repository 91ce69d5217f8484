"""Every fault of the Hub, of Ollama and of the connections: requests, blobs, log and lines are checked."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import hdrs

from proxy.app import App
from proxy.sources import http_file
from proxy.standins.hub import Fault, LoggedRequest, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.timings import DEFAULT
from proxy.transfer import retry, streams
from proxy.transfer.slow_streams import SLOW_SHARE
from tests.kit.pauses import use_timings
from tests.kit.support import Client, digest_of, eventually, fetched, settings
from tests.kit.tiny_gguf import tiny_gguf, tiny_projector

NAME = "hf.co/acme/tiny:q8_0"
WEIGHTS = "model-Q8_0.gguf"
SPAN = 256 * 1024
FILES = {WEIGHTS: tiny_gguf("Q8_0", blocks=45)}
SIZE = len(FILES[WEIGHTS])
DIGEST = digest_of(FILES[WEIGHTS])
SUCCESS = {"status": "success"}

Lines = list[dict[str, Any]]


class Puller:
    """Pulls through a proxy of its own."""

    def __init__(self, app: App, client: Client) -> None:
        self.app = app
        self.client = client

    async def __call__(self, name: str = NAME) -> Lines:
        return await self.client.pull(name)


@pytest.fixture(autouse=True)
def repository(small_spans: int, hub: StandInHub) -> None:
    assert small_spans == SPAN
    hub.add("acme/tiny", FILES)


@asynccontextmanager
async def pulling(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, /, **sections: dict[str, Any]
) -> AsyncIterator[Puller]:
    """When the block ends, the proxy must have given back every connection and every byte of memory."""
    async with App(settings(hub.endpoint, ollama.url, **sections)) as app:
        yield Puller(app, Client(app.address.url, session))
        await eventually(lambda: app.backend.streams.idle)


@pytest.fixture
async def pull(hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession) -> AsyncIterator[Puller]:
    async with pulling(hub, ollama, session) as pulled:
        yield pulled


def resolved(hub: StandInHub) -> list[LoggedRequest]:
    """Requests for the signed URL of the weights."""
    return [request for request in hub.requests if "/resolve/" in request.path and request.path.endswith(WEIGHTS)]


def ranges(hub: StandInHub) -> list[tuple[int, int]]:
    """First and last byte of every requested range."""
    requested = [request.headers[hdrs.RANGE].removeprefix("bytes=").split("-") for request in fetched(hub, WEIGHTS)]
    return [(int(first), int(last)) for first, last in requested]


def uploads(ollama: StandInOllama) -> list[LoggedRequest]:
    return [request for request in ollama.requests if request.method == "POST" and DIGEST in request.path]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def check_success(lines: Lines, ollama: StandInOllama) -> None:
    assert lines[-1] == SUCCESS, lines[-1]
    assert ollama.blobs[DIGEST] == SIZE
    completed = [line["completed"] for line in lines if line.get("digest") == DIGEST and "completed" in line]
    assert completed == sorted(completed)
    assert completed[-1] == SIZE


async def test_ranges_cover_a_file_once_from_one_resolved_url(
    pull: Puller, hub: StandInHub, ollama: StandInOllama, caplog: pytest.LogCaptureFixture
) -> None:
    """The file arrives in ranges without gaps or overlaps, and its URL is resolved once."""
    check_success(await pull(), ollama)
    assert sorted(ranges(hub)) == [(first, min(first + SPAN, SIZE) - 1) for first in range(0, SIZE, SPAN)]
    assert len(resolved(hub)) == 1
    assert len(uploads(ollama)) == 1
    assert not warnings(caplog)


async def test_a_small_file_is_one_request_without_a_range(pull: Puller, hub: StandInHub) -> None:
    hub.add("acme/tiny", {WEIGHTS: tiny_gguf("Q8_0", blocks=0)})
    await pull()
    [request] = fetched(hub, WEIGHTS)
    assert hdrs.RANGE not in request.headers


@pytest.mark.parametrize("kind", ["drop", "short", "cut", "misplaced"])
async def test_a_broken_range_resumes_where_it_broke(
    pull: Puller, hub: StandInHub, ollama: StandInOllama, kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    hub.faults.append(Fault(WEIGHTS, kind, after=100_000, times=3))
    check_success(await pull(), ollama)
    assert len(uploads(ollama)) == 1
    retried = [line for line in warnings(caplog) if f"acme/tiny/{WEIGHTS}: " in line]
    assert len([line for line in retried if " of 10 in " in line]) == 3
    assert len(fetched(hub, WEIGHTS)) == len(range(0, SIZE, SPAN)) + 3
    whole = [request for request in fetched(hub, WEIGHTS) if request.body_bytes == SPAN]
    if kind in ("drop", "short", "cut"):
        assert len(whole) <= len(range(0, SIZE, SPAN)) - 3
    else:
        assert any("when asked for bytes" in line for line in warnings(caplog))


async def test_a_range_that_hangs_is_retried(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert http_file.READ_SECONDS == 30
    monkeypatch.setattr(http_file, "READ_SECONDS", 0.3)
    hub.faults += [Fault(WEIGHTS, "hang", after=50_000), Fault(WEIGHTS, "hang")]
    async with pulling(hub, ollama, session) as pull:
        check_success(await pull(), ollama)
    # A busy machine may add one.
    assert len([line for line in warnings(caplog) if "no answer in time" in line]) >= 2


async def test_a_slow_stream_among_fast_ones_is_restarted(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert (DEFAULT.slow_stream, SLOW_SHARE) == (5, 0.1)
    use_timings(monkeypatch, slow_stream=1)  # a busy machine delays a fast stream less
    hub.rate = 2_000_000
    hub.faults.append(Fault(WEIGHTS, "slow", after=100_000, rate=10_000))
    async with pulling(hub, ollama, session) as pull:
        check_success(await pull(), ollama)
    [warning] = warnings(caplog)
    assert warning.startswith(f"acme/tiny/{WEIGHTS}: ")
    assert "restarting a slow stream at byte " in warning
    slow = [request for request in fetched(hub, WEIGHTS) if 100_000 <= request.body_bytes < SPAN]
    assert slow
    assert any(first % SPAN >= 100_000 for first, _ in ranges(hub))


async def test_an_expired_url_is_renewed_once_for_all_ranges(
    pull: Puller, hub: StandInHub, ollama: StandInOllama, caplog: pytest.LogCaptureFixture
) -> None:
    hub.rate = 1_000_000
    running = asyncio.create_task(pull())
    await eventually(lambda: len(fetched(hub, WEIGHTS)) > 2)
    hub.expire()
    check_success(await running, ollama)
    assert len(resolved(hub)) == 2
    assert [request for request in fetched(hub, WEIGHTS) if request.status == 403]
    assert not warnings(caplog)


async def test_a_fresh_url_that_is_refused_fails_at_once(pull: Puller, hub: StandInHub, ollama: StandInOllama) -> None:
    hub.faults.append(Fault(WEIGHTS, "status", status=403, times=-1))
    error = (await pull())[-1]["error"]
    assert f"acme/tiny/{WEIGHTS}: 127.0.0.1 answered 403" in error
    assert "HF_TOKEN" in error
    assert len([request for request in hub.requests if request.origin == "cdn"]) == 1
    assert DIGEST not in ollama.blobs


@pytest.mark.parametrize(
    ("header", "value", "change"),
    [
        ("X-Repo-Commit", "d" * 40, f"its commit is now {'d' * 40}"),
        ("X-Linked-Size", "12", f"its size is now 12, not {SIZE}"),
        ("X-Linked-Etag", f'"{"e" * 64}"', f"its SHA-256 is now {'e' * 64}"),
    ],
)
async def test_a_file_that_changed_before_its_url_is_renewed_fails(
    pull: Puller, hub: StandInHub, ollama: StandInOllama, header: str, value: str, change: str
) -> None:
    """The error names what has changed."""
    hub.rate = 1_000_000
    running = asyncio.create_task(pull())
    await eventually(lambda: len(fetched(hub, WEIGHTS)) > 2)
    hub.faults.append(Fault(WEIGHTS, "headers", headers={header: value}, at="resolve", times=-1))
    hub.expire()
    error = (await running)[-1]["error"]
    assert f"acme/tiny/{WEIGHTS} has changed at the source: {change}" in error
    assert DIGEST not in ollama.blobs


class InTwoSeconds(Mapping[str, str]):
    """A Retry-After with a date two seconds after the answer, however late a busy machine asks for it."""

    def __getitem__(self, name: str) -> str:
        if name != hdrs.RETRY_AFTER:
            raise KeyError(name)
        return format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)

    def __iter__(self) -> Iterator[str]:
        return iter([hdrs.RETRY_AFTER])

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (429, {"Retry-After": "1"}),
        (503, {"Retry-After": "1"}),
        (429, {"RateLimit": '"resolvers";r=0;t=1', "RateLimit-Policy": '"fixed window";"resolvers";q=3000;w=300'}),
        (429, InTwoSeconds()),
    ],
)
async def test_a_throttled_pull_waits_and_halves_its_streams(
    pull: Puller,
    hub: StandInHub,
    ollama: StandInOllama,
    status: int,
    headers: Mapping[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It waits as long as the source asks, and its clients see that it waits."""
    hub.faults.append(Fault(WEIGHTS, "status", status=status, headers=headers))
    began = asyncio.get_running_loop().time()
    lines = await pull()
    check_success(lines, ollama)
    # uvloop has whole milliseconds, so that a difference of two times is rounded.
    assert asyncio.get_running_loop().time() - began > 1 - 0.002
    waiting = [line["status"] for line in lines if line.get("status", "").startswith("waiting ")]
    assert len(waiting) == 1
    assert re.match(rf"waiting [12] s: acme/tiny/{WEIGHTS}: 127.0.0.1 answered {status} ", waiting[0])
    assert pull.app.backend.streams.limit < streams.FIRST_STREAMS
    assert warnings(caplog)


async def test_a_wait_that_is_too_long_is_an_error(pull: Puller, hub: StandInHub) -> None:
    hub.faults.append(Fault(WEIGHTS, "status", status=429, headers={"Retry-After": "3601"}))
    error = (await pull())[-1]["error"]
    assert "asks to wait 3601 s; pull again then" in error


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
async def test_a_failing_hub_is_retried_a_limited_number_of_times(
    pull: Puller, hub: StandInHub, ollama: StandInOllama, status: int
) -> None:
    hub.faults.append(Fault(WEIGHTS, "status", status=status, times=3))
    check_success(await pull(), ollama)
    hub.add("acme/other", {WEIGHTS: tiny_gguf("Q8_0", seed=3, blocks=45)})
    hub.faults.append(Fault(WEIGHTS, "status", status=status, times=-1))
    error = (await pull("hf.co/acme/other:q8_0"))[-1]["error"]
    assert f"acme/other/{WEIGHTS}: 127.0.0.1 answered {status}" in error
    assert f"given up after {retry.MAX_TRIES} tries; pull again" in error


@pytest.mark.parametrize("times", [1, -1])
async def test_a_damaged_header_is_refetched_once(
    pull: Puller, hub: StandInHub, ollama: StandInOllama, times: int
) -> None:
    hub.faults.append(Fault(WEIGHTS, "corrupt", after=2, times=times))
    lines = await pull()
    if times == 1:
        check_success(lines, ollama)
    else:
        assert "is not a GGUF that can be used" in lines[-1]["error"]
        assert not uploads(ollama)


@pytest.mark.parametrize("times", [1, -1])
async def test_a_damaged_file_is_refetched_once(
    pull: Puller, hub: StandInHub, ollama: StandInOllama, times: int, caplog: pytest.LogCaptureFixture
) -> None:
    hub.rate = 2_000_000
    hub.faults.append(Fault(WEIGHTS, "corrupt", after=SIZE - 5, times=times))
    lines = await pull()
    assert len(uploads(ollama)) == 2
    assert len([line for line in warnings(caplog) if "arrived damaged" in line and "refetching once" in line]) == 1
    if times == 1:
        assert lines[-1] == SUCCESS
        assert ollama.blobs[DIGEST] == SIZE
        # The whole upload began again, so its bar went back.
        completed = [line.get("completed", 0) for line in lines if line.get("digest") == DIGEST]
        assert min(completed[completed.index(max(completed[:-1])) :]) < max(completed)
    else:
        assert f"acme/tiny/{WEIGHTS} arrived damaged" in lines[-1]["error"]
        assert all(size < SPAN for size in ollama.blobs.values())


@pytest.mark.parametrize("what", ["mirror", "whole"])
async def test_a_hub_without_ranges_is_read_in_one_stream(
    pull: Puller, hub: StandInHub, ollama: StandInOllama, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Like olah: no redirect, no length, no ETag, and always the whole file."""
    if what == "mirror":
        hub.mirror = True
    else:
        hub.faults.append(Fault(WEIGHTS, "whole", times=-1))
    check_success(await pull(), ollama)
    assert [line for line in warnings(caplog) if "each in one stream" in line]
    requests = resolved(hub) if what == "mirror" else fetched(hub, WEIGHTS)
    assert [request.headers.get(hdrs.RANGE) for request in requests][-2:] == [f"bytes=0-{SPAN - 1}", None]


async def test_a_broken_stream_without_ranges_begins_again(
    pull: Puller, hub: StandInHub, ollama: StandInOllama
) -> None:
    hub.mirror = True
    hub.faults += [Fault(WEIGHTS, "drop", after=2_000_000), Fault(WEIGHTS, "short", after=1_000_000)]
    lines = await pull()
    assert lines[-1] == SUCCESS
    assert ollama.blobs[DIGEST] == SIZE


async def test_a_range_ignored_in_mid_file_begins_the_file_again(
    pull: Puller, hub: StandInHub, ollama: StandInOllama
) -> None:
    hub.rate = 2_000_000
    running = asyncio.create_task(pull())
    await eventually(lambda: len(fetched(hub, WEIGHTS)) > 5)
    hub.faults.append(Fault(WEIGHTS, "whole", times=-1))
    lines = await running
    assert lines[-1] == SUCCESS
    assert ollama.blobs[DIGEST] == SIZE
    assert len(resolved(hub)) == 1


async def test_ollama_restarts_in_mid_upload_and_gets_a_re_upload(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    hub.rate = 1_000_000
    async with pulling(hub, ollama, session, ollama={"patience": "30s"}) as pull:
        running = asyncio.create_task(pull())
        await eventually(lambda: any(request.received > SPAN for request in uploads(ollama)))
        await ollama.close()
        await eventually(lambda: [line for line in warnings(caplog) if "waiting up to 30 s for Ollama" in line])
        await ollama.start()
        lines = await running
    assert lines[-1] == SUCCESS
    assert ollama.blobs[DIGEST] == SIZE
    assert {"status": "waiting for Ollama to come back"} in lines


async def test_a_pull_waits_for_an_ollama_that_is_gone_at_its_start(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    async with pulling(hub, ollama, session, ollama={"patience": "30s"}) as pull:
        await ollama.close()
        # A browser's request would make the proxy ask Ollama for CORS headers first; this client sends no Origin.
        running = asyncio.create_task(pull())
        await eventually(lambda: any("/api/models/" in request.path for request in hub.requests))
        await ollama.start()
        check_success(await running, ollama)


async def test_an_ollama_that_stays_away_is_an_error(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    hub.rate = 1_000_000
    async with pulling(hub, ollama, session, ollama={"patience": "0.5s"}) as pull:
        running = asyncio.create_task(pull())
        await eventually(lambda: any(request.received for request in uploads(ollama)))
        await ollama.close()
        error = (await running)[-1]["error"]
    assert f"acme/tiny/{WEIGHTS}: Ollama at " in error
    assert "broke off the upload" in error


async def test_an_upload_with_a_lost_answer_is_not_repeated(pull: Puller, ollama: StandInOllama) -> None:
    ollama.lose_upload_answer = True
    check_success(await pull(), ollama)
    assert len(uploads(ollama)) == 1


async def test_an_ollama_that_always_breaks_off_is_an_error(pull: Puller, ollama: StandInOllama) -> None:
    ollama.fail_upload_after = SIZE // 2
    error = (await pull())[-1]["error"]
    assert f"acme/tiny/{WEIGHTS}: Ollama at " in error
    assert len(uploads(ollama)) == 5


async def test_a_full_disk_is_an_error_and_finished_blobs_stay(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    files = {**FILES, "mmproj-F16.gguf": tiny_projector(rows=40_000)}
    hub.add("acme/tiny", files)
    first, second = map(digest_of, files.values())
    hub.rate = 4_000_000
    async with pulling(hub, ollama, session, pull={"connections": 1}) as pull:
        running = asyncio.create_task(pull())
        await eventually(lambda: first in ollama.blobs)
        ollama.upload_status = 500
        lines = await running
        ollama.upload_status = None
        assert first in ollama.blobs
        assert second not in ollama.blobs
        assert "acme/tiny/mmproj-F16.gguf: Ollama refused the blob: the stand-in" in lines[-1]["error"]
        hub.requests.clear()
        assert (await pull())[-1] == SUCCESS
        assert not fetched(hub, WEIGHTS)


@pytest.mark.parametrize("times", [1, 2])
async def test_a_blob_damaged_on_the_way_to_ollama_is_re_uploaded_once(
    pull: Puller, ollama: StandInOllama, times: int, caplog: pytest.LogCaptureFixture
) -> None:
    ollama.garble_uploads = {DIGEST: times}
    lines = await pull()
    assert len(uploads(ollama)) == 2
    assert uploads(ollama)[0].status == 400
    assert len([line for line in warnings(caplog) if "digest mismatch" in line and "refetching once" in line]) == 1
    if times == 1:
        assert lines[-1] == SUCCESS
        assert ollama.blobs[DIGEST] == SIZE
    else:
        assert f"acme/tiny/{WEIGHTS}: Ollama refused the blob: digest mismatch" in lines[-1]["error"]
        assert DIGEST not in ollama.blobs


async def test_a_blob_that_appears_meanwhile_is_a_success(pull: Puller, hub: StandInHub, ollama: StandInOllama) -> None:
    hub.rate = 1_000_000
    running = asyncio.create_task(pull())
    await eventually(lambda: fetched(hub, WEIGHTS))
    assert not uploads(ollama)
    ollama._store.keep(FILES[WEIGHTS])
    check_success(await running, ollama)
    [upload] = uploads(ollama)
    assert (upload.status, upload.received) == (200, 0)
