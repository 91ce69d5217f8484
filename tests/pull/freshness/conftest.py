"""A repository, and a new proxy for each pull."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.app import App
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.ollama_log import Lines
from tests.kit.repeated_pulls import NAME, Pull
from tests.kit.support import Client, settings


@pytest.fixture
def files(hub: StandInHub) -> dict[str, bytes]:
    files = tiny_llama()
    hub.add("acme/tiny", files)
    return files


@pytest.fixture
def pull(hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession) -> Pull:
    """Pulls through a proxy that runs only for this pull."""

    async def pull(name: str = NAME, **sections: Any) -> Lines:
        async with App(settings(hub.endpoint, ollama.url, **sections)) as app:
            return await Client(app.address.url, session).pull(name)

    return pull


@pytest.fixture
def lose_journal(tmp_path: Path) -> Callable[[], None]:
    """Deletes the proxy's journal."""

    def lose_journal() -> None:
        assert list((tmp_path / "state").rglob("*.sqlite"))
        shutil.rmtree(tmp_path / "state")

    return lose_journal


@pytest.fixture
def shards(hub: StandInHub) -> list[bytes]:
    """The weight files of a repository."""
    files = tiny_llama(shards=2)
    hub.add("acme/tiny", files)
    return [content for path, content in sorted(files.items()) if path.endswith(".safetensors")]
