"""Fixtures for tests of transfers: retries come soon, and a small file is many spans."""

import pytest

from proxy.ollama import api
from proxy.pull import reading
from proxy.transfer import retry, streams
from tests.kit.support import GGUF_BYTES


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(api, "POLL_SECONDS", 0.01)


@pytest.fixture
def small_spans(monkeypatch: pytest.MonkeyPatch) -> int:
    """A tiny model is many spans of so many bytes."""
    size = 256 * 1024
    monkeypatch.setattr(streams, "LEAST_SPAN", size)
    monkeypatch.setattr(streams, "MOST_SPAN", size)
    monkeypatch.setattr(reading, "GGUF_BYTES", GGUF_BYTES)
    return size
