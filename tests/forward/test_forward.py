"""Forwarded requests reach Ollama unchanged, and its responses reach the client unchanged."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import orjson
import pytest
from aiohttp import web
from yarl import URL

from proxy.app import App
from tests.kit.support import PATIENCE, Client, Handler, eventually, listening, settings

NO_HUB = "http://127.0.0.1:9"


@asynccontextmanager
async def proxied(handler: Handler) -> AsyncIterator[str]:
    """The URL of a proxy whose Ollama is one handler for all requests."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/-/":  # at its start the proxy checks whether it is its own upstream
            return web.Response(status=404)
        return await handler(request)

    async with listening(answer) as upstream, App(settings(NO_HUB, upstream)) as app:
        yield app.address.url


async def mirror(request: web.BaseRequest) -> web.Response:
    """Responds with the request as it arrived."""
    seen = {
        "method": request.method,
        "path": request.raw_path,
        "headers": [[name, value] for name, value in request.headers.items()],
        "body": (await request.content.read()).decode("latin-1"),
    }
    return web.Response(status=202, body=orjson.dumps(seen), headers={"X-Upstream": "yes", "Content-Encoding": "odd"})


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_a_request_arrives_unchanged(session: aiohttp.ClientSession, method: str) -> None:
    """Method, path, query, headers and body, except hop-by-hop headers."""
    async with proxied(mirror) as url:
        target = URL(f"{url}/api/x%2Fy/../z?a=%20b&ts=1+2&a", encoded=True)
        headers = {"X-Own": "1", "Authorization": "Bearer k", "Content-Encoding": "zstd", "Connection": "close, X-Hop"}
        headers["X-Hop"] = "only to the next"
        async with session.request(method, target, data=b"\x28\xb5body", headers=headers) as response:
            seen = orjson.loads(await response.read())
            assert response.status == 202
            assert response.headers["X-Upstream"] == "yes"
            assert response.headers["Content-Encoding"] == "odd"
    assert (seen["method"], seen["path"]) == (method, target.raw_path_qs)
    assert seen["body"] == "\x28\xb5body"
    sent = {name.lower(): value for name, value in seen["headers"]}
    assert (sent["x-own"], sent["authorization"], sent["content-encoding"]) == ("1", "Bearer k", "zstd")
    assert "x-hop" not in sent
    assert sent["content-length"] == "6"


async def test_the_proxy_adds_no_headers_and_replaces_the_host(session: aiohttp.ClientSession) -> None:
    async with proxied(mirror) as url:
        async with session.get(url, skip_auto_headers=["Accept", "Accept-Encoding", "User-Agent"]) as response:
            seen = orjson.loads(await response.read())
        assert [name for name, _ in seen["headers"]] == ["Host"]
        assert seen["headers"][0][1] not in url


async def test_a_body_without_a_length_arrives_complete(session: aiohttp.ClientSession) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 100_000

    async with proxied(mirror) as url, session.post(f"{url}/api/blobs/x", data=body()) as response:
        seen = orjson.loads(await response.read())
    assert len(seen["body"]) == 4_000_000


async def test_a_streamed_response_arrives_in_pieces(session: aiohttp.ClientSession) -> None:
    more = asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first\n")
        await more.wait()
        await response.write(b"second\n")
        return response

    async with proxied(slow) as url, session.post(f"{url}/api/generate") as response:
        assert await response.content.readline() == b"first\n"
        more.set()
        assert await response.content.readline() == b"second\n"
        assert await response.content.read() == b""


async def test_a_redirect_is_forwarded(session: aiohttp.ClientSession) -> None:
    async def redirect(_: web.BaseRequest) -> web.Response:
        return web.Response(status=307, headers={"Location": "/api/tags"})

    async with proxied(redirect) as url, session.get(f"{url}/api/tags/", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (307, "/api/tags")


async def test_a_head_response_keeps_its_length(session: aiohttp.ClientSession) -> None:
    async def head(_: web.BaseRequest) -> web.Response:
        return web.Response(headers={"Content-Length": "17"})

    async with proxied(head) as url, session.head(url) as response:
        assert response.headers["Content-Length"] == "17"
        assert await response.read() == b""


async def test_a_disconnect_aborts_the_request_to_ollama(session: aiohttp.ClientSession) -> None:
    ended: list[str] = []

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"token\n")
                await asyncio.sleep(0.01)
        finally:
            ended.append(request.path)

    async with proxied(endless) as url:
        response = await session.post(f"{url}/api/chat")
        assert await response.content.readline() == b"token\n"
        response.close()
        await eventually(lambda: ended == ["/api/chat"])


async def test_an_early_disconnect_aborts_the_request_to_ollama() -> None:
    """Before Ollama has responded."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def silent(_: web.BaseRequest) -> web.StreamResponse:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with proxied(silent) as url:
        async with aiohttp.ClientSession() as session:
            asking = asyncio.create_task(session.post(f"{url}/api/chat").__aenter__())
            await began.wait()
            asking.cancel()
        async with asyncio.timeout(PATIENCE):
            await ended.wait()


async def test_an_interrupted_upload_never_ends_cleanly_at_ollama() -> None:
    outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    began = asyncio.Event()

    async def take(request: web.BaseRequest) -> web.StreamResponse:
        try:
            assert await request.content.readexactly(5) == b"hello"
            began.set()
            await request.content.read()
            outcome.set_result("ended cleanly")
        except (aiohttp.ClientError, ConnectionError, asyncio.CancelledError, web.RequestPayloadError) as error:
            outcome.set_result(f"broken: {type(error).__name__}")
            raise
        return web.Response()

    async with proxied(take) as url:
        address = URL(url)
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"POST /api/blobs/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await writer.drain()
        async with asyncio.timeout(PATIENCE):
            await began.wait()
            writer.close()
            assert (await outcome).startswith("broken")


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "100"}])
async def test_an_interrupted_response_is_an_error_at_the_client(
    session: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    arrived = asyncio.Event()

    async def broken(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await response.write(b"some\n")
        assert request.transport is not None
        await arrived.wait()
        request.transport.abort()
        return response

    async with proxied(broken) as url, session.post(f"{url}/api/chat") as response:
        assert await response.content.readline() == b"some\n"
        arrived.set()
        with pytest.raises(aiohttp.ClientError):
            await response.content.read()


async def test_without_ollama_a_request_gets_502(session: aiohttp.ClientSession) -> None:
    async with App(settings(NO_HUB, "http://127.0.0.1:9")) as app:
        client = Client(app.address.url, session)
        status, body = await client.get("/api/tags")
        assert status == 502
        assert "Ollama at http://127.0.0.1:9 cannot be reached (Connection refused)" in orjson.loads(body)["error"]
        status, body = await client.get("/-/health")
        assert status == 503
        health = orjson.loads(body)
        assert health["ollama"] == {"url": "http://127.0.0.1:9", "version": None, "reachable": False}


async def test_a_target_cannot_change_the_host() -> None:
    async with proxied(mirror) as url:
        address = URL(url)
        for target, status in ((b"@example.com/", 400), (b"http://example.com/", 403), (b":80/", 400), (b"a/b", 400)):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            assert b" %d " % status in answer.partition(b"\r\n")[0]
            writer.close()


async def test_thirty_kilobytes_of_headers_are_accepted(session: aiohttp.ClientSession) -> None:
    async with proxied(mirror) as url, session.get(url, headers={"X-Large": "x" * 30_000}) as response:
        assert response.status == 202
