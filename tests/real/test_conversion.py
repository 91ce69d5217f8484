"""What the proxy converts, on a real Ollama: its GGUF loads, quantizes and answers, and nothing is left behind."""

import orjson
import pytest

from proxy.app import App
from proxy.demo.hub import StandInHub
from proxy.planning.capabilities import LLAMA_SERVER
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.real.test_embedding import embed
from tests.real.test_pull import answers
from tests.real_ollama import RealOllama
from tests.support import Client

pytestmark = pytest.mark.timeout(300)

NAMES = ["qwen3", "mistral", "smollm3", "olmo2", "granite", "qwen3moe", "starcoder2"]


async def shown_quantization(client: Client, model: str) -> str:
    _, shown = await client.post("/api/show", {"model": model})
    return str(orjson.loads(shown)["details"]["quantization_level"]).upper()


@pytest.mark.parametrize("tag", ["bf16", "f16", "q8_0"])
@pytest.mark.parametrize("name", NAMES)
async def test_what_needs_no_quantizing_answers_too(
    real_ollama: RealOllama, real_app: App, real_client: Client, hub: StandInHub, name: str, tag: str
) -> None:
    hub.add(f"acme/tiny-{name}", REPOSITORIES[name].files())
    before = set(real_ollama.orphans)
    model = f"hf.co/acme/tiny-{name}:{tag}"
    status, output = await real_ollama.cli(real_app.address.url, "pull", model)
    assert status == 0, output
    assert "success" in output
    assert await shown_quantization(real_client, model) == tag.upper()
    assert await answers(real_client, model)
    assert set(real_ollama.orphans) <= before


@pytest.mark.parametrize("name", sorted(REPOSITORIES))
async def test_every_family_is_quantized_and_answers(
    real_ollama: RealOllama, real_client: Client, hub: StandInHub, name: str
) -> None:
    files = REPOSITORIES[name].files()
    # What is quantized already stays as it is.
    quantization = "MXFP4_MOE" if b'"quantization_config"' in files["config.json"] else "Q4_K_M"
    # llama.cpp does other things with models that have phi3 in their names.
    repository = f"each-{name.replace('phi3', 'phi-mini')}"
    hub.add(f"acme/{repository}", files)
    before = set(real_ollama.orphans)
    model = f"hf.co/acme/{repository}:{quantization}"
    lines = await real_client.pull(model)
    newer = ("update it to", "does not run")
    if real_ollama.version < LLAMA_SERVER[:2] and any(text in lines[-1].get("error", "") for text in newer):
        pytest.skip(lines[-1]["error"])
    assert lines[-1] == {"status": "success"}, lines[-1]
    assert await shown_quantization(real_client, model) == quantization
    if REPOSITORIES[name].pooling:
        await embed(real_client, model, ["hello"])
    else:
        assert await answers(real_client, model)
    assert set(real_ollama.orphans) <= before
