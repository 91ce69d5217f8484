"""Random requests through the proxy and directly to its upstream: the upstream receives and answers the same.

FUZZ_SECONDS=300 runs longer, with requests that FUZZ_SEED (a number) begins. FUZZ_UPSTREAM=URL compares with a server
that answers each request with JSON about it, in place of the one in this file, for example one of Go's net/http.
"""

import asyncio
import logging
import os
import random
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count

import orjson
import pytest
from yarl import URL

from proxy.app import App
from tests.kit.support import PATIENCE, listening_raw, settings

NO_HUB = "http://127.0.0.1:9"
CONVERSATIONS = 400
AT_ONCE = 16

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "PROPFIND", "QUERY", "BREW"]
METHODS += ["get", "patch", "M-SEARCH", "!#$%&'*+-.^_`|~"]
BODILESS = frozenset(("HEAD", "TRACE"))
"""Methods whose requests have no body here: Go's server closes the connection after a TRACE with one."""
PATH_PARTS = ["a", "b.c", "..", ".", "%2e%2E", "%2F", "%41", "%20", "é", "日", '"<>\\^`{|}', ";p=1", "~", "@", ":", "="]
PATH_PARTS += ["&", "+", "'", "!", "*", "(x)", "$", ",", "[]", "a:b"]
QUERIES = ["", "", "?", "?x", "?a=1&a=2", "?%%%", "?é#b?c", "??", "?u=http://x/y", "?a=+%20b"]
NAMES = [
    "X-A",
    "x-a",
    "X-B",
    "Content-Type",
    "User-Agent",
    "Accept",
    "Cookie",
    "Authorization",
    "ETag",
    "!#$%&'*+-.^_`|~",
]
VALUES = ["", "1", "a b", "a, b", "é", "\t tab \t", "a\tb", '"q;=,"', "x" * 300, "close", "chunked", "\\", ":", "0"]
HOP_BY_HOP = [
    ("TE", "trailers"),
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Connection", "keep-alive"),
    ("Upgrade", "h2c"),
    ("Connection", "X-Hop"),
]
REMOVED = frozenset(b"host connection x-hop te keep-alive proxy-connection upgrade transfer-encoding trailer".split())
FRAMINGS = ["sized", "chunked", "trailers", "early", "empty", "204", "304"]
LAST_FRAMINGS = ["close", "cut"]
"""Framings that end the connection."""
MALFORMED = [
    b"\x01\x02\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
    b"GET / HTTP/3.7\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
]


@dataclass
class Conversation:
    """What one client sends on one connection."""

    sent: bytes = b""
    methods: list[str] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    half_closes: bool = False
    aborts: bool = False
    malformed: bytes = b""
    """Sent to the proxy after the rest, which keeps its connection then."""


def conversation(dice: random.Random) -> Conversation:
    made = Conversation()
    requests = dice.choice((1, 2, 3, 4, 60, 120))
    kind = dice.random()
    for number in range(requests):
        made.sent += _request(dice, made.methods, is_last=number == requests - 1)
    made.aborts = kind < 0.1
    made.half_closes = 0.1 <= kind < 0.3
    if 0.3 <= kind < 0.4 and not re.search(rb"X-Framing: (close|cut)", made.sent):
        made.malformed = dice.choice(MALFORMED)
    cuts = sorted(dice.randrange(len(made.sent)) for _ in range(dice.choice((0, 0, 1, 3, 10))))
    made.pieces = [made.sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(made.sent)], strict=True)]
    if made.aborts:
        made.pieces = made.pieces[: dice.randint(1, len(made.pieces))]
    return made


def _request(dice: random.Random, methods: list[str], *, is_last: bool) -> bytes:
    method = dice.choice(METHODS)
    methods.append(method)
    target = "/" + "/".join(dice.choices(PATH_PARTS, k=dice.randint(0, 4))) + dice.choice(QUERIES)
    fields = [(dice.choice(NAMES), dice.choice(VALUES)) for _ in range(dice.randint(0, 5))]
    fields += dice.sample(HOP_BY_HOP, dice.choice((0, 0, 1, 2)))
    fields += [("X-Hop", "1")] * (("Connection", "X-Hop") in fields)
    fields.append(("X-Framing", dice.choice(FRAMINGS + LAST_FRAMINGS * is_last)))
    body = b""
    if method not in BODILESS and dice.random() < 0.6:
        # A rare large body costs as much as hundreds of small ones.
        size = 200_000 if dice.random() < 0.002 else dice.choice((0, 1, 3, 10, 100, 1000, 5000))
        content = dice.randbytes(size)
        if dice.random() < 0.5:
            fields.append(("Content-Length", str(len(content))))
            body = content
        else:
            fields.append(("Transfer-Encoding", dice.choice(("chunked", "Chunked"))))
            body = _chunked(dice, content)
    dice.shuffle(fields)
    fields.insert(0, ("Host", "localhost"))
    if is_last:
        fields.append(("Connection", "close"))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode() + body


