"""The proxy ends while pulls run."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import orjson
import pytest

from proxy.app import SHUTDOWN_SECONDS, App
from proxy.pull.jobs import CREATE_SECONDS
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.conversions import weights_of
from tests.kit.job_clients import (
    GGUF_NAME,
    NAME,
    SUCCESS,
    WAYS,
    Attached,
    fetched_bytes,
    newest,
    start_transfer,
    wait_for_make,
)
from tests.kit.proxying import proxying
from tests.kit.support import PATIENCE, Client, digest_of, eventually, making, settings
from tests.kit.tiny_gguf import tiny_gguf, tiny_projector

AGAIN = "the proxy is shutting down; pull again when it is back"


@asynccontextmanager
async def ending(app: App) -> AsyncIterator[None]:
    """The block runs while the proxy ends. The proxy does not wait for clients that hang."""
    async with asyncio.timeout(PATIENCE):
        closing = asyncio.create_task(app.close())
        try:
            yield
        finally:
            await closing


def test_a_shutdown_takes_less_than_5_seconds() -> None:
    # aiohttp waits this long twice: for handlers to finish, then for their cancellation.
    """A service manager may kill the proxy after that."""
    assert CREATE_SECONDS + 2 * SHUTDOWN_SECONDS < 5


async def test_a_shutdown_during_a_transfer_ends_the_streams(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, size: int
) -> None:
    """Every client gets an error line that tells it to pull again."""
    hub.add("acme/other", tiny_llama(seed=1))
    async with App(settings(hub.endpoint, ollama.url, pull={"jobs": 1})) as app:
        client = Client(app.address.url, session)
        first = await start_transfer(app, client)
        second = Attached(client, "hf.co/acme/other")
        await eventually(lambda: second.waited)
        third = asyncio.create_task(client.pull_at_once(NAME))
        await eventually(lambda: app.jobs.all()[1].clients == 2)
        async with ending(app):
            assert AGAIN in (await first.end())["error"]
            assert AGAIN in (await second.end())["error"]
            status, answer = await third
            assert status == 500
            assert AGAIN in answer["error"]
        assert not making(ollama.requests)


@pytest.mark.parametrize("way", WAYS)
async def test_a_shutdown_during_a_create_ends_the_streams(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, size: int, way: dict[str, str]
) -> None:
    """Every client gets an error line that tells it to pull again."""
    hub.line = None
    ollama.hold_making = asyncio.Event()
    async with App(settings(hub.endpoint, ollama.url, ollama=way)) as app:
        client = Client(app.address.url, session)
        first = Attached(client, NAME)
        second = asyncio.create_task(client.pull_at_once(NAME))
        await wait_for_make(ollama, way)
        await eventually(lambda: newest(app).clients == 2)
        async with ending(app):
            assert AGAIN in (await first.end())["error"]
            status, answer = await second
            assert (status, list(answer)) == (500, ["error"])
            assert AGAIN in answer["error"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_shutdown_waits_shortly_for_a_create(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    size: int,
    monkeypatch: pytest.MonkeyPatch,
    way: dict[str, str],
) -> None:
    monkeypatch.setattr("proxy.pull.jobs.CREATE_SECONDS", 3)
    hub.line = None
    ollama.hold_making = asyncio.Event()
    async with App(settings(hub.endpoint, ollama.url, ollama=way)) as app:
        first = Attached(Client(app.address.url, session), NAME)
        await wait_for_make(ollama, way)
        async with ending(app):
            assert AGAIN in (await first.end())["error"]
            ollama.hold_making.set()
        assert ollama.abandoned_creates == 0
        assert NAME in ollama.models


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_during_a_shutdown_gets_an_error_line(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, size: int, stream: bool
) -> None:
    """It tells the client to pull again."""
    hub.line = None
    ollama.hold_making = asyncio.Event()
    async with App(settings(hub.endpoint, ollama.url)) as app:
        client = Client(app.address.url, session)
        first = Attached(client, NAME)
        await eventually(lambda: making(ollama.requests))
        async with ending(app):
            assert AGAIN in (await first.end())["error"]
            status, answer = await client.post("/api/pull", {"model": "hf.co/acme/tiny:q8_0", "stream": stream})
            assert status == (200 if stream else 500)
            assert AGAIN in orjson.loads(answer.splitlines()[-1]).get("error", "")


async def test_finished_files_survive_a_shutdown(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, small_spans: int
) -> None:
    files = {"model-Q8_0.gguf": tiny_gguf("Q8_0"), "mmproj-F16.gguf": tiny_projector(rows=4000)}
    hub.add("acme/tiny", files)
    last = "mmproj-F16.gguf"
    hub.faults.append(Fault(last, "hang", after=100_000))
    finished = set(weights_of(files)) - {digest_of(files[last])}
    async with proxying(hub, ollama, session) as (_, client):
        first = Attached(client, GGUF_NAME)
        await eventually(lambda: finished <= ollama.blobs.keys() and fetched_bytes(hub, last))
    assert AGAIN in (await first.end())["error"]
    hub.requests.clear()
    async with proxying(hub, ollama, session) as (_, client):
        assert (await client.pull(GGUF_NAME))[-1] == SUCCESS
    assert fetched_bytes(hub) == len(files[last])
