"""Snowflake's Arctic: a dense layer after the attention, and experts beside both. Pure.

The source is the authors' code, in Snowflake-Labs' fork of transformers: with `parallel_attn_mlp_res` the experts get
the input of the attention.
"""

from collections.abc import Mapping

from proxy.gguf.families.common_keys import ANY_SILU, check_head_size, check_several_experts
from proxy.gguf.families.common_tensors import EMBEDDING_AND_OUTPUT, LAYER, PERMUTED_ATTENTION, size_from
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Rule, Stacked
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, rope_dimensions

_EXPERTS = size_from("num_local_experts")
_PARTS: Mapping[str, str] = {"w1": "gate", "w2": "down", "w3": "up"}
_TENSORS: Mapping[str, Rule | str] = {
    **EMBEDDING_AND_OUTPUT,
    **PERMUTED_ATTENTION,
    LAYER + "input_layernorm": "blk.{}.attn_norm",
    LAYER + "residual_layernorm": "blk.{}.ffn_norm",
    LAYER + "post_attention_layernorm": "blk.{}.ffn_norm_exps",
    LAYER + "block_sparse_moe.gate": "blk.{}.ffn_gate_inp",
    **{LAYER + f"residual_mlp.{name}": f"blk.{{}}.ffn_{part}" for name, part in _PARTS.items()},
    **{
        LAYER + f"block_sparse_moe.experts.{{}}.{name}": Stacked(f"blk.{{}}.ffn_{part}_exps", _EXPERTS)
        for name, part in _PARTS.items()
    },
}

ARCTIC = Family(
    "arctic",
    _TENSORS,
    (*BASIC, VOCABULARY_SIZE, rope_dimensions, check_head_size, check_several_experts),
    tokenizers=("sentencepiece",),
    # Those of the authors' configuration_arctic.py.
    defaults={"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 1e6},
    optional_biases=frozenset(),
    rope_types=frozenset({"default"}),
    accepted_values={
        **ANY_SILU,
        "attention_bias": (False, None),
        "moe_layer_frequency": (1,),
        "parallel_attn_mlp_res": (True,),
        "rope_scaling": (None,),
        "sliding_window": (None,),
    },
    # How the authors' library for training spreads, limits and quantizes the experts.
    harmless_keys=frozenset(
        {
            *("ds_lora", "ds_quantization", "enable_expert_tensor_parallelism", "moe_eval_capacity_factor"),
            *("moe_min_capacity", "moe_token_dropping", "moe_train_capacity_factor", "use_residual"),
        }
    ),
    has_transformers_class=False,
    heads_fill_embedding=True,
    shapes={
        "ffn_norm_exps": "n_embd",
        **{f"ffn_{part}": "n_embd n_embd" for part in _PARTS.values()},
    },
)
