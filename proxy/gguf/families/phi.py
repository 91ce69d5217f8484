"""Microsoft's Phi 2 and Phi 3. Pure."""

import math

from proxy.gguf.families.common_keys import (
    ANY_SILU,
    UNTIED,
    check_head_size,
    rotary_dimensions,
    rotary_size,
    window_caveat,
)
from proxy.gguf.families.common_tensors import EMBEDDING_AND_OUTPUT, FUSED_MLP_SHAPES, LAYER, NORMS
from proxy.gguf.families.family import Family
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, count, longrope_factors, number, rope_base
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown


def _window(config: ModelConfig) -> Pairs:
    window = config.optional_count("sliding_window")
    yield "attention.sliding_window", Field.uint32(window or 0)


_LONGROPE = ("longrope", "su")


def _phi3_scaling(config: ModelConfig) -> Pairs:
    """The factor that scales attention up in a long context; transformers computes the same one.

    The original context is read from the outer level, not from rope_parameters.
    """
    rope = ModelConfig(config.rope)
    original, context = config.positive("original_max_position_embeddings"), config.positive("max_position_embeddings")
    yield "rope.scaling.original_context_length", Field.uint32(original)
    is_longrope = rope.find("rope_type") in _LONGROPE
    if is_longrope != bool(rope.find("long_factor")):
        raise CannotConvert(
            f"config.json has a rope scaling of the type {shown(rope.find('rope_type'))} "
            f"{'without' if is_longrope else 'with'} a long_factor"
        )
    if is_longrope:
        yield "rope.scaling.attn_factor", Field.float32(_attention_factor(rope, context / original, original))


def _attention_factor(rope: ModelConfig, scale: float, original: int) -> float:
    factor, explicit = rope.optional_number("factor"), rope.optional_number("attention_factor")
    if factor is not None and not math.isclose(factor, scale):
        raise CannotConvert(f"config.json has a longrope with factor = {factor}, in a context {scale:g} times longer")
    if explicit is not None:
        return explicit
    return math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 and original > 1 else 1.0


def _phi3_caveat(config: ModelConfig) -> str | None:
    if not config.rope.get("long_factor"):
        return window_caveat(config)
    original = config.positive("original_max_position_embeddings")
    factors = (
        f"with num_ctx beyond {original} llama.cpp uses long_factor for short texts too, unlike its authors' model"
    )
    return "; ".join(filter(None, [window_caveat(config), factors]))


PHI3 = Family(
    "phi3",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        LAYER + "self_attn.qkv_proj": "blk.{}.attn_qkv",
        LAYER + "self_attn.o_proj": "blk.{}.attn_output",
        LAYER + "mlp.gate_up_proj": "blk.{}.ffn_up",
        LAYER + "mlp.down_proj": "blk.{}.ffn_down",
    },
    (
        count("context_length", "n_positions", "max_position_embeddings", required=True),
        _phi3_scaling,
        count("embedding_length", "hidden_size", "n_embd", required=True),
        count("feed_forward_length", "intermediate_size", required=True),
        count("block_count", "num_hidden_layers", required=True),
        count("attention.head_count", "num_attention_heads", "n_head", required=True),
        count("attention.head_count_kv", "num_key_value_heads", "n_head_kv", required=True),
        number("attention.layer_norm_rms_epsilon", "rms_norm_eps", required=True),
        check_head_size,
        rotary_dimensions,
        rope_base,
        _window,
    ),
    tokenizers=("sentencepiece", "bpe"),
    added_from_json=True,
    defaults={
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
    },
    computed_tensors=lambda config: longrope_factors(config, rotary_size(config)),
    rope_types=frozenset({"default", *_LONGROPE}),
    accepted_values=ANY_SILU,
    # The outer level counts, not the RoPE parameters.
    harmless_keys=frozenset({"original_max_position_embeddings"}),
    caveat=_phi3_caveat,
    shapes=FUSED_MLP_SHAPES,
    heads_fill_embedding=True,
)

PHI2 = Family(
    "phi2",
    {
        "model.embed_tokens": "token_embd",
        "model.final_layernorm": "output_norm",
        "lm_head": "output",
        LAYER + "input_layernorm": "blk.{}.attn_norm",
        LAYER + "self_attn.q_proj": "blk.{}.attn_q",
        LAYER + "self_attn.k_proj": "blk.{}.attn_k",
        LAYER + "self_attn.v_proj": "blk.{}.attn_v",
        LAYER + "self_attn.dense": "blk.{}.attn_output",
        LAYER + "mlp.fc1": "blk.{}.ffn_up",
        LAYER + "mlp.fc2": "blk.{}.ffn_down",
    },
    (
        count("context_length", "n_positions", "max_position_embeddings", required=True),
        count("embedding_length", "hidden_size", "n_embd", required=True),
        lambda config: iter([("feed_forward_length", Field.uint32(4 * config.hidden))]),
        count("block_count", "num_hidden_layers", required=True),
        count("attention.head_count", "num_attention_heads", required=True),
        count("attention.head_count_kv", "num_attention_heads", required=True),
        number("attention.layer_norm_epsilon", "layer_norm_epsilon", "layer_norm_eps", required=True),
        rotary_dimensions,
    ),
    defaults={
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 0.5,
    },
    rope_types=frozenset({"default"}),
    required_biases=frozenset({"output_norm", "output", "attn_norm", "attn_output", "ffn_up", "ffn_down"}),
    accepted_values={
        **UNTIED,
        "hidden_act": ("gelu_new", None),
        "rope_theta": (10000, None),
        "qk_layernorm": (False, None),
    },
    # The weights show it anyway.
    harmless_keys=frozenset({"intermediate_size"}),
    vocabulary=lambda _config, _tokenizer: iter([("add_bos_token", Field.boolean(False))]),
    heads_fill_embedding=True,
)
