"""Metadata from config.json, and forms of config.json that mean the same."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.gguf.header import read_header
from proxy.gguf.hyperparameters import llama3_frequencies
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import GgufError
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.repository import YARN
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.gguf.writing import plan
from tests.kit.tiny_conversions import ODD_VALUES, converted, plan_with, repository


def test_llama3_frequencies_match_torch() -> None:
    """The digests in the file are of results of torch 2.15, which llama.cpp's converter uses.

    There were 100 cases. One is left out, because torch itself rounds its power wrongly in the last bit.
    """
    for case in json.loads(Path(__file__).with_name("rope_frequencies.json").read_text()):
        rope = {"rope_type": "llama3"} | {
            key: value for key, value in case.items() if key not in ("sha256", "head_dim")
        }
        content = llama3_frequencies(ModelConfig({"head_dim": case["head_dim"], "rope_parameters": rope}))
        assert content is not None
        assert hashlib.sha256(content).hexdigest() == case["sha256"], case


@given(
    st.dictionaries(
        st.sampled_from(["rope_type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor"]), ODD_VALUES
    )
)
def test_any_rope_is_refused_or_calculated(rope: Mapping[str, Any]) -> None:
    config = ModelConfig({"hidden_size": 64, "num_attention_heads": 2, "rope_scaling": {"rope_type": "llama3", **rope}})
    try:
        content = llama3_frequencies(config)
    except GgufError:
        return
    assert content is None or len(content) == 4 * 16


def test_window_without_a_layer_that_has_it_is_not_written() -> None:
    """Transformers has a window for each Laguna, and llama.cpp would apply it to three of four layers."""
    tiny = REPOSITORIES["laguna_full"]
    files = replace(tiny, drop=(*tiny.drop, "sliding_window")).files()
    assert read_header(plan(files).header).metadata == read_header(converted("laguna_full")).metadata


def test_attention_layers_may_be_listed_by_number() -> None:
    conversion = plan_with("lfm2", {"layer_types": None, "full_attn_idxs": [1]})
    assert conversion.header == plan(repository("lfm2")).header


def test_first_form_of_llama_4_makes_the_same_file() -> None:
    """As the first transformers with Llama 4 wrote it."""
    first = {"attn_temperature_tuning": 4, "no_rope_layers": [], "layer_types": None}
    assert plan_with("llama4", first).header == plan(repository("llama4")).header


def test_rank_auto_is_calculated() -> None:
    """As transformers does, which sometimes writes `auto`."""
    assert plan_with("jamba", {"mamba_dt_rank": "auto"}).header == plan(repository("jamba")).header


@pytest.mark.parametrize(
    ("sections", "written"), [([6, 5, 5], [6, 5, 5, 0]), ([14, 1, 1], [6, 5, 5, 0]), ([4, 2, 2], [3, 3, 2, 0])]
)
def test_every_rotated_number_belongs_to_an_axis(sections: list[int], written: list[int]) -> None:
    """llama.cpp would not rotate the rest. transformers rotates it by the position that a text has on all axes."""
    files = dict(repository("qwen3_5"))
    config = json.loads(files["config.json"])
    config["rope_parameters"]["mrope_section"] = sections
    header = read_header(plan({**files, "config.json": json.dumps(config).encode()}).header)
    assert header.metadata["qwen35.rope.dimension_sections"].value == written


@pytest.mark.parametrize(
    ("name", "where", "dropped"),
    [
        ("glm4", {"rope_theta": 10000.0}, ("rope_theta", "partial_rotary_factor")),
        ("gptneox", {"rope_theta": 10000.0}, ("rotary_pct",)),
        ("phi2", {"rope_theta": 10000.0}, ("rope_theta", "partial_rotary_factor")),
        ("nemotron", {"rope_theta": 10000.0}, ("rope_theta", "partial_rotary_factor")),
    ],
)
def test_rotary_share_in_rope_parameters_is_read(name: str, where: Mapping[str, Any], dropped: tuple[str, ...]) -> None:
    """Transformers 5 writes it there."""
    old = json.loads(repository(name)["config.json"])
    share = old.get("partial_rotary_factor", old.get("rotary_pct"))
    rope = {"rope_type": "default", "partial_rotary_factor": share / 2, **where}
    new = {key: value for key, value in old.items() if key not in dropped} | {"rope_parameters": rope}
    counts = []
    for config in (old, new):
        header = read_header(plan({**repository(name), "config.json": dump(config)}).header)
        counts.append(header.get(f"{header.architecture}.rope.dimension_count", int))
    assert counts[0] == 2 * (counts[1] or 0)


def _as_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_floats(each) for key, each in value.items()}
    return float(value) if type(value) is int else value


@pytest.mark.parametrize("name", ["deepseek3", "gemma3n", "jamba", "llama_v5", "nemotron_h_moe", "qwen3_5_eyes"])
def test_integers_may_be_written_as_floats(name: str) -> None:
    files = repository(name)
    config = json.loads(files["config.json"])
    written = json.dumps(_as_floats(config)).encode()
    assert b'_size": 256.0' in written
    assert plan({**files, "config.json": written}).header == plan(files).header


@pytest.mark.parametrize("value", [2048.5, math.nan, math.inf, -math.inf, 1e300, -2048.0, True, "2048.0", [2048.0]])
def test_value_that_is_not_a_count_is_refused(value: object) -> None:
    with pytest.raises(CannotConvert, match="max_position_embeddings = .*, which is not a count"):
        plan_with("llama", {"max_position_embeddings": value})


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("deepseek3", {"scoring_func": None}),
        ("glm_dsa", {"indexer_types": None, "index_topk_freq": 2, "index_skip_topk_offset": 1}),
        ("glm_dsa", {"indexer_types": None, "index_topk_pattern": "FSFS", "scoring_func": None}),
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
def test_form_of_transformers_5_makes_the_same_file(name: str, config: Mapping[str, Any]) -> None:
    files = dict(repository(name))
    old = json.loads(files["config.json"])
    new = {key: value for key, value in (old | dict(config)).items() if value is not None}
    if isinstance(names := config.get("layer_types"), dict):
        new["layer_types"] = [names[kind] for kind in old["layer_types"]]
    assert plan(files | {"config.json": dump(new)}).header == plan(files).header


@pytest.mark.parametrize(
    ("name", "config", "warned"),
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
def test_difference_in_llama_cpps_result_is_a_warning(name: str, config: Mapping[str, Any], warned: str | None) -> None:
    warnings = plan_with(name, config).warnings
    assert (warned is None) == (warnings == ())
    assert all(warned in warning for warning in warnings if warned)


@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_5moe"])
def test_full_attention_may_be_given_in_two_ways(name: str) -> None:
    """Without layer_types, transformers derives them from the interval, which llama.cpp's converter then loses."""
    config = json.loads(repository(name)["config.json"])
    for dropped in ("layer_types", "full_attention_interval"):
        less = {key: value for key, value in config.items() if key != dropped}
        assert plan({**repository(name), "config.json": dump(less)}).header == plan(repository(name)).header


def test_attention_factor_of_a_longrope_is_written() -> None:
    rope = {**REPOSITORIES["phi3_v5"].change["rope_parameters"], "attention_factor": 1.5}
    header = read_header(plan_with("phi3_v5", {"rope_parameters": rope}).header)
    assert header.get("phi3.rope.scaling.attn_factor", float) == 1.5


def test_epsilon_is_the_one_of_config_json() -> None:
    """llama.cpp's converter writes 1e-5 for OLMoE, whatever config.json has."""
    header = read_header(plan_with("olmoe", {"rms_norm_eps": 1e-3}).header)
    assert header.get("olmoe.attention.layer_norm_rms_epsilon", float) == pytest.approx(1e-3)
