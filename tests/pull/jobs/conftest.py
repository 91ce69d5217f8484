"""A model with a slow transfer."""

import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.job_clients import SLOW
from tests.kit.pauses import use_timings


@pytest.fixture
def files(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A model whose transfer lasts until `hub.line` is None. Converted bytes reach Ollama quickly."""
    use_timings(monkeypatch, batch=0.01)
    files = tiny_llama()
    hub.add("acme/tiny", files)
    hub.line = SLOW
    return files


@pytest.fixture
def size(files: dict[str, bytes]) -> int:
    return len(files["model.safetensors"])
