"""The conversion of safetensors to GGUF, against figures that llama.cpp's converter (b11434) came to.

The figures in `expected` were computed once, from what `python -m tests.gguf.tiny_repositories` writes.
"""

import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.gguf.config import CannotConvert, ModelConfig
from proxy.gguf.conversion import Conversion, ModelDescription, convert
from proxy.gguf.families import FAMILIES
from proxy.gguf.header import read_header
from proxy.gguf.hyperparameters import llama3_frequencies
from proxy.gguf.pretokenizers import name_pre_tokenizer
from proxy.gguf.sources import FixedBytes, SourceRange
from proxy.gguf.tensors import GgufError
from proxy.gguf.tokenizer_files import TokenizerFiles
from proxy.gguf.vocabulary import adds_bos
from proxy.planning.safetensors import Tensor
from tests.gguf.differences import ENDS, HALVES, ONLY_OURS, ONLY_THEIRS, WITHOUT_FIGURES, llama_cpp_figures
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.byte_level import byte_pairs
from tests.gguf.tiny_repositories.gemma import gemma4_pieces
from tests.gguf.tiny_repositories.llama import MINISTRAL3
from tests.gguf.tiny_repositories.repository import EXPERTS, HEAD, HEADS, HIDDEN, YARN
from tests.gguf.tiny_repositories.sentencepiece import sentence_pieces
from tests.gguf.tiny_repositories.tokenizer import added_token, dump, edit_tokenizer
from tests.gguf.writing import figures, made, plan, write

