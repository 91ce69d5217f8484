"""Short pauses, and a model in transfer."""

import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.repository import tiny_llama
from proxy.transfer import retry, window
from tests.kit.sight import SLOW


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(window, "BATCH_SECONDS", 0.01)


@pytest.fixture
def size(hub: StandInHub) -> int:
    """The size of a model's weights. Its transfer lasts until `hub.line` is None."""
    files = tiny_llama()
    hub.add("acme/tiny", files)
    hub.line = SLOW
    return len(files["model.safetensors"])
