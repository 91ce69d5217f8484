"""Door 1 in front of a real Ollama: answers are the same directly and through the proxy."""

import asyncio

import pytest

from proxy.app import App
from proxy.standins.hub import StandInHub
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.real_ollama import RealOllama
from tests.kit.same_answers import CASES, MODEL, Case, differences
from tests.kit.support import Client


@pytest.mark.timeout(300)
async def test_answers_are_the_same_through_the_proxy(
    real_ollama: RealOllama, real_app: App, real_client: Client, hub: StandInHub
) -> None:
    hub.add("acme/tiny", tiny_llama())
    assert (await real_client.pull(MODEL))[-1] == {"status": "success"}
    cases = [*CASES, Case("HTTP/1.1 without a host", b"GET /api/version HTTP/1.1\r\n\r\n")]
    different = await asyncio.to_thread(differences, real_ollama.url, real_app.address.url, cases)
    assert not different, "\n".join(different)
