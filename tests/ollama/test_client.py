"""The client of Ollama's API: what it takes for success, and how it tells failures."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import aiohttp
import orjson
import pytest
from aiohttp import web

from proxy.errors import OllamaError, TransferError
from proxy.ollama.client import Ollama, Write, upstream_session
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
    """A client of a server that answers everything with the same bytes."""

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=status, body=body)

    async with listening(answer) as url, upstream_session() as session:
        yield Ollama(url, session)


async def test_nothing_is_hurried_but_the_connection() -> None:
    """Aiohttp's own limit of five minutes would end creates, answers and uploads."""
    async with upstream_session() as session:
        assert (session.timeout.total, session.timeout.sock_read) == (None, None)


async def test_a_blob_that_is_written_whole_is_held(api: Ollama, ollama: StandInOllama) -> None:
    async def produce(write: Write) -> None:
        for start in range(0, len(CONTENT), 100_000):
            await write(CONTENT[start : start + 100_000])

    assert not await api.has_blob(DIGEST)
    await api.push_blob(DIGEST, len(CONTENT), produce)
    assert await api.has_blob(DIGEST)
    await api.push_blob(DIGEST, len(CONTENT), produce)  # Ollama answers 200 and reads no byte
    assert ollama.blobs == {DIGEST: len(CONTENT)}


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (TransferError("damaged"), TransferError),
        (ValueError("a bug"), ValueError),
        (aiohttp.ClientConnectionResetError("closing transport"), OllamaError),
        (ConnectionResetError("reset"), OllamaError),
    ],
)
async def test_what_fails_while_writing_is_told_by_who_failed_and_leaves_nothing(
    api: Ollama, ollama: StandInOllama, raised: Exception, told: type[Exception]
) -> None:
    async def produce(write: Write) -> None:
        await write(CONTENT[:-1])
        await eventually(lambda: any(request.received for request in ollama.requests))
        raise raised

    with pytest.raises(told):
        await api.push_blob(DIGEST, len(CONTENT), produce)
    assert not await api.has_blob(DIGEST)
    assert not ollama.blobs


async def test_a_cancelled_upload_ends_its_producer_and_leaves_nothing(api: Ollama, ollama: StandInOllama) -> None:
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


async def test_a_wrong_digest_is_refused_with_ollamas_words(api: Ollama) -> None:
    async def produce(write: Write) -> None:
        await write(b"other")

    with pytest.raises(OllamaError, match="digest mismatch"):
        await api.push_blob(DIGEST, 5, produce)


async def test_a_pull_yields_every_line_however_long() -> None:
    said = [{"status": "x" * 500_000}, {"status": "success"}]
    async with (
        answering(b"\n".join(orjson.dumps(line) for line in said)) as api,
        aclosing(api.pull_lines("m")) as lines,
    ):
        assert [line async for line in lines] == said


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
async def test_a_create_that_does_not_say_success_is_an_error(body: bytes, status: int, message: str) -> None:
    async with answering(body, status) as api:
        with pytest.raises(OllamaError, match=message):
            await api.create({"model": "m"}, "m")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b"null"])
async def test_a_server_that_is_not_ollama_is_told_apart(body: bytes) -> None:
    async with answering(body) as api:
        with pytest.raises(OllamaError, match="answers, but not as Ollama does"):
            await api.version()


async def test_an_ollama_that_hangs_is_given_up() -> None:
    async def hanging(_: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with listening(hanging) as url, upstream_session() as session:
        with pytest.raises(OllamaError, match="cannot be reached"):
            await Ollama(url, session, Timings(ollama_answer=0.1)).version()
