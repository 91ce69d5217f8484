"""Ling 3 (Bailing MoE 3): most layers have Kimi's linear attention, the others latent attention with a gate. Pure.

transformers 5.24 has a class for it under another name (`BailingHybridForCausalLM`). Both that class and the authors'
own ignore the limits of `expert_swiglu_limit_list`, with which Ling 3 Flash was trained; the authors' code for vLLM
(`bailing_moe_v3.py`) applies them, and so does llama.cpp.
"""

from collections.abc import Mapping

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED, check_several_experts, limits_by_layer
from proxy.gguf.families.common_tensors import LAYER, MLP, NORMS, ROUTED_EXPERTS, SHARED_EXPERTS
from proxy.gguf.families.deepseek import COMPRESSED_QUERY
from proxy.gguf.families.family import Family
from proxy.gguf.families.kimi_linear import DELTA_NET, DELTA_NET_SHAPES, LATENT, MIXED_KEYS
from proxy.gguf.families.rules import ByLayer, Reshaped, Rule, stems_of
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import Pairs, count, flag
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown

_ATTENTION = LAYER + "self_attn."
_OUTPUT_GATE, _HEAD_GATE = "ssm_g_a", "attn_gate"
"""The gate of linear attention has a number for each number of a head, that of latent attention one for each head."""


def _has_latent_attention(config: ModelConfig, layer: int) -> bool:
    """The last layer of each group, and layers that do not fill a group."""
    size = config.positive("layer_group_size")
    return (layer + 1) % size == 0 or layer >= config.blocks // size * size


def _column(_: ModelConfig, shape: tuple[int, ...]) -> tuple[int, ...]:
    """One number a head. The authors' files have them with and without further dimensions of 1."""
    return (max(shape), 1)


_DELTA_NET: Mapping[str, Rule | str] = {
    **DELTA_NET,
    _ATTENTION + "f_proj": "blk.{}.ssm_f_a",
    _ATTENTION + "A_log": Reshaped("blk.{}.ssm_a", _column, exponential=1),
}


def _absent_tensors(config: ModelConfig, layer: int | None) -> Mapping[str, bool]:
    if layer is None:
        return {}
    compressed, of_latent = stems_of(COMPRESSED_QUERY), stems_of(LATENT) | {_HEAD_GATE}
    whole = config.optional_count("q_lora_rank") is None
    of_linear = stems_of(_DELTA_NET) | {_OUTPUT_GATE} | (compressed if whole else {"attn_q"})
    absent = of_linear if _has_latent_attention(config, layer) else of_latent | compressed
    experts = stems_of(ROUTED_EXPERTS) | stems_of(SHARED_EXPERTS) | {"exp_probs_b"}
    is_dense = layer < config.count("first_k_dense_replace")
    return dict.fromkeys(absent | (experts if is_dense else stems_of(MLP)), False)


def _layers(config: ModelConfig) -> Pairs:
    """llama.cpp knows layers with linear attention by their having no head for K and V."""
    heads = [int(_has_latent_attention(config, layer)) for layer in range(config.blocks)]
    yield "attention.head_count_kv", Field.array(ValueType.INT32, heads)


def _lowest_decay(config: ModelConfig) -> Pairs:
    lowest = config.number("kda_lower_bound")
    if lowest >= 0:
        raise CannotConvert(f"config.json has kda_lower_bound = {lowest}, which is to be negative")
    yield "kda.gate_lower_bound", Field.float32(lowest)


def _limits(config: ModelConfig) -> Pairs:
    """The limit of the feed-forward in each layer, 0 for none. llama.cpp would also apply those of dense layers."""
    for key, name in (
        ("swiglu_clamp_exp", "expert_swiglu_limit_list"),
        ("swiglu_clamp_shexp", "share_expert_swiglu_limit_list"),
    ):
        limits = limits_by_layer(config, name)
        if limits is None:
            continue
        if any(limits[: config.count("first_k_dense_replace")]):
            raise CannotConvert(f"config.json has {name} = {shown(limits)}, with a limit for a dense layer")
        yield key, Field.array(ValueType.FLOAT32, limits)


BAILING_MOE3 = Family(
    "bailingmoe3",
    {
        **NORMS,
        **MLP,
        **ROUTED_EXPERTS,
        **SHARED_EXPERTS,
        **_DELTA_NET,
        **LATENT,
        **COMPRESSED_QUERY,
        "model.word_embeddings": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        LAYER + "mlp.gate.expert_bias": "blk.{}.exp_probs_b",
        _ATTENTION + "q_proj": "blk.{}.attn_q",
        _ATTENTION + "o_proj": "blk.{}.attn_output",
        _ATTENTION + "g_proj": ByLayer((f"blk.{{}}.{_OUTPUT_GATE}", f"blk.{{}}.{_HEAD_GATE}"), _has_latent_attention),
    },
    (
        *MIXED_KEYS,
        _layers,
        _lowest_decay,
        flag("kda.safe_gate", "kda_safe_gate", default=False),
        count("ssm.conv_kernel", "short_conv_kernel_size", required=True),
        count("kda.head_dim", "head_dim", required=True),
        count("attention.q_lora_rank", "q_lora_rank"),
        count("leading_dense_block_count", "first_k_dense_replace", required=True),
        count("expert_shared_feed_forward_length", "moe_shared_expert_intermediate_size", required=True),
        count("expert_shared_count", "num_shared_experts", required=True),
        flag("expert_weights_norm", "norm_topk_prob", default=True),
        check_several_experts,
        _limits,
    ),
    renamed_parts={".attention.dense.": ".self_attn.o_proj.", ".attention.": ".self_attn."},
    # The authors' code has this epsilon in latent attention and for Q and K of linear attention, whatever the key says.
    accepted_values={
        **ANY_SILU,
        **UNTIED,
        "rms_norm_eps": (1e-6,),
        "no_kda_lora": (True,),
        "use_kda_lora": (False, None),
        "kda_safe_gate": (True,),
        "gated_attention_proj_granularity_type": ("head_wise",),
        "rope_interleave": (True, None),
        "use_mla_nope": (False, None),
        "num_shared_experts": (1,),
        "norm_topk_prob": (True, None),
        "score_function": ("sigmoid",),
        "scoring_func": ("sigmoid", None),
        "topk_method": ("noaux_tc", None),
        "moe_router_enable_expert_bias": (True, None),
        "use_qkv_bias": (False, None),
        "use_bias": (False, None),
    },
    rope_types=frozenset({"default"}),
    # What no code reads, what other keys say too, and types of numbers.
    harmless_keys=frozenset(
        {
            *("group_norm_size", "linear_silu", "max_window_layers", "mtp_use_kda", "num_kv_heads_for_linear_attn"),
            *("partial_rotary_factor", "qk_head_dim", "rotary_dim", "router_dtype", "use_qk_norm"),
        }
    ),
    has_transformers_class=False,
    skips_extra_layers=True,
    optional_biases=frozenset(),
    absent_tensors=_absent_tensors,
    shapes={
        **DELTA_NET_SHAPES,
        _HEAD_GATE: "n_embd n_head",
        _OUTPUT_GATE: "n_embd n_kda",
        "ssm_f_a": "n_embd n_kda",
    },
)
