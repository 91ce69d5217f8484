"""A slow quantizer makes the Hub's connections wait; they must not count as slow or silent."""

import logging
import time
from itertools import count
from pathlib import Path

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.config.values import GgufPulls
from proxy.gguf import cast
from proxy.gguf.tensors import TensorType
from proxy.sources import http_file
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from tests.kit.pauses import use_timings
from tests.kit.support import Client, fetched, settings
from tests.real.test_lifecycle import larger_llama

NAME = "hf.co/acme/slow:q4_K_M"
MEMORY = 16 * 1024 * 1024
SHORT, LONG = 1.0, 3.0
"""Seconds: when a silent or slow connection is ended, and how long the quantizer pauses."""


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    quantize, stops = cast._quantize, count()

    def slowly(name: str, kind: TensorType, dtype: str, remedy: str, content: bytes) -> bytes:
        if next(stops) in (0, 40):
            time.sleep(LONG)
        return quantize(name, kind, dtype, remedy, content)

    monkeypatch.setattr(cast, "_quantize", slowly)
    monkeypatch.setattr(http_file, "READ_SECONDS", SHORT)
    use_timings(monkeypatch, slow_stream=SHORT)


@pytest.mark.parametrize("ranged", [True, False])
async def test_a_slow_quantizer_ends_no_connection(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    slow: None,
    caplog: pytest.LogCaptureFixture,
    *,
    ranged: bool,
) -> None:
    """Nothing is fetched twice, nothing is retried, and the bytes that wait fit into the memory."""
    hub.mirror = not ranged  # like olah: whole files, no ranges
    files = larger_llama(tmp_path / "weights", hidden=1024, layers=1, shards=2)
    hub.add("acme/slow", files)
    pull = {"memory": MEMORY, "threads": 1, "gguf": GgufPulls.PROXY}
    async with App(settings(hub.endpoint, ollama.url, pull=pull)) as app:
        client = Client(app.address.url, session)
        lines = await client.pull(NAME)
        assert lines[-1] == {"status": "success"}, lines[-1]
        [job] = orjson.loads((await client.get("/-/pulls"))[1])
        assert job["retries"] == 0
    warned = [
        record.message
        for record in caplog.records
        if record.levelno >= logging.WARNING
        and record.name.startswith(("proxy.pull", "proxy.transfer", "proxy.sources"))
    ]
    if ranged:
        sizes = sum(path.stat().st_size for path in files.values() if isinstance(path, Path))
        assert sum(request.body_bytes for request in fetched(hub)) == sizes
        assert warned == []
    else:
        # The first range finds out that there are none.
        assert all("sends no ranges" in text for text in warned)
