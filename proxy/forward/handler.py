"""Door 1: every call that is not ours goes to Ollama as it came, and the answer comes back as Ollama gave it."""

import asyncio
import logging
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import StreamReader, hdrs, web

from proxy.errors import OllamaError
from proxy.forward.cors import Cors
from proxy.forward.relay import HOP_BY_HOP, LAST_CHUNK, Relay, chunk_of, end_to_end
from proxy.forward.upstream import Connection, Upstream
from proxy.network_errors import reason_of
from proxy.ollama.client import Ollama
from proxy.server.access import KEY_IN_HEADER
from proxy.server.responses import CLOSED, KEPT_ALIVE, error_response

log = logging.getLogger(__name__)

NOT_FORWARDED = HOP_BY_HOP | {b"host"}
# Sent once more when a kept connection turns out to have ended: RFC 9110 §9.2.2 allows it for these.
REPEATABLE = frozenset((hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS))


@dataclass(frozen=True, slots=True)
class _Call:
    """A request as Ollama gets it: `start` is its head and what is there of its body, `rest` what is not."""

    start: bytes
    rest: StreamReader | None
    chunked: bool


class Forward:
    """Sends a request on to Ollama. The client's leaving cancels it, and with it the upstream request."""

    def __init__(self, ollama: Ollama, upstream: Upstream, origins: Cors) -> None:
        self._ollama = ollama
        self._upstream = upstream
        self._origins = origins

    async def __call__(
        self, request: web.BaseRequest, *, prefix: bytes | None = None, body: bytes | None = None
    ) -> web.StreamResponse:
        """Forward with the client's body, of which `prefix` has been read, or with `body` in its place.

        Raises RequestPayloadError where the client's body is malformed.
        """
        target = _origin_form(request.raw_path)
        if target is None:
            return error_response("the request's target is not a path", HTTPStatus.BAD_REQUEST)
        coding = request.headers.get(hdrs.TRANSFER_ENCODING)
        if coding is not None and coding.lower() != "chunked":
            return error_response(f"the transfer coding {coding!r} is not known here", HTTPStatus.NOT_IMPLEMENTED)
        call = self._call(request, target, prefix, body, chunked=coding is not None and body is None)
        try:
            relay = await self._exchange(request, call)
            if relay.stale and request.method in REPEATABLE and not request.body_exists:
                relay = await self._exchange(request, call, fresh=True)
        except OllamaError as error:
            return error_response(str(error), HTTPStatus.BAD_GATEWAY)
        if relay.error is not None:
            return self._failed(request, relay, relay.error)
        return KEPT_ALIVE if relay.keep_alive else CLOSED

    async def _exchange(self, request: web.BaseRequest, call: _Call, *, fresh: bool = False) -> Relay:
        try:
            connection = await self._upstream.connect(fresh=fresh)
        except (OSError, TimeoutError) as error:
            raise self._ollama.unreachable(error) from error
        relay = Relay(request, connection)
        connection.begin(relay)
        connection.write(call.start)
        sending = None
        if call.rest is None:
            relay.request_sent = True
        else:
            sending = asyncio.create_task(_send_rest(call.rest, connection, relay, chunked=call.chunked))
        try:
            await relay.finished()
        except BaseException:
            relay.break_off()
            raise
        finally:
            relay.close()
            if sending is not None:
                sending.cancel()
        return relay

    def _call(
        self, request: web.BaseRequest, target: str, prefix: bytes | None, body: bytes | None, *, chunked: bool
    ) -> _Call:
        host, origin = self._origins.translate(request)
        dropped = NOT_FORWARDED
        if request.get(KEY_IN_HEADER):
            dropped |= {b"authorization"}
        if prefix is not None or body is not None:
            # The client has been asked for its body.
            dropped |= {b"expect"}
        if body is not None:
            dropped |= {b"content-length"}
        line = f"{request.method} {self._upstream.base}{target} HTTP/1.1\r\nHost: {host}"
        lines = [line.encode(errors="surrogateescape")]
        headers = end_to_end(request.raw_headers, dropped)
        if origin is not None:
            given = origin.encode(errors="surrogateescape")
            headers = [(name, given if name.lower() == b"origin" else value) for name, value in headers]
        lines += [b"%b: %b" % header for header in headers]
        if chunked:
            lines.append(b"Transfer-Encoding: chunked")
        if body is not None:
            lines.append(b"Content-Length: %d" % len(body))
        rest = None
        if body is None:
            body = (prefix or b"") + request.content.read_nowait()
            if not request.content.at_eof():
                rest = request.content
        lines += (b"", _framed(body, last=rest is None) if chunked else body)
        return _Call(b"\r\n".join(lines), rest, chunked)

    def _failed(self, request: web.BaseRequest, relay: Relay, error: Exception) -> web.StreamResponse:
        if relay.begun:
            log.warning("%s %s: the answer broke off: %s", request.method, request.path, reason_of(error))
            relay.break_off()
            return CLOSED
        match error:
            case web.RequestPayloadError():
                raise error
            case OSError():
                text = f"ended the connection before it answered ({reason_of(error)}); it may have crashed"
            case _:
                text = f"gave an answer that is not HTTP ({error})"
        log.warning("%s %s: Ollama %s", request.method, request.path, text)
        return error_response(f"Ollama at {self._ollama.url} {text}: see its log", HTTPStatus.BAD_GATEWAY)


async def _send_rest(rest: StreamReader, connection: Connection, relay: Relay, *, chunked: bool) -> None:
    try:
        async for chunk in rest.iter_any():
            connection.write(chunk_of(chunk) if chunked else chunk)
            await connection.drain()
    except Exception as error:  # noqa: BLE001 - whatever it was, nobody else would end the exchange
        relay.fail(error)
        return
    if chunked:
        connection.write(LAST_CHUNK)
    relay.request_sent = True


def _framed(body: bytes, *, last: bool) -> bytes:
    chunk = chunk_of(body) if body else b""
    return chunk + LAST_CHUNK if last else chunk


def _origin_form(target: str) -> str | None:
    """The path and the query of a target, as they were sent; None where it names neither."""
    if target.startswith("/") or target == "*":
        return target
    scheme, _, rest = target.partition("://")
    if scheme.lower() not in ("http", "https"):
        return None
    host, _, path = rest.partition("/")
    return None if "?" in host or "#" in host else f"/{path}"
