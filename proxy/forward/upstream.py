"""A pool of connections to Ollama for forwarded requests."""

import asyncio
import re
import ssl
from contextlib import suppress
from typing import Protocol, cast

from yarl import URL

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 15.0
MAX_IDLE = 64


class Receiver(Protocol):
    """Gets the bytes of a response from a connection."""

    def data_received(self, data: bytes) -> None: ...

    def connection_lost(self, error: Exception | None) -> None:
        """The connection ended. `error` is None if Ollama closed it in an orderly way."""


class Connection(asyncio.Protocol):
    """One connection to Ollama. It has one request at a time."""

    def __init__(self, upstream: "Upstream", loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.upstream = upstream
        self._transport: asyncio.Transport
        self.can_half_close: bool
        self._receiver: Receiver | None = None
        self._writable: asyncio.Future[None] | None = None
        self.lost: asyncio.Future[None] = loop.create_future()
        self.used = False
        self._is_half_closed = False
        self.idle_since = 0.0

    @property
    def closing(self) -> bool:
        return self._is_half_closed or self._transport.is_closing()

    def begin(self, receiver: Receiver) -> None:
        """Pass received bytes to `receiver` until `release` or `abort`."""
        self._receiver = receiver

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the write buffer is low again or the connection is lost."""
        if self._writable is not None:
            await asyncio.shield(self._writable)

    def half_close(self) -> None:
        """Close the sending side, so that Ollama sees what the client did."""
        self._is_half_closed = True
        if not self._transport.is_closing():
            self._transport.write_eof()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def release(self) -> None:
        """Return the connection to the pool, after a complete response."""
        self._receiver = None
        self.used = True
        self.upstream.keep(self)

    def abort(self) -> None:
        """Close the connection at once. This also cancels a request that Ollama is still processing."""
        self._receiver = None
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.can_half_close = self._transport.can_write_eof()  # not with TLS

    def data_received(self, data: bytes) -> None:
        if self._receiver is None:
            self.abort()
        else:
            self._receiver.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.resume_writing()
        self.lost.set_result(None)
        self.upstream.forget(self)
        if self._receiver is not None:
            self._receiver.connection_lost(exc)

    def pause_writing(self) -> None:
        self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None


class Upstream:
    """The pool. `url` has no trailing slash; `tls` is for https. Create it inside the running loop."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        # In Python 3.11, get_running_loop() makes a system call (getpid), which is a tenth of the time of a request.
        self._loop = asyncio.get_running_loop()
        parts = URL(url)
        self.base = parts.raw_path.rstrip("/")
        self._own_url = re.compile(rf"(?i:(?:{parts.scheme}:)?//{re.escape(parts.authority)})(?=[/?#]|$)")
        self._host, self._port = parts.host or "", parts.port or 0
        self._tls = tls
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._sweep: asyncio.TimerHandle | None = None

    async def connect(self, *, fresh: bool = False) -> Connection:
        """The most recently used idle connection, or a new one. Raises OSError or TimeoutError if that fails."""
        while self._idle and not fresh:
            connection = self._idle.pop()
            if not connection.closing:
                return connection
        async with asyncio.timeout(CONNECT_SECONDS):
            _, connection = await self._loop.create_connection(
                lambda: Connection(self, self._loop), self._host, self._port, ssl=self._tls
            )
        self._open.add(connection)
        return connection

    def path_of(self, location: str) -> str:
        """A Location of Ollama as a path of Ollama, if it is one; else as it is."""
        path = self._own_url.sub("", location, count=1)
        is_absolute = path != location
        if not path.startswith("/") and not is_absolute:
            return location
        if self.base and not re.match(rf"{re.escape(self.base)}(?:[/?#]|$)", path):
            return location
        path = path.removeprefix(self.base)
        return path if path.startswith("/") else f"/{path}"

    def keep(self, connection: Connection) -> None:
        """Take a connection back. It closes after 15 to 30 idle seconds, or at once if 64 others are idle."""
        if connection.closing or len(self._idle) >= MAX_IDLE:
            connection.abort()
            return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(IDLE_SECONDS, self._close_idle)

    def forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        with suppress(ValueError):
            self._idle.remove(connection)

    async def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in self._open:
            connection.abort()
        await asyncio.gather(*(connection.lost for connection in self._open))

    def _close_idle(self) -> None:
        latest = self._loop.time() - IDLE_SECONDS
        for connection in [one for one in self._idle if one.idle_since <= latest]:
            self._idle.remove(connection)
            connection.abort()
        self._sweep = self._loop.call_later(IDLE_SECONDS, self._close_idle) if self._idle else None
