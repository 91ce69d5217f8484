"""Door 1: Ollama's answers are the same directly and through the proxy."""

import asyncio

from proxy.app import App
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.same_answers import CASES, MODEL, differences
from tests.kit.support import Client


async def test_answers_are_the_same_through_the_proxy(
    hub: StandInHub, ollama: StandInOllama, app: App, client: Client
) -> None:
    hub.add("acme/tiny", tiny_llama())
    assert (await client.pull(MODEL))[-1] == {"status": "success"}
    assert len({case.name for case in CASES}) == len(CASES) >= 50
    different = await asyncio.to_thread(differences, ollama.url, app.address.url, CASES)
    assert not different, "\n".join(different)
