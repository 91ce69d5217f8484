"""Recipes of several parts, blobs without a known digest, bandwidth, concurrency and memory."""

import asyncio
import hashlib
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
from proxy.ollama.blobs import PROBE, Write
from proxy.ollama.client import Ollama, upstream_session
from proxy.planning.recipe import Literal, Range
from proxy.sources.base import RepositoryFile
from proxy.sources.huggingface import HuggingFace
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.store.journal import Journal
from proxy.transfer import upload as upload_module
from proxy.transfer import window
from proxy.transfer.bandwidth import Bandwidth
from proxy.transfer.fetch_limits import FetchLimits
from proxy.transfer.progress import Progress
from proxy.transfer.streams import Streams
from proxy.transfer.transfer import Transfer
from proxy.transfer.wait_for_ollama import WaitForOllama
from proxy.transfer.window import Fetching
from tests.kit.pauses import SHORT
from tests.kit.support import Client, digest_of, eventually, settings, settled
from tests.kit.tiny_gguf import tiny_gguf
from tests.kit.uploads import Uploads

SPAN = 64 * 1024
CONTENT = bytes((number * 7 + number // 256) % 256 for number in range(1_000_000))
FILE = RepositoryFile("model.safetensors", len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())
MIB = 1024 * 1024
BLOCKS = 14
"""A GGUF in Q8_0 with so many blocks has a megabyte."""


@pytest.fixture
async def uploads(hub: StandInHub, ollama: StandInOllama) -> AsyncIterator[Uploads]:
    """Uploads from one repository, in small spans."""
    hub.add("acme/tiny", {"model.safetensors": CONTENT, "config.json": b"{}"})
    source = HuggingFace(hub.endpoint, "", ("hf.co",))
    limits = FetchLimits(Streams(4, 16 * MIB, span_bytes=SPAN), Bandwidth(0), SHORT)
    async with upstream_session() as session:
        journal = Journal()
        transfer = Transfer(WaitForOllama(Ollama(ollama.url, session), 1), limits, journal)
        repository = await source.open("acme/tiny", None)
        yield Uploads(transfer, Fetching(repository, limits, Progress()))
        transfer.close()
        journal.close()
    await source.close()
    assert limits.streams.idle


def backwards(size: int) -> Transform:
    """Reverses a whole range: nothing is ready before its last byte."""
    return Transform(size, size, lambda content: content[::-1])


async def test_literals_and_ranges_in_any_order_become_one_blob(uploads: Uploads, ollama: StandInOllama) -> None:
    parts = (
        Literal(b"head"),
        Range(FILE, 500_000, 700_001),
        Range(FILE, 700_001, 700_002),
        Literal(b"between"),
        Range(FILE, 10, 200_000, backwards(199_990)),
        Literal(b"tail"),
    )
    made = b"head" + CONTENT[500_000:700_002] + b"between" + CONTENT[10:200_000][::-1] + b"tail"
    assert await uploads.push(*parts, digest=digest_of(made)) == digest_of(made)
    assert ollama.blobs[digest_of(made)] == len(made)
    assert sum(uploads.moved_sizes) == len(made)


async def test_a_blob_without_a_known_digest_is_uploaded(uploads: Uploads, ollama: StandInOllama) -> None:
    """The upload returns the digest; the probe of Ollama runs only once."""
    made = b"header" + CONTENT[100:900_000]
    assert await uploads.push(Literal(b"header"), Range(FILE, 100, 900_000)) == digest_of(made)
    assert ollama.blobs == {digest_of(PROBE): len(PROBE), digest_of(made): len(made)}
    await uploads.push(Literal(b"another"), Range(FILE, 0, 10))
    pushed = [request for request in ollama.requests if request.method == "POST"]
    assert len(pushed) == 3  # two blobs and one probe
    assert digest_of(made) not in [request.path.rpartition("/")[2] for request in pushed]


async def test_ollamas_answer_may_come_before_the_last_write_ends(
    uploads: Uploads, hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write_late(write: Write, pieces: Sequence[bytes]) -> None:
        await real(write, pieces)
        await asyncio.sleep(0.05)

    real = upload_module._write_all
    monkeypatch.setattr(upload_module, "_write_all", write_late)
    assert await uploads.push(Literal(b"header"), Range(FILE, 0, 1000)) == digest_of(b"header" + CONTENT[:1000])
    assert len([request for request in hub.requests if request.origin == "cdn"]) == 1


async def test_an_ollama_that_needs_the_digest_first_gets_a_spool(
    uploads: Uploads, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An Ollama that keeps nothing under a wrong digest gets the blob from the disk."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ollama.keeps_mismatched = False
    made = b"header" + CONTENT
    assert await uploads.push(Literal(b"header"), Range(FILE, 0, len(CONTENT))) == digest_of(made)
    assert ollama.blobs == {digest_of(made): len(made)}
    assert sum(uploads.moved_sizes) == len(made)
    assert not list(tmp_path.iterdir())


async def test_a_full_disk_is_an_error_before_a_byte_is_fetched(
    uploads: Uploads, hub: StandInHub, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    ollama.keeps_mismatched = False
    monkeypatch.setattr("proxy.transfer.spool.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(TransferError, match="acme/tiny/made needs 1000000 bytes in"):
        await uploads.push(Range(FILE, 0, len(CONTENT)))
    assert not [request for request in hub.requests if request.origin == "cdn"]


async def test_a_blob_with_another_digest_is_re_uploaded_once(
    uploads: Uploads, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time it is an error."""

    async def lie(self: Ollama, size: int, produce: Any) -> str:
        await real(self, size, produce)
        return "sha256:" + "0" * 64

    await uploads.push(Literal(b"first"))
    real = Ollama.push_unnamed_blob
    monkeypatch.setattr(Ollama, "push_unnamed_blob", lie)
    with pytest.raises((DigestMismatch, OllamaError), match="Ollama received sha256:000"):
        await uploads.push(Range(FILE, 0, 1000))
    assert sum(uploads.moved_sizes[1:]) in (0, 1000)


async def test_a_re_upload_takes_its_bytes_back_first(
    uploads: Uploads, hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "BATCH_BYTES", SPAN)
    hub.faults.append(Fault("model.safetensors", "corrupt", after=len(CONTENT) - 1))
    await uploads.push(Range(FILE, 0, len(CONTENT)), digest=digest_of(CONTENT))
    [taken_back] = [size for size in uploads.moved_sizes if size < 0]
    before = uploads.moved_sizes[: uploads.moved_sizes.index(taken_back)]
    assert sum(before) == -taken_back
    assert 0 < sum(before) < len(CONTENT)
    assert sum(uploads.moved_sizes) == len(CONTENT)


async def test_ranges_from_a_source_without_ranges_are_refused(uploads: Uploads, hub: StandInHub) -> None:
    hub.mirror = True
    with pytest.raises(SourceError, match="sends no ranges"):
        await uploads.push(Range(FILE, 5, 100))


async def test_a_shrunk_file_needs_no_ranges(uploads: Uploads, hub: StandInHub) -> None:
    """A transform that shrinks a whole file gets all of it, from a source without ranges."""
    every_second = Transform(2, 1, lambda content: content[::2])
    hub.mirror = True
    size = len(CONTENT)
    assert await uploads.push(Range(FILE, 0, size, every_second)) == digest_of(CONTENT[::2])
    # The pull knows by now that there are no ranges; this blob needs them, and must fail.
    with pytest.raises(SourceError, match="sends no ranges"):
        await uploads.push(Range(FILE, 5, 100))


async def test_a_range_that_breaks_inside_a_recipe_is_retried(
    uploads: Uploads, hub: StandInHub, ollama: StandInOllama
) -> None:
    hub.faults += [Fault("model.safetensors", "drop", after=10_000, times=5)]
    made = CONTENT[600_000:] + b"|" + CONTENT[:600_000]
    digest = await uploads.push(Range(FILE, 600_000, 10**6), Literal(b"|"), Range(FILE, 0, 600_000))
    assert digest == digest_of(made)
    assert ollama.blobs[digest] == len(made)


@asynccontextmanager
async def large(hub: StandInHub, ollama: StandInOllama, content: bytes, **pull: Any) -> AsyncIterator[App]:
    hub.add("acme/large", {"model-Q8_0.gguf": content})
    async with App(settings(hub.endpoint, ollama.url, pull=pull)) as app:
        yield app


async def test_a_limited_bandwidth_is_respected_and_smooth(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    content = tiny_gguf("Q8_0", blocks=30 * BLOCKS)
    rate, size = 10_000_000, len(content)
    seen: list[tuple[float, int]] = []
    async with large(hub, ollama, content, bandwidth="10MB") as app:
        pulling = asyncio.create_task(Client(app.address.url, session).pull("hf.co/acme/large:q8_0"))
        while not pulling.done():
            seen.append((time.monotonic(), app.backend.streams.received))
            await asyncio.sleep(0.02)
    moving = [(when, received) for when, received in seen if 0 < received < size]
    assert moving[-1][0] - moving[0][0] > 0.9 * size / rate
    for began, before in moving:
        second = [received for when, received in moving if began <= when <= began + 1]
        # One chunk of each stream may arrive late.
        assert second[-1] - before <= 1.1 * rate + MIB


async def test_streams_multiply_while_the_line_gets_faster(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, small_spans: int
) -> None:
    hub.rate = 2_000_000
    async with large(hub, ollama, tiny_gguf("Q8_0", blocks=20 * BLOCKS)) as app:
        pulling = asyncio.create_task(Client(app.address.url, session).pull("hf.co/acme/large:q8_0"))
        await eventually(lambda: app.backend.streams.limit == 8)
        pulling.cancel()


async def test_a_slow_ollama_slows_the_download(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    """Only as many bytes as the memory holds are fetched ahead of a slow Ollama."""
    content = tiny_gguf("Q8_0", blocks=80 * BLOCKS)
    ollama.hold_upload = asyncio.Event()
    async with large(hub, ollama, content, memory="32MiB") as app:
        pulling = asyncio.create_task(Client(app.address.url, session).pull("hf.co/acme/large:q8_0"))
        await eventually(lambda: app.backend.streams.used > 8 * MIB)
        # The socket to Ollama buffers some more.
        assert await settled(lambda: app.backend.streams.received) < 64 * MIB
        assert app.backend.streams.used <= 24 * MIB
        ollama.hold_upload.set()
        await pulling
    assert digest_of(content) in ollama.blobs
