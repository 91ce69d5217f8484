"""Removals need an Ollama that reaches the proxy: the address, and the manifest of a removal."""

import asyncio
import re
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.config.sections import OllamaConfig
from proxy.config.values import Address
from proxy.ollama.registry import url_for_ollama
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.store import reclaim
from proxy.store.reclaim import REMOVAL
from tests.kit.ollama_log import bodies
from tests.kit.reclaiming import NAME, OTHER, SUCCESS, Gate, assert_clean, orphans, proxy, reclaim_now, statuses
from tests.kit.support import Client, digest_of, eventually


async def test_an_unreached_proxy_warns_once_and_keeps_the_blobs(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: dict[str, bytes]
) -> None:
    """They go when Ollama reaches the proxy again."""
    nowhere = "http://127.0.0.1:9"
    async with proxy(hub, ollama, session, ollama={"advertise_url": nowhere}) as (_, client):
        lines = await client.pull(NAME)
    assert lines[-1] == SUCCESS
    [warning] = [status for status in statuses(lines) if status.startswith("warning:")]
    assert nowhere in warning
    assert "ollama.advertise_url" in warning
    left_blobs = orphans(ollama) - {reclaim.CONFIG.digest}
    assert left_blobs
    assert reclaim.CONFIG.digest in ollama.blobs
    assert list(ollama.models) == [NAME]
    async with proxy(hub, ollama, session) as (_, client):
        assert {blob["digest"] for blob in (await reclaim_now(client))["blobs"]} == left_blobs
    assert_clean(ollama)


