"""A create that runs when the proxy ends is read to its end by another process."""

import asyncio
import signal
import sys

import aiohttp
import pytest

from proxy.demo.hub import StandInHub
from proxy.demo.ollama import StandInOllama
from proxy.demo.repository import tiny_llama
from tests.support import PATIENCE, Client, digest_of, eventually, serving

NAME = "hf.co/acme/tiny:q4_K_M"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows hands no sockets on")
async def test_sigterm_in_a_create_ends_the_proxy_but_not_the_create(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    files = tiny_llama()
    hub.add("acme/tiny", files)
    ollama.version = "0.33.0"  # one create, which streams
    ollama.hold_making = asyncio.Event()
    async with serving("--ollama", ollama.url, "--hub", hub.endpoint) as (process, url):
        pulling = asyncio.create_task(Client(url, session).pull(NAME))
        await eventually(lambda: any(request.path == "/api/create" for request in ollama.requests))
        process.send_signal(signal.SIGTERM)
        lines = await pulling
        assert "the proxy is shutting down; pull again when it is back" in lines[-1]["error"]
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    assert NAME not in ollama.models
    ollama.hold_making.set()
    await eventually(lambda: NAME in ollama.models)
    assert ollama.abandoned_creates == 0
    created = len([request for request in ollama.requests if request.path == "/api/create"])
    async with serving("--ollama", ollama.url, "--hub", hub.endpoint) as (_, url):
        lines = await Client(url, session).pull(NAME)
    assert [line["status"] for line in lines if "digest" not in line][-2:] == ["removing unused layers", "success"]
    assert len([request for request in ollama.requests if request.path == "/api/create"]) == created
    assert digest_of(files["model.safetensors"]) not in ollama.blobs
