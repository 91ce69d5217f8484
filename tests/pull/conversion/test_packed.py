"""A pull of weights that are stored quantized."""

import re
from collections.abc import Mapping
from functools import partial

import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.transfer import window
from tests.gguf.tiny_repositories import qwen
from tests.gguf.tiny_repositories.packed import Packed
from tests.gguf.tiny_repositories.packed_compressed import MODELOPT
from tests.gguf.tiny_repositories.packed_nvfp4 import REPOSITORIES as KEPT
from tests.gguf.tiny_repositories.packed_nvfp4 import matrix
from tests.gguf.tiny_repositories.schemes import PACKED, QUANTIZED
from tests.kit.administration import call
from tests.kit.conversions import converted, gguf_digest
from tests.kit.support import Client, digest_of, fetched

SECOND = "the repository has these weights in {}, and Q4_K_M makes them less exact once more; pull BF16"
NOT_KEPT = Packed(qwen.REPOSITORIES["qwen2"], partial(matrix, ""), MODELOPT)
"""Llama.cpp computes this family without the scales of its feed-forward."""


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


def without_template(one: Packed) -> dict[str, bytes]:
    """Older Ollamas get the chat template in another form."""
    return one.files() | {"tokenizer_config.json": b"{}"}


def made(files: Mapping[str, bytes], quantization: str) -> str:
    return digest_of(converted(files, quantization=quantization))


@pytest.mark.parametrize("version", ["0.30.0", "0.33.0", "0.34.1", "0.40.0"])
@pytest.mark.parametrize("tag", ["", ":latest", ":NVFP4", ":nvfp4"])
@pytest.mark.parametrize("name", ["qwen3moe_compressed", "llama_modelopt"])
async def test_nvfp4_stays_without_a_tag_and_with_its_own(
    client: Client, hub: StandInHub, ollama: StandInOllama, name: str, tag: str, version: str
) -> None:
    """The stream has no warning, because nothing becomes less exact."""
    ollama.version = version
    files = without_template(KEPT[name])
    hub.add("acme/tiny", files)
    lines = await client.pull(f"hf.co/acme/tiny{tag}")
    assert lines[-1] == {"status": "success"}, lines[-1]
    assert not [line for line in lines if "NVFP4" in line["status"]]
    model = ollama.models[f"hf.co/acme/tiny{tag or ':latest'}"]
    [weights] = [layer for layer in model.layers if layer.kind == "model"]
    assert weights.digest == made(files, "NVFP4")
    assert model.quantization_level == "NVFP4"


@pytest.mark.parametrize(("tag", "quantization"), [("", "MXFP4_MOE"), (":q4_K_M", "Q4_K_M")])
async def test_experts_of_deepseek_v4_stay_without_a_tag(
    client: Client, hub: StandInHub, ollama: StandInOllama, tag: str, quantization: str
) -> None:
    """Its other matrices are in FP8, and its first layers have tables of whole numbers."""
    ollama.version = "0.40.0"
    files = without_template(PACKED["deepseek4_fp8"])
    hub.add("acme/tiny", files)
    lines = await client.pull(f"hf.co/acme/tiny{tag}")
    assert lines[-1] == {"status": "success"}, lines[-1]
    [weights] = [layer for layer in ollama.models[f"hf.co/acme/tiny{tag or ':latest'}"].layers if layer.kind == "model"]
    assert weights.digest == made(files, quantization)