YARN_4 = {"rope_type": "yarn", "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
BEGINS = "tokenizer.ggml.add_bos_token"


@lru_cache(maxsize=4)
def repository(name: str) -> Mapping[str, bytes]:
    return REPOSITORIES[name].files()


@lru_cache(maxsize=4)
def converted(name: str) -> bytes:
    return write(plan(repository(name)), repository(name))


@pytest.mark.parametrize("name", sorted(REPOSITORIES.keys() - WITHOUT_FIGURES.keys()))
def test_metadata_and_tensors_are_those_of_llama_cpp(name: str) -> None:
    content = converted(name)
    found = figures(read_header(content, size=len(content)), content)
    theirs = llama_cpp_figures(name)
    if ENDS not in found["metadata"] and found["metadata"]["tokenizer.ggml.model"]["value"] == "gpt2":
        assert theirs["metadata"].pop(ENDS, {"value": False})["value"] is False
    for key in ONLY_THEIRS.get(name, ()):
        assert key not in found["metadata"]
        del theirs["metadata"][key]
    for key in ONLY_OURS.get(name, ()):
        assert key not in theirs["metadata"]
        del found["metadata"][key]
    assert found["metadata"] == theirs["metadata"]
    for tensors in (found["tensors"], theirs["tensors"]):
        for tensor in [tensor for tensor in tensors if tensor.split(".")[-2] in HALVES.get(name, ())]:
            del tensors[tensor]
    assert found["tensors"] == theirs["tensors"]


@pytest.mark.parametrize("name", HALVES)
def test_halves_are_those_that_llama_cpp_leaves_in_one(name: str) -> None:
    content = converted(name)
    header = read_header(content, size=len(content))
    expected = llama_cpp_figures(name)["tensors"]
    starts = {tensor.name: header.data_start + tensor.offset for tensor in header.tensors}
    sizes = {tensor.name: tensor.size for tensor in header.tensors}
    for layer in ("blk.0", "blk.1"):
        first, second = (f"{layer}.{half}.weight" for half in HALVES[name])
        whole = b"".join(content[starts[half] : starts[half] + sizes[half]] for half in (first, second))
        assert sizes[first] == sizes[second]
        assert hashlib.sha256(whole).hexdigest() == expected[first]["sha256"]


def test_every_family_has_a_repository() -> None:
    tried = {tiny.architecture for tiny in REPOSITORIES.values()}
    same = {"Ernie4_5_ForCausalLM", "LFM2ForCausalLM", "Qwen2Model", "Qwen3Model", "BertModel", "XLMRobertaModel"}
    same |= {"NomicBertMoEModel"}
    assert FAMILIES.keys() - same == tried


@pytest.mark.parametrize("has_decoder", [False, True])
def test_tokenizer_json_knows_the_added_tokens_best(has_decoder: bool) -> None:
    """Today nothing else has those behind tokenizer.model's pieces, and fine-tunes rename only there (F1, F2)."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        added = files["tokenizer.json"]["added_tokens"]
        last = max(files["tokenizer.json"]["model"]["vocab"].values())
        added += [added_token("<|im_start|>", last + 1), added_token("<|plain|>", last + 2, special=False)]
        added.append(added_token("<|renamed|>", last))
        if not has_decoder:
            del files["tokenizer_config.json"]["added_tokens_decoder"]

    tokenizer = edit_tokenizer(sentence_pieces(), change, rows=2)
    files = replace(REPOSITORIES["llama-2"], tokenizer=lambda: tokenizer).files()
    header = read_header(plan(files).header)
    tokens, types = (header.get(f"tokenizer.ggml.{key}", list) or [] for key in ("tokens", "token_type"))
    assert tokens[-3:] == ["<|renamed|>", "<|im_start|>", "<|plain|>"]
    assert types[-3:] == [3, 3, 3]


@pytest.mark.parametrize("name", sorted(REPOSITORIES))
def test_windows_of_any_size_make_the_same_file(name: str) -> None:
    files = repository(name)
    assert write(plan(files), files, window=999) == converted(name)


def test_a_window_that_no_layer_has_is_not_written() -> None:
    """Transformers has one for each Laguna, and llama.cpp would give it to three layers of four."""
    tiny = REPOSITORIES["laguna_full"]
    files = replace(tiny, drop=(*tiny.drop, "sliding_window")).files()
    assert read_header(plan(files).header).metadata == read_header(converted("laguna_full")).metadata


@pytest.mark.parametrize("name", ["llama", "qwen3", "mixtral"])
def test_plain_order_is_the_datas(name: str) -> None:
    content = converted(name)
    header = read_header(content, size=len(content))
    offsets = [tensor.offset for tensor in header.tensors]
    assert offsets == sorted(offsets)
    assert header.data_start + header.data_size <= len(content)


@pytest.mark.parametrize("name", ["llama_v5", "qwen3", "olmo2"])
def test_dense_models_go_through_each_file_once(name: str) -> None:
    conversion = plan(repository(name))
    assert conversion.in_file_order
    places = [(piece.path, piece.start, piece.stop) for piece in conversion.pieces if isinstance(piece, SourceRange)]
    assert places == sorted(places)
    assert all(path != other or stop <= start for (path, _, stop), (other, start, _) in pairwise(places))


def test_experts_come_block_by_block() -> None:
    conversion = plan(repository("mixtral"))
    assert not conversion.in_file_order
    header = read_header(conversion.header)
    blocks = [tensor.name.split(".")[1] for tensor in header.tensors if tensor.name.startswith("blk.")]
    assert blocks == sorted(blocks)


def test_a_sizes_sum_is_the_files() -> None:
    assert plan(repository("qwen2moe")).size == len(converted("qwen2moe"))


def test_llama3_frequencies_are_those_of_torch() -> None:
    """The digests in the file are of what torch 2.15 calculates, as llama.cpp's converter lets it.

    Of 100 cases one is left out, whose power torch itself rounds wrongly in the last bit.
    """
    for case in json.loads(Path(__file__).with_name("rope_frequencies.json").read_text()):
        rope = {"rope_type": "llama3"} | {
            key: value for key, value in case.items() if key not in ("sha256", "head_dim")
        }
        content = llama3_frequencies(ModelConfig({"head_dim": case["head_dim"], "rope_parameters": rope}))
        assert content is not None
        assert hashlib.sha256(content).hexdigest() == case["sha256"], case


@pytest.mark.parametrize(
    ("name", "experts", "parts"),
    [
        ("lfm2moe", "feed_forward.experts.", ("w1", "w3", "w2")),
        ("glm4moelite", "mlp.experts.", ("gate_proj", "up_proj", "down_proj")),
    ],
)
def test_experts_may_be_fused(name: str, experts: str, parts: tuple[str, str, str]) -> None:
    """As transformers 5 has them in memory."""
    tiny = REPOSITORIES[name]

    def fused(weights: Any) -> None:
        tiny.weights(weights)
        tensors = weights.tensors
        for start in {key[: key.index(experts)] + experts for key in tensors if experts in key}:
            gate, up, down = (
                np.stack([tensors.pop(f"{start}{expert}.{part}.weight") for expert in range(EXPERTS)]) for part in parts
            )
            tensors |= {f"{start}gate_up_proj": np.concatenate((gate, up), axis=1), f"{start}down_proj": down}

    files = replace(tiny, weights=fused).files()
    contents = [write(plan(files), files), converted(name)]
    made_of, expected = (figures(read_header(content, size=len(content)), content) for content in contents)
    assert made_of["tensors"] == expected["tensors"]


def test_experts_of_nemotron_h_may_be_fused() -> None:
    """As transformers 5 has them in memory, where the layers are called otherwise too."""
    tiny = REPOSITORIES["nemotron_h_moe"]

    def fused(weights: Any) -> None:
        tiny.weights(weights)
        tensors = {name.replace("backbone.", "model."): tensor for name, tensor in weights.tensors.items()}
        for layer in (1, 3):
            start = f"model.layers.{layer}.mixer.experts."
            for part in ("up_proj", "down_proj"):
                matrices = [tensors.pop(f"{start}{expert}.{part}.weight") for expert in range(EXPERTS)]
                tensors[start + part] = np.stack(matrices)
        tensors["mtp.layers.0.norm.weight"] = np.ones(HIDDEN, np.float32)
        weights.tensors = tensors

    files = replace(tiny, weights=fused).files()
    contents = [write(plan(files), files), converted("nemotron_h_moe")]
    made_of, expected = (figures(read_header(content, size=len(content)), content) for content in contents)
    assert made_of["tensors"] == expected["tensors"]


def test_the_layers_that_attend_may_be_told_by_their_numbers() -> None:
    made_of = changed("lfm2", {"layer_types": None, "full_attn_idxs": [1]})
    assert made_of.header == plan(repository("lfm2")).header


def test_output_is_left_out_where_it_is_tied() -> None:
    """Then transformers takes the embeddings, whatever else the weights hold; llama.cpp's converter would write it."""
    tiny = REPOSITORIES["qwen3"]

    def with_head(weights: Any) -> None:
        tiny.weights(weights)
        weights.add("lm_head.weight", weights.config["vocab_size"], HIDDEN)

    files = replace(tiny, weights=with_head).files()
    content = write(plan(files), files)
    assert "output.weight" not in {tensor.name for tensor in read_header(content).tensors}


@pytest.mark.parametrize("name", ["glm4moe", "glm4moelite"])
def test_layers_that_only_help_in_training_are_left_out(name: str) -> None:
    """llama.cpp's converter keeps GLM's, which nothing runs."""
    tiny = REPOSITORIES[name]
    files = replace(tiny, change={**tiny.change, "num_nextn_predict_layers": 1}).files()
    assert len(files["model.safetensors"]) > len(repository(name)["model.safetensors"])
    assert write(plan(files), files) == converted(name)


def test_llama_4_of_the_first_transformers_that_had_it_is_the_same() -> None:
    first = {"attn_temperature_tuning": 4, "no_rope_layers": [], "layer_types": None}
    assert changed("llama4", first).header == plan(repository("llama4")).header


def test_a_matrix_that_becomes_two_goes_through_twice() -> None:
    assert not plan(repository("llama4")).in_file_order


def test_a_rank_of_its_own_choice_is_calculated() -> None:
    """As transformers does, which writes it like this at times."""
    assert changed("jamba", {"mamba_dt_rank": "auto"}).header == plan(repository("jamba")).header


def test_a_space_before_a_text_is_what_the_pieces_say() -> None:
    """A normalizer says it only where there is none; where there is a tokenizer.json, that counts."""
    whole = repository("internlm2")
    files = {path: content for path, content in whole.items() if path != "tokenizer.json"}
    assert files["tokenizer.model"].endswith(b"\x18\x00")
    puts = files["tokenizer.model"][:-2] + b"\x18\x01"
    for content, expected in ((files["tokenizer.model"], False), (puts, True)):
        header = read_header(plan(files | {"tokenizer.model": content}).header)
        assert header.metadata["tokenizer.ggml.add_space_prefix"].value is expected
    header = read_header(plan({**whole, "tokenizer.model": puts}).header)
    assert header.metadata["tokenizer.ggml.add_space_prefix"].value is False
    tiny = replace(REPOSITORIES["internlm2"], tokenizer=sentence_pieces)
    assert read_header(plan(tiny.files()).header).metadata["tokenizer.ggml.add_space_prefix"].value is True


@pytest.mark.parametrize("name", sorted(REPOSITORIES))
def test_whether_a_text_begins_with_bos_is_known_before_the_conversion(name: str) -> None:
    files = repository(name)
    header = read_header(plan(files).header)
    config = json.loads(files["config.json"])
    family = FAMILIES[config["architectures"][0]]
    adds = adds_bos(family, family.config(config), TokenizerFiles.read(files))
    # Where it is not said, llama.cpp begins a text of SentencePiece's kind alone.
    written = header.get("tokenizer.ggml.add_bos_token", bool)
    assert adds is (written if written is not None else header.get("tokenizer.ggml.model", str) == "llama")


def test_no_token_begins_a_text_where_the_repository_does_not_say_so() -> None:
    """llama.cpp would put one before each text of this pre-tokenizer."""
    files = dict(repository("llama"))
    tokenizer = json.loads(files["tokenizer.json"]) | {"post_processor": None}
    header = read_header(plan({**files, "tokenizer.json": json.dumps(tokenizer).encode()}).header)
    assert header.get("tokenizer.ggml.pre", str) == "llama-bpe"
    assert header.get(BEGINS, bool) is False


@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize("processor", [True, False])
@pytest.mark.parametrize(
    ("kind", "goes_by_config"),
    [("PreTrainedTokenizerFast", False), ("Qwen2Tokenizer", False), ("LlamaTokenizerFast", True), (None, True)],
)
def test_a_post_processor_counts_more_than_the_config_but_for_a_few_classes(
    kind: str | None, goes_by_config: bool, processor: bool, config: bool
) -> None:
    """As transformers 4 does; 5 makes no difference between the classes."""
    files = dict(repository("llama" if processor else "qwen2"))
    tokenizer = json.loads(files["tokenizer.json"])["post_processor"]
    assert ("TemplateProcessing" in str(tokenizer)) is processor
    named = json.loads(files["tokenizer_config.json"]) | {"tokenizer_class": kind, "add_bos_token": config}
    header = read_header(plan({**files, "tokenizer_config.json": json.dumps(named).encode()}).header)
    assert header.get(BEGINS, bool) is (config if goes_by_config else processor)


@pytest.mark.parametrize(
    ("sections", "written"), [([6, 5, 5], [6, 5, 5, 0]), ([14, 1, 1], [6, 5, 5, 0]), ([4, 2, 2], [3, 3, 2, 0])]
)
def test_all_that_is_turned_belongs_to_an_axis(sections: list[int], written: list[int]) -> None:
    """llama.cpp would not turn the rest, and transformers turns it by the position that a text has for all axes."""
    files = dict(repository("qwen3_5"))
    config = json.loads(files["config.json"])
    config["rope_parameters"]["mrope_section"] = sections
    header = read_header(plan({**files, "config.json": json.dumps(config).encode()}).header)
    assert header.metadata["qwen35.rope.dimension_sections"].value == written


def test_norms_of_single_heads_are_stacked() -> None:
    content = converted("stablelm-norms")
    shapes = {tensor.name: tensor.shape for tensor in read_header(content).tensors}
    assert shapes["blk.0.attn_q_norm.weight"] == (HEAD, HEADS)


def test_matrices_keep_their_type() -> None:
    for dtype, number in (("F32", 0), ("F16", 1), ("BF16", 30)):
        files = replace(REPOSITORIES["olmo"], dtype=dtype).files()
        header = read_header(plan(files).header)
        assert {tensor.type for tensor in header.tensors if len(tensor.shape) > 1} == {number}


@pytest.mark.parametrize(
    ("name", "where", "dropped"),
    [
        ("glm4", {"rope_theta": 10000.0}, ("rope_theta", "partial_rotary_factor")),
        ("gptneox", {"rope_theta": 10000.0}, ("rotary_pct",)),
        ("phi2", {"rope_theta": 10000.0}, ("rope_theta", "partial_rotary_factor")),
        ("nemotron", {"rope_theta": 10000.0}, ("rope_theta", "partial_rotary_factor")),
    ],
)
def test_transformers_5_keeps_the_turned_share_under_its_roof(
    name: str, where: Mapping[str, Any], dropped: tuple[str, ...]
) -> None:
    old = json.loads(repository(name)["config.json"])
    share = old.get("partial_rotary_factor", old.get("rotary_pct"))
    rope = {"rope_type": "default", "partial_rotary_factor": share / 2, **where}
    new = {key: value for key, value in old.items() if key not in dropped} | {"rope_parameters": rope}
    counts = []
    for config in (old, new):
        header = read_header(plan({**repository(name), "config.json": dump(config)}).header)
        counts.append(header.get(f"{header.architecture}.rope.dimension_count", int))
    assert counts[0] == 2 * (counts[1] or 0)


# Refusals: each names what is not known.


def changed(
    name: str, config: Mapping[str, Any] | None = None, tokenizer: Mapping[str, Any] | None = None
) -> Conversion:
    files = dict(repository(name))
    files["config.json"] = dump(json.loads(files["config.json"]) | dict(config or {}))
    files["tokenizer.json"] = dump(json.loads(files["tokenizer.json"]) | dict(tokenizer or {}))
    return plan(files)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"architectures": ["GPT5ForCausalLM"]}, "GPT5ForCausalLM"),
        ({"architectures": None}, "architecture"),
        ({"hidden_size": "many"}, "hidden_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": 1}, "num_hidden_layers"),
        ({"num_hidden_layers": 3}, "blk.2"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"rope_scaling": {"type": "mrope", "factor": 2.0}}, "mrope"),
        ({"rope_scaling": {"type": "longrope"}}, "longrope"),
        ({"rope_scaling": {"type": "linear"}}, "linear"),
        (
            {
                "rope_scaling": None,
                "rope_parameters": {"full_attention": {}, "sliding_attention": {"rope_theta": 1.0}},
            },
            "sliding_attention",
        ),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"vocab_size": 10}, "vocab_size"),
        ({"vocab_size": 2**30}, "vocab_size"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_theta": 10**400}, "rope_theta"),
        ({"bos_token_id": 99999}, None),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
    ],
)
def test_config_refused(config: Mapping[str, Any], named: str | None) -> None:
    if named is None:
        assert changed("llama", config)
        return
    with pytest.raises(CannotConvert, match=named):
        changed("llama", config)


