"""Blobs that are more than a file, digests that nobody knows, and how fast and how many at once."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.app import App
from proxy.errors import DigestMismatch, OllamaError, SourceError, TransferError
from proxy.gguf.transforms import Transform
from proxy.ollama.client import PROBE, Ollama, Write, upstream_session
from proxy.planning.recipe import Literal, Range, Recipe
from proxy.sources.base import Repository
from proxy.sources.huggingface import HuggingFace
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.store.journal import Journal
from proxy.transfer import upload, window
from proxy.transfer.progress import Progress
from proxy.transfer.streams import Bandwidth, Streams
from proxy.transfer.transfer import Transfer
from proxy.transfer.window import Fetching
from tests.kit.support import Client, digest_of, eventually, settings, settled
from tests.kit.tiny_gguf import tiny_gguf

SPAN = 64 * 1024
CONTENT = bytes((number * 7 + number // 256) % 256 for number in range(1_000_000))
MIB = 1024 * 1024
BLOCKS = 14
"""Of a GGUF in Q8_0 that has a megabyte."""


class Engine:
    """A transfer of one repository with small spans, and what it told of its progress."""

    def __init__(self, transfer: Transfer, fetching: Fetching, repository: Repository) -> None:
        self._transfer = transfer
        self._fetching = fetching
        self.file = next(file for file in repository.files if file.path == "model.safetensors")
        self.moved: list[int] = []

    async def push(self, *parts: Literal | Range, digest: str | None = None) -> str:
        return await self._transfer.push(self._fetching, Recipe(parts, digest), "acme/tiny/made", self.moved.append)


@pytest.fixture
async def engine(hub: StandInHub, ollama: StandInOllama) -> AsyncIterator[Engine]:
    hub.add("acme/tiny", {"model.safetensors": CONTENT, "config.json": b"{}"})
    source = HuggingFace(hub.endpoint, "", ("hf.co",))
    limits = Streams(4, 16 * MIB, span_bytes=SPAN)
    async with upstream_session() as session:
        transfer = Transfer(Ollama(ollama.url, session), limits, Bandwidth(0), 1, Journal())
        repository = await source.open("acme/tiny", None)
        yield Engine(transfer, Fetching(repository, limits, Bandwidth(0), Progress()), repository)
        transfer.close()
    await source.close()
    assert limits.idle


def backwards(size: int) -> Transform:
    """All of a range, its last byte first: nothing is ready before the end."""
    return Transform(size, size, lambda content: content[::-1])


async def test_literals_and_ranges_of_a_file_in_any_order_become_one_blob(
    engine: Engine, ollama: StandInOllama
) -> None:
    file = engine.file
    parts = (
        Literal(b"head"),
        Range(file, 500_000, 700_001),
        Range(file, 700_001, 700_002),
        Literal(b"between"),
        Range(file, 10, 200_000, backwards(199_990)),
        Literal(b"tail"),
    )
    made = b"head" + CONTENT[500_000:700_002] + b"between" + CONTENT[10:200_000][::-1] + b"tail"
    assert await engine.push(*parts, digest=digest_of(made)) == digest_of(made)
    assert ollama.blobs[digest_of(made)] == len(made)
    assert sum(engine.moved) == len(made)


async def test_a_blob_whose_digest_nobody_knows_is_uploaded_and_its_digest_told(
    engine: Engine, ollama: StandInOllama
) -> None:
    made = b"header" + CONTENT[100:900_000]
    assert await engine.push(Literal(b"header"), Range(engine.file, 100, 900_000)) == digest_of(made)
    assert ollama.blobs == {digest_of(PROBE): len(PROBE), digest_of(made): len(made)}
    await engine.push(Literal(b"another"), Range(engine.file, 0, 10))
    uploads = [request for request in ollama.requests if request.method == "POST"]
    assert len(uploads) == 3  # the probe only once
    assert digest_of(made) not in [request.path.rpartition("/")[2] for request in uploads]


async def test_ollamas_answer_may_come_before_the_last_write_ends(
    engine: Engine, hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write_late(write: Write, pieces: Sequence[bytes]) -> None:
        await real(write, pieces)
        await asyncio.sleep(0.05)

    real = upload._write_all
    monkeypatch.setattr(upload, "_write_all", write_late)
    assert await engine.push(Literal(b"header"), Range(engine.file, 0, 1000)) == digest_of(b"header" + CONTENT[:1000])
    assert len([request for request in hub.requests if request.origin == "cdn"]) == 1


async def test_an_ollama_that_keeps_nothing_under_another_digest_gets_it_from_the_disk(
    engine: Engine, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ollama.keeps_mismatched = False
    made = b"header" + CONTENT
    assert await engine.push(Literal(b"header"), Range(engine.file, 0, len(CONTENT))) == digest_of(made)
    assert ollama.blobs == {digest_of(made): len(made)}
    assert sum(engine.moved) == len(made)
    assert not list(tmp_path.iterdir())


async def test_a_disk_without_room_is_told_before_a_byte_is_fetched(
    engine: Engine, hub: StandInHub, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    ollama.keeps_mismatched = False
    monkeypatch.setattr("proxy.transfer.spool.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(TransferError, match="acme/tiny/made needs 1000000 bytes in"):
        await engine.push(Range(engine.file, 0, len(CONTENT)))
    assert not [request for request in hub.requests if request.origin == "cdn"]


async def test_a_blob_that_ollama_names_otherwise_is_made_once_more_and_then_an_error(
    engine: Engine, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lie(self: Ollama, size: int, produce: Any) -> str:
        await real(self, size, produce)
        return "sha256:" + "0" * 64

    await engine.push(Literal(b"first"))
    real = Ollama.push_unnamed_blob
    monkeypatch.setattr(Ollama, "push_unnamed_blob", lie)
    with pytest.raises((DigestMismatch, OllamaError), match="Ollama received sha256:000"):
        await engine.push(Range(engine.file, 0, 1000))
    assert sum(engine.moved[1:]) in (0, 1000)


async def test_bytes_that_have_to_be_sent_again_are_taken_back_first(
    engine: Engine, hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "BATCH_BYTES", SPAN)
    hub.faults.append(Fault("model.safetensors", "corrupt", after=len(CONTENT) - 1))
    await engine.push(Range(engine.file, 0, len(CONTENT)), digest=digest_of(CONTENT))
    [taken_back] = [size for size in engine.moved if size < 0]
    before = engine.moved[: engine.moved.index(taken_back)]
    assert sum(before) == -taken_back
    assert 0 < sum(before) < len(CONTENT)
    assert sum(engine.moved) == len(CONTENT)


async def test_ranges_of_a_source_that_has_none_are_refused(engine: Engine, hub: StandInHub) -> None:
    hub.mirror = True
    with pytest.raises(SourceError, match="sends no ranges"):
        await engine.push(Range(engine.file, 5, 100))


async def test_a_transform_that_shrinks_a_file_gets_all_of_it_from_a_source_without_ranges(
    engine: Engine, hub: StandInHub
) -> None:
    every_second = Transform(2, 1, lambda content: content[::2])
    hub.mirror = True
    size = len(CONTENT)
    assert await engine.push(Range(engine.file, 0, size, every_second)) == digest_of(CONTENT[::2])
    # The others of the pull know by now that there are no ranges; this one needs them and may not do without.
    with pytest.raises(SourceError, match="sends no ranges"):
        await engine.push(Range(engine.file, 5, 100))


async def test_a_range_that_breaks_in_the_middle_of_a_recipe_goes_on(
    engine: Engine, hub: StandInHub, ollama: StandInOllama
) -> None:
    hub.faults += [Fault("model.safetensors", "drop", after=10_000, times=5)]
    made = CONTENT[600_000:] + b"|" + CONTENT[:600_000]
    digest = await engine.push(Range(engine.file, 600_000, 10**6), Literal(b"|"), Range(engine.file, 0, 600_000))
    assert digest == digest_of(made)
    assert ollama.blobs[digest] == len(made)


@asynccontextmanager
async def large(hub: StandInHub, ollama: StandInOllama, content: bytes, **pull: Any) -> AsyncIterator[App]:
    hub.add("acme/large", {"model-Q8_0.gguf": content})
    async with App(settings(hub.endpoint, ollama.url, pull=pull)) as app:
        yield app


async def test_a_limited_bandwidth_is_kept_to_and_smooth(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    content = tiny_gguf("Q8_0", blocks=30 * BLOCKS)
    rate, size = 10_000_000, len(content)
    seen: list[tuple[float, int]] = []
    async with large(hub, ollama, content, bandwidth="10MB") as app:
        pulling = asyncio.create_task(Client(app.address.url, session).pull("hf.co/acme/large:q8_0"))
        while not pulling.done():
            seen.append((time.monotonic(), app.backend.streams._received))
            await asyncio.sleep(0.02)
    moving = [(when, received) for when, received in seen if 0 < received < size]
    assert moving[-1][0] - moving[0][0] > 0.9 * size / rate
    for began, before in moving:
        second = [received for when, received in moving if began <= when <= began + 1]
        # A chunk of each stream may have been waiting.
        assert second[-1] - before <= 1.1 * rate + MIB


async def test_streams_become_more_while_the_line_gives_more(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, small_spans: int
) -> None:
    hub.rate = 2_000_000
    async with large(hub, ollama, tiny_gguf("Q8_0", blocks=20 * BLOCKS)) as app:
        pulling = asyncio.create_task(Client(app.address.url, session).pull("hf.co/acme/large:q8_0"))
        await eventually(lambda: app.backend.streams.limit == 8)
        pulling.cancel()


async def test_a_slow_ollama_holds_the_hub_back(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    """Where the two ends differ the slow one rules: the memory's worth is fetched ahead of it."""
    content = tiny_gguf("Q8_0", blocks=80 * BLOCKS)
    ollama.hold_upload = asyncio.Event()
    async with large(hub, ollama, content, memory="32MiB") as app:
        pulling = asyncio.create_task(Client(app.address.url, session).pull("hf.co/acme/large:q8_0"))
        await eventually(lambda: app.backend.streams._used > 8 * MIB)
        # Ollama's socket takes some of it.
        assert await settled(lambda: app.backend.streams._received) < 64 * MIB
        assert app.backend.streams._used <= 24 * MIB
        ollama.hold_upload.set()
        await pulling
    assert digest_of(content) in ollama.blobs
