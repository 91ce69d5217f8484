"""A pull of weights that are stored quantized."""

import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from tests.gguf.tiny_repositories import experts, packed, packed_compressed
from tests.kit.administration import call
from tests.kit.conversions import gguf_digest
from tests.kit.support import Client

REPOSITORIES = {
    **packed.REPOSITORIES,
    **packed_compressed.REPOSITORIES,
    "gpt_oss": experts.REPOSITORIES["gpt_oss"],
}
SECOND = "warning: the repository has these weights in {}, and Q4_K_M makes them less exact once more; pull BF16"


@pytest.mark.parametrize("tag", ["q4_K_M", "bf16"])
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("llama_fp8_blocks", "FP8"),
        ("qwen3moe_fp8_blocks", "FP8"),
        ("llama_fp8_tensors", "FP8"),
        ("llama_int8_rows", "INT8"),
        ("llama_int4_zeros", "INT4"),
        ("deepseek3_int4", "INT4"),
        ("qwen3moe_int8_int4", "INT4 and INT8"),
        ("qwen3moe_nvfp4", "NVFP4"),
        ("qwen2_mxfp4", "MXFP4"),
        ("gpt_oss", "MXFP4"),
    ],
)
async def test_the_blob_is_the_converters_file_byte_for_byte(
    client: Client, hub: StandInHub, ollama: StandInOllama, name: str, tag: str, form: str
) -> None:
    """With a warning before the first byte if the quantization costs quality once more."""
    files = REPOSITORIES[name].files()
    hub.add("acme/tiny", files)
    model = f"hf.co/acme/tiny:{tag}"
    lines = await client.pull(model)
    assert lines[-1] == {"status": "success"}, lines[-1]
    [weights] = [layer for layer in ollama.models[model].layers if layer.kind == "model"]
    assert weights.digest == gguf_digest(files, model)
    warned = [at for at, line in enumerate(lines) if line["status"].startswith(SECOND.format(form))]
    assert len(warned) == (tag == "q4_K_M")
    assert all("completed" not in line for line in lines[: warned[0] if warned else 0])


@pytest.mark.parametrize(("tag", "warns"), [("Q4_K_M", True), ("Q8_0", True), ("BF16", False), ("F32", False)])
@pytest.mark.parametrize("original", ["", "acme/Original-1B"])
async def test_a_second_quantization_names_the_original(
    client: Client, hub: StandInHub, tag: str, warns: bool, original: str
) -> None:
    hub.add("acme/tiny", REPOSITORIES["llama_int8_rows"].files(), quantized_from=original)
    _, inspection = await call(client, "GET", f"inspect?name=hf.co/acme/tiny:{tag}")
    assert inspection["reason"] == "the proxy converts LlamaForCausalLM from INT8"
    end = f"{original}, which they were made from" if original else "the repository that they were made from"
    warned = [text for text in inspection["warnings"] if text.endswith(f"once more; pull BF16, or {end}")]
    assert len(warned) == warns