def _as_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_floats(each) for key, each in value.items()}
    return float(value) if type(value) is int else value


@pytest.mark.parametrize("name", ["deepseek3", "gemma3n", "jamba", "llama_v5", "nemotron_h_moe", "qwen3_5_eyes"])
def test_a_whole_number_may_be_written_as_a_float(name: str) -> None:
    files = repository(name)
    config = json.loads(files["config.json"])
    written = json.dumps(_as_floats(config)).encode()
    assert b'_size": 256.0' in written
    assert plan({**files, "config.json": written}).header == plan(files).header


@pytest.mark.parametrize("value", [2048.5, math.nan, math.inf, -math.inf, 1e300, -2048.0, True, "2048.0", [2048.0]])
def test_what_is_no_count_is_refused(value: object) -> None:
    with pytest.raises(CannotConvert, match="max_position_embeddings = .*, which is not a count"):
        changed("llama", {"max_position_embeddings": value})


def _yarn(**change: Any) -> dict[str, Any]:
    return {"rope_parameters": {**MINISTRAL3["rope_parameters"], **change}}


def _longrope(**change: Any) -> dict[str, Any]:
    return {"rope_parameters": {**REPOSITORIES["phi3_v5"].change["rope_parameters"], **change}}


def _two_ropes(local: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"rope_parameters": {"full_attention": {**YARN_4, "rope_theta": 5e4}, "sliding_attention": local}}


