"""Parses the bytes of one client connection into requests, with the interface of aiohttp's parser, which it replaces.

aiohttp 3.14's parser (llhttp) accepts a fixed list of methods, refuses a second Content-Type and a target with bytes
above 0x7f, moves the trailers of a request into the head of the next one, and loses what follows a request with
`Upgrade: h2c`. This parser accepts what Go's net/http (1.26) accepts, because Ollama's clients know that server. It is
stricter where others could see another end of a message: lines end with CRLF, a header is one line, lengths are plain.
"""

import asyncio
import re
from functools import lru_cache

from aiohttp import EMPTY_PAYLOAD, HttpVersion, HttpVersion10, HttpVersion11, StreamReader, hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy, istr
from yarl import URL

from proxy.server.aiohttp_private import Message, RequestHead, refusal_message

Headers = tuple[tuple[bytes, bytes], ...]

# Bytes. Go's server reads 1 MiB and a buffer (net/http, initialReadLimitSize).
MAX_HEAD = 1024 * 1024 + 4096
# Go has no such limit. A head of a million fields would block the event loop for a second.
MAX_FIELDS = 4096
MAX_TRAILERS = 64 * 1024
# Bytes of headers that are kept for the next request with the same ones.
MAX_CACHED = 2048
# Go: net/http/internal, maxLineLength.
MAX_CHUNK_LINE = 4096
# Requests that wait for a handler; aiohttp stops reading from the client at the same number (MAX_MSG_QUEUE_SIZE).
MAX_QUEUED = 32
# Bytes of a body that wait for a handler (aiohttp's DEFAULT_CHUNK_SIZE).
READ_AHEAD = 256 * 1024
# Go: strconv.ParseUint with 63 bits (net/http, parseContentLength).
MAX_LENGTH = 2**63 - 1

END = b"\r\n\r\n"
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
FIELDS = rb"(?:" + TOKEN + rb":[^\x00-\x08\x0a-\x1f\x7f]*\r\n)*"
LINE = rb"(" + TOKEN + rb") ([^\x00-\x20\x7f]+) HTTP/(\d)\.(\d)\r\n"
HEAD = re.compile(LINE + rb"(" + FIELDS + rb")\r\n")
REQUEST_LINE = re.compile(LINE)
# The beginning of a request line that is not complete.
METHOD = re.compile(TOKEN + rb"(?: |\Z)")
BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
TRAILERS = re.compile(rb"(" + FIELDS + rb")\r\n")
FIELD = re.compile(rb"([^:\r\n]+):[ \t]*([^\r\n]*)\r\n")
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[^\x00-\x08\x0a-\x1f\x7f]*|[ \t]*)\r\n")
# Go: golang.org/x/net/http/httpguts, ValidHostHeader.
HOST = re.compile(r"[!$%&'()*+,\-.:;=@\[\]_~0-9A-Za-z]*")
ORIGIN_FORM = "/"


class BadRequest(Exception):
    """The bytes are not a request. The text is the status line of the answer, and its body."""


