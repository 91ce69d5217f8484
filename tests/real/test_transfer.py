"""Uploads to a real Ollama: Ollama is killed during one, and the digest of one is unknown."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.ollama.client import Ollama, upstream_session
from proxy.planning.recipe import Literal, Range
from proxy.sources.huggingface import HuggingFace
from proxy.standins.hub import StandInHub
from proxy.store.journal import Journal
from proxy.transfer.bandwidth import Bandwidth
from proxy.transfer.fetch_limits import FetchLimits
from proxy.transfer.progress import Progress
from proxy.transfer.streams import Streams
from proxy.transfer.transfer import Transfer
from proxy.transfer.wait_for_ollama import WaitForOllama
from proxy.transfer.window import Fetching
from tests.kit.real_ollama import RealOllama, running
from tests.kit.support import digest_of, eventually
from tests.kit.uploads import Uploads

MIB = 1024 * 1024
CONTENT = bytes(range(256)) * 4096 * 64  # 64 MiB
pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def own_ollama(tmp_path: Path) -> Iterator[RealOllama]:
    with running(tmp_path) as ollama:
        yield ollama


@asynccontextmanager
async def engine(hub: StandInHub, ollama: RealOllama) -> AsyncIterator[tuple[Uploads, Range, Ollama]]:
    hub.add("acme/tiny", {"model.safetensors": CONTENT, "config.json": b"{}"})
    source = HuggingFace(hub.endpoint, "", ("hf.co",))
    limits = FetchLimits(Streams(4, 128 * MIB), Bandwidth(0))
    async with upstream_session() as session:
        api = Ollama(ollama.url, session)
        journal = Journal()
        transfer = Transfer(WaitForOllama(api, 60), limits, journal)
        repository = await source.open("acme/tiny", None)
        file = next(file for file in repository.files if file.path == "model.safetensors")
        yield Uploads(transfer, Fetching(repository, limits, Progress())), Range(file, 0, file.size), api
        transfer.close()
        journal.close()
    await source.close()
    assert limits.streams.idle


async def test_an_upload_is_repeated_after_ollama_was_killed(hub: StandInHub, own_ollama: RealOllama) -> None:
    hub.rate = 8_000_000
    async with engine(hub, own_ollama) as (uploads, file, api):
        digest = digest_of(CONTENT)
        pushing = asyncio.create_task(uploads.push(file, digest=digest))
        await eventually(lambda: sum(uploads.moved_sizes) > 16 * MIB, 30)
        own_ollama.kill()
        hub.rate = None
        await asyncio.to_thread(own_ollama.start)
        assert await pushing == digest
        assert await api.has_blob(digest)
    assert min(uploads.moved_sizes) < -16 * MIB
    assert sum(uploads.moved_sizes) == len(CONTENT)
    blobs = [path.name for path in (own_ollama.home / "models" / "blobs").iterdir()]
    assert digest.replace(":", "-") in blobs


async def test_a_blob_of_unknown_digest_gets_its_true_digest(hub: StandInHub, own_ollama: RealOllama) -> None:
    async with engine(hub, own_ollama) as (uploads, file, api):
        assert await api.keeps_unnamed_blobs()
        digest = await uploads.push(Literal(b"head"), file)
        assert digest == digest_of(b"head" + CONTENT)
        assert await api.has_blob(digest)
