"""Converted models on a real Ollama: they load and answer, and no unused blob remains."""

import orjson
import pytest

from proxy.app import App
from proxy.standins.hub import StandInHub
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.kit.real_ollama import RealOllama
from tests.kit.support import Client
from tests.real.measuring import FILES, Record, install, is_kept
from tests.real.test_embedding import embed
from tests.real.test_pull import answers

pytestmark = pytest.mark.timeout(300)

NAMES = ["qwen3", "mistral", "smollm3", "olmo2", "granite", "qwen3moe", "starcoder2"]


async def shown_quantization(client: Client, model: str) -> str:
    _, shown = await client.post("/api/show", {"model": model})
    return str(orjson.loads(shown)["details"]["quantization_level"]).upper()


@pytest.mark.parametrize("tag", ["bf16", "f16", "q8_0"])
@pytest.mark.parametrize("name", NAMES)
async def test_unquantized_models_answer(
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


@pytest.mark.parametrize("name", sorted(FILES))
async def test_every_family_is_quantized_and_answers(
    real_ollama: RealOllama, real_client: Client, hub: StandInHub, record: Record, name: str
) -> None:
    files = FILES[name]()
    quantization = "MXFP4_MOE" if is_kept(files) else "Q4_K_M"
    before = set(real_ollama.orphans)
    model = await install(real_ollama, real_client, hub, record, name, quantization)
    assert await shown_quantization(real_client, model) == quantization
    if "modules.json" in files:
        assert await embed(real_client, model, ["hello"])
    else:
        assert await answers(real_client, model)
    assert set(real_ollama.orphans) <= before
    record("quantization", name, quantization)
