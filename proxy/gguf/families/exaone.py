"""LG's EXAONE 3, EXAONE 4 and K-EXAONE. Pure."""

from proxy.gguf.families.common_keys import (
    ANY_SILU,
    LLAMA_ROPES,
    UNTIED,
    count_dense_layers,
    no_rope_scaling,
    rope_frequencies,
    rotary_dimensions,
    sliding_by_layer,
    sliding_layers,
)
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    LAYER,
    MLP,
    NORMS,
    QK_NORMS,
    ROUTED_EXPERTS,
    SHARED_EXPERTS,
)
from proxy.gguf.families.family import Family
from proxy.gguf.families.olmo import OLMO2_TENSORS
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, SIGMOID_GATE, VOCABULARY_SIZE, Pairs, always, count, flag, number
from proxy.gguf.model_config import CannotConvert, ModelConfig

_LAYER = "transformer.h.{}."


EXAONE = Family(
    "exaone",
    {
        "transformer.wte": "token_embd",
        "transformer.ln_f": "output_norm",
        "lm_head": "output",
        _LAYER + "ln_1": "blk.{}.attn_norm",
        _LAYER + "ln_2": "blk.{}.ffn_norm",
        _LAYER + "attn.attention.q_proj": "blk.{}.attn_q",
        _LAYER + "attn.attention.k_proj": "blk.{}.attn_k",
        _LAYER + "attn.attention.v_proj": "blk.{}.attn_v",
        _LAYER + "attn.attention.out_proj": "blk.{}.attn_output",
        _LAYER + "mlp.c_fc_0": "blk.{}.ffn_gate",
        _LAYER + "mlp.c_fc_1": "blk.{}.ffn_up",
        _LAYER + "mlp.c_proj": "blk.{}.ffn_down",
    },
    # llama.cpp's converter does not write the norms' epsilon under this name, which its loader reads.
    (*BASIC, number("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", required=True), rotary_dimensions),
    computed_tensors=rope_frequencies,
    rope_types=LLAMA_ROPES,
    optional_biases=frozenset(),
    has_transformers_class=False,
    accepted_values={"activation_function": ("silu",)},
)


_WINDOWED_BLOCKS = 64
"""llama.cpp recognizes the EXAONE 4 with sliding windows by its number of layers."""


def _check_windows(config: ModelConfig) -> Pairs:
    """In the model with windows, llama.cpp applies no RoPE in full-attention layers."""
    window = config.optional_count("sliding_window")
    if (window is not None) is not (config.blocks == _WINDOWED_BLOCKS):
        raise CannotConvert(
            f"config.json has sliding_window = {window} and {config.blocks} layers; llama.cpp has windows "
            f"only in the model with {_WINDOWED_BLOCKS} layers"
        )
    yield from ()


EXAONE4 = Family(
    "exaone4",
    OLMO2_TENSORS,
    (*BASIC, VOCABULARY_SIZE, sliding_layers, _check_windows),
    defaults={
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
    },
    computed_tensors=lambda config: rope_frequencies(config, default_factor=16.0),
    rope_types=LLAMA_ROPES,
    optional_biases=frozenset(),
    # layer_types replace it.
    harmless_keys=frozenset({"sliding_window_pattern"}),
    accepted_values=ANY_SILU,
    heads_fill_embedding=True,
)


def _dense_layers(config: ModelConfig) -> Pairs:
    """By `mlp_layer_types`, which wins over the number of dense layers; the weights must agree."""
    number = config.optional_count("first_k_dense_replace", "first_last_k_dense_replace")
    dense = count_dense_layers(config) if number is None or config.find("mlp_layer_types") is not None else number
    yield "leading_dense_block_count", Field.uint32(dense)


def _shared_experts(config: ModelConfig) -> Pairs:
    experts = config.positive("num_shared_experts")
    yield "expert_shared_count", Field.uint32(experts)
    yield "expert_shared_feed_forward_length", Field.uint32(config.positive("moe_intermediate_size") * experts)


_WINDOW_PERIOD = 4


def _window(config: ModelConfig) -> Pairs:
    """llama.cpp ignores the pattern: every fourth layer has no window and no RoPE, and all others have both."""
    config.positive("sliding_window")
    if sliding_by_layer(config) != [bool((layer + 1) % _WINDOW_PERIOD) for layer in range(config.blocks)]:
        raise CannotConvert(
            f"config.json has layer_types that do not repeat {_WINDOW_PERIOD - 1} layers with a window and one without"
        )
    yield from sliding_layers(config)


EXAONE_MOE = Family(
    "exaone-moe",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **ATTENTION,
        **QK_NORMS,
        **MLP,
        **ROUTED_EXPERTS,
        **SHARED_EXPERTS,
        LAYER + "mlp.e_score_correction_bias": "blk.{}.exp_probs_b",
        LAYER + "mlp.gate.e_score_correction_bias": "blk.{}.exp_probs_b",
    },
    (
        *BASIC,
        VOCABULARY_SIZE,
        _window,
        count("expert_feed_forward_length", "moe_intermediate_size", required=True),
        _shared_experts,
        _dense_layers,
        number("expert_weights_scale", "routed_scaling_factor", required=True),
        flag("expert_weights_norm", "norm_topk_prob", default=True),
        SIGMOID_GATE,
        # The layers for multi-token prediction are skipped.
        always("nextn_predict_layers", Field.uint32(0)),
        no_rope_scaling,
    ),
    defaults={
        "vocab_size": 102400,
        "hidden_size": 4096,
        "intermediate_size": 16384,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
        "moe_intermediate_size": 1024,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "num_shared_experts": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "n_group": 1,
        "topk_group": 1,
    },
    rope_types=frozenset({"default"}),
    accepted_values={**ANY_SILU, **UNTIED, "scoring_func": ("sigmoid", None), "topk_method": ("noaux_tc", None)},
    # layer_types replace the first one; the weights show the other.
    harmless_keys=frozenset({"sliding_window_pattern", "is_moe_layer"}),
    optional_biases=frozenset(),
    skipped_prefixes=("mtp.",),
    skips_extra_layers=True,
)
