"""A repository, and short pauses."""

import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.forked import forked_workers
from tests.kit.pauses import use_timings

__all__ = ["files", "forked_workers", "short_pauses"]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    use_timings(monkeypatch, first_retry_pause=0.001, longest_retry_pause=0.01, batch=0.01)


@pytest.fixture
def files(hub: StandInHub) -> dict[str, bytes]:
    files = tiny_llama(shards=3)
    hub.add("acme/tiny", files)
    return files
