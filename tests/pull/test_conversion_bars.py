"""The bars of a pull that the proxy converts: each moves with the bytes of its own weight file."""

import sys
from dataclasses import dataclass, replace

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.sources import http_file
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.transfer.progress import MAX_BARS
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.kit.conversions import bytes_per_file, conversion, striped, weights_of
from tests.kit.support import Client, digest_of, settings

NAME = "hf.co/acme/tiny:bf16"


@dataclass(frozen=True, eq=False)
class FaultAt(Fault):
    """Fails the one range that contains the byte at `place`."""

    place: int = 0

    def strikes(self, method: str, start: int, length: int) -> bool:
        return method == "GET" and start <= self.place < start + length


async def bars_over_time(client: Client, name: str) -> list[dict[str, tuple[int, int]]]:
    """Completed and total of each bar after each batch of lines, by digest. The pull has to succeed."""
    bars: dict[str, tuple[int, int]] = {}
    batches, last, chunk = [], {}, b""
    async with client.session.post(f"{client.url}/api/pull", json={"model": name}) as response:
        async for data, is_whole in response.content.iter_chunks():
            chunk += data
            if not is_whole:
                continue
            for last in map(orjson.loads, chunk.splitlines()):
                if "digest" in last:
                    bars[last["digest"]] = last.get("completed", 0), last["total"]
            batches.append(dict(bars))
            chunk = b""
    assert last == {"status": "success"}
    return batches


@pytest.mark.parametrize("name", ["mixtral", "qwen3"])
async def test_a_bar_shows_the_progress_of_its_shard(
    small_spans: int,
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """At every moment of the pull."""
    files = striped(REPOSITORIES[name].files())
    hub.add("acme/tiny", files)
    first, second = (path for path in sorted(files) if path.endswith(".safetensors"))
    plan = conversion(files)
    assert plan.in_file_order == (name == "qwen3")
    hub.faults.append(FaultAt(first, "hang", place=len(files[first]) - 1))
    monkeypatch.setattr(http_file, "READ_SECONDS", 0.5)
    async with App(settings(hub.endpoint, ollama.url)) as app:
        batches = await bars_over_time(Client(app.address.url, session), NAME)
    under_way = 0
    for bars in batches:
        if len(bars) < 2:
            continue
        reached = sum(completed for completed, _ in bars.values())
        under_way += 0 < reached < sum(total for _, total in bars.values())
        assert {path: bars[digest_of(files[path])][0] for path in (first, second)} == bytes_per_file(
            files, plan, reached
        )
    assert under_way
    expected = bytes_per_file(files, plan, sys.maxsize)
    assert batches[-1] == {digest_of(files[path]): (expected[path],) * 2 for path in (first, second)}


async def test_more_shards_than_bars_share_the_last_bar(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    """Also for experts, whose tensors are read from all shards in turn."""
    files = striped(replace(REPOSITORIES["qwen3moe"], shards=1).files(), shards=MAX_BARS + 4)
    hub.add("acme/tiny", files)
    plan = conversion(files)
    async with App(settings(hub.endpoint, ollama.url)) as app:
        batches = await bars_over_time(Client(app.address.url, session), NAME)
    bars = batches[-1]
    assert len(weights_of(files)) == MAX_BARS + 4
    assert len(bars) == MAX_BARS
    assert sum(total for _, total in bars.values()) == sum(bytes_per_file(files, plan, sys.maxsize).values())
    assert all(completed == total for completed, total in bars.values())


async def test_a_restarted_upload_resets_every_bar(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    files = striped(REPOSITORIES["mixtral"].files())
    hub.add("acme/tiny", files)
    ollama.fail_upload_after = 4_000_000
    async with App(settings(hub.endpoint, ollama.url)) as app:
        client = Client(app.address.url, session)
        lines = await client.pull(NAME)
        assert "broke off the upload" in lines[-1]["error"]
        ollama.fail_upload_after = None
        batches = await bars_over_time(client, NAME)
    plan = conversion(files)
    expected = bytes_per_file(files, plan, sys.maxsize)
    for path in (path for path in files if path.endswith(".safetensors")):
        assert batches[-1][digest_of(files[path])] == (expected[path],) * 2
