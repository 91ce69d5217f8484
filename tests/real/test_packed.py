"""Weights that are stored quantized: a real Ollama runs what the proxy makes of them."""

import json

import pytest

from proxy.standins.hub import StandInHub
from tests.gguf.tiny_repositories.schemes import KEPT, QUANTIZED
from tests.kit.real_ollama import RealOllama
from tests.kit.support import Client
from tests.real.make_logprobs import PACKED_FIGURES, PACKED_WITHOUT_LOGPROBS
from tests.real.measuring import NOT_RUN
from tests.real.test_conversion import shown_quantization
from tests.real.test_logprobs import LOGPROBS, answer, check_same, comparable
from tests.real.test_pull import answers

pytestmark = pytest.mark.timeout(300)

FIGURES = {**json.loads(PACKED_FIGURES.read_bytes()), **{name: LOGPROBS[name] for name in KEPT}}


async def pulled(client: Client, hub: StandInHub, name: str, tag: str) -> str:
    # llama.cpp treats models with phi3 in their names in a special way.
    repository = name.replace("phi3", "phi-mini")
    hub.add(f"acme/{repository}", QUANTIZED[name].files())
    model = f"hf.co/acme/{repository}:{tag}"
    lines = await client.pull(model)
    if any(reason in lines[-1].get("error", "") for reason in NOT_RUN):
        pytest.skip(lines[-1]["error"])
    assert lines[-1] == {"status": "success"}, lines[-1]
    return model


@pytest.mark.parametrize("name", FIGURES)
async def test_tokens_and_logprobs_equal_those_of_transformers(
    real_ollama: RealOllama, real_client: Client, hub: StandInHub, name: str
) -> None:
    """With the weights that the stored ones stand for."""
    model = await pulled(real_client, hub, name, "F32")
    for expected in comparable(real_ollama, name) if name in LOGPROBS else FIGURES[name]:
        check_same(await answer(real_client, model, expected), expected, expected["tolerance"])


@pytest.mark.parametrize("tag", ["q4_K_M", "bf16"])
@pytest.mark.parametrize("name", QUANTIZED)
async def test_it_answers(real_ollama: RealOllama, real_client: Client, hub: StandInHub, name: str, tag: str) -> None:
    model = await pulled(real_client, hub, name, tag)
    assert await shown_quantization(real_client, model) == tag.upper()
    assert await answers(real_client, model)


def test_every_repository_has_figures() -> None:
    assert FIGURES.keys() | PACKED_WITHOUT_LOGPROBS == QUANTIZED.keys()
