"""What config.json says rightly and Ollama's converter cannot read: mended, and nothing else touched."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.planning.capabilities import CONVERTS
from proxy.planning.repairs import repair_config
from tests.planning.shapes import (
    FACTORS,
    FAMILIES,
    GEMMA,
    GEMMA2,
    GEMMA3,
    HEAD,
    LLAMA,
    MIXTRAL,
    PHI3,
    QWEN2,
    checked,
    config,
    shapes,
)
from tests.planning.test_safetensors import JSON

QWEN_VL, MISTRAL3, GEMMA3N = (f"{name}ForConditionalGeneration" for name in ("Qwen2_5_VL", "Mistral3", "Gemma3n"))
ORIGINAL = "original_max_position_embeddings"
ONES = {"short_factor": [1.0] * (HEAD // 2), "long_factor": [1.0] * (HEAD // 2)}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, ORIGINAL: 256}


def repaired(architecture: str, fields: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The configuration as it is sent, and what was said of it."""
    made = deepcopy(fields)
    return made, "; ".join(repair_config(made, architecture))


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_configuration_without_need_is_left_as_it_is(architecture: str) -> None:
    fields = config(architecture)
    assert repaired(architecture, fields) == (fields, "")


# Architecture, what its configuration has otherwise than a good one, and what it has afterwards; ... is absent.
REPAIRS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # Numbers (D2).
    (LLAMA, {"vocab_size": "16", "rope_theta": "1e5"}, {"vocab_size": 16, "rope_theta": 100000.0}),
    (LLAMA, {"vocab_size": 16.0, "hidden_size": 64.0}, {"vocab_size": 16, "hidden_size": 64}),
    (
        LLAMA,
        {
            "rope_scaling": {
                "type": "llama3",
                "rope_type": "llama3",
                **LLAMA3,
                ORIGINAL: 256.0,
            }
        },
        {"rope_scaling": {"type": "llama3", "rope_type": "llama3", **LLAMA3}},
    ),
    (GEMMA3N, {"text_config": {"vocab_size": 7.0}}, {"text_config": {"vocab_size": 7}}),
    # rope_parameters of transformers 5 (B1, B2, C19).
    (
        LLAMA,
        {"rope_theta": ..., "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_theta": 5e5, "rope_scaling": ...},
    ),
    (
        LLAMA,
        {"rope_theta": ..., "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "type": "llama3", **LLAMA3}},
    ),
    (
        QWEN2,
        {"rope_theta": ..., "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
        {"rope_theta": 1e6, "rope_scaling": ...},
    ),
    (
        PHI3,
        {
            "rope_theta": ...,
            "rope_scaling": ...,
            ORIGINAL: ...,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                ORIGINAL: 256,
                **FACTORS,
            },
        },
        {
            "rope_theta": 10000.0,
            ORIGINAL: 256,
            "rope_scaling": {
                "rope_type": "longrope",
                "type": "longrope",
                ORIGINAL: 256,
                **FACTORS,
            },
        },
    ),
    (
        GEMMA3,
        {
            "rope_theta": ...,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": ...},
    ),
    (
        MISTRAL3,
        {"text_config": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e9, "factor": 2.0}}},
        {
            "text_config": {
                "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e9, "factor": 2.0},
                "rope_theta": 1e9,
                "rope_scaling": {"rope_type": "yarn", "type": "yarn", "factor": 2.0},
            }
        },
    ),
    # rope_scaling under the one name or the other (B3, B4, B18).
    (
        LLAMA,
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 2.0}},
    ),
    (
        LLAMA,
        {"rope_scaling": {"type": "llama3", **LLAMA3}},
        {"rope_scaling": {"type": "llama3", "rope_type": "llama3", **LLAMA3}},
    ),
    (
        PHI3,
        {"rope_scaling": {"rope_type": "longrope", **FACTORS}},
        {"rope_scaling": {"rope_type": "longrope", "type": "longrope", **FACTORS}},
    ),
    # Defaults of transformers (B2, B16, B17).
    (QWEN2, {"rope_theta": None, "rms_norm_eps": ...}, {"rope_theta": 10000.0, "rms_norm_eps": 1e-6}),
    (PHI3, {"rope_theta": ..., "rms_norm_eps": None}, {"rope_theta": 10000.0, "rms_norm_eps": 1e-5}),
    (LLAMA, {"rms_norm_eps": ...}, {"rms_norm_eps": 1e-6}),
    (MIXTRAL, {"rope_theta": ..., "rms_norm_eps": ...}, {"rope_theta": 1e6, "rms_norm_eps": 1e-5}),
    (GEMMA, {"rms_norm_eps": ...}, {"rms_norm_eps": 1e-6}),
    (GEMMA2, {"sliding_window": None, "rms_norm_eps": ...}, {"sliding_window": 4096, "rms_norm_eps": 1e-6}),
    (GEMMA3, {"sliding_window": ..., "rms_norm_eps": ...}, {"sliding_window": 4096, "rms_norm_eps": 1e-6}),
    # Caps of Gemma 2: null is none, absent is the default (B20).
    (
        GEMMA2,
        {"attn_logit_softcapping": None, "final_logit_softcapping": ...},
        {"attn_logit_softcapping": 1e4, "final_logit_softcapping": 30.0},
    ),
    (
        GEMMA2,
        {"attn_logit_softcapping": ..., "final_logit_softcapping": None},
        {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 1e4},
    ),
    # Qwen2 (A5, D1).
    (QWEN2, {"rope_scaling": {"type": "yarn", "factor": 4.0}}, {"rope_scaling": None}),
    (QWEN2, {"rope_scaling": {"type": "su", "factor": [4.0]}}, {"rope_scaling": None}),
    (
        QWEN_VL,
        {"rope_scaling": {"type": "mrope", "mrope_section": [1, 2, 3], "factor": 2.0}},
        {"rope_scaling": {"type": "mrope", "rope_type": "mrope", "mrope_section": [1, 2, 3]}},
    ),
    (QWEN_VL, {"rope_scaling": {"type": "linear", "factor": 2.0}}, {"rope_scaling": None}),
    (QWEN_VL, {"rope_scaling": {"type": "su"}}, {"rope_scaling": None}),
    # Phi-3 without factors (A4, C1).
    (PHI3, {"rope_scaling": None}, {"rope_scaling": ONES}),
    (PHI3, {"rope_scaling": ...}, {"rope_scaling": ONES}),
    (PHI3, {"rope_scaling": {}}, {"rope_scaling": ONES}),
    (PHI3, {"rope_scaling": {"type": "default"}}, {"rope_scaling": ONES}),
    (PHI3, {"rope_scaling": {"rope_type": "default"}}, {"rope_scaling": ONES}),
    # Mistral 3 (C17).
    (
        MISTRAL3,
        {"text_config": {"rope_theta": 1e8}},
        {
            "text_config": {
                "rope_theta": 1e8,
                "rope_parameters": {"rope_type": "linear", "factor": 1.0, "rope_theta": 1e8},
            }
        },
    ),
    (
        MISTRAL3,
        {"text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e7}}},
        {
            "text_config": {
                "rope_theta": 1e7,
                "rope_parameters": {"rope_type": "linear", "factor": 1.0, "rope_theta": 1e7},
            }
        },
    ),
    # Gemma 3n (D18).
    (GEMMA3N, {"text_config": {"intermediate_size": [8, 8, 8]}}, {"text_config": {"intermediate_size": 8}}),
    # Nested text model of Qwen2.5-VL.
    (
        QWEN_VL,
        {"hidden_size": ..., "vocab_size": 5, "text_config": {"hidden_size": 8, "vocab_size": 6}},
        {"hidden_size": 8, "vocab_size": 5, "text_config": {"hidden_size": 8, "vocab_size": 6}},
    ),
    # No object in the place of one (D11).
    (LLAMA, {"quantization_config": "none"}, {"quantization_config": ...}),
    (LLAMA, {"quantization_config": [], "quantization": 0}, {"quantization_config": ..., "quantization": ...}),
]


