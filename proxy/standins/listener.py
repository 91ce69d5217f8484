"""A server on a port of 127.0.0.1 that logs every request and can be closed while it answers."""

import asyncio
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Handler
from multidict import CIMultiDictProxy


@dataclass
class LoggedRequest:
    """One request, and the progress of its response."""

    origin: str  # name of the server
    method: str
    path: str  # as the client wrote it, with the query
    headers: CIMultiDictProxy[str]
    body: bytes | None = None  # only JSON of up to 1 MiB
    status: int | None = None  # None until the response begins
    body_bytes: int = 0  # bytes of the body sent to the client
    received: int = 0  # bytes of an upload


LOGGED = web.RequestKey("logged", LoggedRequest)


class LoggingServer:
    def __init__(
        self,
        origin: str,
        routes: Iterable[web.RouteDef],
        log: list[LoggedRequest],
        *,
        port: int = 0,
        configure: Callable[[web.Application], None] | None = None,
    ) -> None:
        self._origin = origin
        self._routes = list(routes)
        self._log = log
        self._port = port
        self._configure = configure
        self._runner: web.AppRunner | None = None
        self._url = ""

    @property
    def url(self) -> str:
        if not self._url:
            raise RuntimeError(f"the stand-in {self._origin} has not been started")
        return self._url

    async def start(self) -> None:
        app = web.Application(middlewares=[self._record], client_max_size=1 << 30)
        app.add_routes(self._routes)
        if self._configure is not None:
            self._configure(app)
        app.on_response_prepare.append(self._record_response)
        # Like Go's and Node's servers: when a client disconnects, its handler ends; when a handler does not read
        # the whole body, the connection closes.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, lingering_time=0, shutdown_timeout=0.1
        )
        await self._runner.setup()
        listening = socket.create_server(("127.0.0.1", self._port))
        self._port = listening.getsockname()[1]  # a restart uses the same port
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

    async def _record_response(self, request: web.Request, response: web.StreamResponse) -> None:
        logged = request.get(LOGGED)  # None if aiohttp refused the request before any handler
        if logged is not None and request.transport is not None and not request.transport.is_closing():
            logged.status = response.status
            if isinstance(response, web.Response) and isinstance(response.body, bytes):
                logged.body_bytes = 0 if request.method == "HEAD" else len(response.body)


class StandIn:
    """A server with one or more listeners. Use `async with`, or call `start` and `close`."""

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
    """Wait until the client's kernel has all written bytes. A reset would discard the others."""
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
    """End the connection with a TCP reset, as a crash does."""
    if request.transport is None:
        return
    connection = request.transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.close()
