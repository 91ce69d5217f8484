"""Databricks' DBRX: experts, and attention whose numbers are limited. Pure."""

from collections.abc import Mapping

from proxy.gguf.families.common_keys import UNTIED, check_rope_base
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Copy, Rule, StackedExperts
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, always, count, number, rope_base
from proxy.gguf.model_config import CannotConvert, ModelConfig

_LAYER = "transformer.blocks.{}."


def _experts(config: ModelConfig) -> int:
    return config.positive("moe_num_experts")


_TENSORS: Mapping[str, Rule | str] = {
    "transformer.wte": "token_embd",
    "transformer.norm_f": "output_norm",
    "lm_head": "output",
    _LAYER + "norm_attn_norm.norm_1": "blk.{}.attn_norm",
    _LAYER + "norm_attn_norm.attn.Wqkv": "blk.{}.attn_qkv",
    _LAYER + "norm_attn_norm.attn.out_proj": "blk.{}.attn_output",
    _LAYER + "norm_attn_norm.norm_2": "blk.{}.attn_output_norm",
    _LAYER + "ffn.router.layer": Copy("blk.{}.ffn_gate_inp", keeps_type=True),
    _LAYER + "ffn.experts.mlp.w1": StackedExperts("blk.{}.ffn_gate_exps", _experts),
    _LAYER + "ffn.experts.mlp.v1": StackedExperts("blk.{}.ffn_up_exps", _experts),
    _LAYER + "ffn.experts.mlp.w2": StackedExperts("blk.{}.ffn_down_exps", _experts, transposed=True),
}


def _check_one_base(config: ModelConfig) -> Pairs:
    """The authors' code and transformers 4 read the base in attn_config, transformers 5 reads rope_parameters."""
    if config.rope.get("rope_theta") != config.find("rope_theta"):
        raise CannotConvert("config.json has another rope_theta in rope_parameters than in attn_config")
    yield from ()


DBRX = Family(
    "dbrx",
    _TENSORS,
    (
        count("block_count", "n_layers", required=True),
        count("context_length", "max_position_embeddings", required=True),
        count("embedding_length", "hidden_size", required=True),
        count("feed_forward_length", "ffn_hidden_size", required=True),
        count("attention.head_count", "n_heads", required=True),
        count("attention.head_count_kv", "num_key_value_heads", required=True),
        check_rope_base,
        _check_one_base,
        rope_base,
        number("attention.clamp_kqv", "clip_qkv", required=True),
        count("expert_count", "moe_num_experts", required=True),
        count("expert_used_count", "moe_top_k", required=True),
        # PyTorch's default, which the authors' code uses.
        always("attention.layer_norm_epsilon", Field.float32(1e-5)),
    ),
    key_aliases={
        "d_model": "hidden_size",
        "max_seq_len": "max_position_embeddings",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "attn_config.clip_qkv": "clip_qkv",
        "attn_config.kv_n_heads": "num_key_value_heads",
        "attn_config.rope_theta": "rope_theta",
        "ffn_config.ffn_act_fn": "ffn_act_fn",
        "ffn_config.ffn_hidden_size": "ffn_hidden_size",
        "ffn_config.moe_num_experts": "moe_num_experts",
        "ffn_config.moe_normalize_expert_weights": "moe_normalize_expert_weights",
        "ffn_config.moe_top_k": "moe_top_k",
    },
    defaults={
        "hidden_size": 2048,
        "n_heads": 16,
        "n_layers": 24,
        "max_position_embeddings": 2048,
        "num_key_value_heads": 1,
        "ffn_hidden_size": 3584,
        "moe_num_experts": 4,
        "moe_top_k": 1,
        "moe_normalize_expert_weights": 1.0,
    },
    rope_types=frozenset({"default"}),
    accepted_values={
        **UNTIED,
        "ffn_act_fn": ({"name": "silu"}, None),
        # The sum of the chosen experts' weights is 1.
        "moe_normalize_expert_weights": (1.0,),
    },
    # transformers replaces the first by d_model, and uses the others in training.
    harmless_keys=frozenset({"ffn_config.hidden_size", "ffn_config.moe_jitter_eps", "ffn_config.moe_loss_weight"}),
    optional_biases=frozenset(),
    heads_fill_embedding=True,
)