def _chunked(dice: random.Random, content: bytes) -> bytes:
    # Many tiny chunks are rare for the same reason.
    is_tiny = len(content) <= 100 or (len(content) < 6000 and dice.random() < 0.02)
    size = dice.choice((1, 7, 4096, 100_000)) if is_tiny else dice.choice((1000, 4096, 100_000))
    framed = b""
    for start in range(0, len(content), size):
        piece = content[start : start + size]
        extension = dice.choice((b"", b"", b";a=b", b';q="x"'))
        framed += b"%s%x%b\r\n%b\r\n" % (dice.choice((b"", b"0")), len(piece), extension, piece)
    return framed + b"0\r\n" + dice.choice((b"", b"", b"X-Trailer: 1\r\n")) + b"\r\n"


@asynccontextmanager
async def recorder() -> AsyncIterator[str]:
    """A server that answers each request with JSON about it, in the framing that its X-Framing names."""

    async def answer(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *fields = head[:-4].split(b"\r\n")
        headers = [(name, value.strip(b" \t")) for name, _, value in (one.partition(b":") for one in fields)]
        values = {name.lower(): value for name, value in headers}
        body, trailers = await _read_body(values, reader)
        record = {
            "line": line.decode("latin-1"),
            "headers": [[name.decode(), value.decode("latin-1")] for name, value in headers],
            "body": body.hex(),
            "trailers": trailers.decode("latin-1"),
        }
        framing = values.get(b"x-framing", b"cut").decode()  # a malformed request has none
        writer.write(_framed(framing, orjson.dumps(record), is_head=line.startswith(b"HEAD ")))
        if b"close" in values.get(b"connection", b"") or framing in LAST_FRAMINGS:
            writer.close()

    async with listening_raw(answer) as url:
        yield url


async def _read_body(headers: dict[bytes, bytes], reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    body = trailers = b""
    if b"transfer-encoding" not in headers:
        return await reader.readexactly(int(headers.get(b"content-length", b"0"))), b""
    while size := int((await reader.readuntil()).partition(b";")[0], 16):
        body += await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    while (line := await reader.readuntil()) != b"\r\n":
        trailers += line
    return body, trailers


def _framed(framing: str, body: bytes, *, is_head: bool) -> bytes:
    start = b"HTTP/1.1 200 OK\r\nX-Same: 1\r\nx-same: 2\r\n"
    middle = len(body) // 2
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:middle], body[middle:]))
    match framing:
        case "chunked":
            head, rest = start + b"Transfer-Encoding: chunked\r\n\r\n", chunked + b"0\r\n\r\n"
        case "trailers":
            head = start + b"Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"
            rest = chunked + b"0\r\nX-Sum: 7\r\n\r\n"
        case "empty":
            head, rest = b"HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n", b""
        case "204" | "304":
            head, rest = b"HTTP/1.1 %b No\r\nETag: a\r\n\r\n" % framing.encode(), b""
        case "close":
            head, rest = start + b"\r\n", body
        case "cut":
            head, rest = start + b"Transfer-Encoding: chunked\r\n\r\n", chunked[:-3]
        case _:
            head, rest = start + b"Content-Length: %d\r\n\r\n" % len(body), body
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" if framing == "early" else b""
    return early + head + (b"" if is_head else rest)


async def hold(url: str, made: Conversation, malformed: bytes = b"") -> bytes:
    """Everything that the client receives."""
    pieces = [made.sent.replace(b"Connection: close\r\n", b"") + malformed] if malformed else made.pieces
    address = URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    received = b""
    try:
        for piece in pieces:
            if writer.transport.is_closing():
                break
            writer.write(piece)
            await asyncio.sleep(0)
        if made.aborts:
            return b""
        if made.half_closes and not writer.transport.is_closing():
            writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            while chunk := await reader.read(1 << 20):
                received += chunk
    except TimeoutError:
        pytest.fail(f"{url} does not end: {made!r:.2000}\n{received[-2000:]!r}")
    except OSError:
        received += b"<reset>"
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()
    return received