class Body(StreamReader):
    """The body of a request. Its trailers are complete when the body is."""

    __slots__ = ("trailers",)

    def __init__(self, protocol: web.RequestHandler, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(protocol, READ_AHEAD, loop=loop)
        self.trailers: Headers = ()


class RequestParser:
    """aiohttp calls `feed_data` with the bytes of a client, and `message_consumed` when a handler takes a request."""

    def __init__(self, protocol: web.RequestHandler, loop: asyncio.AbstractEventLoop) -> None:
        self._protocol = protocol
        self._loop = loop
        self._data = b""
        self._pos = 0  # in `_data`; what comes before it is parsed
        self._searched = 0  # in `_data`; the end of the head does not begin before it
        self._queued = 0
        self.at_eof = False
        self._body: Body | None = None  # it is incomplete
        self._chunked = False
        self._in_trailers = False
        self._left = 0  # bytes of the body or of the chunk; with the CRLF of the chunk
        self.ended = False
        """No further request will come: the client sent its last byte, or bytes that are not HTTP."""

    def feed_data(self, data: bytes) -> tuple[list[Message], bool, bytes]:
        """The requests that begin in `data`; the other two values say that no protocol was changed."""
        messages: list[Message] = []
        if self.ended:
            return messages, False, b""
        self._data = self._data + data if self._data else data
        try:
            while self._queued < MAX_QUEUED and self._pos < len(self._data) and self._advance(messages):
                pass
            if self.at_eof and self._queued < MAX_QUEUED:
                self._end()
        except BadRequest as error:
            self.ended = True
            if self._body is None:
                messages.append(refusal_message(error))
            else:
                self._body.set_exception(web.RequestPayloadError(str(error)))
                self._body.feed_eof()
        if self._pos:
            self._data = self._data[self._pos :]
            self._searched = max(self._searched - self._pos, 0)
            self._pos = 0
        return messages, False, b""

    def feed_eof(self) -> None:
        """The client has sent its last byte. The next `feed_data` refuses what is incomplete."""
        self.at_eof = True

    def message_consumed(self) -> None:
        self._queued -= 1

    def pause_reading(self) -> None:
        """Nothing: the connection stops reading from the client, and what it has read fits into the body's buffer."""

    def _end(self) -> None:
        self.ended = True
        if self._body is not None:
            raise BadRequest("unexpected EOF")
        if self._data[self._pos :].strip(b"\r\n"):
            raise BadRequest("400 Bad Request: unexpected EOF")

    def _advance(self, messages: list[Message]) -> bool:
        """Parse the next part: a head, a piece of a body, a line of a chunk. False if it is incomplete."""
        if self._body is None:
            return self._parse_head(messages)
        if self._in_trailers:
            return self._parse_trailers(self._body)
        if self._chunked and self._left <= len(b"\r\n"):
            return self._parse_chunk_line()
        self._take_piece(self._body)
        return True

    def _parse_head(self, messages: list[Message]) -> bool:
        while self._data.startswith(b"\r\n", self._pos):  # old clients send one after a body (RFC 9112 §2.2)
            self._pos += 2
        end = self._data.find(END, max(self._pos, self._searched))
        if end < 0:
            self._check_incomplete_head()
            return False
        end += len(END)
        if end - self._pos > MAX_HEAD:
            raise _too_large()
        head = HEAD.fullmatch(self._data, self._pos, end)
        if head is None:
            is_line = REQUEST_LINE.match(self._data, self._pos, end)
            raise BadRequest(f"400 Bad Request: {'invalid header' if is_line else 'malformed request line'}")
        self._pos = end
        message, length = _request(head)
        payload: StreamReader = EMPTY_PAYLOAD
        if length is None or length > 0:
            payload = self._body = Body(self._protocol, self._loop)
            self._chunked = length is None
            self._left = length or 0
        messages.append((message, payload))
        self._queued += 1
        return True

    def _check_incomplete_head(self) -> None:
        """Refuse at once what no further byte can complete."""
        data, pos = self._data, self._pos
        if len(data) - pos > MAX_HEAD:
            raise _too_large()
        if self._searched <= pos and not METHOD.match(data, pos) and len(data) > pos + 1:
            raise BadRequest("400 Bad Request: malformed request line")
        if BARE_LINE_FEED.search(data, max(pos, self._searched)):
            raise BadRequest("400 Bad Request: a line ends without a carriage return")
        # The next bytes may complete the end of the head.
        self._searched = max(len(data) - len(END) + 1, pos)

    def _take_piece(self, body: Body) -> None:
        """Pass on what is here of the body or of the chunk, without the CRLF after the chunk."""
        wanted = self._left - len(b"\r\n") if self._chunked else self._left
        piece = self._data[self._pos : self._pos + wanted]
        self._pos += len(piece)
        self._left -= len(piece)
        body.feed_data(piece)
        if not self._left:
            self._finish_body(body)

    def _parse_chunk_line(self) -> bool:
        """The CRLF after a chunk, then the line with the size of the next one."""
        if self._left:
            if not b"\r\n".startswith(self._data[self._pos : self._pos + 2]):
                raise BadRequest("malformed chunked encoding")
            if len(self._data) < self._pos + 2:
                return False
            self._pos += 2
            self._left = 0
            return True
        line = CHUNK.match(self._data, self._pos, self._pos + MAX_CHUNK_LINE)
        if line is None:
            end = self._data.find(b"\n", self._pos)
            if end >= 0 or len(self._data) - self._pos > MAX_CHUNK_LINE:
                raise BadRequest("invalid byte in chunk length")
            return False
        self._pos = line.end()
        size = int(line[1], 16)
        self._in_trailers = not size
        self._left = size + len(b"\r\n")
        return True

    def _parse_trailers(self, body: Body) -> bool:
        end = self._pos if self._data.startswith(b"\r\n", self._pos) else self._data.find(END, self._pos)
        if end < 0 or end - self._pos > MAX_TRAILERS:
            if len(self._data) - self._pos > MAX_TRAILERS or BARE_LINE_FEED.search(self._data, self._pos):
                raise BadRequest("malformed trailers")
            return False
        trailers = TRAILERS.match(self._data, self._pos)
        if trailers is None:
            raise BadRequest("malformed trailers")
        self._pos = trailers.end()
        body.trailers = _fields(trailers[1])
        self._in_trailers = False
        self._left = 0
        self._finish_body(body)
        return True

    def _finish_body(self, body: Body) -> None:
        self._body = None
        body.feed_eof()


def _too_large() -> BadRequest:
    return BadRequest("431 Request Header Fields Too Large")


def _request(head: re.Match[bytes]) -> tuple[RequestHead, int | None]:
    """The request, and the length of its body in bytes; None if the body is chunked. Raises BadRequest."""
    method, raw_target, major, minor, lines = head.groups()
    raw_headers, headers = _cached_headers(lines) if len(lines) <= MAX_CACHED else _headers(lines)
    if len(raw_headers) > MAX_FIELDS:
        raise _too_large()
    version = _version(major, minor)
    _check_host(headers, method, version)
    length = _length(headers, version)
    close = False
    if hdrs.CONNECTION in headers or version is HttpVersion10:
        options = {option.strip() for option in ",".join(headers.getall(hdrs.CONNECTION, ())).lower().split(",")}
        close = "close" in options or (version is HttpVersion10 and "keep-alive" not in options)
    target = raw_target.decode("utf-8", "surrogateescape")
    url = _url(target, is_connect=method == b"CONNECT")
    message = RequestHead(
        method.decode(), target, version, headers, raw_headers, close, None, False, length is None, url
    )
    return message, length


def _headers(lines: bytes) -> tuple[Headers, CIMultiDictProxy[str]]:
    raw_headers = _fields(lines)
    decoded = [(_name(name), value.decode("utf-8", "surrogateescape")) for name, value in raw_headers]
    return raw_headers, CIMultiDictProxy(CIMultiDict(decoded))


# A client repeats its headers. Both values are read-only.
_cached_headers = lru_cache(maxsize=256)(_headers)


def _fields(lines: bytes) -> Headers:
    fields: list[tuple[bytes, bytes]] = FIELD.findall(lines)
    if b" \r\n" in lines or b"\t\r\n" in lines:
        return tuple([(name, value.rstrip(b" \t")) for name, value in fields])
    return tuple(fields)


@lru_cache(maxsize=512)
def _name(raw: bytes) -> istr:
    return istr(raw.decode("ascii"))


def _version(major: bytes, minor: bytes) -> HttpVersion:
    """Go treats every 1.x above 1.0 as 1.1. `proxy.app` refuses the other versions."""
    if major == b"1":
        return HttpVersion10 if minor == b"0" else HttpVersion11
    return HttpVersion(int(major), int(minor))


def _check_host(headers: CIMultiDictProxy[str], method: bytes, version: HttpVersion) -> None:
    hosts = headers.getall(hdrs.HOST, ())
    if not hosts and version is HttpVersion11 and method != b"CONNECT":
        raise BadRequest("400 Bad Request: missing required Host header")
    if len(hosts) > 1:
        raise BadRequest("400 Bad Request: too many Host headers")
    if hosts and not _is_host(hosts[0]):
        raise BadRequest("400 Bad Request: malformed Host header")


@lru_cache(maxsize=512)
def _is_host(text: str) -> bool:
    return HOST.fullmatch(text) is not None


def _length(headers: CIMultiDictProxy[str], version: HttpVersion) -> int | None:
    """The length of the body in bytes; None if it is chunked."""
    lengths = headers.getall(hdrs.CONTENT_LENGTH, None)
    if hdrs.TRANSFER_ENCODING in headers:
        if lengths is not None or version is HttpVersion10:
            raise BadRequest("400 Bad Request: unexpected Transfer-Encoding")
        if [coding.lower() for coding in headers.getall(hdrs.TRANSFER_ENCODING)] != ["chunked"]:
            raise BadRequest("501 Not Implemented: unsupported transfer encoding")
        return None
    if lengths is None:
        return 0
    [length, *others] = lengths
    is_number = length.isascii() and length.isdecimal() and len(length) <= len(str(MAX_LENGTH))
    if others or not is_number or int(length) > MAX_LENGTH:
        raise BadRequest("400 Bad Request: bad Content-Length")
    return int(length)


@lru_cache(maxsize=512)
def _url(target: str, *, is_connect: bool) -> URL:
    """The target as aiohttp's requests have it: relative, or absolute with a host."""
    if target.startswith(ORIGIN_FORM):
        path, _, query = target.partition("?")
        return URL.build(path=path, query_string=query, encoded=True)
    if is_connect or target == "*":
        return URL()
    try:
        url = URL(target, encoded=True)
    except ValueError:
        url = URL()
    if not url.raw_host:
        raise BadRequest("400 Bad Request: the request's target is not a path")
    return url
