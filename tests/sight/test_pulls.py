"""`/-/pulls`: what it shows, and how to cancel a pull."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from proxy.app import App
from proxy.standins import manifests
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.names import ModelName
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.pauses import use_timings
from tests.kit.sight import NAME, SLOW, SUCCESS, cancel, moment, pulls, wait_for_bytes
from tests.kit.support import PATIENCE, Client, eventually, making, settings


async def wait_for_pull(client: Client, **fields: Any) -> dict[str, Any]:
    """The newest pull, as soon as its fields have these values."""
    async with asyncio.timeout(PATIENCE):
        while True:
            shown = await pulls(client)
            if shown and all(shown[0][field] == value for field, value in fields.items()):
                return shown[0]
            await asyncio.sleep(0.01)


async def test_there_are_no_pulls_before_the_first(client: Client) -> None:
    assert await client.get("/-/pulls") == (200, b"[]")


async def test_a_running_pull_shows_its_progress_and_time_left(client: Client, hub: StandInHub, size: int) -> None:
    began = datetime.now(UTC)
    first = asyncio.create_task(client.pull(NAME))
    await wait_for_bytes(client)
    second = asyncio.create_task(client.pull_at_once(NAME))
    await wait_for_pull(client, clients=2)
    pull = await wait_for_bytes(client, 2 * SLOW)
    assert (pull["id"], pull["name"], pull["state"]) == ("1", NAME, "transferring")
    assert pull["total"] == size
    assert 2 * SLOW <= pull["completed"] < size
    assert SLOW / 5 < pull["rate"] < 2 * SLOW
    assert pull["eta"] == pytest.approx((size - pull["completed"]) / pull["rate"], abs=1)
    assert (pull["clients"], pull["retries"], pull["error"], pull["ended"]) == (2, 0, None, None)
    assert began <= moment(pull["started"]) <= datetime.now(UTC)
    hub.line = None
    assert (await first)[-1] == SUCCESS
    assert await second == (200, SUCCESS)
    done = await wait_for_pull(client, state="done", clients=0)
    assert done["completed"] == done["total"] == size
    assert (done["rate"], done["eta"], done["error"]) == (0, None, None)
    assert done["started"] == pull["started"]
    assert moment(pull["started"]) < moment(done["ended"]) <= datetime.now(UTC)
    assert await pulls(client) == [done]


async def test_a_pull_goes_through_its_states_in_order(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.add("acme/other", tiny_llama(seed=1))
    give_up = asyncio.Event()
    pull_natively = manifests.offered_manifest

    async def held(name: ModelName) -> Any:
        if name.tag == "reclaim":
            await give_up.wait()
        return await pull_natively(name)

    monkeypatch.setattr("proxy.standins.ollama.offered_manifest", held)
    # No sweep may run in between: the next pull would wait for it.
    use_timings(monkeypatch, first_sweep=1000.0)
    ollama.hold_making = create = asyncio.Event()
    config = settings(hub.endpoint, ollama.url, pull={"jobs": 1}, ollama={"reclaim": True})
    async with App(config) as app:
        client = Client(app.address.url, session)
        before = asyncio.create_task(client.pull("hf.co/acme/other"))
        await wait_for_bytes(client)
        hub.faults.append(Fault("config.json", "slow", rate=600))
        pulling = asyncio.create_task(client.pull(NAME))

        async def reaches(state: str) -> None:
            pull = await wait_for_pull(client, name=NAME, state=state)
            assert (pull["ended"] is not None) == (state == "done")
            assert pull["rate"] == 0 or state == "transferring"

        await reaches("planning")
        await reaches("waiting")
        assert (await cancel(client, "1", json={}))[0] == 200
        await reaches("transferring")
        hub.line = None
        await reaches("creating")
        create.set()
        await reaches("reclaiming")
        give_up.set()
        await reaches("done")
        assert (await pulling)[-1] == SUCCESS
        assert "was cancelled" in (await before)[-1]["error"]


async def test_ended_pulls_are_listed_newest_first(client: Client, hub: StandInHub, size: int) -> None:
    hub.line = None
    refused = (await client.pull("hf.co/acme/none"))[-1]["error"]
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert (await client.pull(NAME))[-1] == SUCCESS
    shown = await pulls(client)
    assert [(pull["id"], pull["name"], pull["state"], pull["error"]) for pull in shown] == [
        ("3", NAME, "done", None),
        ("2", NAME, "done", None),
        ("1", "hf.co/acme/none:latest", "failed", refused),
    ]
    assert [moment(pull["ended"]) for pull in shown] == sorted((moment(pull["ended"]) for pull in shown), reverse=True)
    assert (shown[2]["total"], shown[2]["completed"]) == (0, 0)


async def test_a_shared_transfer_does_not_raise_the_rate(client: Client, hub: StandInHub, size: int) -> None:
    """Bytes from before a pull joined a shared transfer do not count."""
    first = asyncio.create_task(client.pull(NAME))
    await wait_for_bytes(client, 4 * SLOW)
    second = asyncio.create_task(client.pull(NAME.replace("hf.co", "huggingface.co")))
    await wait_for_pull(client, id="2", state="transferring")
    pull = await wait_for_bytes(client)
    assert pull["id"] == "2"
    assert pull["rate"] < 2 * SLOW
    hub.line = None
    assert [(await first)[-1], (await second)[-1]] == [SUCCESS, SUCCESS]


async def test_retries_are_counted(client: Client, hub: StandInHub, size: int) -> None:
    hub.line = None
    hub.faults.append(Fault("model.safetensors", "drop", after=500_000, times=3))
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert (await wait_for_pull(client, state="done"))["retries"] == 3


async def test_clients_are_counted_as_they_come_and_go(client: Client, hub: StandInHub, size: int) -> None:
    visits = [asyncio.create_task(client.pull(NAME)) for _ in range(3)]
    await wait_for_pull(client, clients=3)
    visits[0].cancel()
    await wait_for_pull(client, clients=2)
    hub.line = None
    assert (await visits[1])[-1] == SUCCESS
    assert (await wait_for_pull(client, clients=0))["state"] == "done"


async def test_a_cancelled_pull_ends_its_streams(
    client: Client, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    streaming = asyncio.create_task(client.pull(NAME))
    await wait_for_bytes(client)
    waiting = asyncio.create_task(client.pull_at_once(NAME))
    await wait_for_pull(client, clients=2)
    status, answer = await cancel(client, "1", json={})
    assert (status, answer["id"], answer["name"]) == (200, "1", NAME)
    error = f"the pull of {NAME} was cancelled; finished files stay for the next pull"
    assert (await streaming)[-1] == {"error": error}
    assert await waiting == (500, {"error": error})
    ended = await wait_for_pull(client, state="failed", error=error, clients=0)
    assert moment(ended["ended"]) >= moment(ended["started"])
    hub.line = None
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert [pull["state"] for pull in await pulls(client)] == ["done", "failed"]


@pytest.mark.parametrize("way", [{}, {"advertise_url": "http://127.0.0.1:9"}], ids=["manifest", "create"])
async def test_a_create_ends_although_its_pull_is_cancelled(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, size: int, way: dict[str, str]
) -> None:
    hub.line = None
    ollama.hold_making = asyncio.Event()
    async with App(settings(hub.endpoint, ollama.url, ollama=way)) as app:
        client = Client(app.address.url, session)
        pulling = asyncio.create_task(client.pull(NAME))
        await wait_for_pull(client, state="creating")
        path = "/api/create" if way else "/api/pull"
        await eventually(lambda: making(one for one in ollama.requests if one.path == path))
        assert (await cancel(client, "1", json={}))[0] == 200
        error = (await pulling)[-1]["error"]
        still = await wait_for_pull(client, error=error)
        assert (still["state"], still["ended"]) == ("creating", None)
        ollama.hold_making.set()
        await wait_for_pull(client, state="failed", error=error)
    assert NAME in ollama.models
    assert ollama.abandoned_creates == 0


@pytest.mark.parametrize("number", ["2", "0", "", "x", "1/1"])
async def test_an_unknown_pull_cannot_be_cancelled(client: Client, hub: StandInHub, size: int, number: str) -> None:
    pulling = asyncio.create_task(client.pull(NAME))
    await wait_for_bytes(client)
    status, answer = await cancel(client, number, json={})
    assert (status, list(answer)) == (404, ["error"])
    hub.line = None
    assert (await pulling)[-1] == SUCCESS


@pytest.mark.parametrize(
    ("headers", "refusal"),
    [
        ({}, 415),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/json", "Origin": "https://evil.example"}, 403),
    ],
)
async def test_another_sites_page_cancels_nothing(
    client: Client, hub: StandInHub, size: int, headers: dict[str, str], refusal: int
) -> None:
    pulling = asyncio.create_task(client.pull(NAME))
    await wait_for_bytes(client)
    status, answer = await cancel(client, "1", headers=headers)
    assert (status, list(answer)) == (refusal, ["error"])
    hub.line = None
    assert (await pulling)[-1] == SUCCESS


async def test_a_page_of_the_proxy_itself_may_cancel(client: Client, size: int) -> None:
    pulling = asyncio.create_task(client.pull(NAME))
    await wait_for_bytes(client)
    assert (await cancel(client, "1", json={}, headers={"Origin": client.url}))[0] == 200
    assert "was cancelled" in (await pulling)[-1]["error"]


async def test_an_ended_pull_cannot_be_cancelled(client: Client, hub: StandInHub, size: int) -> None:
    hub.line = None
    assert (await client.pull(NAME))[-1] == SUCCESS
    before = await wait_for_pull(client, clients=0)
    assert await cancel(client, "1", json={}) == (200, before)
    assert await pulls(client) == [before]
