"""A pull of weights that bitsandbytes or BitNet has stored."""

import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from tests.gguf.tiny_repositories.packed_bnb import REPOSITORIES, TERNARY
from tests.kit.administration import call
from tests.kit.conversions import gguf_digest
from tests.kit.support import Client, fetched


@pytest.mark.parametrize("name", REPOSITORIES)
async def test_the_blob_is_the_converters_file_byte_for_byte(
    client: Client, hub: StandInHub, ollama: StandInOllama, name: str
) -> None:
    """The plan reads the states of matrices before: they have their shapes."""
    files = REPOSITORIES[name].files()
    hub.add("acme/tiny", files)
    model = "hf.co/acme/tiny:q4_K_M"
    lines = await client.pull(model)
    assert lines[-1] == {"status": "success"}, lines[-1]
    [weights] = [layer for layer in ollama.models[model].layers if layer.kind == "model"]
    assert weights.digest == gguf_digest(files, model)
    form = "BitNet" if name in TERNARY else "INT8" if "int8" in name else "NF4" if "nf4" in name else "FP4"
    second = f"the repository has these weights in {form}, and Q4_K_M makes them less exact once more"
    assert any(second in line["status"] for line in lines)


@pytest.mark.parametrize(("name", "most"), [("qwen3moe_nf4_double", 7), ("llama_bnb_int8", 14)])
async def test_a_plan_asks_for_few_parts(client: Client, hub: StandInHub, name: str, most: int) -> None:
    """Of 32 matrices of 7 kinds, 7 states; the format of each of 14 matrices. Neighbours are one request."""
    files = REPOSITORIES[name].files()
    counts = []
    for added in (REPOSITORIES[name].tiny.files(), files):
        hub.add("acme/tiny", added)
        hub.requests.clear()
        status, inspection = await call(client, "GET", "inspect", params={"name": "hf.co/acme/tiny"})
        assert status == 200
        assert inspection["refusal"] is None
        counts.append(len(fetched(hub, "model.safetensors")))
    assert counts[0] == 0
    assert 0 < counts[1] <= most
