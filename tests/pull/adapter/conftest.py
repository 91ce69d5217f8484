"""An adapter and its base model."""

import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.tiny_adapter import tiny_adapter


@pytest.fixture
def base(hub: StandInHub) -> dict[str, bytes]:
    files = tiny_llama()
    hub.add("acme/tiny", files)
    return files


@pytest.fixture
def adapter(hub: StandInHub) -> dict[str, bytes]:
    files = tiny_adapter("acme/tiny") | {"README.md": b"", "tokenizer.json": b"{}"}
    hub.add("acme/adapter", files)
    return files
