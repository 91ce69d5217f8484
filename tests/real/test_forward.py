"""Door 1 in front of a real Ollama: early answers to uploads, and clients that disconnect."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from yarl import URL

from proxy.app import App
from tests.kit.real_ollama import RealOllama
from tests.kit.support import digest_of, eventually

pytestmark = pytest.mark.timeout(300)

PIECE = b"a piece of a blob" * 60_000
PIECES = 100


async def pieces(*, then: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    for _ in range(PIECES):
        yield PIECE
    if then is not None:
        await then.wait()


async def test_the_second_upload_of_a_blob_gets_an_early_answer(real_app: App, session: aiohttp.ClientSession) -> None:
    """The blob has a hundred megabytes. Ollama answers the second upload before it has read the body."""
    url = f"{real_app.address.url}/api/blobs/{digest_of(PIECE * PIECES)}"
    async with session.post(url, data=pieces()) as response:
        assert response.status == 201
    address = URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    head = f"POST {address.path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {PIECES * len(PIECE)}\r\n\r\n"
    writer.write(head.encode() + PIECE)
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    assert b"Connection: close\r\n" in await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def test_an_aborted_upload_ends_at_ollama(
    real_app: App, real_ollama: RealOllama, session: aiohttp.ClientSession
) -> None:
    """Ollama then has no blob."""
    digest = digest_of(b"never sent to its end")
    uploading = asyncio.create_task(
        session.post(f"{real_app.address.url}/api/blobs/{digest}", data=pieces(then=asyncio.Event())).__aenter__()
    )
    await asyncio.sleep(1)
    uploading.cancel()
    log = real_ollama.home / "log"
    await eventually(lambda: f'POST     "/api/blobs/{digest}"' in log.read_text(errors="replace"), 10)
    line = next(line for line in log.read_text(errors="replace").splitlines() if f'"/api/blobs/{digest}"' in line)
    assert "| 500 |" in line or "| 400 |" in line, line
    async with session.head(f"{real_ollama.url}/api/blobs/{digest}") as response:
        assert response.status == 404
