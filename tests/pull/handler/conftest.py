"""A repository of one shard."""

import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.tiny_llama import tiny_llama


@pytest.fixture
def files(hub: StandInHub) -> dict[str, bytes]:
    files = tiny_llama()
    hub.add("acme/tiny", files)
    return files
