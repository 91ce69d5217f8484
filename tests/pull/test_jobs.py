"""Pulls as jobs: who shares one, who may leave it, who waits for it, and how it ends before its time."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from proxy.app import FAREWELL_SECONDS, App
from proxy.pull.jobs import CREATE_SECONDS, Job
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.listener import LoggedRequest
from proxy.standins.ollama import StandInOllama
from proxy.standins.repository import tiny_llama
from proxy.store.reclaim import TEMPORARY
from proxy.transfer import window
from tests.kit.ollama_log import bodies, created, uploads
from tests.kit.support import MAKING, PATIENCE, Client, digest_of, eventually, fetched, making, settings
from tests.kit.tiny_gguf import tiny_gguf, tiny_projector

NAME = "hf.co/acme/tiny:q4_K_M"
SAME_NAME = "HF.co/Acme/TINY:Q4_k_m"
GGUF_NAME = "hf.co/acme/tiny:q8_0"
SUCCESS = {"status": "success"}
WEIGHTS = re.compile(r"\.(safetensors|gguf)(\?|$)")
LARGEST_SMALL_FILE = 10_000
SLOW = 200_000
"""Bytes a second of `hub.line`: a tiny model is on its way for a quarter of a minute, until the line is opened."""


class Attached:
    """A client in the midst of its pull; `lines` is what it has read."""

    def __init__(self, client: Client, name: str) -> None:
        self.lines: list[dict[str, Any]] = []
        self._task = asyncio.create_task(self._read(client, name))

    async def _read(self, client: Client, name: str) -> list[dict[str, Any]]:
        async with client.session.post(f"{client.url}/api/pull", json={"model": name}) as response:
            assert response.status == 200
            async for line in response.content:
                self.lines.append(orjson.loads(line))
        return self.lines

    @property
    def statuses(self) -> list[str]:
        """Of the lines without a digest."""
        return [line["status"] for line in self.lines if "status" in line and "digest" not in line]

    @property
    def waited(self) -> list[str]:
        return [status for status in self.statuses if status.startswith("waiting for ")]

    @property
    def completed(self) -> int:
        """The sum of the newest line of each bar."""
        return sum({line["digest"]: line.get("completed", 0) for line in self.lines if "digest" in line}.values())

    async def end(self) -> dict[str, Any]:
        """The last line."""
        async with asyncio.timeout(PATIENCE):
            return (await self._task)[-1]

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


WAYS = [pytest.param({}, id="manifest"), pytest.param({"advertise_url": "http://127.0.0.1:9"}, id="create")]
"""Settings: a model is made by a manifest that Ollama pulls, or by a create where it does not reach the proxy."""


@asynccontextmanager
async def proxying(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, /, **sections: dict[str, Any]
) -> AsyncIterator[tuple[App, Client]]:
    async with App(settings(hub.endpoint, ollama.url, **sections)) as app:
        yield app, Client(app.address.url, session)


def newest(app: App) -> Job:
    return app.jobs.all()[0]


def weights_fetched(hub: StandInHub, path: str = "") -> list[LoggedRequest]:
    return [request for request in fetched(hub, path) if WEIGHTS.search(request.path)]


def brought(hub: StandInHub, path: str = "") -> int:
    """Bytes of weights that left the Hub."""
    return sum(request.body_bytes for request in weights_fetched(hub, path))


def weights_of(files: dict[str, bytes]) -> dict[str, int]:
    """Digest → size."""
    return {digest_of(content): len(content) for path, content in files.items() if WEIGHTS.search(path)}


def weight_uploads(ollama: StandInOllama) -> list[str]:
    """Also those that did not end."""
    return uploads(ollama, least=LARGEST_SMALL_FILE)


def named(ollama: StandInOllama) -> list[str]:
    """The models that got their names, in that order."""
    creates = [body["model"] for body in created(ollama)]
    copies = [body["destination"] for body in bodies(ollama, "/api/copy")]
    return [name for name in (*creates, *copies) if not TEMPORARY.fullmatch(name)]


async def being_made(ollama: StandInOllama, way: dict[str, str]) -> None:
    """Wait until Ollama makes a model, in the way that these settings mean."""
    await eventually(lambda: created(ollama) if way else making(ollama.requests))


async def remove(client: Client, **body: str) -> tuple[int, bytes]:
    async with client.session.delete(f"{client.url}/api/delete", json=body) as response:
        return response.status, await response.read()


@pytest.fixture
def files(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A model that is on its way until `hub.line` is None; what comes of it goes on to Ollama soon."""
    monkeypatch.setattr(window, "BATCH_SECONDS", 0.01)
    files = tiny_llama()
    hub.add("acme/tiny", files)
    hub.line = SLOW
    return files