@pytest.mark.parametrize(("architecture", "before", "after"), REPAIRS)
def test_what_the_converter_cannot_read_is_written_so_that_it_can(
    architecture: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    made, said = repaired(architecture, config(architecture, **before))
    assert made == config(architecture, **{**before, **after})
    assert said.startswith("config.json: ")


@pytest.mark.parametrize(("architecture", "before", "after"), REPAIRS)
def test_a_repaired_configuration_needs_no_repair(
    architecture: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    made, _ = repaired(architecture, config(architecture, **before))
    assert repaired(architecture, made) == (made, "")


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        (LLAMA, {"rope_theta": 20000, "rope_scaling": None}),
        (LLAMA, {"head_dim": None, "sliding_window": None, "vocab_size": 16}),
        (LLAMA, {"rope_scaling": {}}),
        (LLAMA, {"quantization_config": None, "eos_token_id": [1, 2]}),
        (LLAMA, {"hidden_size": 64.5, "rope_theta": 1e6, "max_position_embeddings": float("inf")}),
        (LLAMA, {"rope_parameters": {"rope_theta": 1.0}}),  # it has a rope_theta of its own
        (QWEN2, {"sliding_window": None, "rope_scaling": None}),
        (QWEN_VL, {"rope_scaling": {"type": "mrope", "rope_type": "mrope", "mrope_section": [1]}}),
        (PHI3, {"sliding_window": None}),
        (PHI3, {"rope_scaling": {"type": "su", "rope_type": "su", **FACTORS}}),
        (PHI3, {"rope_scaling": {**FACTORS}}),
        (GEMMA3N, {"text_config": {"intermediate_size": [8, 16]}}),
        (GEMMA3N, {"text_config": {"intermediate_size": []}}),
        (MISTRAL3, {"text_config": {"rope_theta": 1.0, "rope_parameters": {"rope_type": "yarn", "factor": 2.0}}}),
    ],
)
def test_what_ollama_reads_as_it_is_stays(architecture: str, fields: dict[str, Any]) -> None:
    made = config(architecture, **fields)
    assert repaired(architecture, made) == (made, "")


