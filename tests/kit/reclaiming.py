"""Helpers for tests of reclaiming: a proxy that reclaims, and checks of what Ollama still stores."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
import orjson

from proxy.app import App
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.store import reclaim
from tests.kit.ollama_log import Lines, uploads
from tests.kit.proxying import proxying
from tests.kit.support import Client

NAME = "hf.co/acme/tiny:q4_K_M"
OTHER = "hf.co/acme/tiny:q8_0"
SUCCESS = {"status": "success"}
LEFT_TEMPORARY = f"ollama-hf-proxy/{'a' * 32}:temporary"
REFUSED = "unsupported architecture"
Work = Callable[..., Awaitable[Any]]


def orphans(ollama: StandInOllama) -> set[str]:
    return set(ollama.blobs) - ollama.models.used_digests()


def left_models(ollama: StandInOllama) -> list[str]:
    return [name for name in ollama.models if "ollama-hf-proxy" in name]


def assert_clean(ollama: StandInOllama) -> None:
    assert orphans(ollama) == set()
    assert left_models(ollama) == []
    assert ollama.models.used_digests() <= set(ollama.blobs)


def pull_uploads(ollama: StandInOllama) -> list[str]:
    """The uploads of pulls, without the configs that removals upload."""
    return [path for path in uploads(ollama) if not path.endswith(reclaim.CONFIG.digest)]


def uploaded_bytes(ollama: StandInOllama) -> int:
    return sum(request.received for request in ollama.requests if "/api/blobs/" in request.path)


def statuses(lines: Lines) -> list[str]:
    return [line["status"] for line in lines if "digest" not in line]


def proxy(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, /, **sections: dict[str, Any]
) -> AbstractAsyncContextManager[tuple[App, Client]]:
    """A proxy that reclaims."""
    sections["ollama"] = {"reclaim": True, **sections.get("ollama", {})}
    return proxying(hub, ollama, session, **sections)


class Gate:
    """Holds the calls of a method until `open` is set."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.entered: list[Any] = []
        self.open = asyncio.Event()

    async def __call__(self, *arguments: Any) -> Any:
        self.entered.append(arguments)
        await self.open.wait()
        return await self._work(*arguments)


async def reclaim_now(client: Client, **body: Any) -> dict[str, Any]:
    status, answer = await client.post("/-/reclaim", body)
    assert status == 200, answer
    reclaimed: dict[str, Any] = orjson.loads(answer)
    return reclaimed


async def head(client: Client, digest: str) -> int:
    async with client.session.head(f"{client.url}/api/blobs/{digest}") as response:
        return response.status
