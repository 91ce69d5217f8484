"""The listening side: aiohttp's server with the limits of Go's, and with Go's responses to bytes that are not HTTP."""

import logging
from asyncio import Task
from http import HTTPStatus

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter

from proxy.server.access import KEY_IN_PATH, split_key
from proxy.server.aiohttp_private import Handler, HookedConnection, HookedServer, RequestHead, target_of, with_target
from proxy.server.responses import CLOSED

log = logging.getLogger(__name__)

# Bytes. Go's server accepts 1 MiB of head in total (net/http, DefaultMaxHeaderBytes).
LONGEST_LINE = 1024 * 1024
LONGEST_FIELD = 128 * 1024
MAX_FIELDS = 4096
# Go waits this long for a client to read its response before it resets an unwanted upload (rstAvoidanceDelay).
LINGER_SECONDS = 0.5
NOT_HTTP = b"HTTP/1.1 %(reason)b\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n%(reason)b"


class Server(HookedServer):
    """Calls `handler` for every request, and cancels it when the client disconnects."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(
            handler,
            ClientConnection,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_FIELD,
            max_headers=MAX_FIELDS,
            lingering_time=LINGER_SECONDS,
        )

    def build_request(
        self,
        message: RequestHead,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: "Task[None]",
    ) -> web.BaseRequest:
        """Removes the key from the path, so that no code that logs or forwards the path can leak it."""
        key, target = split_key(target_of(message))
        if target != message.path:
            message = with_target(message, target)
        request = super().build_request(message, payload, protocol, writer, task)
        if key is not None:
            request[KEY_IN_PATH] = key
        return request


class ClientConnection(HookedConnection):
    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        request = self.request_in_progress
        if request is None or request.content.is_eof():
            return
        error = self.take_parse_error()
        if error is not None:
            request.content.set_exception(web.RequestPayloadError(_first_line(error)))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status != HTTPStatus.BAD_REQUEST:
            return super().handle_error(request, status, exc, message)
        reason = _first_line(message)
        log.debug("%s sent bytes that are not HTTP: %s", request.remote, reason)
        if reason == "Missing 'Host' header in request":
            reason = "missing required Host header"
        return refuse(request, f"400 Bad Request: {reason}")


def refuse(request: web.BaseRequest, reason: str) -> web.StreamResponse:
    """Write what Go's server writes when it does not call its handler; `reason` begins with the status."""
    if request.transport is not None:
        request.transport.write(NOT_HTTP % {b"reason": reason.encode("latin-1", "replace")})
    return CLOSED


def _first_line(message: str | None) -> str:
    return (message or "").partition("\n")[0].rstrip(":.\r")
