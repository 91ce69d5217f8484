"""A fast stand-in for Ollama that answers only the requests of the benchmarks. It prints its port.

Like Ollama, it hashes uploads, but it keeps only their digests.
"""

import asyncio
import hashlib
import random
import re
import time
from typing import ClassVar

import uvloop


def answer(body: bytes, status: bytes = b"200 OK", *, length: int | None = None) -> bytes:
    return (
        b"HTTP/1.1 %b\r\nContent-Type: application/json; charset=utf-8\r\nDate: Sun, 22 Nov 2026 20:00:00 GMT\r\n"
        b"Content-Length: %d\r\n\r\n%b"
    ) % (status, len(body) if length is None else length, body)


ANSWER = answer(b'{"version":"0.40.0"}')
NO_MODELS = answer(b'{"models":[]}')
SUCCESS = answer(b'{"status":"success"}\n')
NOT_FOUND = answer(b"", b"404 Not Found")
FOUND = answer(b"")
MISMATCH = b'{"error":"digest mismatch, expected \\"%b\\", got \\"sha256:%b\\""}'
BLOB = re.compile(rb"(HEAD|POST) /api/blobs/(sha256:[0-9a-f]{64}) ")
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
LINE = (
    b'{"model":"m","created_at":"2026-11-22T20:00:00Z","message":{"role":"assistant","content":" word"},'
    b'"t":%d,"done":%b}\n'
)
PIECE = bytes(256 * 1024)


class Connection(asyncio.Protocol):
    held: ClassVar[set[bytes]] = set()

    def __init__(self) -> None:
        self._left = 0
        self._announced = b""
        self._task: asyncio.Task[None] | None = None
        self._more = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def pause_writing(self) -> None:
        self._more.clear()

    def resume_writing(self) -> None:
        self._more.set()

    def data_received(self, data: bytes) -> None:
        if self._task is not None and not self._task.done():
            return  # the rest of a stream's request
        if self._left:
            self._take(data)
        elif data.startswith(b"GET /api/version"):
            self._transport.write(ANSWER)
        elif data.startswith(b"GET /api/tags"):
            self._transport.write(NO_MODELS)
        elif (blob := BLOB.match(data)) and blob[1] == b"HEAD":
            self._transport.write(FOUND if blob[2] in self.held else NOT_FOUND)
        elif data.startswith((b"POST /api/pull", b"POST /api/create")):
            self._transport.write(SUCCESS)
        elif data.startswith(b"GET /bytes/"):
            self._start(self._send(int(data.split()[1][7:])))
        elif match := re.match(rb"POST /api/chat\?chunks=(\d+)&seconds=([\d.]+)", data):
            self._start(self._stream(int(match[1]), float(match[2])))
        else:
            head, _, body = data.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            self._left = int(length[1]) if length else 0
            self._announced = blob[2] if blob else b""
            self._digest = hashlib.sha256()
            self._take(body)

    def _take(self, body: bytes) -> None:
        self._digest.update(body)
        self._left -= len(body)
        if self._left <= 0:
            self._transport.write(self._stored() if self._announced else ANSWER)

    def _stored(self) -> bytes:
        """Answer an upload like Ollama, which stores data with a wrong digest under the right one."""
        digest = self._digest.hexdigest().encode()
        self.held.add(b"sha256:" + digest)
        if self._announced == b"sha256:" + digest:
            return answer(b"", b"201 Created")
        return answer(MISMATCH % (self._announced, digest), b"400 Bad Request")

    def _start(self, work: "asyncio._CoroutineLike[None]") -> None:
        self._task = asyncio.create_task(work)

    async def _send(self, count: int) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % count)
        self._more.set()
        for _ in range(count // len(PIECE)):
            self._transport.write(PIECE)
            await self._more.wait()

    async def _stream(self, chunks: int, seconds: float) -> None:
        self._transport.write(STREAM)
        for number in range(1, chunks + 1):
            # Random pauses: otherwise all streams send at the same moment and wait for each other.
            await asyncio.sleep(seconds * random.uniform(0.5, 1.5))
            line = LINE % (time.monotonic_ns(), b"true" if number == chunks else b"false")
            self._transport.write(b"%x\r\n%b\r\n" % (len(line), line))
        self._transport.write(b"0\r\n\r\n")


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