@pytest.mark.parametrize(
    ("name", "config", "named"),
    [
        ("granitehybrid", {"position_embedding_type": "rope"}, "position_embedding_type"),
        ("granite4", {"position_embedding_type": "nope"}, "position_embedding_type"),
        ("granitehybrid", {"layer_types": ["mamba", "sliding"]}, "layer_types"),
        ("granitehybrid", {"layer_types": ["mamba", {}]}, "layer_types"),
        ("granitehybrid", {"layer_types": ["mamba"]}, "layer_types"),
        ("granitehybrid", {"mamba_n_groups": 3}, "mamba.norm"),
        ("granitehybrid", {"mamba_expand": 4}, "mamba_expand"),
        ("falcon_h1_norm", {"mamba_norm_before_gate": True}, "mamba_norm_before_gate"),
        ("falcon_h1", {"mlp_multipliers": [1.0]}, "mlp_multipliers"),
        ("falcon_h1", {"ssm_multipliers": [1.0, 1.0, "x", 1.0, 1.0]}, "ssm_multipliers"),
        ("falcon_h1", {"mamba_d_state": 32}, "in_proj"),
        ("falcon_h1", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("hunyuan", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "alpha"),
        ("hunyuan", {"rope_theta": 20000.0}, "dynamic"),
        ("hunyuan", {"max_position_embeddings": 2048}, "dynamic"),
        ("hunyuan", {"num_experts": 2}, "num_experts"),
        ("glm4moe", {"attention_bias": False}, "attention_bias"),
        ("phi3", {"rope_scaling": {"type": "longrope"}}, "'longrope' without a long_factor"),
        ("phi3_v5", _longrope(rope_type="default"), "'default' with a long_factor"),
        ("phi3_v5", _longrope(factor=4.0), "factor = 4.0, in a context 2 times"),
        ("phi3_v5", _longrope(long_factor=[1.0]), "no 32 numbers in long_factor"),
        ("phi4", {"head_dim": 32}, "head_dim"),
        ("nemotron_h", {"hybrid_override_pattern": "M*-M"}, "blk.1.attn_k"),
        ("nemotron_h", {"hybrid_override_pattern": "M-*"}, "layer_types"),
        ("nemotron_h", {"hybrid_override_pattern": "M-*X"}, "layer_types"),
        ("nemotron_h", {"hybrid_override_pattern": None}, "layer_types"),
        ("nemotron_h", {"layer_types": []}, "layer_types"),
        ("nemotron_h", {"hybrid_override_pattern": "ME*-"}, "one kind"),
        ("nemotron_h", {"use_conv_bias": False}, "use_conv_bias"),
        ("nemotron_h", {"mlp_hidden_act": "silu"}, "mlp_hidden_act"),
        ("nemotron_h", {"time_step_min": 0.1}, "time_step_min"),
        ("nemotron_h", {"time_step_limit": [0.0, 0.5]}, "time_step_limit"),
        ("nemotron_h", {"n_groups": 3}, "mixer.norm"),
        ("nemotron_h_moe", {"n_group": 2, "topk_group": 2}, "in 2 groups of them"),
        ("nemotron_h_moe", {"moe_latent_size": 512}, "blk.1.ffn_latent_down"),
        ("nemotron_h_latent", {"moe_latent_size": None}, "latent_proj.weight' is unknown"),
        ("glm", {"rope_scaling": YARN}, "yarn"),
        ("glm", {"head_dim": 32}, "head_dim"),
        ("glm4moelite", {"mlp_layer_types": ["sparse", "dense"]}, "mlp_layer_types"),
        ("glm4moelite", {"mlp_layer_types": ["dense"]}, "layer_types"),
        ("glm4moelite", {"mlp_layer_types": ["sparse", "sparse"]}, "blk.0.ffn_down_exps"),
        ("glm4moelite", {"scoring_func": "softmax"}, "scoring_func"),
        ("glm4moelite", {"rope_interleave": False}, "rope_interleave"),
        ("glm4moelite", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("glm4moelite", {"attention_bias": True}, "attention_bias"),
        ("ernie4_5moe", {"moe_layer_interval": 2}, "moe_layer_interval"),
        ("internlm2", {"bias": True}, "bias"),
        ("jamba", {"attn_layer_period": 0}, "attn_layer_period"),
        ("jamba", {"mamba_dt_rank": "some"}, "mamba_dt_rank"),
        ("jamba", {"num_experts": 2}, "ffn_gate_exps"),
        ("internlm2", {"num_key_value_heads": 1}, "wqkv"),
        ("deepseek3", {"rope_interleave": False}, "rope_interleave"),
        ("deepseek3", {"topk_method": "group_limited_greedy"}, "group_limited_greedy"),
        ("deepseek2", {"rope_scaling": YARN_4 | {"mscale": 1.0, "mscale_all_dim": 0.707}}, "another mscale"),
        ("llama", {"rope_scaling": YARN_4 | {"attention_factor": 1.0}}, "multiplies attention with 1.0000"),
        ("qwen3", {"rope_parameters": YARN_4 | {"mscale": 1.0, "mscale_all_dim": 1.0}}, "multiplies attention"),
        ("qwen3", {"rope_parameters": YARN_4 | {"beta_fast": 16}}, "beta_fast = 16"),
        ("qwen3", {"rope_parameters": YARN_4 | {"beta_slow": 2}}, "beta_slow = 2"),
        ("qwen3", {"rope_parameters": YARN_4 | {"truncate": False}}, "truncate = False"),
        ("deepseek2", {"rope_scaling": YARN_4 | {"beta_fast": 16}}, "beta_fast = 16"),
        ("olmo3_v5", _two_ropes({"rope_type": "default", "rope_theta": 1e4}), "another rope_theta"),
        ("olmo3_v5", _two_ropes({"rope_type": "yarn", "rope_theta": 5e4}), "sliding_attention"),
        ("olmo3_v5", _two_ropes({"rope_type": "default"}), "freq_base_swa"),
        ("olmo3_v5", _two_ropes(None), "freq_base_swa"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers"),
        ("cohere2", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ("cohere2", {"sliding_window_pattern": 2}, "layer_types"),
        ("cohere", {"use_qk_norm": True}, "use_qk_norm"),
        ("cohere", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("cohere", {"rope_theta": None}, "rope_theta"),
        ("cohere2", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("olmoe", {"num_key_value_heads": 2}, "num_key_value_heads"),
        ("llama4", {"no_rope_layers": [1, 1, 1, 1, 0]}, "no_rope_layers"),
        ("llama4", {"layer_types": ["full_attention"] * 5}, "layer_types"),
        ("llama4", {"moe_layers": [1, 3]}, "moe_layers"),
        ("llama4", {"use_qk_norm": False}, "use_qk_norm = False with 4 experts"),
        ("llama4", {"attention_chunk_size": None}, "attention_chunk_size"),
        ("llama4", {"attention_chunk_size": 4096}, "attention_chunk_size"),
        ("llama4", {"attn_temperature_tuning": False}, "attn_temperature_tuning"),
        ("llama4", {"attn_scale": 0.2}, "attn_scale"),
        ("llama4", {"floor_scale": 4096}, "floor_scale"),
        ("llama4", {"attention_bias": True}, "attention_bias"),
        ("llama4", {"num_local_experts": 0, "num_experts_per_tok": 0}, "num_local_experts"),
        ("llama4", {"interleave_moe_layer_step": 2, "moe_layers": None}, "experts in layer 0"),
        ("llama4", {"intermediate_size": 256}, "gate_up_proj"),
        ("llama4", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ("ministral3", _yarn(mscale=0.5), "mscale = 0.5"),
        ("ministral3", _yarn(mscale=None), "mscale = None"),
        ("ministral3", _yarn(attention_factor=1.2), "attention_factor"),
        ("ministral3", _yarn(truncate=False), "truncate"),
        ("ministral3", _yarn(partial_rotary_factor=0.5), "partial_rotary_factor"),
        ("ministral3", _yarn(beta_slow=0), "beta_slow"),
        ("ministral3", _yarn(llama_4_scaling_beta=None), "llama_4_scaling_beta"),
        ("ministral3", _yarn(original_max_position_embeddings=0), "original_max_position_embeddings"),
        ("ministral3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "default"),
        ("ministral3", {"sliding_window": 1024}, "sliding_window = 1024"),
        ("gpt_oss", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ("gpt_oss", {"sliding_window": None}, "sliding_window"),
        ("gpt_oss", {"swiglu_limit": 5.0}, "swiglu_limit"),
        ("gpt_oss", {"attention_bias": False}, "attention_bias"),
        ("gpt_oss", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("gpt_oss", {"rope_scaling": None}, "rope scaling of the type 'default'"),
        ("gpt_oss", {"rope_scaling": {**YARN, "factor": None}}, "factor"),
        ("gpt_oss", {"rope_scaling": {**YARN, "attention_factor": 1.5}}, "attention_factor"),
        ("gpt_oss", {"rope_scaling": {**YARN, "beta_fast": 16.0}}, "beta_fast"),
        ("gpt_oss", {"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ("gpt_oss", {"quantization_config": "mxfp4"}, "quantization_config"),
        ("lfm2", {"layer_types": ["full_attention", "conv"]}, "shortconv.in_proj"),
        ("lfm2", {"layer_types": ["conv", "conv"]}, "attn_k"),
        ("lfm2", {"layer_types": ["full_attention", "full_attention"]}, "shortconv.in_proj"),
        ("lfm2", {"layer_types": ["conv"]}, "layer_types"),
        ("lfm2", {"layer_types": None, "full_attn_idxs": [0]}, "shortconv.in_proj"),
        ("lfm2", {"conv_bias": True}, "conv_bias"),
        ("lfm2", {"conv_L_cache": 1}, "conv_L_cache"),
        ("lfm2", {"conv_L_cache": 3}, "shortconv.conv"),
        ("lfm2", {"block_auto_adjust_ff_dim": False}, "ffn_gate"),
        ("lfm2", {"tie_embedding": False}, "tie_embedding"),
        ("lfm2", {"rope_scaling": {**YARN}}, "yarn"),
        ("lfm2moe", {"routed_scaling_factor": 2.0}, "routed_scaling_factor"),
        ("lfm2moe", {"norm_topk_prob": False}, "norm_topk_prob"),
        ("lfm2moe", {"num_dense_layers": 1}, "blk.1.ffn_down_exps"),
        # Weights that are not what config.json says.
        ("gpt_oss", {"quantization_config": None}, "_blocks' is of the type U8"),
        ("gpt_oss_v5", {"quantization_config": {"quant_method": "mxfp4"}}, "_proj' is unknown"),
        ("gemma3n", {"laurel_rank": 32}, "laurel_rank"),
        ("gemma3n", {"final_logit_softcapping": 20.0}, "final_logit_softcapping"),
        ("gemma3n", {"altup_correct_scale": False}, "altup_correct_scale"),
        ("gemma3n", {"activation_sparsity_pattern": None}, "activation_sparsity_pattern"),
        ("gemma3n", {"activation_sparsity_pattern": [0.5] * 5}, "activation_sparsity_pattern"),
        ("gemma3n", {"layer_types": ["full_attention"] * 5}, "layer_types"),
        ("gemma3n", {"num_kv_shared_layers": 2}, "num_kv_shared_layers"),
        ("gemma3n", {"intermediate_size": [512, 512, 512, 512, 256]}, "intermediate_size"),
        ("gemma3n", {"intermediate_size": None}, "intermediate_size"),
        ("gemma3n", {"vocab_size": 500}, "of which 500 rows are wanted"),
        ("gemma3n", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}, "linear"),
        ("gemma4", {"num_kv_shared_layers": 2}, "num_kv_shared_layers"),
        ("gemma4", {"num_kv_shared_layers": 5}, "num_kv_shared_layers"),
        ("gemma4", {"num_global_key_value_heads": 3}, "3 of K and V"),
        ("gemma4", {"num_experts": 4}, "enable_moe_block"),
        ("gemma4", {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2}, "ffn_down_exps"),
        ("gemma4", {"hidden_size_per_layer_input": 256}, "per_layer_model_proj"),
        ("gemma4", {"attention_k_eq_v": False}, "blk.2.attn_v"),
        ("gemma4", {"use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
        ("gemma4", {"per_layer_config": {"1": {"head_dim": 128}}}, "per_layer_config"),
        ("gemma4", {"per_layer_config": {"2": {"head_dim": 128}, "5": {"head_dim": 64}}}, "per_layer_config"),
        ("gemma4", {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e6}}, "rope.freq_base_swa"),
        ("gemma4_moe", {"enable_moe_block": False, "num_experts": None, "top_k_experts": None}, "blk.0.ffn_"),
        ("qwen3_next", {"norm_topk_prob": False}, "norm_topk_prob"),
        ("qwen3_next", {"mlp_only_layers": [0]}, "mlp_only_layers"),
        ("qwen3_next", {"decoder_sparse_step": 2}, "decoder_sparse_step"),
        ("qwen3_next", {"attention_bias": True}, "attention_bias"),
        ("qwen3_next", {"full_attention_interval": 2}, "layer 1 of the weights"),
        ("qwen3_next", {"linear_num_key_heads": 1}, "in_proj_qkvz"),
        ("qwen3_5", {"layer_types": ["linear_attention", *["full_attention"] * 3]}, "layer_types"),
        ("qwen3_5", {"layer_types": ["linear_attention"] * 4}, "layer_types"),
        ("qwen3_5", {"layer_types": "full_attention"}, "layer_types"),
        ("qwen3_5", {"layer_types": ["full_attention"] * 4}, "layer 0 of the weights"),
        ("qwen3_5", {"attn_output_gate": False}, "attn_output_gate"),
        ("qwen3_5", {"linear_num_key_heads": 3, "linear_key_head_dim": 32}, "in_proj_qkv|conv1d"),
        ("qwen3_5", {"linear_num_value_heads": 4, "linear_value_head_dim": 128}, "A_log|in_proj"),
        *(
            ("qwen3_next_v5", {"rope_parameters": {"rope_type": "default", key: value}}, key)
            for key, value in (("attention_factor", 1.5), ("mscale", 0.7), ("beta_fast", 16), ("truncate", False))
        ),
        # An axis that claims too much or too little leaves numbers unturned in llama.cpp.
        *(
            ("qwen3_5moe", {"rope_scaling": {"mrope_section": sections}}, "mrope_section")
            for sections in ([11, 11], [0, 0, 0], [30, 30, 30], [6, 5, 5.0], "6, 5, 5")
        ),
    ],
)
def test_config_of_a_family_refused(name: str, config: Mapping[str, Any], named: str) -> None:
    with pytest.raises(CannotConvert, match=named):
        changed(name, config)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("deepseek3", {"scoring_func": None}),
        ("granitehybrid", {"layer_types": {"mamba": "linear_attention", "attention": "full_attention"}}),
        ("cohere2", {"rotary_pct": None, "layer_types": [*["sliding_attention"] * 3, "full_attention"]}),
        ("smollm3", {"no_rope_layers": [1, 1]}),
        ("deepseek2", {"topk_method": "greedy"}),
        (
            "nemotron_h",
            {
                "hybrid_override_pattern": None,
                "num_hidden_layers": None,
                "rms_norm_eps": None,
                "layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention"],
                "num_experts_per_tok": 2,
                "n_routed_experts": 8,
                "n_group": 1,
                "time_step_limit": [0.0, {"__float__": "Infinity"}],
            },
        ),
        ("nemotron_h", {"layer_types": ["mamba", "mlp", "attention", "mamba"], "hybrid_override_pattern": "MMMM"}),
        ("nemotron_h_moe", {"layers_block_type": ["linear_attention", "moe", "full_attention", "moe"]}),
    ],
)
def test_what_transformers_5_writes_or_leaves_out_makes_the_same_file(name: str, config: Mapping[str, Any]) -> None:
    files = dict(repository(name))
    old = json.loads(files["config.json"])
    new = {key: value for key, value in (old | dict(config)).items() if value is not None}
    if isinstance(names := config.get("layer_types"), dict):
        new["layer_types"] = [names[kind] for kind in old["layer_types"]]
    assert plan(files | {"config.json": dump(new)}).header == plan(files).header


@pytest.mark.parametrize(
    ("name", "config", "told"),
    [
        ("mistral", {"sliding_window": 512}, "beyond 512 tokens"),
        ("mistral", {"sliding_window": None}, None),
        ("mistral", {"sliding_window": 2048}, None),
        ("phi3", {"sliding_window": 512}, "beyond 512 tokens"),
        ("phi3_v5", {}, "num_ctx beyond 1024"),
        ("phi4", {}, None),
        ("starcoder2", {"sliding_window": 512}, "beyond 512 tokens"),
        ("mixtral", {"sliding_window": 512}, "beyond 512 tokens"),
        ("qwen2", {"sliding_window": 512}, None),
        ("qwen3", {"sliding_window": 512, "use_sliding_window": True, "max_window_layers": 1}, "beyond 512 tokens"),
        ("qwen3", {"sliding_window": 512, "use_sliding_window": True}, None),
        ("qwen3moe", {"sliding_window": 512, "use_sliding_window": True, "max_window_layers": 2}, "beyond 512 tokens"),
        (
            "qwen3",
            {"sliding_window": 512, "use_sliding_window": True, "layer_types": ["full_attention"] * 2},
            None,
        ),
        ("gpt_oss", {"rope_scaling": {**YARN, "truncate": False}}, "rounds where its yarn begins"),
        ("gpt_oss", {"rope_scaling": {**YARN, "truncate": True}}, None),
    ],
)
def test_what_llama_cpp_calculates_otherwise_is_told(name: str, config: Mapping[str, Any], told: str | None) -> None:
    warnings = changed(name, config).warnings
    assert (told is None) == (warnings == ())
    assert all(told in warning for warning in warnings if told)


@pytest.mark.parametrize("name", ["Phi-3-tiny", "llama3-phi3", "a-phi-3.5"])
def test_a_name_that_makes_llama_cpp_look_for_phi_3s_tokens_is_written_otherwise(name: str) -> None:
    header = read_header(plan(repository("llama"), name=name).header)
    assert not re.search("phi-?3", header.get("general.name", str) or "", re.IGNORECASE)


def test_tokens_that_take_spaces_as_phi_3s_do_give_the_name_by_which_llama_cpp_knows_that() -> None:
    files = dict(repository("phi3"))
    tokenizer = json.loads(files["tokenizer.json"])
    for token in tokenizer["added_tokens"]:
        token["content"] = {"[INST]": "<|endoftext|>"}.get(token["content"], token["content"])
        token["rstrip"] = token["content"] not in ("<unk>", "<s>", "<|endoftext|>")
    header = read_header(plan(files | {"tokenizer.json": dump(tokenizer)}, name="mine").header)
    assert header.get("general.name", str) == "Mine (Phi-3)"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ({"model_type": "mistral4"}, "mistral4"),
        ({"sliding_window": 1024}, "sliding_window = 1024"),
        ({"rope_scaling": YARN}, "yarn"),
        ({"rms_norm_eps": None}, "epsilon"),
    ],
)
def test_text_of_a_model_that_sees_refused(text: Mapping[str, Any], named: str) -> None:
    files = dict(repository("mistral3_eyes"))
    config = json.loads(files["config.json"])
    with pytest.raises(CannotConvert, match=named):
        plan(files | {"config.json": dump({**config, "text_config": config["text_config"] | text})})


@pytest.mark.parametrize("tied", [False, True])
def test_an_output_of_its_own_counts_where_transformers_5_ties_by_the_weights(tied: bool) -> None:
    files = dict(repository("mistral3_eyes"))
    config = json.loads(files["config.json"]) | {"tie_word_embeddings": tied}
    content = write(plan(files | {"config.json": dump(config)}), files)
    assert content == converted("mistral3_eyes")


@pytest.mark.parametrize(
    ("kind", "partial", "named"),
    [
        ("proportional", {"partial_rotary_factor": 2.0}, "partial_rotary_factor"),
        ("proportional", {"factor": 2.0}, "factor"),
        ("default", {}, "default"),
    ],
)
def test_rope_of_gemma4_refused(kind: str, partial: Mapping[str, Any], named: str) -> None:
    ropes = json.loads(repository("gemma4")["config.json"])["rope_parameters"]
    ropes["full_attention"] = {"rope_type": kind, "rope_theta": 1e6, **partial}
    with pytest.raises(CannotConvert, match=named):
        changed("gemma4", {"rope_parameters": ropes})


@pytest.mark.parametrize(
    ("kinds", "named"),
    [(["full_attention"] * 6, "layer_types"), (["full_attention", "sliding_attention"] * 3, "first is full_attention")],
)
def test_order_of_windows_in_gemma4_refused(kinds: list[str], named: str) -> None:
    tiny = REPOSITORIES["gemma4"]
    whole = {**tiny.change, "layer_types": [*kinds[:-1], "full_attention"]}
    files = dict(replace(tiny, change=whole).files())
    files["config.json"] = dump({**json.loads(files["config.json"]), "layer_types": kinds})
    with pytest.raises(CannotConvert, match=named):
        plan(files)


def test_v_beside_a_k_that_stands_for_it_is_refused() -> None:
    """llama.cpp would take it, transformers does not."""
    tiny = REPOSITORIES["gemma4"]

    def with_v(weights: Any) -> None:
        tiny.weights(weights)
        weights.linear("model.layers.2.self_attn.v_proj", 128, HIDDEN)

    with pytest.raises(CannotConvert, match=r"blk\.2\.attn_v\.weight, which the model does not have"):
        plan(replace(tiny, weights=with_v).files())


def test_k_and_v_that_nobody_asks_for_may_be_there() -> None:
    """Google's own files have them for layers that take those of earlier ones, and llama.cpp's converter keeps them."""
    tiny = REPOSITORIES["gemma4_inputs"]

    def with_k(weights: Any) -> None:
        tiny.weights(weights)
        weights.linear("model.layers.4.self_attn.k_proj", 128, HIDDEN)

    files = replace(tiny, weights=with_k).files()
    assert "blk.4.attn_k.weight" in {tensor.name for tensor in read_header(plan(files).header).tensors}


def test_added_tokens_of_merged_pieces_are_found_in_a_text() -> None:
    """llama.cpp's converter takes one within the vocabulary for normal, of which only what merges make is found."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        tokenizer = files["tokenizer.json"]
        tokenizer["added_tokens"] += [added_token("<unused3>", 8, special=False)]

    tiny = replace(REPOSITORIES["gemma4"], tokenizer=lambda: edit_tokenizer(gemma4_pieces(), change))
    types = read_header(plan(tiny.files()).header).get("tokenizer.ggml.token_type", list) or []
    assert (types[8], types[9]) == (4, 1)


@pytest.mark.parametrize(
    ("normalizer", "token", "named"),
    [(None, None, "normalizer"), ("space", None, "space before each text"), (None, "a\nb", "line")],
)
def test_merged_pieces_refused(normalizer: str | None, token: str | None, named: str) -> None:
    tokenizer = json.loads(repository("gemma4")["tokenizer.json"])
    if token:
        tokenizer["model"]["vocab"][token] = tokenizer["model"]["vocab"].pop("<unused3>")
    elif normalizer:
        tokenizer["normalizer"] = {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, tokenizer["normalizer"]],
        }
    else:
        tokenizer["normalizer"] = {"type": "Lowercase"}
    with pytest.raises(CannotConvert, match=named):
        changed("gemma4", tokenizer=tokenizer)


def test_tokens_without_inputs_of_layers_have_those_of_the_first() -> None:
    """As transformers has it; llama.cpp's converter adds zeros."""
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


@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_5moe"])
def test_how_often_a_layer_sees_all_is_told_in_two_ways(name: str) -> None:
    """Without the kinds transformers makes them of the number, which llama.cpp's converter then forgets."""
    config = json.loads(repository(name)["config.json"])
    for dropped in ("layer_types", "full_attention_interval"):
        less = {key: value for key, value in config.items() if key != dropped}
        assert plan({**repository(name), "config.json": dump(less)}).header == plan(repository(name)).header


def test_whether_the_output_is_tied_stands_beside_the_text() -> None:
    """Of the text it is written too by transformers 5, which does not read it there."""
    config = json.loads(repository("qwen3_5_eyes")["config.json"])
    config["text_config"]["tie_word_embeddings"] = False
    files = {**repository("qwen3_5_eyes"), "config.json": dump(config)}
    assert plan(files).header == plan(repository("qwen3_5_eyes")).header
    config["tie_word_embeddings"] = False
    with pytest.raises(CannotConvert, match=r"output\.weight"):
        plan({**files, "config.json": dump(config)})


def test_only_large_heads_are_ranges_of_their_own() -> None:
    """A request for a few bytes is dear; those of the same tensor are put in order in memory."""
    conversion = plan(repository("qwen3_5"))
    assert min(piece.size for piece in conversion.pieces if isinstance(piece, SourceRange)) >= 8 * 4
    sizes = [piece.stop - piece.start for piece in conversion.pieces if isinstance(piece, SourceRange)]
    heads, of_a_layer = 8, 64 * HIDDEN * 2
    assert sizes.count(of_a_layer) >= 2 * 2 * heads


def test_without_a_rank_of_q_only_what_has_the_layers_of_deepseek_v2_lite_is_taken() -> None:
    lite = REPOSITORIES["deepseek2"]
    few = replace(lite, change={**lite.change, "num_hidden_layers": 2, "first_k_dense_replace": 1})
    with pytest.raises(CannotConvert, match="no q_lora_rank and 2 layers"):
        plan(few.files())


@pytest.mark.parametrize(
    ("tokenizer", "named"),
    [
        ({"pre_tokenizer": None}, "pre-tokenizer"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "ByteLevel"),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "x"}}]}},
            "Split",
        ),
        ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ({"model": {"type": "Unigram", "vocab": []}}, "Unigram"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}, "merges"),
        ({"added_tokens": [{"id": -1, "content": "x"}]}, "added"),
        ({"post_processor": {"type": "BertProcessing"}}, "BertProcessing"),
    ],
)
def test_tokenizer_refused(tokenizer: Mapping[str, Any], named: str) -> None:
    with pytest.raises(CannotConvert, match=named):
        changed("llama", tokenizer=tokenizer)


