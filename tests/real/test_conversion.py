"""What Ollama runs but does not convert, on a real Ollama: the proxy's GGUF loads, quantizes and answers."""

import orjson
import pytest

from proxy.app import App
from proxy.demo.hub import StandInHub
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.real.test_pull import answers
from tests.real_ollama import RealOllama
from tests.support import Client

pytestmark = pytest.mark.timeout(300)

NAMES = ["qwen3", "mistral", "smollm3", "olmo2", "granite", "qwen3moe", "starcoder2"]


@pytest.mark.parametrize("tag", ["q4_K_M", "bf16", "q8_0"])
@pytest.mark.parametrize("name", NAMES)
async def test_a_family_that_the_proxy_converts_answers_in_every_quantization(
    real_ollama: RealOllama, real_app: App, real_client: Client, hub: StandInHub, name: str, tag: str
) -> None:
    hub.add(f"acme/tiny-{name}", REPOSITORIES[name].files())
    before = set(real_ollama.orphans)
    model = f"hf.co/acme/tiny-{name}:{tag}"
    status, output = await real_ollama.cli(real_app.address.url, "pull", model)
    assert status == 0, output
    assert "success" in output
    _, shown = await real_client.post("/api/show", {"model": model})
    assert orjson.loads(shown)["details"]["quantization_level"].upper() == tag.upper()
    assert await answers(real_client, model)
    assert set(real_ollama.orphans) <= before
