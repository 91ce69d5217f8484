"""Short headers, and a split GGUF."""

import pytest

from proxy.pull import reading
from proxy.standins.hub import StandInHub
from tests.gguf.splitting import split
from tests.kit.gguf_pulls import FLOATS, HEADER_BYTES, REPOSITORY


@pytest.fixture(autouse=True)
def short_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the first read of a GGUF smaller than the tiny files."""
    monkeypatch.setattr(reading, "GGUF_BYTES", HEADER_BYTES)


@pytest.fixture
def shards(hub: StandInHub) -> dict[str, bytes]:
    parts = split(FLOATS, 3, prefix="F16/Tiny-F16")
    hub.add(REPOSITORY, parts)
    return parts
