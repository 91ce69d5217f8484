"""Requests as Go's net/http reads them: what it accepts arrives, what it refuses is refused in its words."""

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest
from yarl import URL

from proxy.app import App
from proxy.standins.ollama import StandInOllama
from tests.kit.support import PATIENCE, listening_raw, settings, talk

NO_HUB = "http://127.0.0.1:9"
LAST = b"GET /last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
MIB = 1024 * 1024


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A proxy whose Ollama answers each request with what it received: the head, and the body as it was framed."""

    async def echo(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = head
        if b"chunked" in head.lower():
            while not received.endswith(b"\r\n0\r\n"):
                received += await reader.readline()
            while (line := await reader.readline()) != b"\r\n":
                received += line
        elif b"content-length: 3" in head.lower():
            received += await reader.readexactly(3)
        body = b"" if head.startswith(b"HEAD ") else received
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(received), body))

    async with listening_raw(echo) as upstream, App(settings(NO_HUB, upstream)) as app:
        yield app.address.url


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join((f"{line} HTTP/1.1", "Host: localhost", *headers, "", "")).encode() + body


@pytest.mark.parametrize(
    "line",
    [
        *(f"{method} /x" for method in ("PROPFIND", "QUERY", "BREW", "get", "patch", "CONNECT", "TRACE", "!#$%&'*")),
        *(f"GET {path}" for path in ("//a//b", "/a/../../b/./c", "/%2e%2E/%41?x=%%&y=+%20", "/é?ü", "/a#b?c", "/%zz")),
        "OPTIONS *",
        'GET /a"<>\\^`{|}b',
        f"GET /{'u' * 1_000_000}",
    ],
    ids=lambda line: line[:20],
)
async def test_the_request_line_arrives_unchanged(url: str, line: str) -> None:
    response = await talk(url, request(line, "Connection: close"))
    assert response.startswith(b"HTTP/1.1 200 OK\r\n")
    assert response.partition(b"\r\n\r\n")[2].startswith(f"{line} HTTP/1.1\r\n".encode())


async def test_headers_keep_order_case_and_bytes(url: str) -> None:
    sent = ["x: 1", "X: 2", "Content-Type: a/b", "content-type: c/d", "X: 3", "User-Agent: a", "User-Agent: b", "é"]
    sent[-1] = "Y: \u00e9"
    response = await talk(url, request("GET /x", *sent, "Connection: close"))
    received = response.partition(b"\r\n\r\n")[2].split(b"\r\n")
    assert [line.decode() for line in received if line.partition(b":")[0] not in (b"Host", b"")][1:] == sent


@pytest.mark.parametrize("sizes", [[200_000], [1_040_000], [100_000] * 10, [10] * 4000], ids=len)
async def test_a_head_of_almost_a_mebibyte_arrives(url: str, sizes: list[int]) -> None:
    fields = [f"X{number}: {'a' * size}" for number, size in enumerate(sizes)]
    response = await talk(url, request("GET /x", *fields, "Connection: close"))
    assert response.startswith(b"HTTP/1.1 200 OK\r\n")
    assert all(f"{field}\r\n".encode() in response for field in fields)


@pytest.mark.parametrize(
    "sent",
    [
        request("GET /x", f"X: {'a' * (MIB + 5000)}"),
        request("GET /x", f"X: {'a' * (MIB + 5000)}").removesuffix(b"\r\n"),
        request(f"GET /{'u' * (MIB + 5000)}"),
        request("GET /x", *(f"X{number}: 1" for number in range(5000))),
    ],
    ids=["header", "unfinished", "path", "count"],
)
async def test_a_larger_head_gets_431(url: str, sent: bytes) -> None:
    response = await talk(url, sent)
    assert response == (
        b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Connection: close\r\n\r\n431 Request Header Fields Too Large"
    )


@pytest.mark.parametrize("trailer", ["X-Check: 1", "Host: evil.example", "Content-Length: 9", "X-A: 1\r\nX-B: 2"])
async def test_trailers_arrive_and_belong_to_their_request_only(url: str, trailer: str) -> None:
    """The parser of aiohttp 3.14 puts them into the head of the next request."""
    body = f"3\r\nabc\r\n0\r\n{trailer}\r\n\r\n".encode()
    post = request("POST /x", "Transfer-Encoding: chunked", "Trailer: X-Check", body=body)
    first, _, second = (await talk(url, post + LAST)).partition(b"GET /last")
    assert b"\r\nTrailer: X-Check\r\n" in first
    is_forwarded = trailer.startswith("X")
    assert (b"\r\n0\r\n" + trailer.encode() in first) is is_forwarded
    assert second.startswith(b" HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\n\r\n" in second
    assert trailer.encode() not in second


async def test_an_upgrade_to_http_2_is_ignored(url: str) -> None:
    """Java's client asks for it with its first request. aiohttp 3.14's parser loses the requests after it."""
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: a")
    response = await talk(url, request("POST /x", *upgrade, "Content-Length: 3", body=b"abc") + LAST)
    assert response.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert b"\r\n\r\nabc" in response
    assert b"h2c" not in response


async def test_requests_before_a_malformed_one_are_answered(url: str) -> None:
    response = await talk(url, request("GET /1") + request("GET /2") + b"\x01\x02\r\n\r\n")
    assert response.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert response.endswith(b"\r\n\r\n400 Bad Request: malformed request line")


async def test_an_http_1_0_client_can_keep_its_connection(url: str) -> None:
    first = b"GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    response = await talk(url, first, b"GET /2 HTTP/1.0\r\n\r\n")
    assert response.count(b"HTTP/1.0 200 OK\r\n") == 2
    assert b"\r\nConnection: keep-alive\r\n" in response.partition(b"GET /1")[0]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET /x HTTP/1.1\r\n\r\n", "missing required Host header"),
        (request("GET /x", "Host: localhost"), "too many Host headers"),
        (b"GET /x HTTP/1.1\r\nHost: a b\r\n\r\n", "malformed Host header"),
        (b"GET  /x HTTP/1.1\r\nHost: x\r\n\r\n", "malformed request line"),
        (b"GET /x\r\n\r\n", "malformed request line"),
        (b"GE(T ", "malformed request line"),
        (b"\x16\x03\x01\x02\x00", "malformed request line"),
        (b"GET /x HTTP/1.1\nHost: x\n\n", "a line ends without a carriage return"),
        (request("GET /x", "X: a\r\n b"), "invalid header"),
        (request("GET /x", "X : a"), "invalid header"),
        (request("GET /x", "X: a\0b"), "invalid header"),
        (request("GET /x", "X"), "invalid header"),
        (request("GET a/b"), "the request's target is not a path"),
        (request("POST /x", "Content-Length: 3", "Transfer-Encoding: chunked"), "unexpected Transfer-Encoding"),
        (request("POST /x", "Content-Length: 9223372036854775808"), "bad Content-Length"),
        (request("POST /x", f"Content-Length: {5000 * '0'}"), "bad Content-Length"),
        (request("POST /x", "Content-Length: 3", "Content-Length: 3", body=b"abc"), "bad Content-Length"),
        (request("POST /x", "Content-Length: \u0663"), "bad Content-Length"),
    ],
)
async def test_what_is_not_a_request_gets_400(url: str, sent: bytes, reason: str) -> None:
    response = await talk(url, sent)
    assert response.startswith(f"HTTP/1.1 400 Bad Request: {reason}\r\n".encode())


@pytest.mark.parametrize(
    "body",
    [
        b"3\nabc\n0\n\n",
        b"3\r\nabcX",
        b"g\r\n",
        b"3 ;a=b\r\nabc\r\n",
        b"-1\r\n",
        b"1234567890abcdef\r\n",
        b"1" + b";x" * 4096,
        b"0\r\nX : y\r\n\r\n",
        b"0\r\nX: y\n\n",
        b"0\r\nX: " + b"y" * 100_000,
    ],
)
async def test_a_malformed_chunked_body_gets_400(url: str, body: bytes) -> None:
    response = await talk(url, request("POST /api/pull", "Transfer-Encoding: chunked", body=body))
    assert response.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert "cannot be read" in orjson.loads(response.partition(b"\r\n\r\n")[2])["error"]


async def test_every_cut_gives_the_same_requests(url: str) -> None:
    body = b"3;a=b\r\nabc\r\n0a\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n"
    sent = request("POST /1", "Transfer-Encoding: chunked", body=body) + request("POST /2", "Content-Length: 3")
    sent += b"xyz\r\n" + LAST
    whole = await talk(url, sent)
    assert whole.count(b"HTTP/1.1 200 OK\r\n") == 3
    bodies = [part.partition(b"\r\n\r\n")[2] for part in whole.split(b"HTTP/1.1 200 OK\r\n")[2:]]
    for size in (1, 7, 30, 95):
        pieces = [sent[start : start + size] for start in range(0, len(sent), size)]
        cut = await talk(url, *pieces, pause=0.001)
        assert [part.partition(b"\r\n\r\n")[2] for part in cut.split(b"HTTP/1.1 200 OK\r\n")[2:]] == bodies


async def half_closed(url: str, sent: bytes) -> bytes:
    """What a client receives that closes its sending side after `sent`."""
    address = URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(sent)
    writer.write_eof()
    async with asyncio.timeout(PATIENCE):
        response = await reader.read()
    writer.close()
    return response


async def test_a_client_that_closes_its_sending_side_is_answered(url: str) -> None:
    three = request("GET /1") + request("POST /2", "Content-Length: 3", body=b"abc") + request("GET /3")
    response = await half_closed(url, three)
    assert response.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert (await half_closed(url, request("GET /-/health"))).startswith(b"HTTP/1.1 ")
    assert (await half_closed(url, request("POST /x", "Content-Length: 3", body=b"ab"))).startswith(b"HTTP/1.1 400 ")
    assert (await half_closed(url, b"GET /x HT")).startswith(b"HTTP/1.1 400 ")
    assert await half_closed(url, b"") == b""


async def test_ollama_sees_that_the_client_closed_its_sending_side() -> None:
    """It decides whether it answers: Go cancels the request's context."""

    async def answer_at_the_end(_head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nended")

    async with listening_raw(answer_at_the_end) as upstream, App(settings(NO_HUB, upstream)) as app:
        assert (await half_closed(app.address.url, request("GET /x"))).endswith(b"ended")


async def test_a_pull_ends_for_a_client_that_closed_its_sending_side(app: App, ollama: StandInOllama) -> None:
    body = b'{"model":"hf.co/acme/none","stream":false}'
    sent = request("POST /api/pull", f"Content-Length: {len(body)}", body=body)
    assert await half_closed(app.address.url, sent) == b""


async def test_the_proxys_own_answers_do_not_name_its_server(app: App) -> None:
    for line in ("GET /-/health", "GET /-/", "GET /-/none", "GET ftp://localhost/"):
        head = (await talk(app.address.url, request(line, "Connection: close"))).partition(b"\r\n\r\n")[0]
        assert head.startswith(b"HTTP/1.1 ")
        assert b"\r\nServer:" not in head


@pytest.mark.parametrize(
    ("location", "answer"),
    [
        ("/api/tags?x", "{prefix}/api/tags?x"),
        ("{ollama}/api/tags", "{prefix}/api/tags"),
        ("{ollama}", "{prefix}/"),
        ("tags", "tags"),
        ("https://ollama.com/x", "https://ollama.com/x"),
        ("//ollama.com/x", "//ollama.com/x"),
    ],
)
@pytest.mark.parametrize("key", ["", "k+~="])
@pytest.mark.parametrize("base", ["", "/base"])
async def test_a_location_leads_back_through_the_proxy(location: str, answer: str, key: str, base: str) -> None:
    async def redirect(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 307 X\r\nlocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())

    prefix = "/-/key/k%2B~%3D" if key else ""
    async with listening_raw(redirect) as upstream:
        path = location.removeprefix("{ollama}")
        is_own = location.startswith(("{ollama}", "/api"))
        target = ("" if path == location else upstream) + (base + path if is_own else path)
        server = {"listen": "127.0.0.1:0", "api_keys": [key] if key else []}
        async with App(settings(NO_HUB, upstream + base, server=server)) as app:
            response = await talk(app.address.url, request(f"GET {prefix}/api/tags/", "Connection: close"))
    assert f"location: {answer.format(prefix=prefix)}\r\n".encode() in response
