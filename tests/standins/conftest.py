"""A client of the stand-in Ollama for each test."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from proxy.standins.ollama import StandInOllama
from tests.standins.driver import Driver


@pytest.fixture
async def client(ollama: StandInOllama) -> AsyncIterator[Driver]:
    async with aiohttp.ClientSession(ollama.url, timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield Driver(session)
