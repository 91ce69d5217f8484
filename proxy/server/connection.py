"""The listening side: aiohttp's server with our parser, and with Go's responses to bytes that are not HTTP."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter

from proxy.server.access import KEY_IN_PATH, split_key
from proxy.server.aiohttp_private import Handler, HookedConnection, HookedServer, RequestHead, with_target
from proxy.server.request_parser import BadRequest, RequestParser
from proxy.server.responses import CLOSED

log = logging.getLogger(__name__)

# Go waits this long for a client to read its response before it resets an unwanted upload (rstAvoidanceDelay).
LINGER_SECONDS = 0.5
NOT_HTTP = b"HTTP/1.1 %(reason)b\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n%(reason)b"


class Server(HookedServer):
    """Calls `handler` for every request, and cancels it when the client disconnects."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(
            handler, ClientConnection, handler_cancellation=True, access_log=None, lingering_time=LINGER_SECONDS
        )

    def build_request(
        self,
        message: RequestHead,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        """Removes the key from the path, so that no code that logs or forwards the path can leak it."""
        key, target = split_key(message.path)
        if key is not None:
            message = with_target(message, target)
        request = super().build_request(message, payload, protocol, writer, task)
        if key is not None:
            request[KEY_IN_PATH] = key
        cast(ClientConnection, protocol).begin_request()
        return request


class ClientConnection(HookedConnection):
    """One connection of a client. A client that closes only its sending side still gets its answers, as from Go."""

    __slots__ = ("_on_half_close", "_request_parser")

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(manager, loop=loop, **options)
        self._request_parser = RequestParser(self, loop)
        self._on_half_close: Callable[[], object] | None = None
        self.use_parser(self._request_parser)

    def on_half_close(self, callback: Callable[[], object]) -> None:
        """Call this when the client has sent its last byte, perhaps at once. It replaces the last such callback.

        The client may have left: TCP shows both in the same way. Go's server cancels the request's context.
        """
        self._on_half_close = callback
        if self._request_parser.at_eof:
            callback()

    def begin_request(self) -> None:
        self._on_half_close = None
        if self._request_parser.ended:
            self._close_after_last()

    def _close_after_last(self) -> None:
        """Close the connection after the answers to the requests that are here: no other comes."""
        if not self.has_queued_requests:
            self.close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._request_parser.ended:
            self._close_after_last()

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio's signature; aiohttp's always closes
        """Whether the connection stays open for answers."""
        self._request_parser.feed_eof()
        self.data_received(b"")
        if self.is_idle:
            return False
        if self._on_half_close is not None:
            self._on_half_close()
        return True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if not isinstance(exc, BadRequest):
            return super().handle_error(request, status, exc, message)
        log.debug("%s sent bytes that are not HTTP: %s", request.remote, exc)
        return refuse(request, str(exc))

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Without bodies that broke off after their answer: aiohttp reads on for LINGER_SECONDS."""
        if not isinstance(options.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **options)


def connection_of(request: web.BaseRequest) -> ClientConnection:
    """The connection of a request of `Server`, which has no others."""
    return cast(ClientConnection, request.protocol)


def cancel_on_half_close(request: web.BaseRequest) -> None:
    """Cancel this handler when its client has sent its last byte, as Ollama ends a pull then.

    A handler that writes nothing for a long time would not notice otherwise that its client has left.
    """
    if (task := asyncio.current_task()) is not None:
        connection_of(request).on_half_close(task.cancel)


def refuse(request: web.BaseRequest, reason: str) -> web.StreamResponse:
    """Write what Go's server writes when it does not call its handler; `reason` begins with the status."""
    if request.transport is not None:
        request.transport.write(NOT_HTTP % {b"reason": reason.encode("latin-1", "replace")})
    return CLOSED
