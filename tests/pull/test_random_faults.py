"""Many pulls with random faults at random offsets. By hand RANDOM_PULLS makes it so many times as many."""

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import huggingface_hub
import pytest

from proxy.app import App
from proxy.pull import reading
from proxy.sources import http_file
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from proxy.transfer import window
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.kit.conversions import converted, striped
from tests.kit.pauses import SHORT, use_spans
from tests.kit.support import GGUF_BYTES, Client, digest_of, eventually, settings
from tests.kit.tiny_gguf import tiny_gguf, tiny_projector

AT_ONCE = 6
TIMES = int(os.environ.get("RANDOM_PULLS", "1"))
SPAN = 64 * 1024
SHARDS = 2
MODEL, PROJECTOR = "model-Q8_0.gguf", "mmproj-F16.gguf"
CAUSES = (
    "the connection to 127.0.0.1 failed",
    "answered 4",
    "answered 5",
    "arrived damaged",
    "has a broken header",
    "is not a safetensors file",
    "but its header describes",
    "is not a GGUF that can be used",
    "cannot be used: ",
    "bytes arrived",
    "sent bytes",
    "sends no ranges",
    "has changed at the source",
    "asks to wait",
    "broke off the upload",
    "Ollama refused the blob",
    "Ollama at ",
)


KINDS = ["drop", "hang", "short", "corrupt", "status", "whole", "misplaced", "cut", "slow"] * 3 + ["headers"]


@dataclass(frozen=True)
class Case:
    """Pulls of repositories with similar files. `kinds` are the faults that may happen."""

    pulls: int
    files: Callable[[int], dict[str, bytes]]
    tags: tuple[str, ...] = ("q8_0",)
    kinds: Sequence[str] = tuple(KINDS)

    def blobs(self, name: str, tag: str, files: dict[str, bytes]) -> dict[str, int]:
        """The blobs that Ollama must have, with their sizes."""
        if MODEL in files:
            return {digest_of(content): len(content) for content in files.values()}
        made = converted(files, name, quantization=tag.upper())
        return {digest_of(made): len(made)}


def experts(_: int) -> dict[str, bytes]:
    """In two shards, with alternating tensors. Only the name of the model differs between the GGUFs."""
    return striped(REPOSITORIES["qwen3moe"].files())


def ggufs(number: int) -> dict[str, bytes]:
    return {MODEL: tiny_gguf("Q8_0", seed=number, blocks=25), PROJECTOR: tiny_projector(seed=number, rows=3000)}


CASES = {
    "unchanged": Case(90 * TIMES, ggufs),
    "dense": Case(42 * TIMES, lambda number: tiny_llama(shards=SHARDS, seed=number), ("bf16", "q8_0", "q4_K_M")),
    # A file whose tensors are taken in another order cannot be checked.
    "experts": Case(42 * TIMES, experts, ("bf16",), tuple(kind for kind in KINDS if kind != "corrupt")),
}


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def random_fault(rng: random.Random, kinds: Sequence[str], paths: list[str], size: int) -> Fault:
    after = rng.choice([0, 1, rng.randrange(SPAN), rng.randrange(size)])
    times = rng.choice([1] * 8 + [2, 3, 12, -1])
    path = rng.choice(paths)
    kind: Any = rng.choice(kinds)
    if kind == "headers":
        headers = {rng.choice(["X-Repo-Commit", "X-Linked-Size"]): "1"}
        return Fault(path, "headers", headers=headers, at="resolve", times=times)
    if kind == "status":
        status = rng.choice([403, 404, 416] + [408, 429, 500, 502, 503] * 3)
        waits = [{}, {"Retry-After": "0"}, {"RateLimit": '"resolvers";r=0;t=0'}]
        headers = rng.choice([*waits * 3, {"Retry-After": "9999"}])
        return Fault(path, "status", status=status, headers=headers, at=rng.choice(["bytes", "resolve"]), times=times)
    if kind == "slow":
        return Fault(path, kind, after=after, times=rng.choice([1, 2]), rate=rng.choice([100_000, 500_000]))
    return Fault(path, kind, after=after, times=times)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("sort", CASES)
async def test_pulls_with_random_faults_succeed_or_name_the_cause(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, sort: str
) -> None:
    """Many pulls: none hangs, none leaves a wrong blob, a task or an open file."""
    case = CASES[sort]
    for module, name, value in [
        (window, "WHOLE_BYTES", 2 * SPAN),
        (http_file, "READ_SECONDS", 0.2),
        (reading, "GGUF_BYTES", GGUF_BYTES),
    ]:
        monkeypatch.setattr(module, name, value)
    use_spans(monkeypatch, SPAN)
    timings = replace(SHORT, slow_stream=0.2, concurrency_hold=0.2, least_throttle_pause=0.05, concurrency_tick=0.02)
    seed = int(os.environ.get("RANDOM_FAULTS_SEED", random.randrange(2**32)))
    print(f"RANDOM_FAULTS_SEED={seed}")
    rng = random.Random(seed)
    paths = [MODEL, PROJECTOR, "README.md"]
    if MODEL not in case.files(0):
        paths = [*sorted(path for path in case.files(0) if path.endswith(".safetensors")), "tokenizer.json"]
    results: dict[str, int] = {"success": 0, "error": 0}

    tasks, descriptors = len(asyncio.all_tasks()), open_files()
    async with App(settings(hub.endpoint, ollama.url, ollama={"patience": "0.3s"}), timings=timings) as app:
        client = Client(app.address.url, session)

        async def pull(number: int) -> None:
            name = f"acme/faulty-{number}"
            files, tag = case.files(number), rng.choice(case.tags)
            hub.add(name, files)
            hub.mirror = rng.random() < 0.05
            size = len(files[paths[0]])
            hub.faults += [random_fault(rng, case.kinds, paths, size) for _ in range(rng.randrange(3))]
            async with asyncio.timeout(60):
                lines = await client.pull(f"hf.co/{name}:{tag}")
            if lines[-1] == {"status": "success"}:
                results["success"] += 1
                expected = case.blobs(f"faulty-{number}", tag, files)
                assert {digest: ollama.blobs.get(digest) for digest in expected} == expected
            else:
                results["error"] += 1
                assert set(lines[-1]) == {"error"}
                assert any(cause in lines[-1]["error"] for cause in CAUSES), lines[-1]
            for path, content in files.items():
                digest, size = digest_of(content), len(content)
                bar = [line for line in lines if line.get("digest") == digest]
                assert all(line.get("completed", 0) <= line["total"] == bar[0]["total"] for line in bar)
                assert MODEL not in files or not bar or bar[0]["total"] == size, path

        for first in range(0, case.pulls, AT_ONCE):
            hub.faults.clear()
            ollama.fail_upload_after = rng.choice([None] * 8 * bool(first) + [rng.randrange(1, 2_000_000)])
            ollama.upload_status = rng.choice([None] * 20 + [500])
            await asyncio.gather(*(pull(number) for number in range(first, first + AT_ONCE)))
        await eventually(lambda: app.backend.streams.idle)
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("pull ")]
        print(results)
        assert min(results.values()) > case.pulls // 10, results
    await session.close()
    huggingface_hub.close_session()
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks and open_files() <= descriptors)
