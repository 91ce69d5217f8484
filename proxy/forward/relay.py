"""Ollama's answer on its way to the client: parsed for where it ends, written on as it arrives."""

import asyncio
import socket
import struct
from collections.abc import Sequence
from http import HTTPStatus

from aiohttp import HttpVersion11, web
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from proxy.forward.upstream import Connection

Headers = Sequence[tuple[bytes, bytes]]

# They speak of one connection, not of the message (RFC 9110 §7.6.1).
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# Above so many bytes asyncio's and uvloop's transports ask their writer to wait.
STATUS = web.RequestKey("status", int)
"""Of the answer that a request was given by Ollama."""
MOST_UNSENT = 64 * 1024
LAST_CHUNK = b"0\r\n\r\n"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def chunk_of(body: bytes) -> bytes:
    """A chunk of the chunked transfer coding; `body` is not empty."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def end_to_end(headers: Headers, dropped: frozenset[bytes] = HOP_BY_HOP) -> list[tuple[bytes, bytes]]:
    """The headers without `dropped`, which are lower-case names, and without those that `Connection` names."""
    names = [name.lower() for name, _ in headers]
    if b"connection" in names:
        values = b",".join(value for (_, value), name in zip(headers, names, strict=True) if name == b"connection")
        # Whoever could have the length removed would decide where the message ends.
        dropped |= {token.strip() for token in values.lower().split(b",")} - {b"content-length"}
    return [header for header, name in zip(headers, names, strict=True) if name not in dropped]


class Relay:
    """Writes one answer to the client of `request`: Ollama's status, headers and body, in a framing of its own.

    httptools calls the `on_…` methods; the names are its own.
    """

    error: Exception | None = None
    begun = False  # the client has been given a head
    request_sent = False  # to its end

    _ended = False
    _heard = False
    _chunked = False  # towards the client
    _ends_unmarked = False  # towards the client, by closing alone
    _ends_with_connection = False  # on Ollama's side
    _reusable = False
    _client_is_full = False
    _reason = b""

    def __init__(self, request: web.BaseRequest, connection: Connection) -> None:
        self._request = request
        # aiohttp takes it from the request before the handler hears that the proxy ends.
        self._client = request.transport
        self._connection = connection
        self._was_used = connection.used
        self._speaks_http_1_1 = request.version >= HttpVersion11
        self.keep_alive = request.keep_alive and self._speaks_http_1_1
        self._headers: list[tuple[bytes, bytes]] = []
        self._out: list[bytes] = []
        self._changed: asyncio.Future[None] = connection.loop.create_future()
        self._parser = HttpResponseParser(self)

    @property
    def stale(self) -> bool:
        """Whether a kept connection had ended, as far as can be told, before Ollama saw the request."""
        return self._was_used and not self._heard and self.error is not None

    async def finished(self) -> None:
        """Wait for the end of the answer; `error` says whether it was a good one."""
        while not self._ended:
            await self._changed
            if self._client_is_full:
                await self._request.writer.drain()
                self._client_is_full = False
                self._changed = self._connection.loop.create_future()
                self._connection.resume_reading()

    def fail(self, error: Exception) -> None:
        """End the answer from outside."""
        self._end(error)

    def close(self) -> None:
        """Let go of the connection, which carries another request after a whole exchange."""
        if self._ended and self.error is None and self.request_sent and self._reusable:
            self._connection.release()
        else:
            self._connection.abort()
        # It holds this object, which only the garbage collector would take apart.
        del self._parser

    def break_off(self) -> None:
        """End the client's connection so that it cannot take what it has for the whole answer."""
        client = self._client
        if client is None or not self.begun:
            return
        connection = client.get_extra_info("socket")
        if connection is not None and self._ends_unmarked:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        client.abort()

    def data_received(self, data: bytes) -> None:
        self._heard = True
        error = None
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as raised:
            self._reusable = False
            error = raised
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
            self._end(error or ConnectionResetError("it closed the connection"))

    def on_message_begin(self) -> None:
        if self._ended:
            self._reusable = False

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.begun:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._ended:
            return
        status = self._parser.get_status_code()
        if status < HTTPStatus.OK:
            if self._speaks_http_1_1 and status != HTTPStatus.SWITCHING_PROTOCOLS:
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
                self._out.append(LAST_CHUNK)
            self._end(None)

    def _begin(self, status: int) -> None:
        names = {name.lower() for name, _ in self._headers}
        bodiless = self._request.method == "HEAD" or status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        sized = bodiless or b"content-length" in names
        self._ends_with_connection = not sized and b"transfer-encoding" not in names
        self._chunked = not sized and self._speaks_http_1_1
        self._ends_unmarked = not sized and not self._chunked
        self._reusable = self._parser.should_keep_alive()
        if not self._reusable and not self.request_sent:
            # Ollama reads no more of this body, and the client has to know.
            self.keep_alive = False
        headers = end_to_end(self._headers)
        if self._chunked:
            headers.append((b"Transfer-Encoding", b"chunked"))
        if not self.keep_alive:
            headers.append((b"Connection", b"close"))
        self._put_head(status, headers)
        self._request[STATUS] = status
        self.begun = True

    def _put_head(self, status: int, headers: Headers) -> None:
        version = b"1.1" if self._speaks_http_1_1 else b"1.0"
        self._out.append(b"HTTP/%b %d %b\r\n" % (version, status, self._reason))
        self._out += [b"%b: %b\r\n" % header for header in headers]
        self._out.append(b"\r\n")

    def _write(self) -> None:
        client = self._client
        if client is not None and not client.is_closing():
            client.write(b"".join(self._out))
            if client.get_write_buffer_size() > MOST_UNSENT and not self._ended:
                self._connection.pause_reading()
                self._client_is_full = True
                self._change()
        self._out.clear()

    def _end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended = True
            self.error = error
            self._change()

    def _change(self) -> None:
        if not self._changed.done():
            self._changed.set_result(None)
