"""What Ollama answers, byte for byte: framing, early and broken answers, connections that are used again."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from yarl import URL

from proxy.app import App
from tests.kit.support import RawHandler, eventually, listening_raw, settings, settled, talk

NO_HUB = "http://127.0.0.1:9"
ASK = b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ASK_LAST = b"GET /api/last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def proxied(handler: RawHandler) -> AsyncIterator[str]:
    async with listening_raw(handler) as upstream, App(settings(NO_HUB, upstream)) as app:
        yield app.address.url


def saying(answer: bytes, *, close: bool = False) -> RawHandler:
    async def handler(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        if close:
            writer.close()

    return handler


async def test_a_head_passes_as_it_is_but_for_the_hop() -> None:
    answer = (
        b"HTTP/1.1 299 Quite \xe9 Good\r\nx-CASE: 1\r\nX-Case: 2\r\nX-Raw: a\xffb\r\nX-Empty:\r\nKeep-Alive: 5\r\n"
        b"Connection: x-hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\nok"
    )
    async with proxied(saying(answer)) as url:
        assert await talk(url, ASK_LAST) == (
            b"HTTP/1.1 299 Quite \xe9 Good\r\nx-CASE: 1\r\nX-Case: 2\r\nX-Raw: a\xffb\r\nX-Empty: \r\n"
            b"Content-Length: 2\r\nConnection: close\r\n\r\nok"
        )


async def test_an_answer_that_comes_byte_by_byte_is_the_same() -> None:
    answer = b"HTTP/1.1 404 Not Found\r\nX-One: two three\r\nContent-Length: 3\r\n\r\nabc"

    async def drip(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(len(answer)):
            writer.write(answer[number : number + 1])
            await asyncio.sleep(0.001)

    async with proxied(drip) as url:
        assert await talk(url, ASK_LAST) == answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


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
async def test_every_framing_arrives_whole_in_both_versions_of_http(answer: bytes, body: bytes) -> None:
    async with proxied(saying(answer, close=b"chunked" not in answer)) as url:
        head, _, rest = (await talk(url, ASK_LAST)).partition(b"\r\n\r\n")
        if b"chunked" in head.lower():
            assert rest.endswith(b"0\r\n\r\n")
            assert b"".join(rest.split(b"\r\n")[1:-3:2]) == body
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
async def test_an_answer_that_is_not_http_becomes_a_502(answer: bytes) -> None:
    async with proxied(saying(answer, close=True)) as url:
        got = await talk(url, ASK_LAST)
        assert got.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert b'{"error":"Ollama at http://127.0.0.1' in got
        assert b"njected" not in got


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
    async with proxied(saying(answer, close=True)) as url:
        got = await talk(url, ASK)
        assert got.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"abc" in got
        assert not got.endswith(b"0\r\n\r\n")
        if b"Content-Length" not in answer:
            # An HTTP/1.0 client takes an orderly end for the end of the body.
            with pytest.raises(ConnectionResetError):
                await talk(url, b"GET /api/x HTTP/1.0\r\n\r\n")


async def test_an_answer_that_the_end_of_the_proxy_cuts_off_never_ends_cleanly() -> None:
    began = asyncio.Event()

    async def stall(_head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"3\r\nabc\r\n")
        began.set()
        await reader.read()

    async with proxied(stall) as url:
        # An HTTP/1.0 client takes an orderly end for the end of the body.
        asked = asyncio.create_task(talk(url, b"GET /api/x HTTP/1.0\r\n\r\n"))
        await began.wait()
    with pytest.raises(ConnectionResetError):
        await asked


async def test_what_follows_an_answer_reaches_nobody() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with proxied(saying(answer + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")) as url:
        got = await talk(url, ASK, ASK, ASK_LAST)
        assert got.count(b"\r\n\r\nok") == 3
        assert b"forged" not in got


async def test_pipelined_requests_get_their_answers_in_order() -> None:
    async def echo(head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = head.split()[1]
        await asyncio.sleep(0.02 if path.endswith(b"0") else 0)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))

    paths = [b"/%d" % number for number in range(50)]
    requests = [b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: x\r\n\r\n" % path for path in paths]
    requests[7] = requests[7].replace(b"Connection: x", b"Connection: Upgrade\r\nUpgrade: websocket")
    async with proxied(echo) as url:
        got = await talk(url, b"".join(requests) + ASK_LAST)
        assert [part.partition(b"\r\n")[0].partition(b"HTTP")[0] for part in got.split(b"\r\n\r\n")[1:]] == [
            *paths,
            b"/api/last",
        ]


async def test_the_invitation_to_send_a_body_is_ollamas_to_give() -> None:
    async def pick(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"Expect: 100-continue" in head
        if b"/wanted" in head:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(4)
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\n" + body)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()

    head = b"POST /%b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close"
    head += b"\r\n\r\n"
    async with proxied(pick) as url:
        assert (await talk(url, head % b"wanted", b"body")).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 ")
        assert (await talk(url, head % b"unwanted")).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_pull_that_is_passed_on_is_invited_once() -> None:
    async def take(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"Expect" not in head
        body = await reader.readexactly(13)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n" + body)

    head = b"POST /api/pull HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\nExpect: 100-continue\r\n"
    head += b"Connection: close"
    async with proxied(take) as url:
        got = await talk(url, head + b"\r\n\r\n", b'{"name": "x"}')
    assert got.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert got.endswith(b'{"name": "x"}')


async def test_an_early_answer_to_an_upload_arrives_and_ends_the_connection() -> None:
    async def have_it(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nhave")
        await writer.drain()
        await asyncio.sleep(0.5)
        writer.close()

    async with proxied(have_it) as url:
        head = b"POST /api/blobs/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n"
        got = await talk(url, head, b"x" * 1000)
        assert got == b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nhave"


async def test_connections_to_ollama_are_used_again() -> None:
    seen: set[object] = set()

    async def handler(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.add(writer.transport)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with proxied(handler) as url:
        for _ in range(5):
            assert (await talk(url, ASK_LAST)).endswith(b"ok")
    assert len(seen) == 1


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_on_a_connection_that_has_ended_only_what_changes_nothing_is_sent_again(method: str) -> None:
    calls: list[str] = []

    async def once(head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(head.split()[0].decode())
        if len(calls) == 2:
            writer.transport.abort()
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with proxied(once) as url:
        await talk(url, ASK_LAST)
        got = await talk(url, ASK_LAST.replace(b"GET", method.encode()))
    if method == "GET":
        assert got.endswith(b"ok")
        assert calls == ["GET", "GET", "GET"]
    else:
        assert b" 502 " in got.partition(b"\r\n")[0]
        assert b"ended the connection before it answered" in got
        assert calls == ["GET", method]


async def test_a_client_that_reads_slowly_slows_ollama_down() -> None:
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
        writer.write(ASK_LAST)
        # What the kernel's buffers take, which differs.
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
async def test_a_body_in_a_coding_that_cannot_be_passed_on_is_refused(headers: bytes, status: int) -> None:
    async with proxied(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as url:
        head = b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + headers
        got = await talk(url, head + b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        assert b" %d " % status in got.partition(b"\r\n")[0]


async def test_a_client_cannot_have_the_length_of_its_body_taken_away() -> None:
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


async def test_a_malformed_body_ends_the_request_at_both_ends() -> None:
    outcome: list[bytes] = []

    async def take(_head: bytes, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        outcome.append(await reader.read())

    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with proxied(take) as url:
        got = await talk(url, head, b"3\r\nabc\r\n", b"nonsense\r\n")
        assert b" 400 " in got.partition(b"\r\n")[0]
        await eventually(lambda: outcome)
    assert not outcome[0].endswith(b"0\r\n\r\n")