def test_unknown_tensor_refused() -> None:
    tiny = REPOSITORIES["llama"]

    def more(weights: Any) -> None:
        tiny.weights(weights)
        weights.add("model.layers.0.self_attn.surprise.weight", 4, 4)

    with pytest.raises(CannotConvert, match="surprise"):
        plan(replace(tiny, weights=more).files())


@pytest.mark.parametrize("shape", [None, (4, 256, 16), (4, 256, 15), (4, 128, 32)])
def test_blocks_without_their_scales_refused(shape: tuple[int, ...] | None) -> None:
    tiny = REPOSITORIES["gpt_oss"]

    def other(weights: Any) -> None:
        tiny.weights(weights)
        scales = weights.tensors.pop("model.layers.1.mlp.experts.down_proj_scales")
        if shape is not None:
            weights.tensors["model.layers.1.mlp.experts.down_proj_scales"] = np.resize(scales, shape)

    if shape == (4, 256, 16):
        assert plan(replace(tiny, weights=other).files())
        return
    with pytest.raises(CannotConvert, match=r"down_proj_blocks has the shape \[4, 256, 16, 16\], and its scales"):
        plan(replace(tiny, weights=other).files())


@pytest.mark.parametrize("quantization", ["Q4_K_M", "Q8_0", "BF16", "F32"])
def test_what_is_quantized_already_is_not_quantized_again(quantization: str) -> None:
    """Neither does llama-quantize, but with MXFP4_MOE, which leaves it as it is."""
    with pytest.raises(CannotConvert, match="ffn_down_exps.weight is MXFP4 already"):
        plan(repository("gpt_oss"), quantization=quantization)


