"""What the tests share: settings for two stand-ins, a client, and waiting."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from proxy.config import Config, check

SHARED = Path(__file__).parent.parent.parent / "shared"


def settings(hub: str, ollama: str, /, **sections: dict[str, Any]) -> Config:
    """A configuration that dials the two given URLs and nothing else."""
    return check(
        {
            "server": {"listen": "127.0.0.1:0"},
            "hub": {"endpoint": hub, **sections.pop("hub", {})},
            "ollama": {"url": ollama},
            **sections,
        }
    )


class Client:
    """What a user's client does, at a proxy or at Ollama itself."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def pull(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        """The lines of a streamed pull."""
        async with self.session.post(f"{self.url}/api/pull", json={"model": name, **fields}) as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "application/x-ndjson"
            return [orjson.loads(line) for line in (await response.read()).splitlines()]

    async def pull_at_once(self, name: str) -> tuple[int, dict[str, Any]]:
        """Status and answer with `stream: false`."""
        body = {"model": name, "stream": False}
        async with self.session.post(f"{self.url}/api/pull", json=body) as response:
            return response.status, orjson.loads(await response.read())

    async def get(self, path: str, **options: Any) -> tuple[int, bytes]:
        async with self.session.get(self.url + path, **options) as response:
            return response.status, await response.read()

    async def post(self, path: str, body: Any) -> tuple[int, bytes]:
        async with self.session.post(self.url + path, json=body) as response:
            return response.status, await response.read()


async def eventually(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until a condition holds; fail when it does not."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
