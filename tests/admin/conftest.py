"""A repository, and short pauses."""

import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.repository import tiny_llama
from proxy.transfer import retry, window


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(window, "BATCH_SECONDS", 0.01)


@pytest.fixture
def files(hub: StandInHub) -> dict[str, bytes]:
    files = tiny_llama(shards=3)
    hub.add("acme/tiny", files)
    return files