def test_missing_expert_refused() -> None:
    tiny = REPOSITORIES["mixtral"]

    def fewer(weights: Any) -> None:
        tiny.weights(weights)
        del weights.tensors["model.layers.1.block_sparse_moe.experts.2.w1.weight"]

    with pytest.raises(CannotConvert, match="ffn_gate_exps"):
        plan(replace(tiny, weights=fewer).files())


@pytest.mark.parametrize(
    ("name", "part", "becomes"),
    [
        ("llama", "model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down"),
        ("llama", "model.layers.0.input_layernorm.weight", "blk.0.attn_norm"),
        ("llama", "model.norm.weight", "output_norm"),
        ("llama", "lm_head.weight", "output.weight"),
        ("qwen3moe", "model.layers.1.mlp.gate.weight", "blk.1.ffn_gate_inp"),
        ("deepseek", "model.layers.1.mlp.shared_experts.up_proj.weight", "blk.1.ffn_up_shexp"),
    ],
)
def test_missing_tensor_refused(name: str, part: str, becomes: str) -> None:
    tiny = REPOSITORIES[name]

    def fewer(weights: Any) -> None:
        tiny.weights(weights)
        del weights.tensors[part]

    files = replace(tiny, weights=fewer).files()
    with pytest.raises(CannotConvert, match=becomes):
        plan(files)


def test_what_is_left_of_a_quantization_is_no_reason_to_refuse() -> None:
    """Weights of F32, F16 and BF16 are plain, whatever config.json says (F16)."""
    left = {"quantization_config": {"quant_method": "compressed-tensors"}}
    assert changed("llama", left).header == plan(repository("llama")).header


def test_packed_weights_refused_for_their_quantization() -> None:
    weights = {"model.safetensors": {"model.layers.0.self_attn.q_proj.qweight": Tensor("I32", (16, 16), 0, 1024)}}
    config = {**json.loads(repository("llama")["config.json"]), "quantization_config": {"quant_method": "gptq"}}
    with pytest.raises(CannotConvert, match="quantized already"):
        convert(config, {}, weights, ModelDescription("x"))


def test_a_longropes_attention_may_be_told() -> None:
    header = read_header(changed("phi3_v5", _longrope(attention_factor=1.5)).header)
    assert header.get("phi3.rope.scaling.attn_factor", float) == 1.5


def test_an_epsilon_is_the_configs() -> None:
    """llama.cpp's converter writes 1e-5 for OLMoE whatever it says (W11)."""
    header = read_header(changed("olmoe", {"rms_norm_eps": 1e-3}).header)
    assert header.get("olmoe.attention.layer_norm_rms_epsilon", float) == pytest.approx(1e-3)


def _output(files: Mapping[str, bytes]) -> Any:
    content = write(plan(files, quantization="F32"), files)
    header = read_header(content, size=len(content))
    [tensor] = [tensor for tensor in header.tensors if tensor.name == "output.weight"]
    start = header.data_start + tensor.offset
    return np.frombuffer(content[start : start + tensor.size], np.float32)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_what_is_calculated_is_rounded_to_what_is_wanted_alone(dtype: str) -> None:
    """Falcon-H1's factors, in a file of F32 (W11)."""
    tiny, factor = replace(REPOSITORIES["falcon_h1"], dtype=dtype), 0.0195312
    changes = [{**tiny.change, "lm_head_multiplier": each} for each in (factor, 1.0)]
    scaled, plain = (_output(replace(tiny, change=change).files()) for change in changes)
    assert np.array_equal(scaled, plain * np.float32(factor))


def test_quantized_weights_refused() -> None:
    weights = {"model.safetensors": {"model.embed_tokens.weight": Tensor("F8_E4M3", (16, 16), 0, 256)}}
    config = json.loads(repository("llama")["config.json"])
    with pytest.raises(CannotConvert, match="F8_E4M3"):
        convert(config, {}, weights, ModelDescription("x"))