@pytest.fixture
def size(files: dict[str, bytes]) -> int:
    return len(files["model.safetensors"])


async def begun(app: App, client: Client, name: str = NAME) -> Attached:
    """A client of a pull of which some bytes have reached Ollama, and most have not."""
    attached = Attached(client, name)
    await eventually(lambda: attached.completed)
    assert newest(app).state == "transferring"
    return attached


# One job for all who want the same model


async def test_two_clients_of_one_name_share_one_job(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama
) -> None:
    """The names differ in case."""
    files = tiny_llama(shards=3)
    hub.add("acme/tiny", files)
    hub.line = SLOW
    first = await begun(app, client)
    seen = first.completed
    second = Attached(client, SAME_NAME)
    await eventually(lambda: len(second.lines) > 3)
    assert len(app.jobs.all()) == 1
    assert newest(app).clients == 2
    hub.line = None
    assert [await first.end(), await second.end()] == [SUCCESS, SUCCESS]
    assert named(ollama) == [NAME]
    assert brought(hub) == sum(weights_of(files).values())
    assert len(weight_uploads(ollama)) == 1
    assert second.lines[0] == {"status": "pulling manifest"}
    present = second.lines[1:4]
    assert {bar["digest"]: bar["total"] for bar in present} == weights_of(files)
    assert seen <= sum(bar.get("completed", 0) for bar in present) < sum(weights_of(files).values())
    assert second.statuses == first.statuses
    last = [{line["digest"]: line for line in one.lines if "digest" in line} for one in (first, second)]
    assert last[0] == last[1]