@pytest.mark.parametrize(
    "case",
    [
        ("0.24.0", "qwen3", "", "Q4_K_M", "could stay NVFP4, but Ollama 0.24.0 does not run it; 0.30.0 or newer does"),
        ("0.24.0", "qwen3", ":q8_0", "Q8_0", "but Ollama 0.24.0 does not run it; 0.30.0 or newer does"),
        ("0.40.0", "qwen3", ":q8_0", "Q8_0", "the tag NVFP4 keeps them as they are"),
        ("0.40.0", "qwen2", "", "Q4_K_M", r"cannot stay NVFP4: llama.cpp does not multiply by .* \(qwen2\)"),
    ],
)
async def test_what_does_not_stay_nvfp4_says_why(
    client: Client, hub: StandInHub, ollama: StandInOllama, case: tuple[str, str, str, str, str]
) -> None:
    version, name, tag, quantization, end = case
    ollama.version = version
    files = without_template(KEPT[f"{name}_modelopt"] if name == "qwen3" else NOT_KEPT)
    hub.add("acme/tiny", files)
    lines = await client.pull(f"hf.co/acme/tiny{tag}")
    assert lines[-1] == {"status": "success"}, lines[-1]
    [weights] = [layer for layer in ollama.models[f"hf.co/acme/tiny{tag or ':latest'}"].layers if layer.kind == "model"]
    assert weights.digest == made(files, quantization)
    [warning] = [line["status"] for line in lines if line["status"].startswith("warning")]
    assert f"in NVFP4, and {quantization} makes them less exact once more" in warning
    assert re.search(f"; .*{end}(;|$)", warning)


@pytest.mark.parametrize(
    ("version", "name", "reason"),
    [
        ("0.24.0", "llama_modelopt", "Ollama 0.24.0 does not run NVFP4; update it to 0.30.0 or newer, or pull with"),
        ("0.40.0", "llama_int8_rows", "NVFP4 is not possible: its matrices are not NVFP4; pull with"),
        ("0.40.0", "qwen2_modelopt", r"NVFP4 is not possible: llama.cpp does not multiply by .* \(qwen2\); pull with"),
    ],
)
async def test_a_tag_that_cannot_be_is_refused(
    client: Client, hub: StandInHub, ollama: StandInOllama, version: str, name: str, reason: str
) -> None:
    """Before the first byte of the weights."""
    ollama.version = version
    one = NOT_KEPT if name == "qwen2_modelopt" else (PACKED | KEPT)[name]
    hub.add("acme/tiny", one.files())
    lines = await client.pull("hf.co/acme/tiny:NVFP4")
    assert re.search(f"^acme/tiny: {reason} one of these tags: .*Q4_K_M", lines[-1]["error"])
    assert not any("completed" in line for line in lines)
    assert not ollama.models


async def test_an_offer_of_nvfp4_has_the_size_of_the_file(
    client: Client, hub: StandInHub, ollama: StandInOllama
) -> None:
    """And the others have theirs, whichever is asked for."""
    files = without_template(KEPT["qwen3moe_compressed"])
    hub.add("acme/tiny", files)
    found = []
    for version, tag in (("0.40.0", "latest"), ("0.40.0", "Q4_K_M"), ("0.24.0", "latest")):
        ollama.version = version
        _, inspection = await call(client, "GET", f"inspect?name=hf.co/acme/tiny:{tag}")
        found.append({one["quantization"]: one["size"] for one in inspection["offers"]})
        if tag == "latest":
            assert inspection["quantization"] == ("NVFP4" if version == "0.40.0" else "Q4_K_M")
    assert found[0] == found[1] == found[2] | {"NVFP4": len(converted(files, quantization="NVFP4"))}
    assert next(iter(found[0])) == "NVFP4"
    for quantization in ("Q4_K_M", "BF16"):
        assert found[0][quantization] == len(converted(files, quantization=quantization))


async def test_inspect_says_that_nvfp4_stays(client: Client, hub: StandInHub, ollama: StandInOllama) -> None:
    ollama.version = "0.40.0"
    hub.add("acme/tiny", without_template(KEPT["qwen3_compressed"]))
    _, inspection = await call(client, "GET", "inspect?name=hf.co/acme/tiny")
    assert inspection["reason"] == "the proxy converts Qwen3ForCausalLM, which keeps its NVFP4"
    assert not [text for text in inspection["warnings"] if "NVFP4" in text]
    assert inspection["bytes_to_move"] < inspection["result_size"] * 1.1
