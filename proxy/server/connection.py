"""The listening side: aiohttp's server with the limits of Go's, which answers what is not HTTP as Go does."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus

from aiohttp import web
from aiohttp.web_protocol import _ErrInfo

from proxy.server.access import make_request
from proxy.server.responses import CLOSED

log = logging.getLogger(__name__)

# bytes; Go's server takes 1 MiB of head altogether (net/http, DefaultMaxHeaderBytes).
LONGEST_LINE = 1024 * 1024
LONGEST_FIELD = 128 * 1024
MOST_FIELDS = 4096
# Go waits so long for a client to read its answer before it resets an upload that nobody wants (rstAvoidanceDelay).
LINGER_SECONDS = 0.5
NOT_HTTP = b"HTTP/1.1 %(reason)b\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n%(reason)b"

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Server(web.Server):
    """Answers every request with `handler`, which is cancelled when the client leaves."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(
            handler,
            request_factory=partial(make_request, asyncio.get_running_loop()),
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

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        request = self._current_request
        if request is None or request.content.is_eof() or not self._messages:
            return
        last, _ = self._messages[-1]
        if isinstance(last, _ErrInfo):
            # aiohttp 3.14 would leave whoever reads the body waiting.
            self._messages.clear()
            self._lingering_time = 0
            request.content.set_exception(web.RequestPayloadError(_first_line(last.message)))

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
        log.debug("%s sent something that is not HTTP: %s", request.remote, reason)
        if reason == "Missing 'Host' header in request":
            reason = "missing required Host header"
        return refuse(request, f"400 Bad Request: {reason}")


def refuse(request: web.BaseRequest, reason: str) -> web.StreamResponse:
    """Answer as Go's server does where it does not hand a request on; `reason` begins with the status."""
    if request.transport is not None:
        request.transport.write(NOT_HTTP % {b"reason": reason.encode("latin-1", "replace")})
    return CLOSED


def _first_line(message: str | None) -> str:
    return (message or "").partition("\n")[0].rstrip(":.\r")
