"""Uploads to a real Ollama: Ollama is killed during one, and the digest of one is unknown."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.ollama.client import Ollama, upstream_session
from proxy.planning.recipe import Literal, Range, Recipe
from proxy.sources.huggingface import HuggingFace
from proxy.standins.hub import StandInHub
from proxy.store.journal import Journal
from proxy.transfer.progress import Progress
from proxy.transfer.streams import Bandwidth, Streams
from proxy.transfer.transfer import Transfer
from proxy.transfer.window import Fetching
from tests.kit.real_ollama import RealOllama, running
from tests.kit.support import digest_of, eventually

MIB = 1024 * 1024
CONTENT = bytes(range(256)) * 4096 * 64  # 64 MiB
pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def own_ollama(tmp_path: Path) -> Iterator[RealOllama]:
    with running(tmp_path) as ollama:
        yield ollama


@asynccontextmanager
async def engine(hub: StandInHub, ollama: RealOllama) -> AsyncIterator[tuple[Transfer, Fetching, Range, Ollama]]:
    hub.add("acme/tiny", {"model.safetensors": CONTENT, "config.json": b"{}"})
    source = HuggingFace(hub.endpoint, "", ("hf.co",))
    streams, bandwidth = Streams(4, 128 * MIB), Bandwidth(0)
    async with upstream_session() as session:
        api = Ollama(ollama.url, session)
        transfer = Transfer(api, streams, bandwidth, 60, Journal())
        repository = await source.open("acme/tiny", None)
        file = next(file for file in repository.files if file.path == "model.safetensors")
        yield transfer, Fetching(repository, streams, bandwidth, Progress()), Range(file, 0, file.size), api
        transfer.close()
    await source.close()
    assert streams.idle


async def test_an_upload_is_repeated_after_ollama_was_killed(hub: StandInHub, own_ollama: RealOllama) -> None:
    hub.rate = 8_000_000
    moved: list[int] = []
    async with engine(hub, own_ollama) as (transfer, fetching, file, api):
        digest = digest_of(CONTENT)
        pushing = asyncio.create_task(transfer.push(fetching, Recipe((file,), digest), "acme/tiny/x", moved.append))
        await eventually(lambda: sum(moved) > 16 * MIB, 30)
        own_ollama.kill()
        hub.rate = None
        await asyncio.to_thread(own_ollama.start)
        assert await pushing == digest
        assert await api.has_blob(digest)
    assert min(moved) < -16 * MIB
    assert sum(moved) == len(CONTENT)
    blobs = [path.name for path in (own_ollama.home / "models" / "blobs").iterdir()]
    assert digest.replace(":", "-") in blobs


async def test_a_blob_of_unknown_digest_gets_its_true_digest(hub: StandInHub, own_ollama: RealOllama) -> None:
    async with engine(hub, own_ollama) as (transfer, fetching, file, api):
        assert await api.keeps_unnamed_blobs()
        digest = await transfer.push(fetching, Recipe((Literal(b"head"), file)), "acme/tiny/x", lambda _: None)
        assert digest == digest_of(b"head" + CONTENT)
        assert await api.has_blob(digest)
