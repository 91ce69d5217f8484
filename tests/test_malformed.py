"""Malformed requests get a response or a closed connection: never a 500, a traceback, a hang or request smuggling."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from yarl import URL

from proxy.app import App
from tests.kit.support import PATIENCE, listening_raw, settings, talk

NO_HUB = "http://127.0.0.1:9"


def likely(text: str, *, or_noise: int = 0) -> st.SearchStrategy[bytes]:
    """One of the words between bars, or up to `or_noise` random bytes."""
    words = st.sampled_from(text.encode().split(b"|"))
    return st.one_of(words, st.binary(max_size=or_noise)) if or_noise else words


METHODS = likely("GET|POST|HEAD|DELETE|OPTIONS|CONNECT|PRI|get|BREW|")
TARGETS = likely(
    "/|*|/api/pull|/-/health|/-/key/x/api/tags|/-/key/|/-/key/%ff?a|//|http://|http://x|http://x/-/|a:1", or_noise=12
)
VERSIONS = likely("HTTP/1.1|HTTP/1.0|HTTP/2.0|HTTP/9|http/1.1|")
NAMES = likely("Host|Content-Length|Transfer-Encoding|Connection|Expect|Upgrade|Origin|Content-Encoding", or_noise=6)
VALUES = likely(
    "localhost|0|3|-1|+3|3, 3|99999999999999999999|0x3|chunked|gzip, chunked|close|keep-alive, Content-Length|Upgrade"
    "|100-continue|websocket|http://localhost|[|gzip| ",
    or_noise=12,
)
BODIES = likely("|abc|0\r\n\r\n|3\r\nabc\r\n0\r\n\r\n|3\r\nabcX|-1\r\n|fffffffffffffffff\r\n|{}", or_noise=24)
ENDS = likely("\r\n|\n|\r|\r\n\r\n")


def lines(*texts: str) -> bytes:
    return "\r\n".join(texts).encode()


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A proxy whose Ollama responds to each head at once and reads all further bytes as the next request."""

    async def answer(head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b"" if head.startswith(b"HEAD ") else b"ok"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + body)

    async with listening_raw(answer) as upstream, App(settings(NO_HUB, upstream)) as app:
        yield app.address.url


# It ends an unfinished head, chunk or body (of fewer bytes), and it is not a request itself.
NONSENSE = b"\r\n\r\n" + b"x" * 200 + b"\r\n\r\n"


async def read_everything(url: str, sent: bytes) -> bytes:
    """All bytes until the proxy closes the connection. The nonsense after `sent` forces it to close."""
    address = URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    response = b""
    with suppress(ConnectionError):
        writer.write(sent + NONSENSE)
        await writer.drain()
        async with asyncio.timeout(PATIENCE):
            while chunk := await reader.read(65536):
                response += chunk
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return response


def check(response: bytes, records: list[logging.LogRecord]) -> None:
    assert not response or response.startswith(b"HTTP/1."), response
    assert b" 500 " not in response.partition(b"\r\n")[0]
    assert b"Traceback" not in response
    assert not [record for record in records if record.exc_info or record.levelno >= logging.ERROR]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    first = b" ".join((draw(METHODS), draw(TARGETS), draw(VERSIONS)))
    headers = draw(st.lists(st.builds(lambda name, value: name + b": " + value, NAMES, VALUES), max_size=6))
    return draw(ENDS).join([first, *headers, b"", draw(BODIES)])


@given(sent=requests())
@example(sent=lines("POST / HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", "", "3", "abcX"))
@example(sent=lines("POST /api/pull HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", "", "zz", ""))
@example(sent=lines("POST /api/pull HTTP/1.1", "Host: x", "Content-Length: 9", "", "{}"))
@example(sent=lines("CONNECT  ", "", ""))
@example(sent=lines("CONNECT  HTTP/1.1", "", ""))
@example(sent=b"GET / HTTP/1.1\r\nHost: \xff.example\r\n\r\n")
@example(sent=b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \xff\r\n\r\n")
@example(sent=lines("GET /-/key/ HTTP/1.1", "Host: [", "", ""))
@hypothesis_settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_malformed_request_never_crashes_or_hangs(
    url: str, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    caplog.clear()
    check(await read_everything(url, sent), caplog.records)


@given(noise=st.binary(min_size=1, max_size=200))
@hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_noise_never_crashes_or_hangs(url: str, caplog: pytest.LogCaptureFixture, noise: bytes) -> None:
    caplog.clear()
    check(await read_everything(url, noise + b"\r\n\r\n"), caplog.records)


@pytest.mark.parametrize(
    "smuggling",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5, 6",
        b"Content-Length: +5",
        b"Content-Length : 5",
        b" Content-Length: 5",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding:\x0bchunked",
        b"X: y\rContent-Length: 5",
        b"X: y\nContent-Length: 500",
    ],
)
async def test_a_request_with_an_ambiguous_end_is_refused(url: str, smuggling: bytes) -> None:
    sent = (
        b"POST /a HTTP/1.1\r\nHost: localhost\r\n" + smuggling + b"\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    response = await read_everything(url, sent)
    assert response.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ")), response
    assert b"200 OK" not in response


async def test_the_proxy_still_serves_after_malformed_bytes(url: str) -> None:
    for sent in (
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nx",
        b"\0" * 3_000_000,
    ):
        await read_everything(url, sent)
    assert (await talk(url, b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.0 200 OK")