def test_sentencepiece_of_another_kind_refused() -> None:
    files = dict(repository("llama-2"))
    files["tokenizer.model"] = files["tokenizer.model"].replace(b"\x18\x02\x98\x02\x01", b"\x18\x01\x98\x02\x01")
    with pytest.raises(CannotConvert, match="BPE"):
        plan(files)
    files["tokenizer.model"] = b"nothing"
    with pytest.raises(CannotConvert, match=r"tokenizer\.model"):
        plan(files)


# Vocabularies.

NASTY = (
    "the quick brown fox 3 33 333 3333 3.14 I've WE'LL you're  two   spaces\t\ttabs\n\n\nlines\r\n naïve café "
    "日本語のテキスト 中文字 한국어 עברית العربية हिन्दी Ελληνικά кириллица "
    "🚀🙂‍↔️ 👩‍👩‍👧 e\u0301 <|im_start|>user<|im_end|> ... !?"
)


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "gpt-2", "smollm"])
def test_pre_tokenizers_are_known_by_their_structure(pre: str) -> None:
    assert name_pre_tokenizer(json.loads(byte_pairs(pre).files["tokenizer.json"])) == pre


def test_words_that_no_merges_make_are_a_reason_to_refuse() -> None:
    """Where whole words come first, and llama.cpp knows the cut without that only; o200k has none (R4)."""
    files = repository("phi4_mini")
    tokenizer = json.loads(files["tokenizer.json"])
    tokenizer["model"]["vocab"]["<think>"] = 9998  # which is an added token
    assert name_pre_tokenizer(tokenizer) == "gpt-4o"
    tokenizer["model"]["vocab"]["brownies"] = 9999
    with pytest.raises(CannotConvert, match="with ignore_merges"):
        name_pre_tokenizer(tokenizer)


@pytest.mark.parametrize("merges", [None, [], ["a"], [["a"]], [[1, 2]], ["Ġ t h"], [["Ġ", "t"], ["h", "e"]]])
def test_whole_words_without_merges_that_make_them_refused(merges: object) -> None:
    tokenizer = json.loads(repository("phi4_mini")["tokenizer.json"])
    tokenizer["model"]["merges"] = merges
    with pytest.raises(CannotConvert, match="with ignore_merges"):
        name_pre_tokenizer(tokenizer)


def test_pieces_without_a_model_merge_as_the_tokenizers_package() -> None:
    """Their scores have to bring llama.cpp, which joins the neighbours of the best score, to the same tokens."""
    tokenizers = pytest.importorskip("tokenizers")
    files = sentence_pieces(model=False)
    tiny = replace(REPOSITORIES["llama-2"], tokenizer=lambda: files)
    header = read_header(plan(tiny.files()).header)
    texts = header.metadata["tokenizer.ggml.tokens"].value
    scores = header.metadata["tokenizer.ggml.scores"].value
    assert isinstance(texts, list)
    assert isinstance(scores, list)
    judge = tokenizers.Tokenizer.from_str(files.files["tokenizer.json"].decode())
    for text in (NASTY.replace("<|im_start|>", ""), "the fox", "  the  ", "", "x", "watching the weather's north"):
        assert _merge(text, texts, scores) == judge.encode(text, add_special_tokens=False).ids


def _merge(text: str, texts: list[str], scores: list[float]) -> list[int]:
    """SentencePiece's way: the best pair first, the left one of equals, and bytes for what there is no piece for."""
    numbers = {piece: number for number, piece in enumerate(texts)}
    symbols = list(("\u2581" + text).replace(" ", "\u2581")) if text else []
    while True:
        pairs = [
            (-scores[numbers[left + right]], at)
            for at, (left, right) in enumerate(pairwise(symbols))
            if left + right in numbers
        ]
        if not pairs:
            break
        _, at = min(pairs)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    found = []
    for symbol in symbols:
        found += [numbers[symbol]] if symbol in numbers else [numbers[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return found


# Whatever comes in: a refusal or a right file.

LIVELY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 600),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.just([]),
    st.dictionaries(
        st.sampled_from(["type", "rope_type", "factor", "rope_theta"]), st.sampled_from(["yarn", 2.0, None, "llama3"])
    ),
)
NAMES = sorted(REPOSITORIES)
KEYS = sorted({key for tiny in REPOSITORIES.values() for key in tiny.config()} - {"architectures"})


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(NAMES), st.dictionaries(st.sampled_from(KEYS), LIVELY, min_size=1, max_size=3))
def test_any_config_is_refused_or_makes_a_right_file(name: str, change: Mapping[str, Any]) -> None:
    files = dict(repository(name))
    files["config.json"] = json.dumps(json.loads(files["config.json"]) | dict(change)).encode()
    _refused_or_right(files)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(NAMES), st.data())
def test_any_header_is_refused_or_makes_a_right_file(name: str, data: st.DataObject) -> None:
    """Tensors that are gone, called otherwise, or of another shape and type."""
    files = dict(repository(name))
    path = data.draw(st.sampled_from(sorted(path for path in files if path.endswith(".safetensors"))))
    length = struct.unpack("<Q", files[path][:8])[0]
    header = json.loads(files[path][8 : 8 + length])
    names = sorted(header.keys() - {"__metadata__"})
    for victim in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
        tensor = header.pop(victim)
        match data.draw(st.integers(0, 3)):
            case 1:
                header[victim.replace("layers.0", "layers.7")] = tensor
            case 2:
                rows = tensor["shape"][0]
                header[victim] = tensor | {"shape": [1, *tensor["shape"][1:], rows]}
            case 3:
                header[victim + data.draw(st.sampled_from([".weight", "x", ".0"]))] = tensor
    weights = {
        each: {
            tensor_name: Tensor(fields["dtype"], tuple(fields["shape"]), *fields["data_offsets"])
            for tensor_name, fields in header.items()
            if tensor_name != "__metadata__"
        }
        for each in [path]
    }
    try:
        made_of = convert(json.loads(files["config.json"]), files, weights, ModelDescription("x"))
    except GgufError:
        return
    assert read_header(made_of.header, size=made_of.size).tensors


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["llama", "qwen3", "llama-2", "mistral", "olmo2_tokens"]), st.booleans(), st.data())
def test_any_tokenizer_is_refused_or_makes_a_right_file(name: str, model: bool, data: st.DataObject) -> None:
    """Anything in the place of anything in its files, or bytes gone from the one that is no JSON."""
    files = dict(repository(name))
    if "tokenizer.model" in files and (not model or data.draw(st.booleans())):
        content = files.pop("tokenizer.model")
        if model:
            at = data.draw(st.integers(0, len(content) - 1))
            files["tokenizer.model"] = content[:at] + data.draw(st.binary(max_size=2)) + content[at + 1 :]
    path = data.draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json"]))
    whole = json.loads(files[path])
    place: Any = whole
    for _ in range(data.draw(st.integers(0, 5))):
        values = place.values() if isinstance(place, dict) else place
        inner = [value for value in values if value and isinstance(value, dict | list)]
        if not inner:
            break
        place = data.draw(st.sampled_from(inner[:40]))
    keys = list(place)[:40] if isinstance(place, dict) else range(min(len(place), 40))
    place[data.draw(st.sampled_from(keys))] = data.draw(LIVELY)
    if path == "tokenizer_config.json" and not isinstance(whole.get("chat_template"), str | None):
        return
    files[path] = json.dumps(whole).encode()
    _refused_or_right(files)


SIZES = {
    *("hidden_size", "intermediate_size", "moe_intermediate_size", "vocab_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "kv_lora_rank", "q_lora_rank", "v_head_dim"),
    *("num_experts", "num_local_experts", "n_routed_experts", "mamba_d_state", "mamba_d_conv", "state_size"),
    *("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim"),
    *("linear_conv_kernel_dim", "shared_expert_intermediate_size"),
}
NOT_READ = {
    ("bloom", "intermediate_size"),
    ("phi2", "intermediate_size"),
    ("phi2", "num_key_value_heads"),
    # Without a dense layer and a shared expert.
    *((name, "intermediate_size") for name in ("qwen2moe", "qwen3moe", "qwen3moe_v5")),
    *((name, "intermediate_size") for name in ("nemotron_h_latent", "nemotron_h_moe")),
    # The pieces of its tokenizer say how many there are.
    ("nomic_bert_moe", "vocab_size"),
    # The compressed cache has one head.
    *((name, "num_key_value_heads") for name in ("deepseek2", "deepseek3", "glm4moelite", "glm4moelite_v5")),
    # Without a state space.
    *(("granite4", key) for key in SIZES if key.startswith("mamba_")),
    # Without a dense layer.
    *((name, "intermediate_size") for name in ("qwen3_next", "qwen3_next_v5")),
    # Q, K and V of any number of heads look alike.
    *((name, "num_attention_heads") for name in ("gptneox", "modern_bert", "modern_bert_v5", "phi2", "roberta")),
    *((name, "num_attention_heads") for name in ("jina_bert", "jina_bert_code")),
    # It is told layer by layer.
    ("laguna", "num_attention_heads"),
    # More layers than are counted only help in training.
    *((name, "num_hidden_layers") for name in ("bailingmoe2", "deepseek3", "glm4moe", "glm4moelite", "glm4moelite_v5")),
}


def _sized() -> list[tuple[str, str]]:
    return [
        (name, key)
        for name, tiny in sorted(REPOSITORIES.items())
        for key, value in tiny.config().items()
        if key in SIZES and value and (name, key) not in NOT_READ and not tiny.part_of
    ]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(_sized()), st.one_of(st.integers(1, 2048), st.sampled_from([0.5, 2.0, 4.0])))
