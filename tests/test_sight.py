"""What an operator sees of the pulls: `/-/pulls`, `/-/metrics`, and the log."""

import asyncio
import itertools
import signal
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import aiohttp
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.app import App
from proxy.ollama.client import PROBE
from proxy.standins import manifests
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.names import ModelName
from proxy.standins.ollama import StandInOllama
from proxy.standins.repository import tiny_llama
from proxy.store.reclaim import CONFIG_CONTENT
from proxy.transfer import retry, window
from tests.kit.support import PATIENCE, Client, eventually, fetched, making, serving, settings

NAME = "hf.co/acme/tiny:f16"
SUCCESS = {"status": "success"}
SLOW = 500_000
"""Bytes a second of `hub.line`: a tiny model is on its way for seven seconds, until the line is opened."""
FIELDS = {
    "id": str,
    "name": str,
    "state": str,
    "total": int,
    "completed": int,
    "rate": int,
    "eta": int | None,
    "clients": int,
    "retries": int,
    "error": str | None,
    "started": str,
    "ended": str | None,
}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(window, "BATCH_SECONDS", 0.01)


@pytest.fixture
def size(hub: StandInHub) -> int:
    """Of the weights of a model that is on its way until `hub.line` is None."""
    files = tiny_llama()
    hub.add("acme/tiny", files)
    hub.line = SLOW
    return len(files["model.safetensors"])


async def pulls(client: Client) -> list[dict[str, Any]]:
    status, body = await client.get("/-/pulls")
    assert status == 200
    shown: list[dict[str, Any]] = orjson.loads(body)
    for pull in shown:
        assert list(pull) == list(FIELDS)
        assert all(isinstance(pull[field], kind) for field, kind in FIELDS.items())
    return shown


async def seen(client: Client, **fields: Any) -> dict[str, Any]:
    """The newest pull, once these fields of it are so."""
    async with asyncio.timeout(PATIENCE):
        while True:
            shown = await pulls(client)
            if shown and all(shown[0][field] == value for field, value in fields.items()):
                return shown[0]
            await asyncio.sleep(0.01)


async def moving(client: Client, least: int = 1) -> dict[str, Any]:
    """The newest pull, once so many of its bytes have reached Ollama."""
    async with asyncio.timeout(PATIENCE):
        while not (shown := await pulls(client)) or shown[0]["completed"] < least:
            await asyncio.sleep(0.01)
    assert shown[0]["state"] == "transferring"
    return shown[0]


