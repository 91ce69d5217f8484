"""A source that throttles, fails or is silent while a repository is opened: the pull waits, and shows that it waits."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.sources import huggingface, modelscope
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from proxy.transfer import retry
from proxy.transfer.progress import NOTHING_DIGEST
from tests.kit.forked import run_forked
from tests.kit.mirrors import another_hub
from tests.kit.pauses import use_timings
from tests.kit.sight import pulls
from tests.kit.stand_in_modelscope import StandInModelScope
from tests.kit.support import PATIENCE, Client, settings
from tests.kit.tiny_adapter import tiny_adapter
from tests.kit.tiny_gguf import tiny_gguf

NAME = "hf.co/acme/tiny:q4_K_M"
FILES = tiny_llama(shards=2)
SUCCESS = {"status": "success"}
TOKEN = "hf_mine"
THROTTLES: list[tuple[int, Mapping[str, str]]] = [
    (429, {"Retry-After": "0"}),
    (429, {"RateLimit": '"api";r=0;t=0', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}),
    (429, {}),
    (503, {"Retry-After": "0"}),
]
FAILURES: list[tuple[int, Mapping[str, str]]] = [(status, {}) for status in (408, 500, 502, 503, 504, 520)]
CALLS = ["api:info", "api:auth-check", "api:tree", "resolve"]
Lines = list[dict[str, Any]]


@pytest.fixture
async def app(hub: StandInHub, ollama: StandInOllama) -> Any:
    hub.token = TOKEN
    async with App(settings(hub.endpoint, ollama.url, hub={"token": TOKEN})) as app:
        yield app


def waits(lines: Lines) -> list[str]:
    return [line["status"] for line in lines if line.get("status", "").startswith("waiting ")]


def use_calls(hub: StandInHub, call: str) -> None:
    """Make the opening of the repository depend on this call."""
    hub.add("acme/tiny", FILES, gated=call == "api:auth-check")
    hub.listing = "names" if call == "resolve" else "full"
    hub.listed = 0 if call == "api:tree" else None
    hub.trees = call != "resolve"


def fault(call: str, status: int = 503, headers: Mapping[str, str] | None = None, times: int = 1) -> Fault:
    if call == "resolve":
        return Fault("config.json", "status", status=status, headers=headers or {}, at="resolve", times=times)
    return Fault(call, "status", status=status, headers=headers or {}, times=times)


async def retries(client: Client) -> int:
    [pull] = await pulls(client)
    return int(pull["retries"])


@pytest.mark.parametrize(
    ("call", "status", "headers"),
    [
        *((CALLS[0], *answer) for answer in (*THROTTLES, *FAILURES)),
        *((call, *answer) for call in CALLS[1:] for answer in (THROTTLES[0], THROTTLES[2], FAILURES[2])),
    ],
)
async def test_each_call_is_waited_for(
    app: App, client: Client, hub: StandInHub, call: str, status: int, headers: Mapping[str, str]
) -> None:
    use_calls(hub, call)
    hub.faults.append(fault(call, status, headers))
    limit = app.backend.streams.limit
    lines = await client.pull(NAME)
    assert lines[-1] == SUCCESS
    assert lines[0] == {"status": "pulling manifest"}
    assert [line for line in lines if "status" in line].count(lines[0]) == 1
    [wait] = waits(lines)
    assert re.match(rf"waiting [01] s: .*acme/tiny.*: .* answered {status} ", wait)
    assert await retries(client) == 1
    assert app.backend.streams.limit == limit


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_that_fails_for_ever_ends_the_pull(client: Client, hub: StandInHub, call: str) -> None:
    use_calls(hub, call)
    hub.faults.append(fault(call, 503, times=-1))
    error = (await client.pull(NAME))[-1]["error"]
    assert "answered 503 Service Unavailable" in error
    assert f"given up after {retry.MAX_TRIES} tries; pull again" in error
    assert await retries(client) == retry.MAX_TRIES


@pytest.mark.parametrize("call", CALLS)
async def test_a_wait_that_is_too_long_ends_the_pull_at_once(client: Client, hub: StandInHub, call: str) -> None:
    use_calls(hub, call)
    hub.faults.append(fault(call, 429, {"Retry-After": "3601"}))
    lines = await client.pull(NAME)
    assert "answered 429 Too Many Requests and asks to wait 3601 s; pull again then" in lines[-1]["error"]
    assert not waits(lines)


@pytest.mark.parametrize(("seconds", "headers"), [(1, {"Retry-After": "1"}), (1, {"RateLimit": '"api";r=0;t=1'})])
async def test_a_wait_is_as_long_as_requested_and_never_silent(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
    headers: Mapping[str, str],
) -> None:
    use_timings(monkeypatch, keep_alive=0.1)
    use_calls(hub, "api:info")
    hub.faults.append(fault("api:info", 429, headers))
    async with App(settings(hub.endpoint, ollama.url)) as app:
        began = asyncio.get_running_loop().time()
        lines = await Client(app.address.url, session).pull(NAME)
    assert asyncio.get_running_loop().time() - began >= seconds
    assert lines[-1] == SUCCESS
    place = lines.index({"status": waits(lines)[0]})
    assert waits(lines) == [f"waiting {seconds} s: acme/tiny at {hub.endpoint}: it answered 429 Too Many Requests"]
    signs_of_life = [line for line in lines[place:] if line.get("digest") == NOTHING_DIGEST]
    assert len(signs_of_life) >= 3


async def test_the_state_of_the_rate_limit_is_no_wait_while_requests_remain(client: Client, hub: StandInHub) -> None:
    """The Hub sends the header with each answer."""
    use_calls(hub, "api:info")
    hub.faults.append(fault("api:info", 503, {"RateLimit": '"api";r=499;t=290'}))
    lines = await client.pull(NAME)
    assert lines[-1] == SUCCESS
    assert waits(lines)[0].startswith("waiting 1 s: ")


@pytest.mark.parametrize("call", ["api:info", "api:auth-check", "api:tree", "resolve"])
async def test_a_silent_source_is_asked_again(
    client: Client, hub: StandInHub, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(huggingface, "METADATA_SECONDS", 1)
    use_calls(hub, call)
    hub.faults.append(Fault("config.json", "hang", at="resolve") if call == "resolve" else Fault(call, "hang"))
    lines = await client.pull(NAME)
    assert lines[-1] == SUCCESS
    assert re.search(r"did not answer within 1 s|the connection failed \(timed out\)", waits(lines)[0])


@pytest.mark.parametrize("call", CALLS)
async def test_a_broken_connection_is_made_again(client: Client, hub: StandInHub, call: str) -> None:
    use_calls(hub, call)
    broken = Fault("config.json", "drop", at="resolve", times=2) if call == "resolve" else Fault(call, "drop", times=2)
    hub.faults.append(broken)
    assert (await client.pull(NAME))[-1] == SUCCESS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": 404}, "there is no repository"),
        ({"status": 403}, "may not be read"),
        ({"status": 401}, "token"),
        ({"gated": True}, "is gated"),
        ({"disabled": True}, "has been disabled"),
        ({"missing": True}, "there is no repository"),
        ({"revision": True}, "has no revision"),
    ],
    ids=str,
)
async def test_what_is_final_is_refused_at_once(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    change: dict[str, Any],
    message: str,
) -> None:
    hub.token = "hf_other"
    if "missing" not in change:
        hub.add("acme/tiny", FILES, gated="gated" in change, disabled="disabled" in change)
    if "status" in change:
        hub.faults.append(fault("api:info", change["status"], times=-1))
    models = {"hf.co/acme/tiny": {"revision": "nowhere"}} if "revision" in change else {}
    async with App(settings(hub.endpoint, ollama.url, hub={"token": TOKEN}, models=models)) as app:
        client = Client(app.address.url, session)
        lines = await client.pull("hf.co/acme/tiny")
        assert message in lines[-1]["error"]
        assert len(lines) == 1
        assert await retries(client) == 0


async def test_a_hub_that_cannot_be_reached_is_reported_at_once(
    ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    async with App(settings("http://127.0.0.1:1", ollama.url)) as app:
        lines = await Client(app.address.url, session).pull(NAME)
    [line] = lines
    assert "http://127.0.0.1:1 cannot be reached" in line["error"]


@pytest.mark.usefixtures("public_hub")
@pytest.mark.parametrize("stream", [True, False])
async def test_after_a_wait_the_proxy_shows_ollamas_own_pull(
    client: Client, hub: StandInHub, ollama: StandInOllama, stream: bool
) -> None:
    """Ollama itself cannot answer a request that has got its first line."""
    hub.add("acme/tiny-gguf", {"tiny-Q4_K_M.gguf": tiny_gguf()})
    name = "hf.co/acme/tiny-gguf:Q4_K_M"
    ollama.native[name] = 1000
    hub.faults.append(fault("api:info", 503))
    if not stream:
        assert await client.pull_at_once(name) == (200, SUCCESS)
    else:
        lines = await client.pull(name)
        assert lines[0] == {"status": "pulling manifest"}
        assert len(waits(lines)) == 1
        assert [line for line in lines if line == SUCCESS] == lines[-1:]
    assert name in ollama.models


async def test_a_mirror_is_asked_before_the_pull_waits(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    use_calls(hub, "api:info")
    hub.faults.append(fault("api:info", 429, {"Retry-After": "3601"}, times=-1))
    async with another_hub() as mirror:
        mirror.add("acme/tiny", FILES)
        table = {"mirrors": [mirror.endpoint]}
        async with App(settings(hub.endpoint, ollama.url, hub=table)) as app:
            lines = await Client(app.address.url, session).pull(NAME)
    assert lines[-1] == SUCCESS
    assert not waits(lines)


async def test_the_shortest_wait_of_all_endpoints_counts(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    use_calls(hub, "api:info")
    hub.faults.append(fault("api:info", 429, {"Retry-After": "600"}, times=1))
    async with another_hub() as mirror:
        mirror.add("acme/tiny", FILES)
        mirror.faults.append(fault("api:info", 429, {"Retry-After": "0"}))
        async with App(settings(hub.endpoint, ollama.url, hub={"mirrors": [mirror.endpoint]})) as app:
            lines = await Client(app.address.url, session).pull(NAME)
    assert lines[-1] == SUCCESS
    [wait] = waits(lines)
    assert wait.startswith("waiting 0 s: ")
    assert hub.endpoint in wait
    assert mirror.endpoint in wait


async def test_the_base_of_an_adapter_is_waited_for(client: Client, hub: StandInHub) -> None:
    hub.add("acme/tiny", tiny_llama())
    hub.add("acme/adapter", tiny_adapter("acme/tiny"))
    hub.faults += [fault("api:info", 503), Fault("api:tree", "status", status=429, times=1)]
    lines = await client.pull("hf.co/acme/adapter:q4_K_M")
    assert lines[-1] == SUCCESS
    assert [line for line in lines if line.get("status") == "pulling manifest"] == lines[:1]


@pytest.mark.parametrize("kind", ["status", "drop", "hang"])
async def test_modelscope_is_waited_for(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    kind: Any,
) -> None:
    monkeypatch.setattr(modelscope, "LIST_SECONDS", 1)
    async with StandInModelScope() as scope:
        scope.add("acme/tiny", FILES)
        scope.faults.append(Fault("api", kind, status=502, times=2))
        tables = {"modelscope": {"endpoint": scope.endpoint}}
        async with App(settings(hub.endpoint, ollama.url, sources=tables)) as app:
            lines = await Client(app.address.url, session).pull("modelscope.cn/acme/tiny")
    assert lines[-1] == SUCCESS
    reason = {"status": "it answered 502 Bad Gateway", "drop": "the connection failed", "hang": "did not answer within"}
    assert reason[kind] in waits(lines)[0]


async def test_inspect_waits_and_says_so_on_stderr(hub: StandInHub, ollama: StandInOllama) -> None:
    use_calls(hub, "api:info")
    hub.faults.append(fault("api:info", 429, {"Retry-After": "0"}))
    arguments = ("inspect", NAME, "--json", "--hub", hub.endpoint, "--ollama", ollama.url)
    async with asyncio.timeout(PATIENCE):
        status, out, err = await run_forked(*arguments)
    assert status == 0, err
    assert '"refusal": null' in out
    assert "it answered 429 Too Many Requests; try 2 of 10 in " in err


async def test_the_question_for_a_newer_commit_does_not_wait(client: Client, hub: StandInHub) -> None:
    use_calls(hub, "api:info")
    assert (await client.pull(NAME))[-1] == SUCCESS
    hub.faults.append(fault("api:info", 503, times=-1))
    before = len(hub.requests)
    status, body = await client.get("/-/models")
    [model] = orjson.loads(body)
    assert (status, model["changed"]) == (200, None)
    assert len(hub.requests) == before + 1


async def test_a_throttle_of_the_second_question_is_no_refusal(client: Client, hub: StandInHub) -> None:
    """A mirror like olah is asked again with a branch if it does not find a repository."""
    use_calls(hub, "api:info")
    hub.faults += [fault("api:info", 404), fault("api:info", 429, {"Retry-After": "0"})]
    lines = await client.pull(NAME)
    assert lines[-1] == SUCCESS
    assert len(waits(lines)) == 1