def test_any_other_size_than_the_weights_is_refused(which: tuple[str, str], size: float) -> None:
    """`/api/create` would say `success` over a file that cannot be loaded."""
    name, key = which
    files = dict(repository(name))
    config = json.loads(files["config.json"])
    other = int(config[key] * size) if isinstance(size, float) else size
    if other != config[key]:
        with pytest.raises(GgufError):
            plan(files | {"config.json": json.dumps(config | {key: other}).encode()})


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        (
            "llama",
            {"intermediate_size": 1024},
            r"ffn_gate\.weight is to have the shape \[256, 1024\] by config",
        ),
        ("llama", {"rms_norm_eps": None}, "no epsilon for the norms"),
        ("qwen2", {"head_dim": 32}, "heads that are 128 wide together, and an embedding of 256"),
        ("phi4", {"partial_rotary_factor": 1.5}, "a rope for 96 numbers of a head of 64"),
        ("mixtral", {"num_experts_per_tok": None}, "has 4 experts in 0 groups, and uses 0"),
        ("mixtral", {"num_experts_per_tok": 5}, "and uses 5 "),
        ("granite4", {"num_experts_per_tok": 1}, "has 0 experts in 0 groups, and uses 1 "),
        ("deepseek3", {"n_group": 3}, "has 4 experts in 3 groups"),
        ("deepseek3", {"topk_group": 2}, "uses 2 in 2 groups of them"),
        ("deepseek", {"first_k_dense_replace": 0}, r"nothing that becomes blk\.0\.ffn_down_exps"),
        ("deepseek", {"first_k_dense_replace": 2}, "experts in layer 1, and config.json none"),
        ("granite", {"logits_scaling": None}, "no logits_scaling"),
        ("llama", {"num_hidden_layers": 513}, "more than any model has"),
    ],
)
def test_what_llama_cpp_would_not_load_is_refused(name: str, change: Mapping[str, Any], reason: str) -> None:
    files = dict(repository(name))
    config = json.loads(files["config.json"]) | change
    with pytest.raises(CannotConvert, match=reason):
        plan(files | {"config.json": json.dumps(config).encode()})


@pytest.mark.parametrize(
    ("name", "gone", "reason"),
    [
        ("llama", "self_attn.q_proj", r"blk\.0\.attn_q\.weight"),
        ("qwen2moe", "shared_expert.up_proj", r"blk\.0\.ffn_up_shexp\.weight"),
        ("granitemoeshared", "shared_mlp.output_linear", r"blk\.0\.ffn_down_shexp\.weight"),
        ("granitehybrid", "mamba.in_proj", r"blk\.0\.ssm_in\.weight"),
        ("jamba", "mamba.dt_proj.bias", r"blk\.0\.ssm_dt\.bias"),
        ("qwen3_next", "linear_attn.in_proj_qkvz", r"blk\.0\.attn_gate\.weight"),
        ("qwen3_5", "linear_attn.A_log", r"blk\.0\.ssm_a"),
        ("qwen3_5", "linear_attn.in_proj_z", r"blk\.0\.attn_gate\.weight"),
        ("qwen3_5", "self_attn.q_norm", r"blk\.1\.attn_q_norm\.weight"),
        ("qwen3_5moe", "shared_expert_gate", r"blk\.0\.ffn_gate_inp_shexp\.weight"),
        ("falcon_h1", "self_attn.k_proj", r"blk\.0\.attn_k\.weight"),
        ("bloom", "mlp.dense_4h_to_h.bias", r"blk\.0\.ffn_down\.bias"),
        ("bloom", "word_embeddings_layernorm", r"token_embd_norm\.bias, token_embd_norm\.weight"),
        ("deepseek2", "self_attn.q_proj", r"blk\.0\.attn_q\.weight"),
        ("lfm2", "conv.in_proj", r"blk\.0\.shortconv\.in_proj\.weight"),
        ("lfm2", "self_attn.k_layernorm", r"blk\.1\.attn_k_norm\.weight"),
        ("lfm2moe", "expert_bias", r"blk\.2\.exp_probs_b\.bias"),
        ("gpt_oss", "self_attn.sinks", r"blk\.0\.attn_sinks\.weight"),
        ("gpt_oss", "mlp.router.bias", r"blk\.0\.ffn_gate_inp\.bias"),
        ("gpt_oss", "down_proj_blocks", r"blk\.0\.ffn_down_exps\.weight"),
        ("deepseek3", "self_attn.q_b_proj", r"blk\.0\.attn_q_b\.weight"),
        ("nemotron_h", "mixer.conv1d.bias", r"blk\.0\.ssm_conv1d\.bias"),
        ("nemotron_h", "mixer.k_proj", r"blk\.2\.attn_k\.weight"),
        ("nemotron_h_moe", "e_score_correction_bias", r"blk\.1\.exp_probs_b\.bias"),
        ("nemotron_h_latent", "fc1_latent_proj", r"blk\.1\.ffn_latent_down\.weight"),
        ("llama4", "shared_expert.up_proj", r"blk\.0\.ffn_up_shexp\.weight"),
        ("llama4", "experts.gate_up_proj", r"blk\.0\.ffn_gate_exps\.weight"),
    ],
)
def test_tensors_that_no_layer_has_are_missed(name: str, gone: str, reason: str) -> None:
    tiny = REPOSITORIES[name]

    def fewer(weights: Any) -> None:
        tiny.weights(weights)
        for tensor in [tensor for tensor in weights.tensors if gone in tensor]:
            del weights.tensors[tensor]

    with pytest.raises(CannotConvert, match=f"nothing that becomes {reason}"):
        plan(replace(tiny, weights=fewer).files())


@pytest.mark.parametrize(("name", "matrix"), [("qwen2", "self_attn.o_proj"), ("olmo2", "mlp.down_proj")])
def test_a_bias_that_llama_cpp_does_not_load_is_refused(name: str, matrix: str) -> None:
    tiny = REPOSITORIES[name]

    def more(weights: Any) -> None:
        tiny.weights(weights)
        for layer in range(2):
            weights.tensors[f"model.layers.{layer}.{matrix}.bias"] = np.zeros(HIDDEN, np.float32)

    with pytest.raises(CannotConvert, match=r"\.bias, which llama\.cpp does not load"):
        plan(replace(tiny, weights=more).files())


@pytest.mark.parametrize("name", ["model.layers.{}.mlp.up_proj.weight", "model.layers.00.mlp.up_proj.weight"])
def test_numbers_in_names_are_taken_at_their_word(name: str) -> None:
    tiny = REPOSITORIES["llama"]

    def other(weights: Any) -> None:
        tiny.weights(weights)
        weights.tensors[name] = weights.tensors.pop("model.layers.0.mlp.up_proj.weight")

    with pytest.raises(CannotConvert, match="up_proj"):
        plan(replace(tiny, weights=other).files())


def _refused_or_right(files: Mapping[str, bytes]) -> None:
    try:
        conversion = plan(files)
    except GgufError:
        return
    header = read_header(conversion.header, size=conversion.size)
    assert header.data_start == len(conversion.header)
    assert conversion.size - header.data_start - header.data_size < header.alignment
    for piece in conversion.pieces:
        if isinstance(piece, FixedBytes) or piece.transform is None:
            continue
        assert sum(map(len, made(piece, files))) == piece.size


@given(
    st.dictionaries(
        st.sampled_from(["rope_type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor"]), LIVELY
    )
)
def test_any_rope_is_refused_or_calculated(rope: Mapping[str, Any]) -> None:
    config = ModelConfig({"hidden_size": 64, "num_attention_heads": 2, "rope_scaling": {"rope_type": "llama3", **rope}})
    try:
        content = llama3_frequencies(config)
    except GgufError:
        return
    assert content is None or len(content) == 4 * 16


def test_another_familys_weights_under_this_name_are_refused() -> None:
    """Ollama would say `success`, and fail when the model is loaded."""
    files = dict(repository("smollm3"))
    config = json.loads(files["config.json"]) | {"architectures": ["Qwen3ForCausalLM"]}
    with pytest.raises(CannotConvert, match=r"nothing that becomes blk\.0\.attn_k_norm"):
        plan(files | {"config.json": json.dumps(config).encode()})
