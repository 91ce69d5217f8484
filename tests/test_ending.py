"""The proxy ends while Ollama creates a model: Ollama finishes a create by itself; a manifest is pulled again."""

import asyncio
import os
import signal

import aiohttp
import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.forked import serving_forked
from tests.kit.support import PATIENCE, Client, eventually, fetched, making

NAME = "hf.co/acme/tiny:q4_K_M"


@pytest.mark.parametrize("is_created", [False, True])
async def test_sigterm_during_a_creation_loses_no_work(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, is_created: bool
) -> None:
    hub.add("acme/tiny", tiny_llama())
    ollama.hold_making = asyncio.Event()
    places = ("--ollama", ollama.url, "--hub", hub.endpoint)
    unreached = {"OLLAMA_HF_PROXY_OLLAMA_ADVERTISE_URL": "http://127.0.0.1:9"} if is_created else {}
    async with serving_forked(*places, environment=os.environ | unreached) as (process, url):
        pulling = asyncio.create_task(Client(url, session).pull(NAME))
        path = "/api/create" if is_created else "/api/pull"
        await eventually(lambda: making(one for one in ollama.requests if one.path == path))
        process.send_signal(signal.SIGTERM)
        lines = await pulling
        assert "the proxy is shutting down; pull again when it is back" in lines[-1]["error"]
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    assert NAME not in ollama.models
    ollama.hold_making.set()
    if is_created:
        await eventually(lambda: NAME in ollama.models)
        assert ollama.abandoned_creates == 0
    ollama.requests.clear()
    hub.requests.clear()
    async with serving_forked(*places) as (_, url):
        lines = await Client(url, session).pull(NAME)
    assert lines[-1] == {"status": "success"}
    assert not fetched(hub)
    assert list(ollama.models) == [NAME]
    assert set(ollama.blobs) == ollama.models.used_digests()
