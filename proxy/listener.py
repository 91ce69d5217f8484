"""The listening side: aiohttp's server with the limits of Go's, which answers what is not HTTP as Go does."""

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from proxy.guard import make_request
from proxy.relay import CLOSED

log = logging.getLogger(__name__)

# bytes; Go's server takes 1 MiB of head altogether (net/http, DefaultMaxHeaderBytes).
LONGEST_LINE = 1024 * 1024
LONGEST_FIELD = 128 * 1024
MOST_FIELDS = 4096
# Go waits so long for a client to read its answer before it resets an upload that nobody wants (rstAvoidanceDelay).
LINGER_SECONDS = 0.5
NOT_HTTP = (
    b"HTTP/1.1 400 Bad Request: %(reason)b\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"400 Bad Request: %(reason)b"
)


class Server(web.Server):
    """Answers every request with `handler`, which is cancelled when the client leaves."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        super().__init__(
            handler,
            request_factory=make_request,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_FIELD,
            max_headers=MOST_FIELDS,
            lingering_time=LINGER_SECONDS,
        )

    def __call__(self) -> web.RequestHandler:
        return ClientConnection(self, loop=self._loop, **self._kwargs)


class ClientConnection(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status != HTTPStatus.BAD_REQUEST:
            return super().handle_error(request, status, exc, message)
        reason = (message or "").partition("\n")[0].rstrip(":.\r")
        log.debug("%s sent something that is not HTTP: %s", request.remote, reason)
        if reason == "Missing 'Host' header in request":
            reason = "missing required Host header"
        if request.transport is not None:
            request.transport.write(NOT_HTTP % {b"reason": reason.encode("latin-1", "replace")})
        return CLOSED
