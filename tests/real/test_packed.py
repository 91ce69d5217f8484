"""Weights that are stored quantized: a real Ollama runs what the proxy makes of them."""

import pytest

from proxy.standins.hub import StandInHub
from tests.gguf.tiny_repositories import packed, packed_bnb
from tests.kit.real_ollama import RealOllama
from tests.kit.support import Client
from tests.real.test_conversion import shown_quantization
from tests.real.test_pull import answers

REPOSITORIES = {**packed.REPOSITORIES, **packed_bnb.REPOSITORIES}

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("tag", ["q4_K_M", "bf16"])
@pytest.mark.parametrize("name", REPOSITORIES)
async def test_it_answers(real_ollama: RealOllama, real_client: Client, hub: StandInHub, name: str, tag: str) -> None:
    hub.add(f"acme/{name}", REPOSITORIES[name].files())
    model = f"hf.co/acme/{name}:{tag}"
    lines = await real_client.pull(model)
    assert lines[-1] == {"status": "success"}, lines[-1]
    assert await shown_quantization(real_client, model) == tag.upper()
    assert await answers(real_client, model)
