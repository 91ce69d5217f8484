"""A tiny repository on several Hubs, and the requests that each Hub received."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from aiohttp import hdrs

from proxy.standins.hub import LoggedRequest, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.conversions import converted
from tests.kit.support import Client, digest_of, fetched

NAME = "hf.co/acme/tiny:q4_K_M"
WEIGHTS = "model.safetensors"
SPAN = 256 * 1024
FILES = tiny_llama()
SIZE = len(FILES[WEIGHTS])
MADE = converted(FILES, quantization="Q4_K_M")
DIGEST = digest_of(MADE)
SUCCESS = {"status": "success"}
TOKEN = "hf_mine"
Lines = list[dict[str, Any]]
Pull = Callable[..., AbstractAsyncContextManager[Client]]


@asynccontextmanager
async def another_hub() -> AsyncIterator[StandInHub]:
    """A Hub with the same repository. It must never receive a token."""
    async with StandInHub() as hub:
        hub.add("acme/tiny", FILES)
        yield hub
        assert not [request for request in hub.requests if hdrs.AUTHORIZATION in request.headers]


def ranges(hub: StandInHub, path: str = WEIGHTS) -> list[tuple[int, int]]:
    bounds = [request.headers[hdrs.RANGE].removeprefix("bytes=").split("-") for request in fetched(hub, path)]
    return [(int(first), int(last) + 1) for first, last in bounds]


def resolved(hub: StandInHub, path: str = WEIGHTS) -> list[LoggedRequest]:
    return [request for request in hub.requests if "/resolve/" in request.path and request.path.endswith(path)]


def check_success(lines: Lines, ollama: StandInOllama) -> None:
    assert lines[-1] == SUCCESS, lines[-1]
    assert ollama.blobs[DIGEST] == len(MADE)