def moment(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    assert time.utcoffset() == timedelta(0)
    return time


# GET /-/pulls


async def test_there_are_no_pulls_before_the_first(client: Client) -> None:
    assert await client.get("/-/pulls") == (200, b"[]")


async def test_a_running_pull_shows_its_progress_and_time_left(client: Client, hub: StandInHub, size: int) -> None:
    began = datetime.now(UTC)
    first = asyncio.create_task(client.pull(NAME))
    await moving(client)
    second = asyncio.create_task(client.pull_at_once(NAME))
    await seen(client, clients=2)
    pull = await moving(client, 2 * SLOW)
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
    done = await seen(client, state="done", clients=0)
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
    # Nothing is swept in between: the next pull would wait for that, and it is held.
    monkeypatch.setattr("proxy.store.reclaim.FIRST_SWEEP_SECONDS", 1000.0)
    ollama.hold_making = create = asyncio.Event()
    config = settings(hub.endpoint, ollama.url, pull={"jobs": 1}, ollama={"reclaim": True})
    async with App(config) as app:
        client = Client(app.address.url, session)
        before = asyncio.create_task(client.pull("hf.co/acme/other"))
        await moving(client)
        hub.faults.append(Fault("config.json", "slow", rate=600))
        pulling = asyncio.create_task(client.pull(NAME))

        async def reaches(state: str) -> None:
            pull = await seen(client, name=NAME, state=state)
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
    await moving(client, 4 * SLOW)
    second = asyncio.create_task(client.pull(NAME.replace("hf.co", "huggingface.co")))
    await seen(client, id="2", state="transferring")
    pull = await moving(client)
    assert pull["id"] == "2"
    assert pull["rate"] < 2 * SLOW
    hub.line = None
    assert [(await first)[-1], (await second)[-1]] == [SUCCESS, SUCCESS]


async def test_retries_are_counted(client: Client, hub: StandInHub, size: int) -> None:
    hub.line = None
    hub.faults.append(Fault("model.safetensors", "drop", after=500_000, times=3))
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert (await seen(client, state="done"))["retries"] == 3


async def test_clients_are_counted_as_they_come_and_go(client: Client, hub: StandInHub, size: int) -> None:
    visits = [asyncio.create_task(client.pull(NAME)) for _ in range(3)]
    await seen(client, clients=3)
    visits[0].cancel()
    await seen(client, clients=2)
    hub.line = None
    assert (await visits[1])[-1] == SUCCESS
    assert (await seen(client, clients=0))["state"] == "done"


# DELETE /-/pulls/ID


async def cancel(client: Client, number: str, **options: Any) -> tuple[int, Any]:
    async with client.session.delete(f"{client.url}/-/pulls/{number}", **options) as response:
        return response.status, orjson.loads(await response.read())


async def test_a_cancelled_pull_ends_its_streams(
    client: Client, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    streaming = asyncio.create_task(client.pull(NAME))
    await moving(client)
    waiting = asyncio.create_task(client.pull_at_once(NAME))
    await seen(client, clients=2)
    status, answer = await cancel(client, "1", json={})
    assert (status, answer["id"], answer["name"]) == (200, "1", NAME)
    error = f"the pull of {NAME} was cancelled; finished files stay for the next pull"
    assert (await streaming)[-1] == {"error": error}
    assert await waiting == (500, {"error": error})
    ended = await seen(client, state="failed", error=error, clients=0)
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
        await seen(client, state="creating")
        path = "/api/create" if way else "/api/pull"
        await eventually(lambda: making(one for one in ollama.requests if one.path == path))
        assert (await cancel(client, "1", json={}))[0] == 200
        error = (await pulling)[-1]["error"]
        still = await seen(client, error=error)
        assert (still["state"], still["ended"]) == ("creating", None)
        ollama.hold_making.set()
        await seen(client, state="failed", error=error)
    assert NAME in ollama.models
    assert ollama.abandoned_creates == 0


@pytest.mark.parametrize("number", ["2", "0", "", "x", "1/1"])
async def test_an_unknown_pull_cannot_be_cancelled(client: Client, hub: StandInHub, size: int, number: str) -> None:
    pulling = asyncio.create_task(client.pull(NAME))
    await moving(client)
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
    await moving(client)
    status, answer = await cancel(client, "1", headers=headers)
    assert (status, list(answer)) == (refusal, ["error"])
    hub.line = None
    assert (await pulling)[-1] == SUCCESS


async def test_a_page_of_the_proxy_itself_may_cancel(client: Client, size: int) -> None:
    pulling = asyncio.create_task(client.pull(NAME))
    await moving(client)
    assert (await cancel(client, "1", json={}, headers={"Origin": client.url}))[0] == 200
    assert "was cancelled" in (await pulling)[-1]["error"]


async def test_an_ended_pull_cannot_be_cancelled(client: Client, hub: StandInHub, size: int) -> None:
    hub.line = None
    assert (await client.pull(NAME))[-1] == SUCCESS
    before = await seen(client, clients=0)
    assert await cancel(client, "1", json={}) == (200, before)
    assert await pulls(client) == [before]


# GET /-/metrics

PREFIX = "ollama_hf_proxy_"


async def metrics(client: Client) -> dict[tuple[str, ...], float]:
    """By name and label values; buckets left out."""
    async with client.session.get(f"{client.url}/-/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = (await response.read()).decode()
    return {
        (sample.name.removeprefix(PREFIX), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


async def test_metrics_keep_their_names_types_and_labels(client: Client, hub: StandInHub, size: int) -> None:
    """Dashboards depend on them."""
    pulling = asyncio.create_task(client.pull(NAME))
    await moving(client)
    text = (await client.get("/-/metrics"))[1].decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {name: family.type for name, family in families.items() if not name.endswith("_created")} == {
        f"{PREFIX}requests": "counter",
        f"{PREFIX}request_duration_seconds": "histogram",
        f"{PREFIX}source_received_bytes": "counter",
        f"{PREFIX}ollama_uploaded_bytes": "counter",
        f"{PREFIX}reclaimed_bytes": "counter",
        f"{PREFIX}pull_retries": "counter",
        f"{PREFIX}pulls": "counter",
        f"{PREFIX}pull_duration_seconds": "histogram",
        f"{PREFIX}pulls_running": "gauge",
    }
    assert all(family.documentation for family in families.values())
    [running] = families[f"{PREFIX}pulls_running"].samples
    assert (running.labels, running.value) == ({"state": "transferring"}, 1)
    requests = families[f"{PREFIX}requests"].samples
    assert {tuple(sample.labels) for sample in requests if sample.name.endswith("_total")} == {("door", "status")}
    hub.line = None
    assert (await pulling)[-1] == SUCCESS


async def test_requests_are_counted_by_door_and_status(
    client: Client, hub: StandInHub, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.line = None
    # A clock that goes on by a second whenever one looks at it: when each request begins, and when it ends.
    clock = SimpleNamespace(monotonic=itertools.count().__next__)
    monkeypatch.setattr("proxy.app.time", clock)
    monkeypatch.setattr("proxy.metrics.time", clock)
    await client.pull(NAME)
    await client.pull_at_once("hf.co/acme/none")
    for path in ("/api/tags", "/api/version", "/unknown", "/-/health", "/-/none"):
        await client.get(path)
    before = await metrics(client)
    counted = {key[1:]: value for key, value in before.items() if key[0] == "requests_total" and value}
    assert counted == {
        ("pull", "200"): 1,
        ("pull", "500"): 1,
        ("forward", "200"): 2,
        ("forward", "404"): 1,
        ("admin", "200"): 1,
        ("admin", "404"): 1,
    }
    after = await metrics(client)
    assert after["requests_total", "admin", "200"] == 2
    for value in ("count", "sum"):
        assert {door: after[f"request_duration_seconds_{value}", door] for door in ("pull", "forward", "admin")} == {
            "pull": 2,
            "forward": 3,
            "admin": 3,
        }


async def test_the_bytes_of_the_metrics_are_those_that_moved(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    files = tiny_llama(shards=2)
    hub.add("acme/tiny", files)
    hub.faults.append(Fault("model-00002-of-00002.safetensors", "drop", after=400_000, times=2))
    async with App(settings(hub.endpoint, ollama.url, ollama={"reclaim": True})) as app:
        client = Client(app.address.url, session)
        assert (await client.pull(NAME))[-1] == SUCCESS
        found = await metrics(client)
    pieces = [request for request in hub.requests if request.origin == "cdn" or "/resolve-cache/" in request.path]
    came = sum(request.body_bytes for request in pieces)
    # The probe is not counted where it is sent, nor the config that removes it.
    sent = sum(request.received for request in ollama.requests) - len(PROBE) - len(CONFIG_CONTENT)
    weights = sum(len(content) for path, content in files.items() if path.endswith(".safetensors"))
    assert weights < found["source_received_bytes_total",] <= came
    assert found["source_received_bytes_total",] == pytest.approx(came, abs=2 * 64 * 1024)
    assert found["ollama_uploaded_bytes_total",] == sent > weights
    assert found["reclaimed_bytes_total",] == len(PROBE)
    assert sum(ollama.blobs.values()) == sent
    assert found["pull_retries_total",] == 2


async def test_received_bytes_are_exact_without_faults(
    client: Client, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    hub.line = None
    assert (await client.pull(NAME))[-1] == SUCCESS
    found = await metrics(client)
    pieces = [request for request in hub.requests if request.origin == "cdn" or "/resolve-cache/" in request.path]
    assert found["source_received_bytes_total",] == sum(request.body_bytes for request in pieces) > size
    sent = sum(request.received for request in ollama.requests) - len(PROBE)
    assert found["ollama_uploaded_bytes_total",] == sent > size
    assert found["pull_retries_total",] == found["reclaimed_bytes_total",] == 0
    assert (await client.pull(NAME))[-1] == SUCCESS
    again = await metrics(client)
    assert again["ollama_uploaded_bytes_total",] == found["ollama_uploaded_bytes_total",]


async def test_ended_pulls_count_by_result_running_by_state(client: Client, hub: StandInHub, size: int) -> None:
    hub.add("acme/other", tiny_llama(seed=1))
    pulling = [asyncio.create_task(client.pull(NAME))]
    await moving(client)
    pulling.append(asyncio.create_task(client.pull("hf.co/acme/other")))
    await eventually(lambda: len({request.path.split("/")[3] for request in fetched(hub)}) == 2)
    found = await metrics(client)
    assert found["pulls_running", "transferring"] == 2
    assert not [key for key in found if key[0] == "pulls_total"]
    [first] = [pull for pull in await pulls(client) if pull["id"] == "1"]
    lasted = (datetime.now(UTC) - moment(first["started"])).total_seconds()
    await cancel(client, "1", json={})
    hub.line = None
    assert "error" in (await pulling[0])[-1]
    assert (await pulling[1])[-1] == SUCCESS
    await client.pull("hf.co/acme/none")
    await client.pull("hf.co/acme/other")
    found = await metrics(client)
    ended = {"cancelled": 1, "done": 2, "failed": 1}
    assert {key[1]: value for key, value in found.items() if key[0] == "pulls_total"} == ended
    assert {key[1]: value for key, value in found.items() if key[0] == "pull_duration_seconds_count"} == ended
    # Which of them took the longest is the machine's affair.
    assert found["pull_duration_seconds_sum", "cancelled"] >= lasted > 0
    assert found["pull_duration_seconds_sum", "done"] > 0
    assert found["pull_duration_seconds_sum", "failed"] > 0
    assert not [key for key in found if key[0] == "pulls_running"]


async def test_ollamas_own_pull_counts_as_a_request_only(
    client: Client, hub: StandInHub, ollama: StandInOllama, public_hub: None
) -> None:
    hub.add("acme/tiny-gguf", {"tiny.Q4_K_M.gguf": b"GGUF", "README.md": b""})
    ollama.native["hf.co/acme/tiny-gguf:Q4_K_M"] = 4
    assert (await client.pull("hf.co/acme/tiny-gguf:Q4_K_M"))[-1] == SUCCESS
    found = await metrics(client)
    assert found["requests_total", "pull", "200"] == 1
    assert not [key for key in found if key[0].startswith("pulls")]
    assert await pulls(client) == []


# Logs


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_log_lines_about_a_pull_have_its_number(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, size: int, log_format: str
) -> None:
    """No other line has one."""
    hub.add("acme/other", tiny_llama(seed=1))
    hub.line = None
    hub.faults.append(Fault("model.safetensors", "drop", after=500_000, times=1))
    hub.faults.append(Fault("tokenizer.json", "drop", after=500, times=1))
    arguments = ("--ollama", ollama.url, "--hub", hub.endpoint, "--log-format", log_format)
    async with serving(*arguments) as (process, url):
        client = Client(url.rstrip('"}'), session)
        assert (await client.pull("hf.co/acme/tiny:q8_0"))[-1] == SUCCESS
        both = await asyncio.gather(client.pull("hf.co/acme/other:f16"), client.pull("hf.co/acme/none"))
        assert [list(answers[-1]) for answers in both] == [["status"], ["error"]]
        assert (await client.get("/unknown"))[0] == 404
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        text = (await asyncio.wait_for(process.stderr.read(), PATIENCE)).decode()
    lines = [pull_of(line) if log_format == "text" else pull_in(line) for line in text.splitlines()]
    about = {"acme/tiny": "1", "acme/other": "2", "acme/none": "3"}
    for message, number in lines:
        assert all(number == expected for name, expected in about.items() if name in message), message
    # The probe, which the second pull needs no more; where the first takes long a sweep comes before it.
    assert [number for message, number in lines if message.startswith("removed ")] in (["1"], [None])
    of_none = [message.partition(" ")[0] for message, number in lines if number is None]
    assert [word for word in of_none if word != "removed"] == ["quantizes", "ending"]
    states = ["planning", "waiting", "transferring", "creating", "reclaiming", "done"]
    of_first = [message.partition(" ")[0] for message, _ in lines if message.endswith(" hf.co/acme/tiny:q8_0")]
    assert of_first == states
    assert len([message for message, _ in lines if "acme/tiny/" in message and "; try 2 of 10" in message]) == 2


def pull_of(line: str) -> tuple[str, str | None]:
    """Message and number of a line for people: date, time, level, the pull if any, the message."""
    _, _, level, rest = line.split(" ", 3)
    assert level in ("INFO", "WARNING"), line
    if not rest.startswith("pull "):
        return rest, None
    number, _, message = rest.removeprefix("pull ").partition(": ")
    return message, number


def pull_in(line: str) -> tuple[str, str | None]:
    """Message and number of a line for machines."""
    fields = orjson.loads(line)
    assert {"time", "level", "logger", "message"} <= fields.keys() <= {"time", "level", "logger", "message", "pull"}
    assert moment_with_zone(fields["time"])
    assert fields["level"] in ("info", "warning")
    return fields["message"], fields.get("pull")


def moment_with_zone(text: str) -> bool:
    return datetime.fromisoformat(text).tzinfo is not None
