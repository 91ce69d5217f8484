"""The client of Ollama's API: what counts as success, and how failures are reported."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import aiohttp
import orjson
import pytest
from aiohttp import web

from proxy.errors import OllamaError, TransferError
from proxy.ollama.blobs import Write
from proxy.ollama.client import Ollama, upstream_session
from proxy.standins.ollama import StandInOllama
from proxy.timings import Timings
from tests.kit.support import PATIENCE, digest_of, eventually, listening

CONTENT = bytes(range(256)) * 4096
DIGEST = digest_of(CONTENT)


@pytest.fixture
async def api(ollama: StandInOllama) -> AsyncIterator[Ollama]:
    async with upstream_session() as session:
        yield Ollama(ollama.url, session)


@asynccontextmanager
async def answering(body: bytes, status: int = 200) -> AsyncIterator[Ollama]:
    """A client of a server that gives the same response to every request."""

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=status, body=body)

    async with listening(answer) as url, upstream_session() as session:
        yield Ollama(url, session)


async def test_only_connecting_has_a_time_limit() -> None:
    """Aiohttp's default limit of five minutes would end creates, streams and uploads."""
    async with upstream_session() as session:
        assert (session.timeout.total, session.timeout.sock_read) == (None, None)


async def test_a_complete_upload_is_kept(api: Ollama, ollama: StandInOllama) -> None:
    async def produce(write: Write) -> None:
        for start in range(0, len(CONTENT), 100_000):
            await write(CONTENT[start : start + 100_000])

    assert not await api.has_blob(DIGEST)
    await api.push_blob(DIGEST, len(CONTENT), produce)
    assert await api.has_blob(DIGEST)
    await api.push_blob(DIGEST, len(CONTENT), produce)  # Ollama responds 200 and reads nothing
    assert ollama.blobs == {DIGEST: len(CONTENT)}


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (TransferError("damaged"), TransferError),
        (ValueError("a bug"), ValueError),
        (aiohttp.ClientConnectionResetError("closing transport"), OllamaError),
        (ConnectionResetError("reset"), OllamaError),
    ],
)
async def test_a_failed_upload_raises_its_cause_and_leaves_no_blob(
    api: Ollama, ollama: StandInOllama, raised: Exception, expected: type[Exception]
) -> None:
    """An error of the source is raised as it is, a network error becomes an error of Ollama."""

    async def produce(write: Write) -> None:
        await write(CONTENT[:-1])
        await eventually(lambda: any(request.received for request in ollama.requests))
        raise raised

    with pytest.raises(expected):
        await api.push_blob(DIGEST, len(CONTENT), produce)
    assert not await api.has_blob(DIGEST)
    assert not ollama.blobs


async def test_a_cancelled_upload_stops_its_producer(api: Ollama, ollama: StandInOllama) -> None:
    ended = asyncio.Event()

    async def produce(write: Write) -> None:
        try:
            await write(CONTENT[:1000])
            await asyncio.Event().wait()
        finally:
            ended.set()

    pushing = asyncio.create_task(api.push_blob(DIGEST, len(CONTENT), produce))
    await eventually(lambda: any(request.received for request in ollama.requests))
    pushing.cancel()
    async with asyncio.timeout(PATIENCE):
        await ended.wait()
    assert not ollama.blobs


async def test_a_wrong_digest_raises_ollamas_error(api: Ollama) -> None:
    async def produce(write: Write) -> None:
        await write(b"other")

    with pytest.raises(OllamaError, match="digest mismatch"):
        await api.push_blob(DIGEST, 5, produce)


async def test_a_pull_yields_lines_of_any_length() -> None:
    expected_lines = [{"status": "x" * 500_000}, {"status": "success"}]
    async with (
        answering(b"\n".join(orjson.dumps(line) for line in expected_lines)) as api,
        aclosing(api.pull_lines("m")) as lines,
    ):
        assert [line async for line in lines] == expected_lines


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b'{"error":"no room"}', 200, "cannot create m: no room"),
        (b'{"status":"a"}', 200, "without success"),
        (b"", 200, "without success"),
        (b'{"error":"bad name"}', 400, "cannot create m: bad name"),
        (b"<html>", 502, "cannot create m: <html>"),
        (b"", 500, "no reason given"),
        (b"<html>\n", 200, "not JSON: <html>"),
        (b"[1]\n", 200, "not JSON"),
    ],
)
async def test_a_create_without_success_is_an_error(body: bytes, status: int, message: str) -> None:
    async with answering(body, status) as api:
        with pytest.raises(OllamaError, match=message):
            await api.create({"model": "m"}, "m")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b"null"])
async def test_a_server_that_is_not_ollama_is_an_error(body: bytes) -> None:
    async with answering(body) as api:
        with pytest.raises(OllamaError, match="answers, but not as Ollama does"):
            await api.version()


async def hanging(_: web.BaseRequest) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_load_that_never_ends_is_ended() -> None:
    async with listening(hanging) as url, upstream_session() as session:
        with pytest.raises(OllamaError, match="^there is no response after 0.1 s$"):
            await Ollama(url, session, Timings(load=0.1)).load("m")


async def test_a_silent_ollama_is_unreachable() -> None:
    async with listening(hanging) as url, upstream_session() as session:
        with pytest.raises(OllamaError, match="cannot be reached"):
            await Ollama(url, session, Timings(ollama_answer=0.1)).version()