@pytest.mark.parametrize(
    ("architecture", "before", "text"),
    [
        (LLAMA, {"vocab_size": 16.0}, "vocab_size written as numbers that Ollama reads"),
        (
            QWEN2,
            {"rope_scaling": {"type": "yarn", "factor": 4, ORIGINAL: 32768}},
            "32768 t",
        ),
        (QWEN2, {"rope_theta": ...}, "rope_theta 10000 added, the default"),
        (GEMMA2, {"attn_logit_softcapping": None}, "attn_logit_softcapping 10000 added"),
        (GEMMA2, {"final_logit_softcapping": ...}, "final_logit_softcapping 30 added"),
        (PHI3, {"rope_scaling": None}, "factors of 1, without which Ollama's Phi-3 does not load"),
    ],
)
def test_a_person_reads_what_was_mended(architecture: str, before: dict[str, Any], text: str) -> None:
    assert text in repaired(architecture, config(architecture, **before))[1]


@pytest.mark.parametrize(
    ("architecture", "before", "key", "value"),
    [
        (LLAMA, {"vocab_size": 640}, "vocab_size", 16),
        (LLAMA, {"vocab_size": ...}, "vocab_size", 16),
        (GEMMA3, {"vocab_size": 8}, "vocab_size", 16),
        (LLAMA, {"num_key_value_heads": ...}, "num_key_value_heads", 1),
        (QWEN2, {"num_key_value_heads": None}, "num_key_value_heads", 1),
        (PHI3, {"num_key_value_heads": None}, "num_key_value_heads", 1),
        (GEMMA, {"head_dim": ...}, "head_dim", HEAD),
        (GEMMA2, {"head_dim": None}, "head_dim", HEAD),
        (GEMMA3, {"head_dim": ...}, "head_dim", HEAD),
    ],
)
def test_what_is_missing_is_taken_from_the_shapes(
    architecture: str, before: dict[str, Any], key: str, value: int
) -> None:
    found = checked(config(architecture, **before), shapes(architecture))
    assert found.config[key] == value
    assert [repair for repair in found.repairs if key in repair] == [
        f"config.json: {key} set to {value}, "
        + {"vocab_size": "which the embedding has", "head_dim": "as q_proj has it"}.get(
            key, f"as {'qkv' if architecture == PHI3 else 'k'}_proj has them"
        )
    ]


@pytest.mark.parametrize("architecture", [LLAMA, QWEN2, PHI3, MIXTRAL])
def test_a_head_size_that_the_converter_knows_by_itself_is_not_written(architecture: str) -> None:
    assert "head_dim" not in checked(config(architecture, head_dim=...), shapes(architecture)).config


KEYS = sorted(
    {key for architecture in FAMILIES for key in config(architecture)}
    | {"rope_parameters", "text_config", "vision_config", "quantization", "quantization_config", "compression_config"}
)
ROPE_KEYS = (
    "type",
    "rope_type",
    "factor",
    "rope_theta",
    "long_factor",
    "full_attention",
    ORIGINAL,
)
ROPE = st.dictionaries(st.sampled_from(ROPE_KEYS), JSON, max_size=4)
CONFIGS = st.dictionaries(
    st.sampled_from(KEYS),
    JSON | ROPE | st.dictionaries(st.sampled_from([*KEYS, "intermediate_size"]), JSON | ROPE, max_size=3),
    max_size=6,
)


@given(fields=CONFIGS, architecture=st.sampled_from([*FAMILIES, *CONVERTS]))
def test_any_values_are_repaired_or_left(fields: dict[str, Any], architecture: str) -> None:
    """Without an exception, in little memory, and with a text that can be sent."""
    for text in repair_config(fields, architecture):
        assert text.startswith("config.json: ")


@pytest.mark.parametrize("hidden", [10**18, 10**400])
def test_a_giant_size_makes_no_giant_list(hidden: int) -> None:
    made, _ = repaired(PHI3, config(PHI3, hidden_size=hidden, rope_scaling=None))
    assert made["rope_scaling"] is None
