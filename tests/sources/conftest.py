"""A proxy between a Hub, its mirrors and an Ollama."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from proxy.app import App
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from tests.kit.mirrors import FILES, SPAN, TOKEN, Pull, another_hub
from tests.kit.pauses import use_spans, use_timings
from tests.kit.support import Client, eventually, settings


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch, hub: StandInHub) -> None:
    use_timings(monkeypatch, first_retry_pause=0.001, longest_retry_pause=0.01)
    use_spans(monkeypatch, SPAN)
    hub.add("acme/tiny", FILES)


@pytest.fixture
async def mirror() -> AsyncIterator[StandInHub]:
    async with another_hub() as hub:
        yield hub


@pytest.fixture
async def second() -> AsyncIterator[StandInHub]:
    async with another_hub() as hub:
        yield hub


@pytest.fixture
def proxy(hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession) -> Pull:
    @asynccontextmanager
    async def run(*mirrors: StandInHub) -> AsyncIterator[Client]:
        """A proxy with a token and these mirrors. At the end, it must have released all connections."""
        table = {"token": TOKEN, "mirrors": [mirror.endpoint for mirror in mirrors]}
        async with App(settings(hub.endpoint, ollama.url, hub=table)) as app:
            yield Client(app.address.url, session)
            await eventually(lambda: app.backend.streams.idle)

    return run
