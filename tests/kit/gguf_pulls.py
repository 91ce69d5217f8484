"""Helpers for tests of pulls of GGUF repositories."""

from typing import Any

import aiohttp

from proxy.app import App
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from tests.kit.ollama_log import Lines
from tests.kit.support import Client, settings
from tests.kit.tiny_gguf import finite, tiny_gguf

WHOLE = tiny_gguf()
FLOATS = finite(tiny_gguf("F16"))
REPOSITORY = "acme/tiny-gguf"
NAME = f"hf.co/{REPOSITORY}:q4_K_M"
HEADER_BYTES = 4096


def gguf_layers(ollama: StandInOllama, name: str) -> list[tuple[str, str]]:
    """Kind and digest of the layers that are GGUFs."""
    kinds = ("model", "projector", "adapter")
    return [(layer.kind, layer.digest) for layer in ollama.models[name].layers if layer.kind in kinds]


def weight_bytes(hub: StandInHub, path: str = ".gguf") -> int:
    return sum(request.body_bytes for request in hub.requests if request.origin == "cdn" and path in request.path)


async def pull(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, name: str = NAME, /, **sections: Any
) -> Lines:
    """Pull through a proxy that has these settings and runs only for this pull."""
    async with App(settings(hub.endpoint, ollama.url, **sections)) as app:
        return await Client(app.address.url, session).pull(name, insecure=True)


PRIVATE: dict[str, Any] = {"hub": {"token": "hf_secret"}}

F16_NAME = f"hf.co/{REPOSITORY}:f16"
