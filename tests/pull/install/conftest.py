"""A proxy that reclaims."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from proxy.app import App
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from tests.kit.interrupted_installs import proxy, restarting
from tests.kit.pauses import use_timings


@pytest.fixture(autouse=True)
def no_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sweep runs during a long test."""
    restarting.clear()
    use_timings(monkeypatch, first_sweep=1000.0)


@pytest.fixture
async def app(hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession) -> AsyncIterator[App]:
    async with proxy(hub, ollama, session) as (app, _):
        yield app
