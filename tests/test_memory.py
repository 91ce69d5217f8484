"""A large repository passes through the proxy without staying in it."""

import asyncio
import hashlib
import sys
from pathlib import Path

import aiohttp
import pytest

from proxy.demo.hub import StandInHub
from proxy.demo.ollama import StandInOllama
from tests.support import Client, companions, serving, weights_header

GIB = 1024**3
MIB = 1024**2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("shards", [1, 8])
async def test_a_gigabyte_raises_the_memory_by_less_than_150_mib(
    shards: int, hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    files: dict[str, bytes | Path] = {**companions()}
    digests = {}
    for number in range(1, shards + 1):
        path = tmp_path / f"model-{number:05}-of-{shards:05}.safetensors"
        size = GIB // shards + number  # no two alike: a blob is uploaded once
        header = weights_header(size, f"tensor {number}")
        with path.open("wb") as file:
            file.write(header)
            file.truncate(size)
        digests[path.name] = await asyncio.to_thread(sha256_of_zeros, header, size)
        files[path.name] = path
    hub.add("acme/large", files, digests=digests)
    async with serving("--ollama", ollama.url, "--hub", hub.endpoint) as (process, url):
        before = peak(process.pid)
        await Client(url, session).pull("hf.co/acme/large")
        assert sum(request.received for request in ollama.requests) > GIB
        assert peak(process.pid) - before < 150 * MIB


def sha256_of_zeros(header: bytes, size: int) -> str:
    """Of a file that has nothing but zeros behind its header."""
    digest = hashlib.sha256(header)
    zeros = bytes(MIB)
    left = size - len(header)
    for _ in range(left // MIB):
        digest.update(zeros)
    digest.update(bytes(left % MIB))
    return digest.hexdigest()


def peak(pid: int) -> int:
    """The most memory that a process has held, in bytes."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
