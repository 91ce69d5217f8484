"""Runs the proxy between the two stand-ins."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from proxy.app import App
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from tests.kit.support import Client, settings


@asynccontextmanager
async def proxying(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, /, **sections: dict[str, Any]
) -> AsyncIterator[tuple[App, Client]]:
    """A proxy between the two stand-ins, and a client of it. `sections` are those of the configuration."""
    async with App(settings(hub.endpoint, ollama.url, **sections)) as app:
        yield app, Client(app.address.url, session)
