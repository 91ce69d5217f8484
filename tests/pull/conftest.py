"""What is tried again is tried again soon."""

import pytest

from proxy import ollama
from proxy.pull import tries


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(tries, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(ollama, "POLL_SECONDS", 0.01)
