"""Short times and small spans, for tests that transfer."""

from dataclasses import replace
from inspect import signature

import pytest

from proxy.app import App
from proxy.backend import Backend
from proxy.pull import reading
from proxy.timings import Timings
from proxy.transfer import streams
from tests.kit.support import GGUF_BYTES

SHORT_PAUSES = {"first_retry_pause": 0.001, "longest_retry_pause": 0.01, "ollama_poll": 0.01}
SHORT = Timings(**SHORT_PAUSES)


def use_timings(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> Timings:
    """Set timings for every proxy that this test starts without its own timings. Several calls add up."""
    timings: Timings = replace(signature(App).parameters["timings"].default, **seconds)
    for constructor in (App.__init__, Backend.__init__):
        monkeypatch.setattr(constructor, "__kwdefaults__", {"timings": timings})
    return timings


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> Timings:
    return use_timings(monkeypatch, **SHORT_PAUSES)


def use_spans(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Fetch weights in spans of `size` bytes."""
    monkeypatch.setattr(streams, "MIN_SPAN", size)
    monkeypatch.setattr(streams, "MAX_SPAN", size)


@pytest.fixture
def small_spans(monkeypatch: pytest.MonkeyPatch) -> int:
    """Make the spans so small that a tiny model needs many. Returns their size in bytes."""
    size = 256 * 1024
    use_spans(monkeypatch, size)
    monkeypatch.setattr(reading, "GGUF_BYTES", GGUF_BYTES)
    return size
