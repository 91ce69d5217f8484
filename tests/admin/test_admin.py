"""Administration under `/-/`."""

import aiohttp
import orjson
import pytest

from proxy import __version__
from proxy.app import App
from proxy.standins.ollama import StandInOllama
from tests.kit.support import Client


async def test_health_shows_the_proxy_and_ollama(client: Client, ollama: StandInOllama) -> None:
    status, body = await client.get("/-/health")
    assert status == 200
    assert orjson.loads(body) == {
        "status": "ok",
        "version": __version__,
        "ollama": {"url": ollama.url, "version": "0.24.0", "reachable": True},
    }


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://["])
async def test_other_sites_get_403(client: Client, origin: str) -> None:
    status, _ = await client.get("/-/health", headers={"Origin": origin})
    assert status == 403


async def test_the_proxys_own_origin_is_welcome(client: Client, app: App) -> None:
    status, _ = await client.get("/-/health", headers={"Origin": app.address.url})
    assert status == 200


async def test_unknown_admin_paths_are_not_forwarded(
    client: Client, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    """All other paths go to Ollama."""
    assert (await client.get("/-/none"))[0] == 404
    assert await client.get("/unknown") == (404, b"404 page not found")
    assert await client.get("/") == (200, b"Ollama is running")
    paths = [request.path for request in ollama.requests]
    assert "/unknown" in paths
    assert "/-/none" not in paths
