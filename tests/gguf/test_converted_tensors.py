"""Tensors that a conversion fuses, splits, leaves out or calculates."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from proxy.gguf.header import read_header
from proxy.gguf.model_config import CannotConvert
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.repository import EXPERTS, HEAD, HEADS, HIDDEN, Weights
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.gguf.writing import figures, plan, write
from tests.kit.tiny_conversions import converted, edited_weights, repository


@pytest.mark.parametrize(
    ("name", "experts", "parts"),
    [
        ("lfm2moe", "feed_forward.experts.", ("w1", "w3", "w2")),
        ("glm4moelite", "mlp.experts.", ("gate_proj", "up_proj", "down_proj")),
        ("dots1", "mlp.experts.", ("gate_proj", "up_proj", "down_proj")),
        ("solar_open", "mlp.experts.", ("gate_proj", "up_proj", "down_proj")),
    ],
)
def test_experts_may_be_fused(name: str, experts: str, parts: tuple[str, str, str]) -> None:
    """As transformers 5 holds them in memory."""

    def fused(weights: Weights) -> None:
        tensors = weights.tensors
        for start in {key[: key.index(experts)] + experts for key in tensors if experts in key}:
            gate, up, down = (
                np.stack([tensors.pop(f"{start}{expert}.{part}.weight") for expert in range(EXPERTS)]) for part in parts
            )
            tensors |= {f"{start}gate_up_proj": np.concatenate((gate, up), axis=1), f"{start}down_proj": down}

    files = edited_weights(name, fused)
    contents = [write(plan(files), files), converted(name)]
    fused_figures, expected = (figures(read_header(content, size=len(content)), content) for content in contents)
    assert fused_figures["tensors"] == expected["tensors"]


@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_5moe", "gemma3n"])
def test_text_model_may_have_names_of_the_multimodal_one(name: str) -> None:
    """Fine-tunes of the text part are saved so; transformers loads them (vllm-project/vllm 50355)."""

    def renamed(weights: Weights) -> None:
        weights.tensors = {
            key.replace("model.", "model.language_model.", 1) if key.startswith("model.") else key: tensor
            for key, tensor in weights.tensors.items()
        }
        if name != "gemma3n":
            weights.add("model.visual.merger.norm.weight", HIDDEN)

    files = edited_weights(name, renamed)
    contents = [write(plan(files), files), converted(name)]
    renamed_figures, expected = (figures(read_header(content, size=len(content)), content) for content in contents)
    assert renamed_figures == expected


def test_experts_of_nemotron_h_may_be_fused() -> None:
    """As transformers 5 holds them in memory, with other names for the layers too."""

    def fused(weights: Weights) -> None:
        tensors = {name.replace("backbone.", "model."): tensor for name, tensor in weights.tensors.items()}
        for layer in (1, 3):
            start = f"model.layers.{layer}.mixer.experts."
            for part in ("up_proj", "down_proj"):
                matrices = [tensors.pop(f"{start}{expert}.{part}.weight") for expert in range(EXPERTS)]
                tensors[start + part] = np.stack(matrices)
        tensors["mtp.layers.0.norm.weight"] = np.ones(HIDDEN, np.float32)
        weights.tensors = tensors

    files = edited_weights("nemotron_h_moe", fused)
    contents = [write(plan(files), files), converted("nemotron_h_moe")]
    fused_figures, expected = (figures(read_header(content, size=len(content)), content) for content in contents)
    assert fused_figures["tensors"] == expected["tensors"]


def test_tied_output_is_left_out() -> None:
    """Transformers then ignores an output in the weights; llama.cpp's converter would write it."""

    def with_head(weights: Weights) -> None:
        weights.add("lm_head.weight", weights.config["vocab_size"], HIDDEN)

    files = edited_weights("qwen3", with_head)
    content = write(plan(files), files)
    assert "output.weight" not in {tensor.name for tensor in read_header(content).tensors}


@pytest.mark.parametrize("tied", [False, True])
def test_output_counts_if_it_differs_from_the_embeddings(tied: bool) -> None:
    """Transformers 5 ties only equal tensors, whatever tie_word_embeddings is."""
    files = dict(repository("mistral3_eyes"))
    config = json.loads(files["config.json"]) | {"tie_word_embeddings": tied}
    content = write(plan(files | {"config.json": dump(config)}), files)
    assert content == converted("mistral3_eyes")


def test_tie_word_embeddings_is_read_outside_text_config() -> None:
    """Transformers 5 writes it inside text_config too, but does not read it there."""
    config = json.loads(repository("qwen3_5_eyes")["config.json"])
    config["text_config"]["tie_word_embeddings"] = False
    files = {**repository("qwen3_5_eyes"), "config.json": dump(config)}
    assert plan(files).header == plan(repository("qwen3_5_eyes")).header
    config["tie_word_embeddings"] = False
    with pytest.raises(CannotConvert, match=r"output\.weight"):
        plan({**files, "config.json": dump(config)})


