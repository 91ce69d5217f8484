"""Forwards requests to Ollama and its responses to the client, both unchanged."""

import asyncio
import logging
import re
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import StreamReader, hdrs, web

from proxy.errors import OllamaError
from proxy.forward.cors import Cors
from proxy.forward.relay import HOP_BY_HOP, Relay, chunk_of, end_to_end, last_chunk
from proxy.forward.upstream import Connection, Upstream
from proxy.network_errors import reason_of
from proxy.ollama.client import Ollama
from proxy.server.access import KEY_IN_HEADER
from proxy.server.connection import cancel_on_half_close, connection_of
from proxy.server.request_parser import Body
from proxy.server.responses import CLOSED, KEPT_ALIVE, error_response

log = logging.getLogger(__name__)

NOT_FORWARDED = HOP_BY_HOP | {b"host"}
# Sent once more if a pooled connection was already closed. RFC 9110 §9.2.2 allows this for these methods.
REPEATABLE = frozenset((hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS))

ABSOLUTE = re.compile(r"(?i:https?)://[^/?#]*")


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """A request for Ollama. `start` is its head and the received part of its body, `rest` is the other part."""

    start: bytes
    rest: StreamReader | None
    chunked: bool


class Forward:
    """Forwards a request. If the client disconnects, aiohttp cancels this, and the request to Ollama is aborted."""

    def __init__(self, ollama: Ollama, upstream: Upstream, cors: Cors) -> None:
        self._ollama = ollama
        self._upstream = upstream
        self._cors = cors

    async def __call__(
        self, request: web.BaseRequest, *, prefix: bytes | None = None, body: bytes | None = None
    ) -> web.StreamResponse:
        """Forward the request with `body`, or else with the client's body, after `prefix`, its part that was read.

        Raises RequestPayloadError if the client's body is malformed.
        """
        target = _origin_form(request.raw_path)
        if target is None:
            return error_response("the request's target is not a path", HTTPStatus.BAD_REQUEST)
        chunked = body is None and hdrs.TRANSFER_ENCODING in request.headers
        outgoing = self._build(request, target, prefix, body, chunked=chunked)
        try:
            relay = await self._exchange(request, outgoing)
            if relay.stale and request.method in REPEATABLE and not request.body_exists:
                relay = await self._exchange(request, outgoing, fresh=True)
        except OllamaError as error:
            return error_response(str(error), HTTPStatus.BAD_GATEWAY)
        if relay.error is not None:
            return self._failed(request, relay, relay.error)
        return KEPT_ALIVE if relay.keep_alive else CLOSED

    async def _exchange(self, request: web.BaseRequest, outgoing: _Outgoing, *, fresh: bool = False) -> Relay:
        try:
            connection = await self._upstream.connect(fresh=fresh)
        except (OSError, TimeoutError) as error:
            raise self._ollama.unreachable(error) from error
        relay = Relay(request, connection)
        connection.begin(relay)
        connection.write(outgoing.start)
        if connection.can_half_close:
            connection_of(request).on_half_close(relay.half_close)
        else:
            cancel_on_half_close(request)
        sending = None
        if outgoing.rest is None:
            relay.finish_request()
        else:
            sending = asyncio.create_task(_send_rest(outgoing.rest, connection, relay, chunked=outgoing.chunked))
        try:
            await relay.wait_finished()
        except BaseException:
            relay.abort_client()
            raise
        finally:
            relay.close()
            if sending is not None:
                sending.cancel()
        return relay

    def _build(
        self, request: web.BaseRequest, target: str, prefix: bytes | None, body: bytes | None, *, chunked: bool
    ) -> _Outgoing:
        host, origin = self._cors.translate(request)
        dropped = NOT_FORWARDED
        if request.get(KEY_IN_HEADER):
            dropped |= {b"authorization"}
        if prefix is not None or body is not None:
            # The proxy has already sent 100 Continue to the client.
            dropped |= {b"expect"}
        if body is not None:
            dropped |= {b"content-length"}
        line = f"{request.method} {self._upstream.base}{target} HTTP/1.1\r\nHost: {host}"
        lines = [line.encode(errors="surrogateescape")]
        headers = end_to_end(request.raw_headers, dropped)
        if origin is not None:
            new_origin = origin.encode(errors="surrogateescape")
            headers = [(name, new_origin if name.lower() == b"origin" else value) for name, value in headers]
        lines += [b": ".join(header) for header in headers]
        if chunked:
            lines.append(b"Transfer-Encoding: chunked")
        if body is not None:
            lines.append(b"Content-Length: %d" % len(body))
        rest = None
        if body is None:
            body = (prefix or b"") + request.content.read_nowait()
            if not request.content.at_eof():
                rest = request.content
        lines += (b"", _framed(body, request.content if rest is None else None) if chunked else body)
        return _Outgoing(b"\r\n".join(lines), rest, chunked)

    def _failed(self, request: web.BaseRequest, relay: Relay, error: Exception) -> web.StreamResponse:
        if relay.client_is_half_closed and isinstance(error, OSError):
            # Most such clients have left. Ollama ends their requests, some of them without a response.
            relay.abort_client()
            return CLOSED
        if relay.begun:
            log.warning("%s %s: Ollama's response ended early: %s", request.method, request.path, reason_of(error))
            relay.abort_client()
            return CLOSED
        match error:
            case web.RequestPayloadError():
                raise error
            case OSError():
                text = f"closed the connection before it answered ({reason_of(error)}); it may have crashed"
            case _:
                text = f"sent a response that is not HTTP ({error})"
        log.warning("%s %s: Ollama %s", request.method, request.path, text)
        return error_response(f"Ollama at {self._ollama.url} {text}: see its log", HTTPStatus.BAD_GATEWAY)


async def _send_rest(rest: StreamReader, connection: Connection, relay: Relay, *, chunked: bool) -> None:
    try:
        async for chunk in rest.iter_any():
            connection.write(chunk_of(chunk) if chunked else chunk)
            await connection.drain()
    except Exception as error:  # noqa: BLE001 - any error must end the exchange
        relay.fail(error)
        return
    if chunked:
        connection.write(_framed(b"", rest))
    relay.finish_request()


def _framed(body: bytes, complete: StreamReader | None) -> bytes:
    """The body in the chunked coding; with its end, if this is the last part of the body `complete`."""
    chunk = chunk_of(body) if body else b""
    if complete is None:
        return chunk
    return chunk + last_chunk(complete.trailers if isinstance(complete, Body) else ())


def _origin_form(target: str) -> str | None:
    """Path and query of a request target, unchanged; None if the target has another form."""
    if target.startswith("/") or target == "*":
        return target
    absolute = ABSOLUTE.match(target)
    if absolute is None:
        return None
    path = target[absolute.end() :]
    return path if path.startswith("/") else f"/{path}"
