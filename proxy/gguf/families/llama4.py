"""Llama 4: experts in some layers, and no RoPE in every fourth layer. Pure."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from proxy.gguf.families.common_keys import ANY_SILU, LLAMA_ROPES, head_dim, rope_frequencies
from proxy.gguf.families.common_tensors import ATTENTION, EMBEDDING_AND_OUTPUT, LAYER, NORMS, size_from
from proxy.gguf.families.family import Family
from proxy.gguf.families.llama import LLAMA_KEYS
from proxy.gguf.families.rules import Transposed
from proxy.gguf.families.text_part import VISION_TEXT
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, count
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown

_MAVERICK_EXPERTS = 128
"""llama.cpp recognizes Maverick, the model without norms of Q and K, by its number of experts."""


def _expected_by_layer(config: ModelConfig) -> Iterator[tuple[str, list[Any]]]:
    """The only values by layer that llama.cpp runs; they are transformers' defaults."""
    numbers = range(1, config.blocks + 1)
    period = config.positive("interleave_moe_layer_step")
    yield "no_rope_layers", [int(number % 4 != 0) for number in numbers]
    yield "layer_types", ["chunked_attention" if number % 4 else "full_attention" for number in numbers]
    yield "moe_layers", [number - 1 for number in numbers if number % period == 0]


def _layers(config: ModelConfig) -> Pairs:
    for key, expected in _expected_by_layer(config):
        value = config.find(key)
        # In the first files the list of layers without RoPE is empty.
        if value not in (None, expected) and not (key == "no_rope_layers" and value == []):
            raise CannotConvert(f"config.json has {key} = {shown(value)}, and llama.cpp runs only {shown(expected)}")
    experts, has_norms = config.positive("num_local_experts"), config.flag("use_qk_norm", default=True)
    if has_norms is (experts == _MAVERICK_EXPERTS):
        raise CannotConvert(
            f"config.json has use_qk_norm = {shown(has_norms)} with {experts} experts; llama.cpp assumes the opposite"
        )
    yield "interleave_moe_layer_step", Field.uint32(config.positive("interleave_moe_layer_step"))


LLAMA4 = Family(
    "llama4",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **ATTENTION,
        LAYER + "feed_forward.gate_proj": "blk.{}.ffn_gate",
        LAYER + "feed_forward.up_proj": "blk.{}.ffn_up",
        LAYER + "feed_forward.down_proj": "blk.{}.ffn_down",
        LAYER + "feed_forward.router": "blk.{}.ffn_gate_inp",
        LAYER + "feed_forward.experts.gate_up_proj": Transposed(
            (
                ("blk.{}.ffn_gate_exps", size_from("intermediate_size")),
                ("blk.{}.ffn_up_exps", size_from("intermediate_size")),
            )
        ),
        LAYER + "feed_forward.experts.down_proj": Transposed(
            (("blk.{}.ffn_down_exps", lambda config: config.hidden),),
        ),
        LAYER + "feed_forward.shared_expert.gate_proj": "blk.{}.ffn_gate_shexp",
        LAYER + "feed_forward.shared_expert.up_proj": "blk.{}.ffn_up_shexp",
        LAYER + "feed_forward.shared_expert.down_proj": "blk.{}.ffn_down_shexp",
    },
    (
        *LLAMA_KEYS,
        head_dim,
        count("feed_forward_length", "intermediate_size_mlp", required=True),
        count("expert_feed_forward_length", "intermediate_size", required=True),
        _layers,
    ),
    defaults={
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "head_dim": 128,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_local_experts": 16,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 1,
        "no_rope_layer_interval": 4,
        "attention_chunk_size": 8192,
        "attn_temperature_tuning": True,
        "floor_scale": 8192,
        "attn_scale": 0.1,
    },
    computed_tensors=rope_frequencies,
    rope_types=LLAMA_ROPES - {"yarn"},
    accepted_values={
        **ANY_SILU,
        "attention_bias": (False, None),
        "no_rope_layer_interval": (4,),
        "attention_chunk_size": (8192,),
        # The first files have the interval of layers here, with the same meaning.
        "attn_temperature_tuning": (True, 4),
        "floor_scale": (8192,),
        "attn_scale": (0.1,),
        "partial_rotary_factor": (1, None),
    },
    optional_biases=frozenset(),
    shapes={
        "ffn_gate_shexp": "n_embd n_ff_exp",
        "ffn_up_shexp": "n_embd n_ff_exp",
        "ffn_down_shexp": "n_ff_exp n_embd",
    },
)

LLAMA4_MULTIMODAL = replace(
    LLAMA4,
    text_part=replace(VISION_TEXT, skipped_prefixes=("vision_model.", "multi_modal_projector.")),
)
