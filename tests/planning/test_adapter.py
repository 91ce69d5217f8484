"""LoRA adapters: the GGUF computes what PEFT would compute; unsupported adapters are refused."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from proxy.errors import Refusal
from proxy.gguf.header import read_header
from proxy.gguf.tensors import TensorType
from proxy.planning import safetensors
from proxy.planning.adapter import (
    AdapterBase,
    AdapterConfig,
    adapter_recipe,
    read_adapter_base,
    read_adapter_config,
)
from proxy.planning.recipe import Recipe
from proxy.sources.base import RepositoryFile
from proxy.standins.tiny_llama import HEADS, HIDDEN, KV_HEADS, tiny_llama
from tests.kit import tiny_adapter as tiny
from tests.kit.assembling import assembled
from tests.kit.tiny_adapter import Tensors, adapter_config, adapter_tensors

Matrix = NDArray[np.float32]

CONFIG_AT = "acme/adapter/adapter_config.json"
WEIGHTS_AT = "acme/adapter/adapter_model.safetensors"
BASE_AT = "acme/model/config.json"
LLAMA_CONFIG = json.loads(tiny_llama()["config.json"])
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


def config_of(**fields: Any) -> AdapterConfig:
    return read_adapter_config(CONFIG_AT, adapter_config("acme/model", **fields))


def base_of(architecture: str = "LlamaForCausalLM", **fields: Any) -> AdapterBase:
    return read_adapter_base(BASE_AT, json.dumps(LLAMA_CONFIG | {"architectures": [architecture]} | fields).encode())


def recipe_of(content: bytes, config: AdapterConfig, base: AdapterBase) -> Recipe:
    size = safetensors.header_size(WEIGHTS_AT, content[:8], len(content))
    header = safetensors.read_header(WEIGHTS_AT, content[:size], len(content))
    file = RepositoryFile("adapter_model.safetensors", len(content))
    return adapter_recipe(WEIGHTS_AT, file, header, config, base)


def made_of(recipe: Recipe, content: bytes, cuts: Sequence[int] = ()) -> bytes:
    """The blob that the engine makes if the file arrives in pieces that end at `cuts`."""
    ends = sorted({*cuts, len(content)})
    return assembled(recipe, [content[start:stop] for start, stop in zip([0, *ends], ends, strict=False)])


def adapter_of(
    tensors: Tensors, config: AdapterConfig, base: AdapterBase
) -> tuple[float, dict[str, tuple[TensorType, Matrix]]]:
    """Alpha and the tensors of the converted GGUF."""
    content = tiny.safetensors(tensors)
    gguf = made_of(recipe_of(content, config, base), content)
    header = read_header(gguf, size=len(gguf))
    assert header.architecture == base.architecture
    assert header.get("general.type", str) == "adapter"
    assert header.get("adapter.type", str) == "lora"
    converted = {}
    for tensor in header.tensors:
        start = header.data_start + tensor.offset
        kind = TensorType(tensor.type)
        converted[tensor.name] = kind, matrix(kind.name, tensor.shape[::-1], gguf[start : start + tensor.size])
    alpha = header.get("adapter.lora.alpha", float)
    assert alpha is not None
    return alpha, converted


def matrix(dtype: str, shape: tuple[int, ...], data: bytes) -> Matrix:
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").reshape(shape)
    return np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32).reshape(shape)


def permuted(rows: Matrix, heads: int) -> Matrix:
    """As llama.cpp's converter permutes the rows of q_proj and k_proj."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def halves(tensors: Tensors, layer: int, module: str) -> tuple[Matrix, Matrix]:
    prefix = f"base_model.model.model.layers.{layer}.{module}.lora_"
    return matrix(*tensors[f"{prefix}A.weight"]), matrix(*tensors[f"{prefix}B.weight"])


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("kv_heads", [KV_HEADS, HEADS])
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_lora_b_of_a_llama_is_permuted_as_its_weights(
    dtype: str, kv_heads: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All other bytes stay as they are."""
    for name in ("self_attn.k_proj", "self_attn.v_proj"):
        monkeypatch.setitem(tiny.SHAPES, name, (HIDDEN // HEADS * kv_heads, HIDDEN))
    tensors = adapter_tensors(rank=rank, modules=GGUF_NAMES, dtype=dtype)
    alpha, converted = adapter_of(tensors, config_of(rank=rank), base_of(num_key_value_heads=kv_heads))
    assert alpha == 2 * rank
    assert len(converted) == len(tensors)
    for layer in range(2):
        for module, name in GGUF_NAMES.items():
            a, b = halves(tensors, layer, module)
            heads = {"attn_q": HEADS, "attn_k": kv_heads}.get(name)
            for half, expected in (("a", a), ("b", permuted(b, heads) if heads else b)):
                kind, values = converted[f"blk.{layer}.{name}.weight.lora_{half}"]
                assert kind.name == dtype
                assert np.array_equal(values, expected)


def test_a_gemma_2_gets_everything_as_it_was() -> None:
    tensors = adapter_tensors(modules=GGUF_NAMES)
    _, converted = adapter_of(tensors, config_of(), base_of("Gemma2ForCausalLM"))
    for module, name in GGUF_NAMES.items():
        a, b = halves(tensors, 1, module)
        assert np.array_equal(converted[f"blk.1.{name}.weight.lora_a"][1], a)
        assert np.array_equal(converted[f"blk.1.{name}.weight.lora_b"][1], b)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize(
    ("fields", "ranks", "scales"),
    [
        ({"lora_alpha": 16.0}, (4, 4), (4, 4)),
        ({"lora_alpha": 16.5}, (4, 8), (16.5 / 4, 16.5 / 8)),
        ({"lora_alpha": -3}, (4, 4), (-3 / 4, -3 / 4)),
        ({"lora_alpha": 16, "use_rslora": True}, (5, 5), (16 / math.sqrt(5), 16 / math.sqrt(5))),
        ({"lora_alpha": 16, "use_rslora": True}, (4, 9), (16 / 2, 16 / 3)),
        ({"lora_alpha": 16, "alpha_pattern": {"v_proj": 6}}, (4, 4), (4, 6 / 4)),
        ({"lora_alpha": 16, "alpha_pattern": {"proj": 1, "^model.layers.1.self_attn.v_proj": 6}}, (4, 4), (4, 6 / 4)),
        ({"lora_alpha": 16, "alpha_pattern": {"1.self_attn.v_proj": 6, "v_proj": 7}}, (4, 8), (4, 6 / 8)),
    ],
)
def test_every_module_is_scaled_as_peft_scales_it(
    dtype: str, fields: dict[str, Any], ranks: tuple[int, int], scales: tuple[float, float]
) -> None:
    q, v = "self_attn.q_proj", "self_attn.v_proj"
    tensors = adapter_tensors(rank=ranks[0], modules=[q], dtype=dtype)
    tensors |= adapter_tensors(rank=ranks[1], modules=[v], dtype=dtype)
    alpha, converted = adapter_of(tensors, config_of(**fields), base_of("Gemma2ForCausalLM"))
    for module, rank, scale in zip((q, v), ranks, scales, strict=True):
        a, b = halves(tensors, 1, module)
        name = f"blk.1.{GGUF_NAMES[module]}.weight.lora_"
        delta = alpha / rank * converted[f"{name}b"][1] @ converted[f"{name}a"][1]
        assert np.allclose(delta, scale * b @ a, rtol=1e-4, atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(cuts=st.lists(st.integers(1, 40_000), max_size=12), dtype=st.sampled_from(["F32", "F16", "BF16"]))
def test_it_does_not_matter_how_the_bytes_are_chopped(cuts: list[int], dtype: str) -> None:
    content = tiny.safetensors(
        adapter_tensors(modules=["self_attn.q_proj", "self_attn.v_proj"], dtype=dtype, layers=1, rank=5)
    )
    recipe = recipe_of(content, config_of(alpha_pattern={"v_proj": 3}), base_of())
    cuts = [cut for cut in cuts if cut < len(content)]
    assert made_of(recipe, content, cuts) == made_of(recipe, content)


def test_the_file_is_fetched_whole_and_once_and_in_its_own_order() -> None:
    tensors = adapter_tensors()
    content = tiny.safetensors(dict(sorted(tensors.items(), key=lambda item: item[0][::-1])))
    recipe = recipe_of(content, config_of(), base_of())
    assert recipe.takes_whole_files
    assert len(list(recipe.spans(len(content)))) == 1


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
@pytest.mark.parametrize("suffix", [".weight", ".default.weight"])
def test_names_of_other_writers_are_read(prefix: str, suffix: str) -> None:
    tensors = {
        name.replace("base_model.model.", prefix, 1).replace(".weight", suffix): tensor
        for name, tensor in adapter_tensors().items()
    }
    assert len(adapter_of(tensors, config_of(), base_of())[1]) == len(tensors)


def test_a_config_says_which_model_the_adapter_is_for() -> None:
    config = config_of(revision="refs/pr/1", lora_alpha=16)
    assert (config.base, config.revision, config.alpha) == ("acme/model", "refs/pr/1", 16)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"peft_type": "LOHA"}, "'LOHA'"),
        ({"peft_type": None}, "has peft_type = None"),
        ({"use_dora": True}, "DoRA"),
        ({"use_bdlora": {"nblocks": 2}}, "block-diagonal"),
        ({"kasa_config": {"beta": 1e-4}}, "KaSA"),
        ({"arrow_config": {"top_k": 3}}, "Arrow"),
        ({"init_lora_weights": "lora_ga"}, "lora_ga"),
        ({"bias": "lora_only"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [1]}, "tokens"),
        ({"layer_replication": [[0, 2]]}, "layers"),
        ({"alora_invocation_tokens": [1]}, "tokens"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"base_model_name_or_path": ""}, "names no base model"),
        ({"base_model_name_or_path": 5}, "is not a repository"),
        ({"base_model_name_or_path": "/home/me/llama"}, "/home/me/llama"),
        ({"base_model_name_or_path": "./llama"}, "is not a repository"),
        ({"base_model_name_or_path": "../../llama"}, "is not a repository"),
        ({"base_model_name_or_path": "C:\\llama\\hf"}, "is not a repository"),
        ({"base_model_name_or_path": "acme/model/checkpoint-5"}, "is not a repository"),
        ({"base_model_name_or_path": "llama"}, "is not a repository"),
        ({"revision": "../../x"}, "revision"),
        ({"revision": 1}, "revision"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"lora_alpha": True}, "lora_alpha"),
        ({"lora_alpha": "16"}, "lora_alpha"),
        ({"lora_alpha": 1e300}, "lora_alpha"),
        ({"alpha_pattern": {"q_proj": 0}}, "alpha_pattern"),
        ({"alpha_pattern": {"(a+)+$": 8}}, "not plain module names"),
        ({"alpha_pattern": [1]}, "not plain module names"),
    ],
)
def test_what_ollama_has_no_adapters_for_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal, match=CONFIG_AT) as refusal:
        config_of(**fields)
    assert words in str(refusal.value)


def test_a_setting_of_a_newer_peft_is_a_warning() -> None:
    training = {"velora_config": {"scale": 1.0}, "target_parameters": ["mlp.experts.down_proj"], "eva_config": {"r": 4}}
    assert config_of(**training, init_lora_weights="mica", new_switch=False, new_config=None).warnings == ()
    (warning,) = config_of(new_config={"a": 1}, another=2.0).warnings
    assert "sets another, new_config, which PEFT 0.21 does not have" in warning
    assert CONFIG_AT in warning


@pytest.mark.parametrize("read", [read_adapter_config, read_adapter_base])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(read: Any, content: bytes) -> None:
    with pytest.raises(Refusal, match=r"a/b\.json is (not|empty)"):
        read("a/b.json", content)


def test_numbers_that_are_no_json_do_no_harm() -> None:
    assert read_adapter_config(CONFIG_AT, adapter_config("acme/model").replace(b": 0.0", b": NaN")).alpha == 8
    with pytest.raises(Refusal, match="lora_alpha = nan"):
        read_adapter_config(CONFIG_AT, b'{"peft_type": "LORA", "base_model_name_or_path": "a/b", "lora_alpha": NaN}')


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"architectures": ["Phi3ForCausalLM"]}, "Phi3ForCausalLM"),
        ({"architectures": []}, "architecture None"),
        ({"architectures": [["LlamaForCausalLM"]]}, "LlamaForCausalLM, Gemma2ForCausalLM, Qwen2ForCausalLM only"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0"),
        ({"hidden_size": "256"}, "hidden_size"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"head_dim": 63}, "odd head size"),
    ],
)
def test_a_base_without_adapters_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal, match=BASE_AT) as refusal:
        read_adapter_base(BASE_AT, json.dumps(LLAMA_CONFIG | fields).encode())
    assert words in str(refusal.value)


def test_a_base_may_leave_out_what_follows_from_the_rest() -> None:
    assert base_of(num_key_value_heads=None, head_dim=None) == base_of(num_key_value_heads=HEADS)


def test_a_base_may_have_whole_numbers_written_as_floats() -> None:
    floats: dict[str, Any] = {key: float(value) for key, value in LLAMA_CONFIG.items() if type(value) is int}
    assert "hidden_size" in floats
    assert base_of(**floats) == base_of()


def matrix_of(*shape: int, dtype: str = "F32") -> tuple[str, tuple[int, ...], bytes]:
    return dtype, shape, bytes(math.prod(shape) * {"F32": 4, "F16": 2, "F64": 8}[dtype])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_model.model.lm_head.weight": matrix_of(9, HIDDEN)}, "lm_head"),
        ({"base_model.model.lm_head.lora_A.weight": matrix_of(4, HIDDEN)}, "lm_head"),
        ({"base_model.model.model.embed_tokens.lora_embedding_A": matrix_of(4, 9)}, "embed_tokens"),
        ({f"{FIRST}magnitude_vector": matrix_of(HIDDEN)}, "lora_magnitude_vector"),
        ({f"{FIRST}B.bias": matrix_of(HIDDEN)}, "lora_B.bias"),
        ({"base_model.model.model.layers.0.input_layernorm.weight": matrix_of(HIDDEN)}, "input_layernorm"),
        ({"base_model.model.model.layers.0.mlp.q_proj.lora_A.weight": matrix_of(4, HIDDEN)}, "mlp.q_proj"),
        ({f"{FIRST}A.default.weight": matrix_of(4, HIDDEN)}, "pair"),
        ({f"{FIRST}A.weight": matrix_of(8, HIDDEN)}, "pair"),
        ({f"{FIRST}A.weight": None}, "pair"),
        ({f"{FIRST}B.weight": None}, "pair"),
        ({f"{FIRST}A.weight": matrix_of(0, HIDDEN), f"{FIRST}B.weight": matrix_of(HIDDEN, 0)}, "does not fit"),
        ({f"{FIRST}A.weight": matrix_of(HIDDEN, 4)}, "does not fit"),
        ({f"{FIRST}B.weight": matrix_of(2 * HIDDEN, 4)}, "does not fit"),
        ({f"{FIRST}B.weight": matrix_of(4 * HIDDEN)}, "does not fit"),
        ({f"{FIRST}B.weight": matrix_of(HIDDEN, 4, dtype="F64")}, "F64"),
        ({f"{FIRST}A.weight".replace(".0.", ".2."): matrix_of(4, HIDDEN)}, "does not fit"),
    ],
)
def test_weights_that_ollama_could_not_load_are_refused(changes: dict[str, Any], words: str) -> None:
    tensors = {name: tensor for name, tensor in (adapter_tensors() | changes).items() if tensor is not None}
    with pytest.raises(Refusal, match=WEIGHTS_AT) as refusal:
        recipe_of(tiny.safetensors(tensors), config_of(), base_of())
    assert words in str(refusal.value)


def test_a_file_without_tensors_is_refused() -> None:
    with pytest.raises(Refusal, match="no tensors"):
        recipe_of(tiny.safetensors({}), config_of(), base_of())


def test_a_tiny_adapter_is_a_repository_of_two_files() -> None:
    files = tiny.tiny_adapter("acme/model", rank=8, seed=1, dtype="BF16", use_rslora=True)
    config = read_adapter_config(CONFIG_AT, files["adapter_config.json"])
    assert config.rank_stabilized
    assert recipe_of(files["adapter_model.safetensors"], config, base_of()).size > 0
