"""Ollama decides about a browser's Origin as without the proxy, also for responses of the proxy itself."""

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.support import Client, talk

NAME = "hf.co/acme/tiny"
PAGE = "http://localhost:3000"


@pytest.fixture(autouse=True)
def repository(hub: StandInHub) -> None:
    hub.add("acme/tiny", tiny_llama())


async def get(client: Client, origin: str, host: str = "") -> aiohttp.ClientResponse:
    headers = {"Origin": origin} | ({"Host": host} if host else {})
    async with client.session.get(f"{client.url}/api/version", headers=headers) as response:
        await response.read()
        return response


async def test_a_page_at_the_proxys_own_address_is_same_origin(client: Client, app: App, ollama: StandInOllama) -> None:
    own = app.address.url
    for origin in (own, own.replace("http:", "https:")):
        response = await get(client, origin)
        assert response.status == 200
        assert "Access-Control-Allow-Origin" not in response.headers
        assert ollama.requests[-1].headers["Origin"] == ollama.url
    response = await get(client, "http://ollama.localhost:1", "ollama.localhost:1")
    assert response.status == 200
    assert ollama.requests[-1].headers["Host"] in ollama.url


async def test_a_page_at_ollamas_address_is_cross_origin(client: Client, ollama: StandInOllama) -> None:
    response = await get(client, ollama.url)
    assert response.headers["Access-Control-Allow-Origin"] == ollama.url


@pytest.mark.parametrize("stream", [True, False])
async def test_the_proxys_own_response_has_ollamas_cors_headers(client: Client, stream: bool) -> None:
    body = {"model": NAME, "stream": stream}
    async with client.session.post(f"{client.url}/api/pull", json=body, headers={"Origin": PAGE}) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        assert response.headers["Vary"] == "Origin"
        assert orjson.loads((await response.read()).splitlines()[-1]) == {"status": "success"}


async def test_the_proxys_own_error_has_ollamas_cors_headers(client: Client) -> None:
    body = {"model": "hf.co/acme/none", "stream": False}
    async with client.session.post(f"{client.url}/api/pull", json=body, headers={"Origin": PAGE}) as response:
        assert response.status == 500
        assert response.headers["Access-Control-Allow-Origin"] == PAGE


async def test_a_foreign_page_cannot_pull(client: Client, ollama: StandInOllama, hub: StandInHub) -> None:
    origin = {"Origin": "https://evil.example"}
    async with client.session.post(f"{client.url}/api/pull", json={"model": NAME}, headers=origin) as response:
        assert response.status == 403
        assert await response.read() == b""
    assert not hub.requests
    assert not ollama.blobs
    ollama.browsers.origins.add("https://evil.example")
    async with client.session.post(f"{client.url}/api/pull", json={"model": NAME}, headers=origin) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == "https://evil.example"


async def test_ollama_gets_its_own_address_as_host(client: Client, ollama: StandInOllama) -> None:
    await get(client, PAGE)
    assert f"http://{ollama.requests[-1].headers['Host']}" == ollama.url


async def test_an_origin_that_is_not_text_is_refused(client: Client, hub: StandInHub) -> None:
    body = b'{"model":"%b"}' % NAME.encode()
    head = b"POST /api/pull HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nOrigin: \xff\r\n"
    response = await talk(client.url, head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    assert response.startswith(b"HTTP/1.1 403 ")
    assert not hub.requests
