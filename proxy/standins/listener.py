"""A server on a port of 127.0.0.1 that logs every request and can be closed in mid-answer."""

import asyncio
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from multidict import CIMultiDictProxy

OnPrepare = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


@dataclass
class LoggedRequest:
    """What a client asked, and what it has been given so far."""

    origin: str
    method: str
    path: str  # as the client wrote it, with the query
    headers: CIMultiDictProxy[str]
    body: bytes | None = None  # where it is JSON and small
    status: int | None = None  # none until the answer begins
    body_bytes: int = 0  # sent to the client
    received: int = 0  # of an upload


LOGGED = web.RequestKey("logged", LoggedRequest)


class LoggingServer:
    def __init__(
        self,
        origin: str,
        routes: Iterable[web.RouteDef],
        log: list[LoggedRequest],
        *,
        port: int = 0,
        middlewares: Iterable[Middleware] = (),
        on_prepare: Iterable[OnPrepare] = (),
    ) -> None:
        self._origin = origin
        self._routes = list(routes)
        self._log = log
        self._port = port
        self._middlewares = list(middlewares)
        self._on_prepare = list(on_prepare)
        self._runner: web.AppRunner | None = None
        self._url = ""

    @property
    def url(self) -> str:
        if not self._url:
            raise RuntimeError(f"the stand-in {self._origin} has not been started")
        return self._url

    async def start(self) -> None:
        app = web.Application(middlewares=[self._record, *self._middlewares], client_max_size=1 << 30)
        app.add_routes(self._routes)
        app.on_response_prepare.extend([*self._on_prepare, self._record_answer])
        # Like Go's and Node's servers: a client that leaves ends its handler, and a body that nobody read
        # costs its connection.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, lingering_time=0, shutdown_timeout=0.1
        )
        await self._runner.setup()
        listening = socket.create_server(("127.0.0.1", self._port))
        self._port = listening.getsockname()[1]  # for a start after a close
        await web.SockSite(self._runner, listening).start()
        self._url = f"http://127.0.0.1:{self._port}"

    async def close(self) -> None:
        if self._runner is None:
            return
        if self._runner.server is not None:
            for connection in self._runner.server.connections:
                if isinstance(connection.transport, asyncio.Transport):
                    connection.transport.abort()
        await self._runner.cleanup()
        self._runner = None

    @web.middleware
    async def _record(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        logged = LoggedRequest(self._origin, request.method, request.raw_path, request.headers)
        request[LOGGED] = logged
        self._log.append(logged)
        return await handler(request)

    async def _record_answer(self, request: web.Request, response: web.StreamResponse) -> None:
        logged = request.get(LOGGED)  # none where aiohttp refused the request by itself
        if logged is not None and request.transport is not None and not request.transport.is_closing():
            logged.status = response.status
            if isinstance(response, web.Response) and isinstance(response.body, bytes):
                logged.body_bytes = 0 if request.method == "HEAD" else len(response.body)


class StandIn:
    """A server of one or more listeners: use it as `async with`, or call `start` and `close`."""

    def __init__(self, *listeners: LoggingServer) -> None:
        self._listeners = listeners

    async def start(self) -> None:
        for listener in self._listeners:
            await listener.start()

    async def close(self) -> None:
        for listener in self._listeners:
            await listener.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def flush(request: web.BaseRequest) -> None:
    """Wait until the client's machine has all that was written: a reset throws away what still waits here."""
    while (transport := request.transport) is not None and not transport.is_closing():
        connection = transport.get_extra_info("socket")
        if not transport.get_write_buffer_size() and not _unacknowledged(connection.fileno()):
            return
        await asyncio.sleep(0.001)


def _unacknowledged(descriptor: int) -> int:
    if sys.platform != "linux":
        return 0
    import fcntl
    import termios

    answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0" * 4)
    return int.from_bytes(answer, sys.byteorder)


def reset(request: web.BaseRequest) -> None:
    """End the connection as a crash does, with a reset in the place of an orderly end."""
    if request.transport is None:
        return
    connection = request.transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.close()