def test_masks_are_left_out() -> None:
    """As in OpenAI's own files; llama.cpp's converter (b11434) fails on them."""

    def with_masks(weights: Weights) -> None:
        weights.add("h.0.attn.bias", 1, 1, 512, 512)
        weights.add("h.0.attn.masked_bias", 1)

    files = edited_weights("gpt2", with_masks)
    assert write(plan(files), files) == converted("gpt2")


@pytest.mark.parametrize("name", ["glm4moe", "glm4moelite"])
def test_layers_for_training_are_left_out(name: str) -> None:
    """llama.cpp's converter keeps GLM's, but nothing runs them."""
    tiny = REPOSITORIES[name]
    files = replace(tiny, change={**tiny.change, "num_nextn_predict_layers": 1}).files()
    assert len(files["model.safetensors"]) > len(repository(name)["model.safetensors"])
    assert write(plan(files), files) == converted(name)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("exaone_moe", "mtp.layers.0.input_layernorm"),
        ("minimax_m2", "model.layers.2.input_layernorm"),
        ("dots1", "model.layers.2.input_layernorm"),
        ("solar_open", "model.layers.2.input_layernorm"),
    ],
)
def test_tensors_of_layers_for_training_are_left_out(name: str, tensor: str) -> None:
    files = edited_weights(name, lambda weights: weights.norm(tensor))
    assert write(plan(files), files) == converted(name)


def test_norms_of_single_heads_are_stacked() -> None:
    content = converted("stablelm-norms")
    shapes = {tensor.name: tensor.shape for tensor in read_header(content).tensors}
    assert shapes["blk.0.attn_q_norm.weight"] == (HEAD, HEADS)


def test_v_is_refused_where_k_is_used_as_v() -> None:
    """llama.cpp would use this V; transformers does not."""

    def with_v(weights: Weights) -> None:
        weights.linear("model.layers.2.self_attn.v_proj", 128, HIDDEN)

    with pytest.raises(CannotConvert, match=r"blk\.2\.attn_v\.weight, which the model does not have"):
        plan(edited_weights("gemma4", with_v))


def test_unused_k_and_v_are_kept() -> None:
    """Google's own files have them in layers that share those of earlier layers; llama.cpp's converter keeps them."""

    def with_k(weights: Weights) -> None:
        weights.linear("model.layers.4.self_attn.k_proj", 128, HIDDEN)

    files = edited_weights("gemma4_inputs", with_k)
    assert "blk.4.attn_k.weight" in {tensor.name for tensor in read_header(plan(files).header).tensors}


def test_missing_per_layer_inputs_repeat_the_first_row() -> None:
    """As in transformers; llama.cpp's converter adds zeros."""
    tiny = REPOSITORIES["gemma3n"]
    rows = tiny.change["vocab_size_per_layer_input"]
    files = replace(tiny, change={**tiny.change, "vocab_size_per_layer_input": rows - 3}).files()
    content = write(plan(files), files)
    header = read_header(content, size=len(content))
    table = next(tensor for tensor in header.tensors if tensor.name == "per_layer_token_embd.weight")
    data = content[header.data_start + table.offset :][: table.size]
    row = table.size // rows
    assert data[-3 * row :] == 3 * data[:row]
    assert write(plan(files), files, window=999) == content
    quantized = read_header(plan(files, quantization="Q8_0").header)
    assert table.shape in {tensor.shape for tensor in quantized.tensors}


def _output(files: Mapping[str, bytes]) -> Any:
    content = write(plan(files, quantization="F32"), files)
    header = read_header(content, size=len(content))
    [tensor] = [tensor for tensor in header.tensors if tensor.name == "output.weight"]
    start = header.data_start + tensor.offset
    return np.frombuffer(content[start : start + tensor.size], np.float32)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_calculated_tensors_are_rounded_once(dtype: str) -> None:
    """Falcon-H1's factors, in a file of F32."""
    tiny, factor = replace(REPOSITORIES["falcon_h1"], dtype=dtype), 0.0195312
    changes = [{**tiny.change, "lm_head_multiplier": each} for each in (factor, 1.0)]
    scaled, plain = (_output(replace(tiny, change=change).files()) for change in changes)
    assert np.array_equal(scaled, plain * np.float32(factor))


def test_layers_of_hy_v3_for_multi_token_prediction_are_left_out() -> None:
    def with_another_layer(weights: Weights) -> None:
        added = {
            name.replace("layers.2.", "layers.3."): x for name, x in weights.tensors.items() if "layers.2." in name
        }
        weights.tensors |= added
        weights.norm("model.layers.3.final_layernorm")

    assert plan(edited_weights("hy_v3", with_another_layer)).tensors == plan(repository("hy_v3")).tensors
