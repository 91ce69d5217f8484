"""Passes one response of Ollama to the client, chunk by chunk. A parser finds where it ends."""

import asyncio
import socket
import struct
from collections.abc import Sequence
from http import HTTPStatus

from aiohttp import HttpVersion11, web
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from proxy.forward.upstream import Connection
from proxy.server.access import key_prefix

Headers = Sequence[tuple[bytes, bytes]]

# Headers about one connection, not about the message (RFC 9110 §7.6.1).
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    )
)
# A trailer cannot change where the message ends, or who sent it (RFC 9110 §6.5.1).
NOT_IN_TRAILERS = HOP_BY_HOP | {b"authorization", b"content-length", b"host", b"trailer"}
STATUS = web.RequestKey("status", int)
"""The status of Ollama's response to a request."""
MAX_UNSENT = 64 * 1024
"""Bytes: the high-water mark of the transports of asyncio and uvloop."""
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def chunk_of(body: bytes) -> bytes:
    """One chunk of the chunked transfer coding. `body` must not be empty."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def last_chunk(trailers: Headers = ()) -> bytes:
    """The end of the chunked transfer coding."""
    return b"0\r\n%b\r\n" % b"".join([b"%b: %b\r\n" % trailer for trailer in end_to_end(trailers, NOT_IN_TRAILERS)])


def end_to_end(headers: Headers, dropped: frozenset[bytes] = HOP_BY_HOP) -> list[tuple[bytes, bytes]]:
    """The headers without `dropped`, which contains HOP_BY_HOP, and without those that `Connection` lists."""
    kept = [header for header in headers if header[0].lower() not in dropped]
    options = [value for name, value in headers if name.lower() == b"connection"] if len(kept) < len(headers) else []
    if not options:
        return kept
    # If `Connection` could remove the length, a sender could change where the message ends.
    listed = {token.strip() for token in b",".join(options).lower().split(b",")} - {b"content-length"}
    return [header for header in kept if header[0].lower() not in listed]


class Relay:
    """Writes one response to the client of `request`: Ollama's status, headers and body, with new framing.

    httptools calls the `on_…` methods and defines their names.
    """

    error: Exception | None = None
    begun = False  # the head was written to the client
    request_sent = False  # completely
    client_is_half_closed = False  # or it has left

    _ended = False
    _has_received = False
    _chunked = False  # to the client
    _client_sees_end_by_close = False  # an HTTP/1.0 client without a length
    _ends_with_connection = False  # from Ollama
    _reusable = False
    _client_is_full = False
    _reason = b""

    def __init__(self, request: web.BaseRequest, connection: Connection) -> None:
        self._request = request
        # At shutdown aiohttp removes the transport from the request before it cancels the handler.
        self._client = request.transport
        self._connection = connection
        self._was_used = connection.used
        self._is_http_1_1 = request.version >= HttpVersion11
        self.keep_alive = request.keep_alive
        self._headers: list[tuple[bytes, bytes]] = []
        self._trailers: list[tuple[bytes, bytes]] = []
        self._out: list[bytes] = []
        self._changed: asyncio.Future[None] = connection.loop.create_future()
        self._parser = HttpResponseParser(self)

    @property
    def stale(self) -> bool:
        """Whether a pooled connection was probably closed before Ollama got the request."""
        return self._was_used and not self._has_received and self.error is not None

    async def wait_finished(self) -> None:
        """Wait for the end of the response; `error` is None if it is complete."""
        while not self._ended:
            await self._changed
            if self._client_is_full:
                await self._request.writer.drain()
                self._client_is_full = False
                self._changed = self._connection.loop.create_future()
                self._connection.resume_reading()

    def finish_request(self) -> None:
        """The whole request was written."""
        self.request_sent = True
        if self.client_is_half_closed:
            self._connection.half_close()

    def half_close(self) -> None:
        """Show Ollama what the client did: it decides whether it still answers."""
        if not self._ended and not self.client_is_half_closed:
            self.client_is_half_closed = True
            if self.request_sent:
                self._connection.half_close()

    def fail(self, error: Exception) -> None:
        """End the response with an error that this object did not see itself."""
        self._end(error)

    def close(self) -> None:
        """Return the connection to the pool if the exchange is complete, else abort it."""
        if self._ended and self.error is None and self.request_sent and self._reusable:
            self._connection.release()
        else:
            self._connection.abort()
        # The parser refers back to this object. Without this the pair would wait for the garbage collector.
        del self._parser

    def abort_client(self) -> None:
        """Close the client's connection in a way that shows that the response is incomplete."""
        client = self._client
        if client is None or not self.begun:
            return
        client_socket = client.get_extra_info("socket")
        if client_socket is not None and self._client_sees_end_by_close:
            client_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        client.abort()

    def data_received(self, data: bytes) -> None:
        self._has_received = True
        error = None
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as parse_error:
            self._reusable = False
            error = parse_error
        if self._out:
            self._write()
        if error is not None:
            self._end(error)

    def connection_lost(self, error: Exception | None) -> None:
        self._reusable = False
        if self._ends_with_connection and error is None:
            self.on_message_complete()
            self._write()
        else:
            self._end(error or ConnectionResetError("orderly close"))

    def on_message_begin(self) -> None:
        if self._ended:
            self._reusable = False

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        (self._trailers if self.begun else self._headers).append((name, value))

    def on_headers_complete(self) -> None:
        if self._ended:
            return
        status = self._parser.get_status_code()
        if status < HTTPStatus.OK:
            if self._is_http_1_1 and status != HTTPStatus.SWITCHING_PROTOCOLS:
                self._put_head(status, self._headers)
            self._reason = b""
            self._headers.clear()
            return
        self._begin(status)
        if self._request.method == "HEAD":
            self.on_message_complete()

    def on_body(self, body: bytes) -> None:
        if self._ended:
            self._reusable = False
        elif self._chunked:
            self._out.append(chunk_of(body))
        else:
            self._out.append(body)

    def on_message_complete(self) -> None:
        if self.begun and not self._ended:
            if self._chunked:
                self._out.append(last_chunk(self._trailers))
            self._end(None)

    def _begin(self, status: int) -> None:
        names = {name.lower() for name, _ in self._headers}
        has_no_body = self._request.method == "HEAD" or status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        has_known_end = has_no_body or b"content-length" in names
        self._ends_with_connection = not has_known_end and b"transfer-encoding" not in names
        self._chunked = not has_known_end and self._is_http_1_1
        self._client_sees_end_by_close = not has_known_end and not self._chunked
        self._reusable = self._parser.should_keep_alive()
        if not self._reusable and not self.request_sent:
            # Ollama does not read the rest of the request's body, so the client's connection cannot be reused.
            self.keep_alive = False
        if self._client_sees_end_by_close:
            self.keep_alive = False
        headers = end_to_end(self._headers)
        if b"location" in names:
            headers = [(name, self._located(name, value)) for name, value in headers]
        if self._chunked:
            headers.append((b"Transfer-Encoding", b"chunked"))
        if not self.keep_alive:
            headers.append((b"Connection", b"close"))
        elif not self._is_http_1_1:
            headers.append((b"Connection", b"keep-alive"))
        self._put_head(status, headers)
        self._request[STATUS] = status
        self.begun = True

    def _located(self, name: bytes, value: bytes) -> bytes:
        """The value of a header; a Location in Ollama leads back through the proxy, with the client's key."""
        if name.lower() != b"location":
            return value
        path = self._connection.upstream.path_of(value.decode(errors="surrogateescape"))
        is_path = path.startswith("/") and not path.startswith("//")
        return (key_prefix(self._request) + path if is_path else path).encode(errors="surrogateescape")

    def _put_head(self, status: int, headers: Headers) -> None:
        version = b"1.1" if self._is_http_1_1 else b"1.0"
        lines = [b"HTTP/%b %d %b" % (version, status, self._reason), *map(b": ".join, headers), b"", b""]
        self._out.append(b"\r\n".join(lines))

    def _write(self) -> None:
        client = self._client
        if client is not None and not client.is_closing():
            client.write(b"".join(self._out))
            if client.get_write_buffer_size() > MAX_UNSENT and not self._ended:
                self._connection.pause_reading()
                self._client_is_full = True
                self._notify()
        self._out.clear()

    def _end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended = True
            self.error = error
            self._notify()

    def _notify(self) -> None:
        if not self._changed.done():
            self._changed.set_result(None)
