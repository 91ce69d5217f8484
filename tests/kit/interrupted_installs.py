"""Scripted failures of Ollama while the proxy installs a model."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.app import App
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.proxying import proxying
from tests.kit.support import Client

NAME = "hf.co/acme/tiny:bf16"
QUANTIZED = "hf.co/acme/tiny:q4_K_M"
SUCCESS = {"status": "success"}

OLD, NEW = tiny_llama(seed=1), tiny_llama(seed=2, shards=2)

Trouble = Callable[[StandInOllama, web.Request, Handler], Awaitable[web.StreamResponse]]

restarting: list[asyncio.Task[None]] = []


class Script:
    """Interferes once, with the n-th call of `step`: it runs `trouble`, or sets `held` and waits for `go`."""

    def __init__(self, ollama: StandInOllama, step: str, number: int, trouble: Trouble | None = None) -> None:
        self._ollama = ollama
        self._step = step
        self._left = number
        self._trouble = trouble
        self.held = asyncio.Event()
        self.go = asyncio.Event()
        self.was_reached = False
        ollama.around = self

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._left -= f"{request.method} {request.path}" == self._step
        if self._left or self.was_reached:
            return await handler(request)
        self.was_reached = True
        if self._trouble is not None:
            return await self._trouble(self._ollama, request, handler)
        self.held.set()
        await self.go.wait()
        return await handler(request)


def proxy(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, /, **pull: Any
) -> AbstractAsyncContextManager[tuple[App, Client]]:
    return proxying(hub, ollama, session, ollama={"reclaim": True, "patience": "10s"}, pull=pull)


def weights_digest(ollama: StandInOllama, name: str) -> str:
    """The digest of a model's weights. Checks that Ollama has all blobs of the model."""
    model = ollama.models[name]
    assert {layer.digest for layer in model.layers} <= ollama.blobs.keys()
    return next(layer.digest for layer in model.layers if layer.kind == "model")


def check_clean(ollama: StandInOllama, *names: str) -> None:
    assert sorted(ollama.models) == sorted(names)
    assert set(ollama.blobs) == ollama.models.used_digests()


async def replace(client: Client, hub: StandInHub, name: str) -> None:
    """Pull a model that the next pull will replace."""
    hub.add("acme/tiny", OLD)
    assert (await client.pull(name))[-1] == SUCCESS
    hub.repositories["acme/tiny"].update({**dict.fromkeys(OLD), **NEW})
    hub.requests.clear()


async def sweep(client: Client, *, dry_run: bool = False) -> dict[str, Any]:
    status, answer = await client.post("/-/reclaim", {"dry_run": dry_run})
    assert status == 200
    reclaimed = orjson.loads(answer)
    assert isinstance(reclaimed, dict)
    return reclaimed


COPIES = [("POST /api/copy", 1), ("POST /api/copy", 2)]