async def test_a_proxy_that_is_reached_elsewhere_reclaims_there(
    left_blobs: dict[str, int], hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    async with proxy(hub, ollama, session) as (app, client):
        advertised = f"http://localhost:{app.address.port}"
        app._registry.url = url_for_ollama(OllamaConfig(advertise_url=advertised), app.address)
        await reclaim_now(client)
    name = rf"{advertised}/ollama-hf-proxy/[0-9a-f]{{32}}:reclaim"
    assert [body for body in bodies(ollama, "/api/pull") if re.fullmatch(name, body.get("model", ""))]
    assert not orphans(ollama) & left_blobs.keys()


@pytest.mark.parametrize("version", ["0.24.0", "0.40.0"])
async def test_an_interrupted_removals_config_goes_too(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, version: str
) -> None:
    ollama.version = version
    content = b"{}"
    async with proxy(hub, ollama, session) as (app, client):
        ollama._store.keep(content)
        app._journal.track(digest_of(content), len(content))
        there, app._registry.url = app._registry.url, "http://127.0.0.1:9"
        assert (await client.post("/-/reclaim", {}))[0] == 502
        assert set(ollama.blobs) == {digest_of(content), reclaim.CONFIG.digest}
        assert [blob["digest"] for blob in (await reclaim_now(client, dry_run=True))["blobs"]] == [digest_of(content)]
        ollama._store.forget(digest_of(content))
        app._registry.url = there
        assert (await reclaim_now(client))["blobs"] == []
    assert ollama.blobs == {}


async def test_a_refused_removal_has_its_own_error_text(
    left_blobs: dict[str, int],
    left_gguf: str,
    app: App,
    client: Client,
    ollama: StandInOllama,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ollama reached the proxy, and refused the manifest."""
    pull = app.backend.ollama.pull

    async def losing(name: str) -> dict[str, int]:
        del ollama.blobs[left_gguf]
        return await pull(name)

    monkeypatch.setattr(app.backend.ollama, "pull", losing)
    status, answer = await client.post("/-/reclaim", {})
    assert status == 502
    assert "Ollama refuses to take over their removal" in orjson.loads(answer)["error"]
    monkeypatch.undo()
    assert {blob["digest"] for blob in (await reclaim_now(client))["blobs"]} == left_blobs.keys() - {left_gguf}


# ---- the registry


def path_of(offered: str) -> str:
    """The path of a model's manifest."""
    name, _, tag = offered.partition("://")[2].partition("/")[2].rpartition(":")
    return f"/v2/{name}/manifests/{tag}"


async def test_a_manifest_is_there_only_while_it_is_offered(
    left_blobs: dict[str, int], client: Client, ollama: StandInOllama, pull_gate: Gate
) -> None:
    removing = asyncio.create_task(reclaim_now(client))
    await eventually(lambda: pull_gate.entered)
    [[name]] = pull_gate.entered
    path = path_of(name)
    async with client.session.get(client.url + path) as response:
        assert response.status == 200
        assert response.content_type == "application/vnd.docker.distribution.manifest.v2+json"
        manifest = orjson.loads(await response.read())
    assert {one["digest"]: one["size"] for one in manifest["layers"]} == left_blobs
    # Ollama reads no layer of a type that it does not know.
    assert {one["mediaType"] for one in manifest["layers"]} == {"application/vnd.ollama-hf-proxy.blob"}
    # Ollama reads the config whenever it lists its models.
    assert ollama.beginning(manifest["config"]["digest"]) == b'{"os":"ollama-hf-proxy"}'
    async with client.session.head(client.url + path) as response:
        assert response.status == 200
    others = [path.replace("reclaim", "latest"), f"{path}/", path[:-1], "/v2/", path.replace("manifests", "blobs")]
    token = path.split("/")[3]
    others += [path.replace(token, "0" * 32), f"/v2/ollama-hf-proxy/{token}/blobs/{manifest['config']['digest']}"]
    for other in others:
        assert await client.get(other) == (404, b"404 page not found")
    assert await client.post(path, {}) == (404, b"404 page not found")
    pull_gate.open.set()
    await removing
    assert await client.get(path) == (404, b"404 page not found")


async def test_only_the_manifest_needs_no_key(
    left_blobs: dict[str, int],
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with proxy(hub, ollama, session, server={"listen": "127.0.0.1:0", "api_keys": ["secret"]}) as (app, client):
        gate = Gate(app.backend.ollama.pull)
        monkeypatch.setattr(app.backend.ollama, "pull", gate)
        removing = asyncio.create_task(app.reclaim.sweep())
        await eventually(lambda: gate.entered)
        path = path_of(gate.entered[0][0])
        assert (await client.get(path))[0] == 200
        assert (await client.get(path, headers={"Host": "elsewhere.example"}))[0] == 200
        assert (await client.get(f"{path}x"))[0] == 401
        assert (await client.get("/v2/"))[0] == 401
        gate.open.set()
        await removing
        assert (await client.get(path))[0] == 401
    assert not orphans(ollama) & left_blobs.keys()


async def test_every_offer_has_a_name_of_its_own(
    creates: None, client: Client, files: dict[str, bytes], ollama: StandInOllama
) -> None:
    for name in (NAME, OTHER):
        await client.pull(name)
    offers = [body["model"] for body in bodies(ollama, "/api/pull") if REMOVAL.fullmatch(body.get("model", ""))]
    assert len(offers) == len(set(offers)) == 2


LOCAL, REMOTE = "http://127.0.0.1:11434", "http://192.0.2.7:11434"


@pytest.mark.parametrize(
    ("listen", "ollama", "advertised", "expected"),
    [
        ("127.0.0.1", LOCAL, "", "http://127.0.0.1:11435"),
        ("0.0.0.0", LOCAL, "", "http://127.0.0.1:11435"),
        ("0.0.0.0", "http://localhost:11434", "", "http://127.0.0.1:11435"),
        ("::1", LOCAL, "", "http://localhost:11435"),
        ("localhost", LOCAL, "", "http://localhost:11435"),
        ("proxy.example", LOCAL, "", "http://proxy.example:11435"),
        ("192.0.2.3", REMOTE, "", "http://192.0.2.3:11435"),
        ("127.0.0.1", REMOTE, "http://host.docker.internal:11435", "http://host.docker.internal:11435"),
        ("0.0.0.0", LOCAL, "https://proxy.example", "https://proxy.example"),
    ],
)
def test_the_proxy_is_reached_where_it_listens(listen: str, ollama: str, advertised: str, expected: str) -> None:
    config = OllamaConfig(url=ollama, advertise_url=advertised)
    assert url_for_ollama(config, Address(listen, 11435)) == expected


def test_a_proxy_on_all_of_ipv6_is_reached_as_localhost() -> None:
    """Such a listener has IPV6_V6ONLY. A model's name cannot contain `[::1]`, but `localhost`."""
    assert url_for_ollama(OllamaConfig(url=LOCAL), Address("::", 11435)) == "http://localhost:11435"


def test_another_machine_gets_the_address_of_its_route(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    class Probe:
        def __init__(self, *arguments: Any) -> None:
            calls.append(arguments)

        def __enter__(self) -> "Probe":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def connect(self, target: Any) -> None:
            calls.append(target)

        def getsockname(self) -> tuple[str, int]:
            return "192.0.2.3", 5

    monkeypatch.setattr("proxy.ollama.registry.socket.socket", Probe)
    assert url_for_ollama(OllamaConfig(url=REMOTE), Address("0.0.0.0", 11435)) == "http://192.0.2.3:11435"
    assert calls[1][0] == "192.0.2.7"


def test_an_unknown_machine_gets_the_loopback_address() -> None:
    config = OllamaConfig(url="http://nowhere.invalid:11434")
    assert url_for_ollama(config, Address("0.0.0.0", 11435)) == "http://127.0.0.1:11435"
