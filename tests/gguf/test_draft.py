"""Layers for multi-token prediction that a conversion keeps, against llama.cpp's converter (b11434)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from proxy.gguf.conversion import Conversion
from proxy.gguf.draft import DraftRequest
from proxy.gguf.header import read_header
from proxy.gguf.keeping import NVFP4
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.tensors import TensorType
from tests.gguf.differences import ADD_EOS, ONLY_THEIRS, WIDER, llama_cpp_figures
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.drafts import DRAFTS, nemotron_h
from tests.gguf.tiny_repositories.packed import Packed
from tests.gguf.tiny_repositories.packed_compressed import NVFP4 as NVFP4_FORM
from tests.gguf.tiny_repositories.packed_compressed import OF_NVFP4, compressed
from tests.gguf.tiny_repositories.packed_nvfp4 import ENDS, matrix
from tests.gguf.tiny_repositories.repository import HIDDEN, Weights
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.gguf.writing import figures, plan, write
from tests.kit.tiny_conversions import read, tensors_of

WANTED = DraftRequest()


def edited(name: str, *lost: str, **added: tuple[int, ...]) -> dict[str, bytes]:
    """The files of a repository without the tensors whose names begin with one of `lost`, and with those `added`."""
    tiny = DRAFTS[name]

    def make(weights: Weights) -> None:
        tiny.weights(weights)
        weights.tensors = {key: tensor for key, tensor in weights.tensors.items() if not key.startswith(lost)}
        for key, shape in added.items():
            weights.add(key.replace("__", "."), *shape)

    return replace(tiny, weights=make).files() if lost or added else tiny.files()


def assert_left_out(files: Mapping[str, bytes], reason: str) -> None:
    """Also checks that the rest of the file is that of a pull which asks for no draft."""
    conversion = plan(files, draft=WANTED)
    assert reason in conversion.draft_problem
    assert conversion.draft_layers == 0
    assert conversion.header == plan(files).header


def architecture_key(conversion: Conversion, key: str) -> object:
    field = read_header(conversion.header).metadata.get(f"{conversion.architecture}.{key}")
    return field.value if field else None


@pytest.mark.parametrize("name", DRAFTS)
def test_draft_layer_is_that_of_llama_cpp(name: str) -> None:
    files = DRAFTS[name].files()
    content = write(plan(files, draft=WANTED), files)
    ours, theirs = figures(read(content), content), llama_cpp_figures(name)
    assert theirs["metadata"].pop(ADD_EOS, {"value": False})["value"] is False
    for key in ONLY_THEIRS.get(name, ()):
        assert key not in ours["metadata"]
        del theirs["metadata"][key]
    for tensor in WIDER.get(name, ()):
        assert ours["tensors"].pop(tensor)["type"] == "F32"
        upper_halves = np.frombuffer(tensors_of(content)[tensor][1], "<u2")[1::2].tobytes()
        assert hashlib.sha256(upper_halves).hexdigest() == theirs["tensors"].pop(tensor)["sha256"]
    assert ours == theirs
    assert any(".nextn." in tensor for tensor in ours["tensors"])


@pytest.mark.parametrize("name", DRAFTS)
def test_draft_layer_is_left_out_by_default(name: str) -> None:
    base = name.removesuffix("_draft")
    files, without = DRAFTS[name].files(), REPOSITORIES[base].files()
    conversion = plan(files)
    assert (conversion.draft_layers, conversion.draft_problem) == (0, "")
    contents = [write(plan(each), each) for each in (files, without)]
    ours, expected = (figures(read(content), content) for content in contents)
    assert ours == expected


def test_a_repository_without_such_layers_is_converted_as_always() -> None:
    files = edited("qwen3_5_draft", "mtp.")
    conversion = plan(files, draft=WANTED)
    assert conversion.header == plan(files).header
    assert (conversion.draft_layers, conversion.draft_problem) == (0, "")
    assert architecture_key(conversion, "nextn_predict_layers") is None


@pytest.mark.parametrize("name", ["qwen3_5_draft", "qwen3_next_draft"])
def test_names_may_have_the_prefix_of_the_model(name: str) -> None:
    def renamed(weights: Weights) -> None:
        DRAFTS[name].weights(weights)
        weights.tensors = {f"model.{key}" if key.startswith("mtp.") else key: x for key, x in weights.tensors.items()}

    files = replace(DRAFTS[name], weights=renamed).files()
    conversion = plan(files, draft=WANTED)
    assert conversion.draft_problem == ""
    # The header of the safetensors is longer, so that all offsets differ.
    assert conversion.header == plan(DRAFTS[name].files(), draft=WANTED).header


@pytest.mark.parametrize(
    ("name", "lost", "reason"),
    [
        ("qwen3_5_draft", "mtp.pre_fc_norm_hidden.", "nothing that becomes blk.4.nextn.hnorm.weight"),
        ("qwen3_5_draft", "mtp.norm.", "nothing that becomes blk.4.nextn.shared_head_norm.weight"),
        ("qwen3_5_draft", "mtp.fc.", "nothing that becomes blk.4.nextn.eh_proj.weight"),
        ("qwen3_5_draft", "mtp.layers.0.self_attn.k_proj.", "nothing that becomes blk.4.attn_k.weight"),
        ("qwen3_5_draft", "mtp.layers.0.self_attn.", "nothing that becomes blk.4.attn_"),
        ("qwen3_5_draft", "mtp.layers.0.mlp.", "nothing that becomes blk.4.ffn_"),
        ("qwen3_5moe_draft", "mtp.layers.0.mlp.shared_expert.up_proj.", "blk.4.ffn_up_shexp.weight"),
        ("qwen3_5moe_draft", "mtp.layers.0.mlp.experts.", "blk.4."),
        ("qwen3_5moe_draft", "mtp.layers.0.mlp.", "blk.4."),
        ("qwen3_next_draft", "mtp.layers.0.post_attention_layernorm.", "blk.4.post_attention_norm.weight"),
        ("nemotron_h_moe_draft", "mtp.layers.0.mixer.k_proj.", "blk.4.attn_k.weight"),
        ("nemotron_h_moe_draft", "mtp.layers.0.eh_proj.", "blk.4.nextn.eh_proj.weight"),
        ("nemotron_h_moe_draft", "mtp.layers.1.norm.", "blk.4.post_attention_norm.weight"),
        ("nemotron_h_moe_draft", "mtp.layers.1.mixer.shared_experts.", "blk.4.ffn_"),
    ],
)
def test_an_incomplete_layer_is_left_out_with_the_reason(name: str, lost: str, reason: str) -> None:
    assert_left_out(edited(name, lost), reason)


@pytest.mark.parametrize(
    ("tensor", "shape", "reason"),
    [
        ("mtp__layers__1__input_layernorm__weight", (HIDDEN,), "mtp.layers.1.input_layernorm.weight"),
        ("mtp__embed_tokens__weight", (HIDDEN, HIDDEN), "mtp.embed_tokens.weight"),
        ("mtp__layers__0__self_attn__q_proj__bias", (512,), "blk.4.attn_q.bias"),
        ("mtp__layers__0__linear_attn__A_log", (8,), "blk.4."),
    ],
)
def test_an_unknown_layer_is_left_out_with_the_reason(tensor: str, shape: tuple[int, ...], reason: str) -> None:
    assert_left_out(edited("qwen3_5_draft", **{tensor: shape}), reason)


def test_a_layer_behind_the_others_is_refused_as_always() -> None:
    """Other families have their draft layers there."""
    files = edited("qwen3_5_draft", model__layers__4__input_layernorm__weight=(HIDDEN,))
    with pytest.raises(CannotConvert, match="is in layer 4, but config.json has num_hidden_layers = 4"):
        plan(files, draft=WANTED)


def test_a_projection_of_another_size_is_left_out_with_the_reason() -> None:
    files = edited("qwen3_5_draft", "mtp.fc.", mtp__fc__weight=(HIDDEN, HIDDEN))
    assert_left_out(files, "blk.4.nextn.eh_proj.weight is to have the shape [512, 256]")


def test_its_tensors_in_another_layer_are_refused() -> None:
    files = edited("qwen3_5_draft", model__layers__1__eh_proj__weight=(HIDDEN, 2 * HIDDEN))
    with pytest.raises(CannotConvert, match=r"model\.layers\.1\.eh_proj\.weight"):
        plan(files, draft=WANTED)


def test_experts_behind_a_latent_size_are_left_out() -> None:
    """llama.cpp b10488 does not load them in the draft layer of Nemotron-H."""
    files = nemotron_h("nemotron_h_latent").files()
    assert_left_out(files, "the proxy does not write them for this architecture")


def test_an_ollama_that_does_not_use_them_is_a_reason() -> None:
    files = DRAFTS["qwen3_5_draft"].files()
    conversion = plan(files, draft=DraftRequest("Ollama is too old"))
    assert conversion.draft_problem == "Ollama is too old"
    assert conversion.header == plan(files).header


@pytest.mark.parametrize("name", ["glm4moe", "glm4moelite"])
def test_layers_of_other_families_are_left_out_with_the_reason(name: str) -> None:
    tiny = REPOSITORIES[name]
    files = replace(tiny, change={**tiny.change, "num_nextn_predict_layers": 1}).files()
    for request in (WANTED, DraftRequest("Ollama is too old")):
        conversion = plan(files, draft=request)
        assert conversion.draft_problem == "the proxy does not write them for this architecture"
    assert plan(tiny.files(), draft=WANTED).draft_problem == ""


def test_the_refusal_of_the_rest_of_the_model_stays() -> None:
    files = edited("qwen3_5_draft", "model.norm.")
    with pytest.raises(CannotConvert, match="nothing that becomes output_norm"):
        plan(files, draft=WANTED)


def test_the_layer_counts_as_a_layer_behind_the_others() -> None:
    config = json.loads(DRAFTS["qwen3_5_draft"].files()["config.json"])
    files = {**DRAFTS["qwen3_5_draft"].files(), "config.json": dump({**config, "mtp_num_hidden_layers": 0})}
    conversion = plan(files, draft=WANTED)
    assert (architecture_key(conversion, "block_count"), architecture_key(conversion, "nextn_predict_layers")) == (5, 1)


@pytest.mark.parametrize("name", ["qwen3_5_draft", "qwen3_5moe_draft", "nemotron_h_moe_draft"])
def test_the_layer_stays_nvfp4_as_the_others_do(name: str) -> None:
    """llama.cpp multiplies by the scales of all of its matrices (b10488)."""
    ends = (*ENDS, "mtp.fc.weight", ".eh_proj.weight")
    files = Packed(DRAFTS[name], partial(matrix, NVFP4_FORM), compressed(NVFP4_FORM, OF_NVFP4), ends=ends).files()
    conversion = plan(files, draft=WANTED, quantization=NVFP4)
    assert conversion.draft_problem == ""
    types = {tensor.name: tensor.type for tensor in conversion.tensors}
    for stem in ("attn_k", "attn_output", "nextn.eh_proj"):
        assert types[f"blk.4.{stem}.weight"] == TensorType.NVFP4
        assert f"blk.4.{stem}.scale" in types
    assert types["blk.4.nextn.enorm.weight"] == TensorType.F32