Answer = tuple[bytes, list[bytes], bytes | dict[str, object]]


def answers(received: bytes, methods: list[str]) -> list[Answer]:
    """Status line, headers and content of each response, without what is about one connection only."""
    parsed: list[Answer] = []
    left = list(methods)
    while received and left:
        head, _, received = received.partition(b"\r\n\r\n")
        status, *fields = head.split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (one.partition(b":") for one in fields)}
        is_final = not status.startswith(b"HTTP/1.1 1")
        has_body = is_final and left[0] != "HEAD" and not re.match(rb"HTTP/1.1 (204|304)", status)
        content, received = _content(headers, received) if has_body else (b"", received)
        kept = [one for one in fields if one.partition(b":")[0].lower() not in (REMOVED | {b"content-length", b"date"})]
        parsed.append((status, kept, _record(content)))
        if is_final:
            left.pop(0)
    return parsed


def _content(headers: dict[bytes, bytes], received: bytes) -> tuple[bytes, bytes]:
    if b"content-length" in headers:
        length = int(headers[b"content-length"])
        return received[:length], received[length:]
    if b"transfer-encoding" not in headers:
        return received, b""
    content = b""
    while line := re.match(rb"([0-9a-f]+)\r\n", received):
        size, received = int(line[1], 16), received[line.end() :]
        if not size:
            trailers, _, received = (b"\r\n" + received).partition(b"\r\n\r\n")
            return content + trailers, received
        content += received[:size]
        received = received[size + 2 :]
    return content + b"<cut>", b""


def _record(content: bytes) -> bytes | dict[str, object]:
    """A content that is a whole record, without the headers that a proxy has to change."""
    text, _, trailers = content.partition(b"\r\n")
    try:
        record: dict[str, object] = orjson.loads(text)
    except orjson.JSONDecodeError:
        # The framing of a response until the end of the connection, and of one that is cut, may change at the proxy.
        return b"" if content.endswith(b"<cut>") else content
    for key in ("headers", "h"):
        if isinstance(fields := record.get(key), list):
            names = [str(one[0] if isinstance(one, list) else str(one).partition("=")[0]).lower() for one in fields]
            record[key] = [one for one, name in zip(fields, names, strict=True) if name.encode() not in REMOVED]
    record["own trailers"] = trailers.decode()
    return record


def check(made: Conversation, direct: bytes, proxied: bytes) -> None:
    if direct.endswith(b"<reset>"):
        return  # Go resets a connection whose request it does not read, and its earlier responses may be lost
    expected, seen = answers(direct, made.methods), answers(proxied, made.methods)
    if b"X-Framing: cut" in made.sent and len(seen) < len(made.methods):
        expected.pop()  # a reset connection can lose what was on its way
    assert seen == expected
    if made.malformed:
        assert re.search(rb"HTTP/1\.1 (400|501|505) [^\r]*\r\n", proxied), proxied[-300:]


@pytest.mark.timeout(float(os.environ.get("FUZZ_SECONDS", "0")) + 120)
async def test_random_requests_pass_unchanged(caplog: pytest.LogCaptureFixture) -> None:
    """Valid ones, cut anywhere, pipelined, half-closed, aborted, and with a malformed one at the end."""
    seconds, seed = float(os.environ.get("FUZZ_SECONDS", "0")), int(os.environ.get("FUZZ_SEED", "1"))
    ends = time.monotonic() + seconds
    numbers = count(seed)
    requests = 0
    caplog.set_level(logging.ERROR)
    async with recorder() as own:
        upstream = os.environ.get("FUZZ_UPSTREAM", own)
        async with App(settings(NO_HUB, upstream)) as app:

            async def work() -> None:
                nonlocal requests
                for number in numbers:
                    if number >= seed + CONVERSATIONS and time.monotonic() > ends:
                        return
                    made = conversation(random.Random(number))
                    direct, proxied = await asyncio.gather(
                        hold(upstream, made), hold(app.address.url, made, made.malformed)
                    )
                    requests += len(made.methods)
                    if not made.aborts:
                        try:
                            check(made, direct, proxied)
                        except AssertionError as error:
                            pytest.fail(f"FUZZ_SEED={number}: {made!r:.2000}\n{error!s:.2000}")

            await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    assert not [record for record in caplog.records if record.exc_info]
    print(f"{requests:,} requests")
