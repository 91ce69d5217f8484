"""Responses of Ollama, byte by byte: framing, early and broken responses, and connections that are reused."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from yarl import URL

from proxy.app import App
from tests.kit.support import RawHandler, eventually, listening_raw, settings, settled, talk

NO_HUB = "http://127.0.0.1:9"
REQUEST = b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_REQUEST = b"GET /api/last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def proxied(handler: RawHandler) -> AsyncIterator[str]:
    async with listening_raw(handler) as upstream, App(settings(NO_HUB, upstream)) as app:
        yield app.address.url


def responding(answer: bytes, *, close: bool = False) -> RawHandler:
    async def handler(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        if close:
            writer.close()

    return handler


async def test_a_head_is_unchanged_except_hop_by_hop_headers() -> None:
    answer = (
        b"HTTP/1.1 299 Quite \xe9 Good\r\nx-CASE: 1\r\nX-Case: 2\r\nX-Raw: a\xffb\r\nX-Empty:\r\nKeep-Alive: 5\r\n"
        b"Connection: x-hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\nok"
    )
    async with proxied(responding(answer)) as url:
        assert await talk(url, LAST_REQUEST) == (
            b"HTTP/1.1 299 Quite \xe9 Good\r\nx-CASE: 1\r\nX-Case: 2\r\nX-Raw: a\xffb\r\nX-Empty: \r\n"
            b"Content-Length: 2\r\nConnection: close\r\n\r\nok"
        )


async def test_a_response_in_single_bytes_is_unchanged() -> None:
    answer = b"HTTP/1.1 404 Not Found\r\nX-One: two three\r\nContent-Length: 3\r\n\r\nabc"

    async def drip(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(len(answer)):
            writer.write(answer[number : number + 1])
            await asyncio.sleep(0.001)

    async with proxied(drip) as url:
        assert await talk(url, LAST_REQUEST) == answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n",
            b"abcde",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nabcde", b"abcde"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nabcde", b"abcde"),
    ],
    ids=["chunked", "until the end", "sized"],
)
async def test_every_framing_arrives_complete(answer: bytes, body: bytes) -> None:
    """For HTTP/1.1 clients and for HTTP/1.0 clients."""
    async with proxied(responding(answer, close=b"chunked" not in answer)) as url:
        head, _, rest = (await talk(url, LAST_REQUEST)).partition(b"\r\n\r\n")
        if b"chunked" in head.lower():
            chunks, last, trailers = rest.rpartition(b"\r\n0\r\n")
            assert last
            assert trailers == (b"X: y\r\n\r\n" if b"X: y" in answer else b"\r\n")
            assert b"".join(chunks.split(b"\r\n")[1::2]) == body
        else:
            assert rest == body
        old = await talk(url, b"GET /api/x HTTP/1.0\r\n\r\n")
        assert old.startswith(b"HTTP/1.0 200 OK\r\n")
        assert old.partition(b"\r\n\r\n")[2] == body


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nX: a\rInjected: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\n b\r\n\r\n",
        b"HTTP/1.1 200 O\rK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nnot http",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
    ],
)
async def test_a_response_that_is_not_http_becomes_502(answer: bytes) -> None:
    async with proxied(responding(answer, close=True)) as url:
        response = await talk(url, LAST_REQUEST)
        assert response.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert b'{"error":"Ollama at http://127.0.0.1' in response
        assert b"njected" not in response


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + b"3\r\nabc\r\n",
        CHUNKED + b"3\r\nabcX",
        CHUNKED + b"3\r\nabc\r\nnonsense\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
    ],
)
async def test_a_broken_body_never_ends_cleanly(answer: bytes) -> None:
    async with proxied(responding(answer, close=True)) as url:
        response = await talk(url, REQUEST)
        assert response.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"abc" in response
        assert not response.endswith(b"0\r\n\r\n")
        if b"Content-Length" not in answer:
            # For an HTTP/1.0 client an orderly close is the end of the body.
            with pytest.raises(ConnectionResetError):
                await talk(url, b"GET /api/x HTTP/1.0\r\n\r\n")


async def test_a_shutdown_never_ends_a_response_cleanly() -> None:
    began = asyncio.Event()

    async def stall(_head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"3\r\nabc\r\n")
        began.set()
        await reader.read()

    async with proxied(stall) as url:
        # For an HTTP/1.0 client an orderly close is the end of the body.
        request_task = asyncio.create_task(talk(url, b"GET /api/x HTTP/1.0\r\n\r\n"))
        await began.wait()
    with pytest.raises(ConnectionResetError):
        await request_task


async def test_bytes_after_a_response_are_dropped() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with proxied(responding(answer + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")) as url:
        response = await talk(url, REQUEST, REQUEST, LAST_REQUEST)
        assert response.count(b"\r\n\r\nok") == 3
        assert b"forged" not in response


async def test_pipelined_requests_get_responses_in_order() -> None:
    async def echo(head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = head.split()[1]
        await asyncio.sleep(0.02 if path.endswith(b"0") else 0)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))

    paths = [b"/%d" % number for number in range(50)]
    requests = [b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: x\r\n\r\n" % path for path in paths]
    requests[7] = requests[7].replace(b"Connection: x", b"Connection: Upgrade\r\nUpgrade: websocket")
    async with proxied(echo) as url:
        response = await talk(url, b"".join(requests) + LAST_REQUEST)
        assert [part.partition(b"\r\n")[0].partition(b"HTTP")[0] for part in response.split(b"\r\n\r\n")[1:]] == [
            *paths,
            b"/api/last",
        ]


async def test_ollama_decides_about_100_continue() -> None:
    async def pick(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"Expect: 100-continue" in head
        if b"/accepted" in head:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(4)
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\n" + body)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()

    head = b"POST /%b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close"
    head += b"\r\n\r\n"
    async with proxied(pick) as url:
        assert (await talk(url, head % b"accepted", b"body")).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 ")
        assert (await talk(url, head % b"unaccepted")).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_forwarded_pull_gets_100_continue_once() -> None:
    async def take(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"Expect" not in head
        body = await reader.readexactly(13)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n" + body)

    head = b"POST /api/pull HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\nExpect: 100-continue\r\n"
    head += b"Connection: close"
    async with proxied(take) as url:
        response = await talk(url, head + b"\r\n\r\n", b'{"name": "x"}')
    assert response.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert response.endswith(b'{"name": "x"}')


async def test_an_early_response_to_an_upload_closes_the_connection() -> None:
    async def respond_early(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nhave")
        await writer.drain()
        await asyncio.sleep(0.5)
        writer.close()

    async with proxied(respond_early) as url:
        head = b"POST /api/blobs/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n"
        response = await talk(url, head, b"x" * 1000)
        assert response == b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nhave"


async def test_connections_to_ollama_are_reused() -> None:
    seen: set[object] = set()

    async def handler(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.add(writer.transport)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with proxied(handler) as url:
        for _ in range(5):
            assert (await talk(url, LAST_REQUEST)).endswith(b"ok")
    assert len(seen) == 1


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_only_safe_methods_are_sent_again(method: str) -> None:
    """When Ollama has closed a pooled connection meanwhile."""
    calls: list[str] = []

    async def once(head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(head.split()[0].decode())
        if len(calls) == 2:
            writer.transport.abort()
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with proxied(once) as url:
        await talk(url, LAST_REQUEST)
        response = await talk(url, LAST_REQUEST.replace(b"GET", method.encode()))
    if method == "GET":
        assert response.endswith(b"ok")
        assert calls == ["GET", "GET", "GET"]
    else:
        assert b" 502 " in response.partition(b"\r\n")[0]
        assert b"closed the connection before it answered" in response
        assert calls == ["GET", method]


async def test_a_slow_client_slows_ollama_down() -> None:
    sent = 0

    async def flood(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n")
        for _ in range(2000):
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    async with proxied(flood) as url:
        address = URL(url)
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        small.setblocking(False)
        await asyncio.get_running_loop().sock_connect(small, (address.host, address.port))
        reader, writer = await asyncio.open_connection(sock=small, limit=1000)
        writer.write(LAST_REQUEST)
        # The kernel's buffers take a different amount on each machine.
        assert await settled(lambda: sent) < 100_000_000
        received = 0
        while chunk := await reader.read(1_000_000):
            received += len(chunk)
        assert received > 200_000_000
        writer.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [(b"Transfer-Encoding: gzip, chunked", 501), (b"Transfer-Encoding: identity\r\nContent-Length: 3", 400)],
)
async def test_an_unsupported_transfer_coding_is_refused(headers: bytes, status: int) -> None:
    async with proxied(responding(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as url:
        head = b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + headers
        response = await talk(url, head + b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        assert b" %d " % status in response.partition(b"\r\n")[0]


async def test_a_client_cannot_remove_content_length() -> None:
    heads: list[bytes] = []

    async def take(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        assert await reader.readexactly(3) == b"abc"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
    head += b"Connection: close, Content-Length, X-Hop\r\nX-Hop: 1\r\n\r\n"
    async with proxied(take) as url:
        assert (await talk(url, head + b"abc")).startswith(b"HTTP/1.1 200 OK")
    assert b"Content-Length: 3\r\n" in heads[0]
    assert b"X-Hop" not in heads[0]


async def test_a_malformed_body_ends_both_connections() -> None:
    outcome: list[bytes] = []

    async def take(_head: bytes, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        outcome.append(await reader.read())

    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with proxied(take) as url:
        response = await talk(url, head, b"3\r\nabc\r\n", b"nonsense\r\n")
        assert b" 400 " in response.partition(b"\r\n")[0]
        await eventually(lambda: outcome)
    assert not outcome[0].endswith(b"0\r\n\r\n")
