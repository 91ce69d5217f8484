"""What is tried again is tried again soon, and a small file can be many spans."""

import pytest

from proxy import ollama
from proxy.pull import reading, streams, tries
from tests.support import GGUF_BYTES


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(tries, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(ollama, "POLL_SECONDS", 0.01)


@pytest.fixture
def small_spans(monkeypatch: pytest.MonkeyPatch) -> int:
    """A tiny model is many spans of so many bytes."""
    size = 256 * 1024
    monkeypatch.setattr(streams, "LEAST_SPAN", size)
    monkeypatch.setattr(streams, "MOST_SPAN", size)
    monkeypatch.setattr(reading, "GGUF_BYTES", GGUF_BYTES)
    return size
