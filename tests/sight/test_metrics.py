"""`/-/metrics`, and the number of a pull in the log."""

import asyncio
import itertools
import signal
from datetime import UTC, datetime
from types import SimpleNamespace

import aiohttp
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.app import App
from proxy.ollama.blobs import PROBE
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from proxy.store.reclaim import CONFIG_CONTENT
from tests.kit.forked import serving_forked
from tests.kit.sight import NAME, SUCCESS, cancel, moment, pulls, wait_for_bytes
from tests.kit.support import PATIENCE, Client, eventually, fetched, settings

PREFIX = "ollama_hf_proxy_"


async def metrics(client: Client) -> dict[tuple[str, ...], float]:
    """By name and label values, without buckets."""
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
    await wait_for_bytes(client)
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
        f"{PREFIX}spool_bytes": "gauge",
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
    # A clock that advances by a second at each call: at the begin and at the end of each request.
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
        values = await metrics(client)
    pieces = [request for request in hub.requests if request.origin == "cdn" or "/resolve-cache/" in request.path]
    received = sum(request.body_bytes for request in pieces)
    # The probe and the config of its removal are not counted.
    sent = sum(request.received for request in ollama.requests) - len(PROBE) - len(CONFIG_CONTENT)
    weights = sum(len(content) for path, content in files.items() if path.endswith(".safetensors"))
    assert weights < values["source_received_bytes_total",] <= received
    assert values["source_received_bytes_total",] == pytest.approx(received, abs=2 * 64 * 1024)
    assert values["ollama_uploaded_bytes_total",] == sent > weights
    assert values["reclaimed_bytes_total",] == len(PROBE)
    assert sum(ollama.blobs.values()) == sent
    assert values["pull_retries_total",] == 2


async def test_received_bytes_are_exact_without_faults(
    client: Client, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    hub.line = None
    assert (await client.pull(NAME))[-1] == SUCCESS
    values = await metrics(client)
    pieces = [request for request in hub.requests if request.origin == "cdn" or "/resolve-cache/" in request.path]
    assert values["source_received_bytes_total",] == sum(request.body_bytes for request in pieces) > size
    sent = sum(request.received for request in ollama.requests) - len(PROBE)
    assert values["ollama_uploaded_bytes_total",] == sent > size
    assert values["pull_retries_total",] == values["reclaimed_bytes_total",] == 0
    assert (await client.pull(NAME))[-1] == SUCCESS
    again = await metrics(client)
    assert again["ollama_uploaded_bytes_total",] == values["ollama_uploaded_bytes_total",]


async def test_ended_pulls_count_by_result_running_by_state(client: Client, hub: StandInHub, size: int) -> None:
    hub.add("acme/other", tiny_llama(seed=1))
    pulling = [asyncio.create_task(client.pull(NAME))]
    await wait_for_bytes(client)
    pulling.append(asyncio.create_task(client.pull("hf.co/acme/other")))
    await eventually(lambda: len({request.path.split("/")[3] for request in fetched(hub)}) == 2)
    values = await metrics(client)
    assert values["pulls_running", "transferring"] == 2
    assert not [key for key in values if key[0] == "pulls_total"]
    [first] = [pull for pull in await pulls(client) if pull["id"] == "1"]
    lasted = (datetime.now(UTC) - moment(first["started"])).total_seconds()
    await cancel(client, "1", json={})
    hub.line = None
    assert "error" in (await pulling[0])[-1]
    assert (await pulling[1])[-1] == SUCCESS
    await client.pull("hf.co/acme/none")
    await client.pull("hf.co/acme/other")
    values = await metrics(client)
    ended = {"cancelled": 1, "done": 2, "failed": 1}
    assert {key[1]: value for key, value in values.items() if key[0] == "pulls_total"} == ended
    assert {key[1]: value for key, value in values.items() if key[0] == "pull_duration_seconds_count"} == ended
    # Their order of duration depends on the machine.
    assert values["pull_duration_seconds_sum", "cancelled"] >= lasted > 0
    assert values["pull_duration_seconds_sum", "done"] > 0
    assert values["pull_duration_seconds_sum", "failed"] > 0
    assert not [key for key in values if key[0] == "pulls_running"]


async def test_ollamas_own_pull_counts_as_a_request_only(
    client: Client, hub: StandInHub, ollama: StandInOllama, public_hub: None
) -> None:
    hub.add("acme/tiny-gguf", {"tiny.Q4_K_M.gguf": b"GGUF", "README.md": b""})
    ollama.native["hf.co/acme/tiny-gguf:Q4_K_M"] = 4
    assert (await client.pull("hf.co/acme/tiny-gguf:Q4_K_M"))[-1] == SUCCESS
    values = await metrics(client)
    assert values["requests_total", "pull", "200"] == 1
    assert not [key for key in values if key[0].startswith("pulls")]
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
    async with serving_forked(*arguments) as (process, url):
        client = Client(url.rstrip('"}'), session)
        assert (await client.pull("hf.co/acme/tiny:q8_0"))[-1] == SUCCESS
        both = await asyncio.gather(client.pull("hf.co/acme/other:f16"), client.pull("hf.co/acme/none"))
        assert [list(answers[-1]) for answers in both] == [["status"], ["error"]]
        assert (await client.get("/unknown"))[0] == 404
        process.send_signal(signal.SIGTERM)
        text = (await asyncio.wait_for(process.stderr.read(), PATIENCE)).decode()
    lines = [pull_of(line) if log_format == "text" else pull_in(line) for line in text.splitlines()]
    about = {"acme/tiny": "1", "acme/other": "2", "acme/none": "3"}
    for message, number in lines:
        assert all(number == expected for name, expected in about.items() if name in message), message
    # The probe, which the second pull does not need. If the first pull takes long, a sweep removes it earlier.
    assert [number for message, number in lines if message.startswith("removed ")] in (["1"], [None])
    of_none = [message.partition(" ")[0] for message, number in lines if number is None]
    assert [word for word in of_none if word != "removed"] == ["quantizing", "shutting"]
    states = ["planning", "waiting", "transferring", "creating", "reclaiming", "done"]
    of_first = [message.partition(" ")[0] for message, _ in lines if message.endswith(" hf.co/acme/tiny:q8_0")]
    assert of_first == states
    assert len([message for message, _ in lines if "acme/tiny/" in message and "; try 2 of 10" in message]) == 2


def pull_of(line: str) -> tuple[str, str | None]:
    """Message and pull number of a text line: date, time, level, the pull if any, message."""
    _, _, level, rest = line.split(" ", 3)
    assert level in ("INFO", "WARNING"), line
    if not rest.startswith("pull "):
        return rest, None
    number, _, message = rest.removeprefix("pull ").partition(": ")
    return message, number


def pull_in(line: str) -> tuple[str, str | None]:
    """Message and pull number of a JSON line."""
    fields = orjson.loads(line)
    assert {"time", "level", "logger", "message"} <= fields.keys() <= {"time", "level", "logger", "message", "pull"}
    assert moment_with_zone(fields["time"])
    assert fields["level"] in ("info", "warning")
    return fields["message"], fields.get("pull")


def moment_with_zone(text: str) -> bool:
    return datetime.fromisoformat(text).tzinfo is not None
