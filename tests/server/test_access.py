"""Access control: Host headers by Ollama's rules, and keys."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.config.sections import ServerConfig
from proxy.server.access import Access
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.support import Client, settings, talk

KEY = "sk-Own.key_1~+="
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
async def locked(hub: StandInHub, ollama: StandInOllama) -> AsyncIterator[App]:
    server = {
        "listen": "127.0.0.1:0",
        "api_keys": ["another", KEY],
        "allowed_hosts": ["Ollama.Example", "*.lan.example"],
    }
    async with App(settings(hub.endpoint, ollama.url, server=server)) as app:
        yield app


@pytest.fixture
def locked_client(locked: App, session: aiohttp.ClientSession) -> Client:
    return Client(locked.address.url, session)


OWN = (
    "localhost LOCALHOST:11435 127.0.0.1 127.9.9.9:1 [::1]:11435 [::1] ::1 10.1.2.3:80 172.16.0.1 192.168.1.9:11435 "
    "[fd00::1]:80 0.0.0.0:11435 [::] [::ffff:127.0.0.1]:80 my.local a.b.internal:443 x.localhost ollama-proxy:11435 "
    "203.0.113.7:11435"
)
FOREIGN = (
    "evil.example evil.example:11435 8.8.8.8 203.0.113.8 [2001:db8::1]:80 172.32.0.1 100.64.0.1 169.254.169.254 a.lan "
    "localhost.evil.example 127.0.0.1.nip.io internal. localhost. .example"
)


@pytest.mark.parametrize("host", ["", socket.gethostname(), *OWN.split()])
def test_local_names_and_addresses_are_allowed(host: str) -> None:
    assert Access(ServerConfig())._check_host(host, "203.0.113.7")


@pytest.mark.parametrize("host", FOREIGN.split())
def test_other_names_and_addresses_are_not_allowed(host: str) -> None:
    assert not Access(ServerConfig())._check_host(host, "203.0.113.7")


def test_configured_and_advertised_names_are_allowed() -> None:
    access = Access(
        ServerConfig(allowed_hosts=("Ollama.Example", "*.lan.example", "9.9.9.9")), "proxy.advertised.example"
    )
    for host in ("ollama.example:443", "OLLAMA.example", "x.lan.example", "proxy.advertised.example", "9.9.9.9:80"):
        assert access._check_host(host, "127.0.0.1"), host
    for host in ("lan.example", "x.ollama.example", "evil-lan.example"):
        assert not access._check_host(host, "127.0.0.1"), host
    assert Access(ServerConfig(allowed_hosts=("*",)))._check_host("any.example", "")


@pytest.mark.parametrize("target", ["/api/tags", "/-/health", "/api/pull", "http://evil.example/api/tags"])
async def test_dns_rebinding_gets_403(app: App, ollama: StandInOllama, target: str) -> None:
    """The proxy checks the Host header even if Ollama does not, as on an address that is not loopback."""
    ollama.browsers.checks_host = False
    count_before = len(ollama.requests)
    host = "localhost" if target.startswith("http") else "evil.example:11435"
    response = await talk(
        app.address.url, f"POST {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    )
    assert response.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"evil.example" in response
    assert b"server.allowed_hosts" in response
    assert len(ollama.requests) == count_before


async def test_ollama_reaches_the_proxy_by_its_advertised_name(hub: StandInHub, ollama: StandInOllama) -> None:
    addresses = {"url": ollama.url, "advertise_url": "http://proxy.example:11435"}
    async with App(settings(hub.endpoint, ollama.url, ollama=addresses)) as app:
        response = await talk(
            app.address.url, b"GET / HTTP/1.1\r\nHost: proxy.example:11435\r\nConnection: close\r\n\r\n"
        )
    assert response.endswith(b"Ollama is running")


async def test_without_keys_authorization_is_forwarded(client: Client, ollama: StandInOllama) -> None:
    assert (await client.get("/api/tags", headers={"Authorization": "Bearer of.ollama"}))[0] == 200
    assert ollama.requests[-1].headers["Authorization"] == "Bearer of.ollama"


PATHS = "/api/tags /api/pull /v1/models / /-/pulls /-/key/wrong/api/tags /-/key/"


@pytest.mark.parametrize("path", PATHS.split())
@pytest.mark.parametrize("header", ["", "Bearer wrong", "Bearer", "Basic c2s6", f"bearer{KEY}", f"Bearer {KEY}x", KEY])
async def test_with_keys_a_request_without_one_gets_401(
    locked_client: Client, ollama: StandInOllama, path: str, header: str
) -> None:
    count_before = len(ollama.requests)
    async with locked_client.session.get(
        locked_client.url + path, headers={"Authorization": header} if header else {}
    ) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert "this proxy needs a key" in orjson.loads(await response.read())["error"]
    assert len(ollama.requests) == count_before


async def test_a_key_in_the_header_is_not_forwarded(locked_client: Client, ollama: StandInOllama) -> None:
    for scheme in ("Bearer", "bearer"):
        assert (await locked_client.get("/api/tags", headers={"Authorization": f"{scheme} {KEY}"}))[0] == 200
        assert "Authorization" not in ollama.requests[-1].headers


async def test_a_key_in_the_path_is_not_forwarded_or_logged(
    locked_client: Client, ollama: StandInOllama, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    signed = {"Authorization": "signature of OLLAMA_AUTH"}
    status, _ = await locked_client.get(f"/-/key/{KEY}/api/tags?ts=1&x=%20", headers=signed)
    assert status == 200
    assert ollama.requests[-1].path == "/api/tags?ts=1&x=%20"
    assert ollama.requests[-1].headers["Authorization"] == "signature of OLLAMA_AUTH"
    for root in (f"/-/key/{KEY}", f"/-/key/{KEY}/", f"/-/key/{KEY.replace('~', '%7E')}/", f"/-/key/{KEY}?x"):
        request = f"GET {root} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert (await talk(locked_client.url, request.encode())).endswith(b"Ollama is running")
    assert not any(KEY in record.getMessage() for record in caplog.records if record.name.startswith("proxy"))


async def test_a_pull_with_a_key_in_the_path(locked: App, hub: StandInHub, session: aiohttp.ClientSession) -> None:
    hub.add("acme/tiny", tiny_llama())
    lines = await Client(f"{locked.address.url}/-/key/{KEY}", session).pull("hf.co/acme/tiny")
    assert lines[-1] == {"status": "success"}


async def test_health_and_options_need_no_key(locked_client: Client) -> None:
    assert (await locked_client.get("/-/health"))[0] == 200
    async with locked_client.session.options(
        f"{locked_client.url}/api/chat", headers={"Origin": "http://localhost:3000"}
    ) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"


async def test_a_401_has_cors_headers(locked_client: Client) -> None:
    """A page of an allowed origin can read the reason."""
    url = f"{locked_client.url}/api/tags"
    async with locked_client.session.get(url, headers={"Origin": "http://localhost:3000"}) as response:
        assert response.status == 401
        assert response.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"


@pytest.mark.parametrize(
    ("listen", "keys", "warned"),
    [("0.0.0.0:0", [], True), ("0.0.0.0:0", [KEY], False), ("127.0.0.1:0", [], False), ("localhost:0", [], False)],
)
async def test_listening_to_the_network_without_keys_warns_once(
    ollama: StandInOllama, caplog: pytest.LogCaptureFixture, listen: str, keys: list[str], warned: bool
) -> None:
    from proxy.app import serve

    stop = asyncio.Event()
    stop.set()
    await serve(settings("http://127.0.0.1:9", ollama.url, server={"listen": listen, "api_keys": keys}), stop)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == warned
    assert all("server.api_keys" in text for text in warnings)
