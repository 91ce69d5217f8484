"""Many clients at once, and many that disconnect: nothing is lost, mixed up or leaked."""

import asyncio
import os
import random
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from yarl import URL

from proxy.app import App
from proxy.forward.upstream import MAX_IDLE
from tests.kit.support import eventually, listening_raw, serving, settings, talk

NO_HUB = "http://127.0.0.1:9"
STREAMS = 1000
CHUNKS = int(os.environ.get("LOAD_CHUNKS", "50"))
"""Lines of each stream: all streams are open at once, also with half of them. By hand there can be more."""
DISCONNECTS = 10_000
AT_ONCE = 200
UPLOAD = b"POST /upload HTTP/1.1\r\nHost: localhost\r\n"
BODY = b"x" * 60_000


@pytest.fixture(autouse=True)
def enough_open_files() -> None:
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def count(head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Streams numbered lines that contain the path of the request."""
    name = head.split()[1]
    if name == b"/api/tags":  # the proxy looks for temporary models of an earlier process
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()
        return
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
    for number in range(CHUNKS):
        line = b'{"%b":%d}\n' % (name, number)
        writer.write(b"%x\r\n%b\r\n" % (len(line), line))
        await writer.drain()
        await asyncio.sleep(0)
    writer.write(b"0\r\n\r\n")


def unchunked(body: bytes) -> bytes:
    parts = []
    while (size := int(body[: (end := body.index(b"\r\n"))], 16)) > 0:
        parts.append(body[end + 2 : end + 2 + size])
        body = body[end + 4 + size :]
    assert body == b"0\r\n\r\n"
    return b"".join(parts)


async def one_stream(url: str, name: str) -> bool:
    request = f"POST /{name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    address = URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(request.encode())
    body = (await reader.read()).partition(b"\r\n\r\n")[2]
    writer.close()
    return unchunked(body) == b"".join(b'{"/%b":%d}\n' % (name.encode(), number) for number in range(CHUNKS))


def resident_bytes(process: asyncio.subprocess.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def open_files(process: asyncio.subprocess.Process) -> int:
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(900)
async def test_a_thousand_streams_arrive_complete_without_a_leak() -> None:
    async with listening_raw(count) as upstream, serving("--ollama", upstream) as (process, url):
        resident = []
        before = open_files(process)
        for round_number in range(3):
            whole = await asyncio.gather(*(one_stream(url, f"{round_number}-{number}") for number in range(STREAMS)))
            assert all(whole)
            await eventually(lambda: open_files(process) <= before + MAX_IDLE)
            resident.append(resident_bytes(process))
    assert resident[2] - resident[1] < 8 * 1024 * 1024, resident


class SlowOllama:
    """A slow Ollama, so that clients disconnect at every point. `active` counts the requests in progress."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.active = 0

    async def __call__(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.active += 1
        try:
            if b"Content-Length: 60000" in head:
                await reader.readexactly(60_000)
            if head.startswith(b"GET /silent"):
                await reader.read(1)
                return
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(20):
                writer.write(b"3\r\nabc\r\n")
                await writer.drain()
                await asyncio.sleep(self._rng.choice((0, 0, 0.001)))
            writer.write(b"0\r\n\r\n")
        finally:
            self.active -= 1


async def disconnect_somewhere(url: str, rng: random.Random) -> None:
    address = URL(url)
    with suppress(ConnectionError):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        request = rng.choice(
            (
                b"GET /silent HTTP/1.1\r\nHost: localhost\r\n\r\n",
                b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n",
                UPLOAD + b"Content-Length: 60000\r\n\r\n" + BODY,
                UPLOAD + b"Transfer-Encoding: chunked\r\n\r\nea60\r\n" + BODY,
            )
        )
        writer.write(request[: rng.choice((len(request), rng.randrange(1, len(request))))])
        await writer.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(rng.choice((0, 0.001, 0.005))):
                await reader.read(rng.choice((1, 100, 1000)))
        if rng.random() < 0.5:
            writer.transport.abort()
        else:
            writer.close()


@pytest.mark.timeout(900)
async def test_ten_thousand_disconnects_leak_nothing(caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(4)
    slow_ollama = SlowOllama(rng)
    async with listening_raw(slow_ollama) as upstream, App(settings(NO_HUB, upstream)) as app:
        tasks = len(asyncio.all_tasks())
        for _ in range(DISCONNECTS // AT_ONCE):
            await asyncio.gather(*(disconnect_somewhere(app.address.url, rng) for _ in range(AT_ONCE)))
        server = app._runner.server
        assert server is not None
        await eventually(lambda: slow_ollama.active == 0)
        await eventually(lambda: not server.connections)
        await eventually(lambda: app._upstream._open == set(app._upstream._idle))
        # Each idle connection has a task of this test at Ollama's side.
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks + len(app._upstream._idle))
        assert len(app._upstream._idle) <= MAX_IDLE
        response = await talk(app.address.url, b"GET /stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert unchunked(response.partition(b"\r\n\r\n")[2]) == b"abc" * 20
    assert not [record for record in caplog.records if record.exc_info]
