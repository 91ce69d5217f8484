"""A pull of weights that are stored quantized."""

import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.transfer import window
from tests.gguf.tiny_repositories.schemes import PACKED, QUANTIZED
from tests.kit.administration import call
from tests.kit.conversions import gguf_digest
from tests.kit.support import Client, fetched

SECOND = "the repository has these weights in {}, and Q4_K_M makes them less exact once more; pull BF16"


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
        ("llama_nf4_double", "NF4"),
        ("phi3_fp4", "FP4"),
        ("llama_bnb_int8", "INT8"),
        ("llama_bitnet", "BitNet"),
        ("llama_gptq_act_order", "GPTQ"),
        ("qwen3moe_gptq", "GPTQ"),
        ("llama_awq", "AWQ"),
    ],
)
async def test_the_blob_is_the_converters_file_byte_for_byte(
    client: Client, hub: StandInHub, ollama: StandInOllama, name: str, tag: str, form: str
) -> None:
    """With a warning before the first byte if the quantization costs quality once more."""
    files = QUANTIZED[name].files()
    hub.add("acme/tiny", files)
    model = f"hf.co/acme/tiny:{tag}"
    lines = await client.pull(model)
    assert lines[-1] == {"status": "success"}, lines[-1]
    [weights] = [layer for layer in ollama.models[model].layers if layer.kind == "model"]
    assert weights.digest == gguf_digest(files, model)
    warned = [at for at, line in enumerate(lines) if SECOND.format(form) in line["status"]]
    assert len(warned) == (tag == "q4_K_M")
    assert all("completed" not in line for line in lines[: warned[0] if warned else 0])


@pytest.mark.parametrize(("tag", "warns"), [("Q4_K_M", True), ("Q8_0", True), ("BF16", False), ("F32", False)])
@pytest.mark.parametrize("original", ["", "acme/Original-1B"])
async def test_a_second_quantization_names_the_original(
    client: Client, hub: StandInHub, tag: str, warns: bool, original: str
) -> None:
    hub.add("acme/tiny", QUANTIZED["llama_int8_rows"].files(), quantized_from=original)
    _, inspection = await call(client, "GET", f"inspect?name=hf.co/acme/tiny:{tag}")
    assert inspection["reason"] == "the proxy converts LlamaForCausalLM from INT8"
    end = f"{original}, which they were made from" if original else "the repository that they were made from"
    warned = [text for text in inspection["warnings"] if text.endswith(f"once more; pull BF16, or {end}")]
    assert len(warned) == warns


@pytest.mark.parametrize(("name", "most"), [("qwen3moe_nf4_double", 7), ("llama_bnb_int8", 14)])
async def test_a_plan_asks_for_few_parts(client: Client, hub: StandInHub, name: str, most: int) -> None:
    """Of 32 matrices of 7 kinds, 7 states; the format of each of 14 matrices. Neighbours are one request."""
    files = PACKED[name].files()
    counts = []
    for added in (PACKED[name].tiny.files(), files):
        hub.add("acme/tiny", added)
        hub.requests.clear()
        status, inspection = await call(client, "GET", "inspect", params={"name": "hf.co/acme/tiny"})
        assert status == 200
        assert inspection["refusal"] is None
        counts.append(len(fetched(hub, "model.safetensors")))
    assert counts[0] == 0
    assert 0 < counts[1] <= most


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("qwen3moe_fp8_blocks", 136, 34),
        ("deepseek3_int4", 129, 55),
        ("qwen3moe_nvfp4", 104, 34),
        ("qwen3moe_gptq", 72, 34),
    ],
)
async def test_scales_need_few_requests(
    client: Client,
    hub: StandInHub,
    ollama: StandInOllama,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    before: int,
    after: int,
) -> None:
    """Those of all experts of a layer are fetched at once; each of the 28 matrices and more is a request as before."""
    files = QUANTIZED[name].files()
    hub.add("acme/tiny", files)
    for tag, piece_bytes, count in (("f16", 0, before), ("bf16", 4096, after)):
        monkeypatch.setattr(window, "PIECE_BYTES", piece_bytes)
        hub.requests.clear()
        model = f"hf.co/acme/tiny:{tag}"
        assert (await client.pull(model))[-1] == {"status": "success"}
        [weights] = [layer for layer in ollama.models[model].layers if layer.kind == "model"]
        assert weights.digest == gguf_digest(files, model)
        assert len(fetched(hub, "model.safetensors")) == count