async def test_a_client_without_a_stream_joins_the_job(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    first = await begun(app, client)
    second = asyncio.create_task(client.pull_at_once(SAME_NAME))
    await eventually(lambda: newest(app).clients == 2)
    hub.line = None
    assert await second == (200, SUCCESS)
    assert await first.end() == SUCCESS
    assert named(ollama) == [NAME]
    assert brought(hub) == size


async def test_a_late_client_gets_earlier_and_later_lines(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    """It attaches while the model is made."""
    hub.line = None
    ollama.hold_making = asyncio.Event()
    first = Attached(client, NAME)
    await eventually(lambda: making(ollama.requests))
    second = Attached(client, NAME)
    await eventually(lambda: second.statuses == ["pulling manifest", "verifying sha256 digest"])
    assert second.completed == size
    ollama.hold_making.set()
    assert [await first.end(), await second.end()] == [SUCCESS, SUCCESS]
    assert named(ollama) == [NAME]


async def test_one_client_that_leaves_changes_nothing_for_others(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, size: int
) -> None:
    """Even with `pull.linger = 0`."""
    async with proxying(hub, ollama, session, pull={"linger": 0}) as (app, client):
        first = await begun(app, client)
        stays = [Attached(client, NAME), Attached(client, NAME)]
        await eventually(lambda: newest(app).clients == 3)
        await first.leave()
        await eventually(lambda: newest(app).clients == 2)
        reached = stays[0].completed
        await eventually(lambda: stays[0].completed > reached)
        ollama.hold_making = asyncio.Event()
        hub.line = None
        await eventually(lambda: making(ollama.requests))
        await stays.pop().leave()
        await eventually(lambda: newest(app).clients == 1)
        ollama.hold_making.set()
        assert await stays[0].end() == SUCCESS
        assert len(app.jobs.all()) == 1
    assert brought(hub) == size


async def test_a_new_client_joins_a_lingering_job(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    first = await begun(app, client)
    await first.leave()
    await eventually(lambda: newest(app).clients == 0)
    left_at = newest(app).progress.completed
    await eventually(lambda: newest(app).progress.completed > left_at)
    second = Attached(client, NAME)
    await eventually(lambda: second.completed > left_at)
    hub.line = None
    assert await second.end() == SUCCESS
    assert brought(hub) == size
    assert len(app.jobs.all()) == 1
    assert named(ollama) == [NAME]


async def test_a_lingering_job_makes_its_model(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    first = await begun(app, client)
    await first.leave()
    await eventually(lambda: newest(app).clients == 0)
    hub.line = None
    await eventually(lambda: newest(app).state == "done")
    assert NAME in ollama.models


@pytest.mark.parametrize("linger", [0, 0.3])
async def test_an_abandoned_job_keeps_its_finished_files(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, small_spans: int, linger: float
) -> None:
    """The job ends after `pull.linger`. The next pull moves only unfinished files."""
    files = {"model-Q8_0.gguf": tiny_gguf("Q8_0"), "mmproj-F16.gguf": tiny_projector(rows=4000)}
    hub.add("acme/tiny", files)
    last = "mmproj-F16.gguf"
    hub.faults.append(Fault(last, "hang", after=100_000))
    finished = set(weights_of(files)) - {digest_of(files[last])}
    async with proxying(hub, ollama, session, pull={"linger": linger}) as (app, client):
        first = Attached(client, GGUF_NAME)
        await eventually(lambda: finished <= ollama.blobs.keys() and brought(hub, last))
        await first.leave()
        await eventually(lambda: newest(app).ended is not None)
        [ended] = orjson.loads((await client.get("/-/pulls"))[1])
        assert ended["state"] == "failed"
        assert "its clients left" in ended["error"]
        assert not making(ollama.requests)
        hub.requests.clear()
        assert (await client.pull(GGUF_NAME))[-1] == SUCCESS
    assert all(last in request.path for request in weights_fetched(hub))
    assert brought(hub) == len(files[last])
    assert named(ollama) == [GGUF_NAME]


async def test_a_client_that_returns_in_time_keeps_the_job(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, size: int
) -> None:
    linger = 2.0
    async with proxying(hub, ollama, session, pull={"linger": linger}) as (app, client):
        first = await begun(app, client)
        await first.leave()
        await eventually(lambda: newest(app).clients == 0)
        second = Attached(client, NAME)
        await eventually(lambda: newest(app).clients == 1)
        await asyncio.sleep(linger + 0.2)
        hub.line = None
        assert await second.end() == SUCCESS
        assert len(app.jobs.all()) == 1
    assert brought(hub) == size


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reclaim", [False, True])
async def test_a_create_ends_although_all_clients_left(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    size: int,
    way: dict[str, str],
    reclaim: bool,
) -> None:
    """Even with `pull.linger = 0`."""
    hub.line = None
    ollama.hold_making = asyncio.Event()
    async with proxying(hub, ollama, session, pull={"linger": 0}, ollama={"reclaim": reclaim} | way) as (app, client):
        first = Attached(client, NAME)
        await being_made(ollama, way)
        await first.leave()
        await eventually(lambda: newest(app)._is_abandoned)
        ollama.hold_making.set()
        await eventually(lambda: newest(app).ended)
        assert (newest(app).state, newest(app).error) == ("done", None)
    assert list(ollama.models) == [NAME]
    assert bool(created(ollama)) == bool(way)
    assert ollama.abandoned_creates == 0


async def test_a_job_that_waits_for_a_create_can_be_abandoned(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, size: int
) -> None:
    """Its last client leaves while the create of another model runs."""
    hub.add("acme/other", tiny_llama(seed=1))
    hub.line = None
    ollama.hold_making = asyncio.Event()
    async with proxying(hub, ollama, session, pull={"linger": 0}) as (app, client):
        first = Attached(client, "hf.co/acme/other")
        await eventually(lambda: making(ollama.requests))
        second = Attached(client, NAME)
        await eventually(lambda: second.waited == ["waiting for another model to be made"])
        await second.leave()
        await eventually(lambda: newest(app).ended)
        assert newest(app).state == "failed"
        ollama.hold_making.set()
        assert await first.end() == SUCCESS
    assert list(ollama.models) == ["hf.co/acme/other:latest"]


# What different models share


@pytest.fixture
def gguf(hub: StandInHub, files: dict[str, bytes], small_spans: int) -> dict[str, bytes]:
    """What three repositories have alike."""
    gguf = {"model-Q8_0.gguf": tiny_gguf("Q8_0", blocks=45)}
    for name in ("acme/gguf", "acme/copy", "acme/third"):
        hub.add(name, gguf | {"README.md": name.encode()})
    return gguf


GGUFS = ("hf.co/acme/gguf:q8_0", "hf.co/acme/copy:q8_0")
"""Two repositories have the same file."""
SHARING = [GGUFS, ("hf.co/acme/tiny:q4_K_M", "huggingface.co/acme/tiny:q4_K_M")]
"""And one repository has two names, under which the same GGUF is made of it."""


@pytest.mark.parametrize("names", SHARING)
async def test_a_file_of_two_models_moves_once(
    client: Client,
    app: App,
    hub: StandInHub,
    ollama: StandInOllama,
    files: dict[str, bytes],
    gguf: dict[str, bytes],
    names: tuple[str, str],
) -> None:
    [(digest, size)] = weights_of(gguf if names is GGUFS else files).items()
    first = await begun(app, client, names[0])
    seen = first.completed
    second = await begun(app, client, names[1])
    assert len(app.jobs.all()) == 2
    hub.line = None
    assert [await first.end(), await second.end()] == [SUCCESS, SUCCESS]
    assert brought(hub) == size
    assert len(weight_uploads(ollama)) == 1
    assert sorted(ollama.models) == sorted(names)
    bars = [line.get("completed", 0) for line in second.lines if line.get("digest") == digest]
    assert next(filter(None, bars)) >= seen
    assert bars[-1] == size


@pytest.mark.parametrize("names", SHARING)
@pytest.mark.parametrize("cancelled", [0, 1])
async def test_a_shared_transfer_survives_one_cancelled_pull(
    client: Client,
    app: App,
    hub: StandInHub,
    ollama: StandInOllama,
    files: dict[str, bytes],
    gguf: dict[str, bytes],
    names: tuple[str, str],
    cancelled: int,
) -> None:
    both = [await begun(app, client, names[0]), await begun(app, client, names[1])]
    assert await remove(client, model=names[cancelled]) == (200, b"")
    assert set(await both[cancelled].end()) == {"error"}
    stays = both[1 - cancelled]
    reached = stays.completed
    await eventually(lambda: stays.completed > reached)
    hub.line = None
    assert await stays.end() == SUCCESS
    assert list(ollama.models) == [names[1 - cancelled]]
    assert brought(hub) == sum(weights_of(gguf if names is GGUFS else files).values())
    assert len(weight_uploads(ollama)) == 1


@pytest.mark.parametrize("names", SHARING)
async def test_a_transfer_that_all_pulls_left_begins_again(
    client: Client,
    app: App,
    hub: StandInHub,
    ollama: StandInOllama,
    files: dict[str, bytes],
    gguf: dict[str, bytes],
    names: tuple[str, str],
) -> None:
    size = sum(weights_of(gguf if names is GGUFS else files).values())
    both = [await begun(app, client, name) for name in names]
    for name, attached in zip(names, both, strict=True):
        await remove(client, model=name)
        await attached.end()
    at_the_end = brought(hub)
    assert at_the_end < size
    hub.line = None
    assert (await client.pull(names[1]))[-1] == SUCCESS
    assert brought(hub) - at_the_end == size
    assert len(weight_uploads(ollama)) == 2


async def test_a_twice_damaged_file_ends_one_pull_of_two(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, gguf: dict[str, bytes]
) -> None:
    """The other pull tries again on its own."""
    [(digest, size)] = weights_of(gguf).items()
    hub.faults.append(Fault("model-Q8_0.gguf", "corrupt", after=size - 1, times=2))
    both = [await begun(app, client, name) for name in GGUFS]
    hub.line = None
    assert "acme/gguf/model-Q8_0.gguf arrived damaged" in (await both[0].end())["error"]
    assert await both[1].end() == SUCCESS
    assert list(ollama.models) == [GGUFS[1]]
    assert brought(hub) == 3 * size
    assert len(weight_uploads(ollama)) == 3
    assert ollama.blobs[digest] == size


async def test_retries_after_a_failed_transfer_are_shared(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, gguf: dict[str, bytes]
) -> None:
    size = sum(weights_of(gguf).values())
    hub.faults.append(Fault("model-Q8_0.gguf", "corrupt", after=size - 1, times=2))
    names = [*GGUFS, "hf.co/acme/third:q8_0"]
    async with proxying(hub, ollama, session, pull={"jobs": 3}) as (app, client):
        all_three = [await begun(app, client, name) for name in names]
        hub.line = None
        ends = [await attached.end() for attached in all_three]
    assert "arrived damaged" in ends[0]["error"]
    assert ends[1:] == [SUCCESS, SUCCESS]
    assert brought(hub) == 3 * size


async def test_each_pull_of_a_lost_file_names_its_repository(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, gguf: dict[str, bytes]
) -> None:
    hub.faults.append(Fault("model-Q8_0.gguf", "short", after=200_000, times=-1))
    both = [await begun(app, client, name) for name in GGUFS]
    hub.line = None
    errors = [(await attached.end())["error"] for attached in both]
    assert "acme/gguf/model-Q8_0.gguf" in errors[0]
    assert "acme/copy/model-Q8_0.gguf" in errors[1]
    assert not ollama.models
    assert not weights_of(gguf).keys() & ollama.blobs.keys()


# Crowds


@pytest.fixture
async def crowd(app: App) -> AsyncIterator[Client]:
    """A client of as many connections as anybody wants."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield Client(app.address.url, session)


async def test_a_hundred_clients_cost_one_transfer(
    crowd: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    streams = [await begun(app, crowd)]
    streams += [Attached(crowd, (NAME, SAME_NAME)[number % 2]) for number in range(49)]
    answers = [asyncio.create_task(crowd.pull_at_once(NAME)) for _ in range(50)]
    await eventually(lambda: newest(app).clients == 100)
    hub.line = None
    assert [await stream.end() for stream in streams] == [SUCCESS] * 50
    assert await asyncio.gather(*answers) == [(200, SUCCESS)] * 50
    assert len(app.jobs.all()) == 1
    assert len(named(ollama)) == 1
    assert brought(hub) == size
    assert newest(app).clients == 0


@pytest.mark.parametrize("seed", range(3))
async def test_random_clients_never_disturb_each_other(
    crowd: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int, seed: int
) -> None:
    """They attach and leave at random times."""
    rng = random.Random(seed)
    hub.line = size // 2
    stayed: list[object] = []

    async def visit(comes: float, stays: float | None, *, streams: bool) -> None:
        await asyncio.sleep(comes)
        if stays is None:
            stayed.append((await crowd.pull(NAME))[-1] if streams else (await crowd.pull_at_once(NAME))[1])
            return
        visitor = asyncio.create_task(crowd.post("/api/pull", {"model": NAME, "stream": streams}))
        await asyncio.wait([visitor], timeout=stays)
        if visitor.done():
            stayed.append(orjson.loads((await visitor)[1].splitlines()[-1]))
        visitor.cancel()
        await asyncio.wait([visitor])

    plans = [
        (rng.uniform(0, 2.5), None if rng.random() < 0.3 else rng.uniform(0, 1.5), rng.random() < 0.7)
        for _ in range(60)
    ]
    async with asyncio.timeout(60):
        await asyncio.gather(*(visit(comes, stays, streams=streams) for comes, stays, streams in plans))
    assert len(stayed) >= len([stays for _, stays, _ in plans if stays is None])
    assert all(last == SUCCESS for last in stayed)
    await eventually(lambda: newest(app).ended)
    assert {job.state for job in app.jobs.all()} == {"done"}
    assert brought(hub) == size
    assert len(named(ollama)) == 1


# Turns


def repositories(hub: StandInHub, count: int) -> list[str]:
    """The names of so many different models, f16."""
    for number in range(count):
        hub.add(f"acme/m{number}", tiny_llama(seed=number))
    hub.line = SLOW
    return [f"hf.co/acme/m{number}:f16" for number in range(count)]


async def in_line(app: App, client: Client, names: Iterable[str]) -> list[Attached]:
    """A client for each name, which came in that order."""
    clients = []
    for name in names:
        one = Attached(client, name)
        await eventually(lambda one=one: one.completed or one.waited)  # type: ignore[misc]
        clients.append(one)
    return clients


def came_for(hub: StandInHub) -> list[str]:
    """The repositories whose weights were fetched, in that order."""
    return list(dict.fromkeys(request.path.split("/")[3] for request in weights_fetched(hub)))


@pytest.mark.parametrize("jobs", [1, 2])
async def test_pulls_beyond_the_limit_wait_in_order(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, jobs: int
) -> None:
    """They show how many pulls are before them."""
    names = repositories(hub, 5)
    async with proxying(hub, ollama, session, pull={"jobs": jobs}) as (app, client):
        clients = await in_line(app, client, names)
        states = [str(job.state) for job in reversed(app.jobs.all())]
        assert states == ["transferring"] * jobs + ["waiting"] * (5 - jobs)
        assert came_for(hub) == [f"m{number}" for number in range(jobs)]
        hub.line = None
        assert [await one.end() for one in clients] == [SUCCESS] * 5
    # Where two places become free at once, those who get them reach the Hub in any order.
    came = came_for(hub)
    assert sorted(came) == [f"m{number}" for number in range(5)]
    assert all(abs(place - int(name[1:])) < jobs for place, name in enumerate(came)), came
    for place, one in enumerate(clients):
        waited = [line for line in one.waited if line != "waiting for another model to be made"]
        assert waited == [f"waiting for {before} pulls" for before in range(place, jobs - 1, -1)]
    if jobs == 1:
        assert named(ollama) == names
    assert sorted(ollama.models) == sorted(names)


async def test_a_cancelled_or_abandoned_pull_leaves_the_queue(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    names = repositories(hub, 4)
    async with proxying(hub, ollama, session, pull={"jobs": 1, "linger": 0}) as (app, client):
        clients = await in_line(app, client, names)
        assert await remove(client, model=names[1]) == (200, b"")
        assert "was removed" in (await clients[1].end())["error"]
        await eventually(lambda: clients[3].waited[-1] == "waiting for 2 pulls")
        await clients[2].leave()
        await eventually(lambda: clients[3].waited[-1] == "waiting for 1 pulls")
        hub.line = None
        assert [await clients[0].end(), await clients[3].end()] == [SUCCESS] * 2
    assert came_for(hub) == ["m0", "m3"]
    assert named(ollama) == [names[0], names[3]]


async def test_a_failed_pull_admits_the_next(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    names = repositories(hub, 2)
    hub.faults.append(Fault("model.safetensors", "corrupt", after=3_000_000, times=2))
    async with proxying(hub, ollama, session, pull={"jobs": 1}) as (app, client):
        clients = await in_line(app, client, names)
        hub.line = None
        assert "arrived damaged" in (await clients[0].end())["error"]
        assert await clients[1].end() == SUCCESS
    assert list(ollama.models) == [names[1]]


async def test_pulls_without_bytes_do_not_wait(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    names = repositories(hub, 2)
    async with proxying(hub, ollama, session, pull={"jobs": 1}) as (app, client):
        hub.line = None
        assert (await client.pull(names[1]))[-1] == SUCCESS
        hub.line = SLOW
        first = await begun(app, client, names[0])
        lines = await client.pull(names[1])
        refused = await client.pull("hf.co/acme/m1:iq2_xxs")
        assert lines[-1] == SUCCESS
        assert "needs an importance matrix" in refused[-1]["error"]
        assert not [line for line in lines + refused if str(line.get("status")).startswith("waiting")]
        assert app.jobs.all()[-1].state == "done"
        assert first.lines[-1].get("completed", 0) > 0
        assert [job.state for job in app.jobs.all() if job.ended is None] == ["transferring"]
        hub.line = None
        assert await first.end() == SUCCESS


# Making


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reclaim", [False, True])
async def test_models_are_made_one_at_a_time(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, way: dict[str, str], reclaim: bool
) -> None:
    at_once: list[int] = []
    running = 0

    async def watched(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal running
        if request.path not in MAKING or not making(
            [LoggedRequest("", "", request.path, request.headers, await request.read())]
        ):
            return await handler(request)
        running += 1
        at_once.append(running)
        try:
            await asyncio.sleep(0.05)
            return await handler(request)
        finally:
            running -= 1

    ollama.around = watched
    names = repositories(hub, 4)
    hub.line = None
    async with proxying(hub, ollama, session, pull={"jobs": 4}, ollama={"reclaim": reclaim} | way) as (_, client):
        ends = await asyncio.gather(*(client.pull(name) for name in names))
    assert [lines[-1] for lines in ends] == [SUCCESS] * 4
    # A create comes after a pull that does not reach the proxy.
    assert at_once == [1] * (8 if way else 4)


async def test_a_pull_shows_that_it_waits_for_a_create(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama
) -> None:
    names = repositories(hub, 2)
    hub.line = None
    ollama.hold_making = asyncio.Event()
    first = Attached(client, names[0])
    await eventually(lambda: making(ollama.requests))
    second = Attached(client, names[1])
    await eventually(lambda: second.waited == ["waiting for another model to be made"])
    assert len(making(ollama.requests)) == 1
    assert not first.waited
    ollama.hold_making.set()
    assert [await first.end(), await second.end()] == [SUCCESS, SUCCESS]
    assert named(ollama) == names


# DELETE of a model that is being pulled


@pytest.mark.parametrize("body", [{"model": SAME_NAME}, {"name": NAME}, {"Model": NAME, "name": "other"}])
async def test_removing_a_model_in_transfer_ends_its_pull(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, files: dict[str, bytes], body: dict[str, str]
) -> None:
    """The answer is 200 although Ollama does not have the model yet."""
    hub.add("acme/other", tiny_llama(seed=1))
    first = await begun(app, client)
    second = asyncio.create_task(client.pull_at_once(NAME))
    await eventually(lambda: newest(app).clients == 2)
    assert await remove(client, **body) == (200, b"")
    error = (await first.end())["error"]
    assert "was removed while it was pulled" in error
    assert await second == (500, {"error": error})
    assert (newest(app).state, newest(app).error) == ("failed", error)
    assert len(bodies(ollama, "/api/delete")) == 1
    hub.line = None
    assert (await client.pull("hf.co/acme/other"))[-1] == SUCCESS
    assert named(ollama) == ["hf.co/acme/other:latest"]
    assert not weights_of(files).keys() & ollama.blobs.keys()
    assert brought(hub, "acme/tiny/") < len(files["model.safetensors"])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reclaim", [False, True])
async def test_a_create_ends_before_its_model_is_removed(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    size: int,
    way: dict[str, str],
    reclaim: bool,
) -> None:
    hub.line = None
    ollama.hold_making = asyncio.Event()
    async with proxying(hub, ollama, session, ollama={"reclaim": reclaim} | way) as (app, client):
        first = Attached(client, NAME)
        await being_made(ollama, way)
        removing = asyncio.create_task(remove(client, model=NAME))
        assert "was removed while it was pulled" in (await first.end())["error"]
        assert not removing.done()
        assert not bodies(ollama, "/api/delete")
        ollama.hold_making.set()
        assert await removing == (200, b"")
        assert newest(app).state == "failed"
        assert len(named(ollama)) == 1
        assert ollama.requests[-1].path == "/api/delete"
    assert ollama.abandoned_creates == 0
    assert NAME not in ollama.models


async def test_a_client_without_a_stream_gets_the_removal(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    """At once, although the create still runs."""
    hub.line = None
    ollama.hold_making = asyncio.Event()
    first = asyncio.create_task(client.pull_at_once(NAME))
    await eventually(lambda: making(ollama.requests))
    removing = asyncio.create_task(remove(client, model=NAME))
    status, answer = await first
    assert not removing.done()
    ollama.hold_making.set()
    assert await removing == (200, b"")
    assert (status, list(answer)) == (500, ["error"])
    assert "was removed while it was pulled" in answer["error"]


async def test_a_removal_continues_without_its_client(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    hub.line = None
    ollama.hold_making = asyncio.Event()
    first = Attached(client, NAME)
    await eventually(lambda: making(ollama.requests))
    removing = asyncio.create_task(remove(client, model=NAME))
    await first.end()
    removing.cancel()
    await asyncio.wait([removing])
    ollama.hold_making.set()
    await eventually(lambda: bodies(ollama, "/api/delete"))
    await eventually(lambda: NAME not in ollama.models)
    assert ollama.abandoned_creates == 0


async def test_removing_a_model_during_its_update(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    """Ollama's old model is removed too."""
    hub.line = None
    assert (await client.pull(NAME))[-1] == SUCCESS
    hub.repositories["acme/tiny"].update(tiny_llama(seed=1))
    hub.line = SLOW
    second = await begun(app, client)
    assert NAME in ollama.models
    assert await remove(client, model=NAME) == (200, b"")
    assert set(await second.end()) == {"error"}
    assert not ollama.models


async def test_removing_another_model_leaves_a_pull_alone(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    first = await begun(app, client)
    assert (await remove(client, model="hf.co/acme/tiny:q8_0"))[0] == 404
    hub.line = None
    assert await first.end() == SUCCESS


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "hf.co/acme/tiny:q4_K_M"}',
        b'{"name": "HF.CO/acme/tiny:q4_K_M"}',
        b'{"model": "hf.co/acme/none"}',
        b'{"model": "llama3.2"}',
        b'{"model": "a b"}',
        b'{"model": ""}',
        b"{",
        b"",
    ],
)
async def test_ollama_answers_the_removal_of_other_models(
    client: Client, hub: StandInHub, ollama: StandInOllama, size: int, body: bytes
) -> None:
    """Of models that are not being pulled."""
    hub.line = None
    answers = []
    for url in (client.url, ollama.url):
        assert (await client.pull(NAME))[-1] == SUCCESS
        async with client.session.delete(f"{url}/api/delete", data=body) as response:
            headers = {name: value for name, value in response.headers.items() if name not in (hdrs.DATE, hdrs.SERVER)}
            answers.append((response.status, headers, await response.read(), list(ollama.models)))
    assert answers[0] == answers[1]


async def test_a_cancelled_pull_can_be_repeated_at_once(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    first = await begun(app, client)
    removing = asyncio.create_task(remove(client, model=NAME))
    assert set(await first.end()) == {"error"}
    hub.line = None
    assert await removing == (200, b"")
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert [job.state for job in app.jobs.all()] == ["done", "failed"]
    assert list(ollama.models) == [NAME]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reclaim", [False, True])
async def test_a_pull_during_a_waiting_removal(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    size: int,
    way: dict[str, str],
    reclaim: bool,
) -> None:
    """The removal waits for the create of the cancelled pull; the new pull makes the model after the removal."""
    hub.line = None
    ollama.hold_making = asyncio.Event()
    async with proxying(hub, ollama, session, ollama={"reclaim": reclaim} | way) as (app, client):
        first = Attached(client, NAME)
        await being_made(ollama, way)
        removing = asyncio.create_task(remove(client, model=NAME))
        assert set(await first.end()) == {"error"}
        second = Attached(client, NAME)
        await eventually(lambda: second.waited)
        assert not removing.done()
        ollama.hold_making.set()
        assert await removing == (200, b"")
        assert await second.end() == SUCCESS
        assert [job.state for job in app.jobs.all()] == ["done", "failed"]
    assert list(ollama.models) == [NAME]
    assert ollama.abandoned_creates == 0
    # A model that a create made has the GGUF alone, and it goes with that.
    assert brought(hub) == (2 * size if way else size)


# The proxy's own end


AGAIN = "the proxy is shutting down; pull again when it is back"


@asynccontextmanager
async def ending(app: App) -> AsyncIterator[None]:
    """The block runs while the proxy ends, which waits for nobody who hangs."""
    async with asyncio.timeout(PATIENCE):
        closing = asyncio.create_task(app.close())
        try:
            yield
        finally:
            await closing


def test_a_shutdown_takes_less_than_5_seconds() -> None:
    # aiohttp waits twice: for the handlers to end, and for them to have been cancelled.
    """A service manager may kill the proxy after that."""
    assert CREATE_SECONDS + 2 * FAREWELL_SECONDS < 5


async def test_a_shutdown_during_a_transfer_ends_the_streams(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, size: int
) -> None:
    """Every client gets an error line that tells it to pull again."""
    hub.add("acme/other", tiny_llama(seed=1))
    async with App(settings(hub.endpoint, ollama.url, pull={"jobs": 1})) as app:
        client = Client(app.address.url, session)
        first = await begun(app, client)
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
        await being_made(ollama, way)
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
        await being_made(ollama, way)
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
        await eventually(lambda: finished <= ollama.blobs.keys() and brought(hub, last))
    assert AGAIN in (await first.end())["error"]
    hub.requests.clear()
    async with proxying(hub, ollama, session) as (_, client):
        assert (await client.pull(GGUF_NAME))[-1] == SUCCESS
    assert brought(hub) == len(files[last])
