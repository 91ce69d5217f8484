"""Short pauses, and a model in transfer."""

import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.pauses import use_timings
from tests.kit.sight import SLOW


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    use_timings(monkeypatch, first_retry_pause=0.001, longest_retry_pause=0.01, batch=0.01)


@pytest.fixture
def size(hub: StandInHub) -> int:
    """The size of a model's weights. Its transfer lasts until `hub.line` is None."""
    files = tiny_llama()
    hub.add("acme/tiny", files)
    hub.line = SLOW
    return len(files["model.safetensors"])
