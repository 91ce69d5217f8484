"""Baidu's ERNIE 4.5, dense and with experts. Pure."""

from proxy.gguf.families.common_keys import ANY_SILU, space_prefix
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    ATTENTION_BIAS,
    EMBEDDING_AND_OUTPUT,
    LAYER,
    MLP,
    MLP_BIAS,
    NORMS,
    QKV,
    ROUTED_EXPERTS,
    SHARED_EXPERT_STEMS,
    SHARED_EXPERTS,
)
from proxy.gguf.families.family import Family
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, Pairs, count
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown

ERNIE_TRAINING_KEYS = frozenset(
    {*("weight_share_add_bias", "micro_batch_size", "loss_subbatch_seqlen", "token_balance_seqlen"), "ignored_index"}
)
"""Keys for training. The first one concerns a bias that exists only with `use_bias`."""

ERNIE4_5 = Family(
    "ernie4_5",
    {**EMBEDDING_AND_OUTPUT, **NORMS, **ATTENTION, **MLP},
    tokenizers=("sentencepiece",),
    defaults={
        "max_position_embeddings": 131072,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "head_dim": 128,
        "tie_word_embeddings": True,
    },
    optional_biases=QKV | {"attn_output"},
    tensor_flags={"use_bias": ATTENTION_BIAS["attention_bias"] | MLP_BIAS["mlp_bias"]},
    accepted_values={**ANY_SILU, "use_rmsnorm": (True, None)},
    harmless_keys=ERNIE_TRAINING_KEYS,
    vocabulary=space_prefix,
)


def _shared_expert_keys(config: ModelConfig) -> Pairs:
    experts = config.count("moe_num_shared_experts")
    yield "expert_shared_count", Field.uint32(experts)
    if experts:
        yield "expert_shared_feed_forward_length", Field.uint32(config.positive("moe_intermediate_size") * experts)


def _check_last_moe_layer(config: ModelConfig) -> Pairs:
    """llama.cpp expects experts in every layer after the first dense ones."""
    if config.find("moe_layer_end_index") not in (None, -1, config.blocks - 1):
        raise CannotConvert(
            f"config.json has moe_layer_end_index = {shown(config.find('moe_layer_end_index'))} in {config.blocks} "
            "layers, and llama.cpp expects experts in the last layer"
        )
    yield from ()


ERNIE4_5_MOE = Family(
    "ernie4_5-moe",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **ATTENTION,
        **MLP,
        **ROUTED_EXPERTS,
        **SHARED_EXPERTS,
        LAYER + "mlp.moe_statics.e_score_correction_bias": "blk.{}.exp_probs_b",
    },
    (
        *BASIC,
        count("expert_count", "moe_num_experts", required=True),
        count("expert_used_count", "moe_k", required=True),
        count("interleave_moe_layer_step", "moe_layer_interval", required=True),
        count("leading_dense_block_count", "moe_layer_start_index", required=True),
        count("expert_feed_forward_length", "moe_intermediate_size", required=True),
        _shared_expert_keys,
        _check_last_moe_layer,
    ),
    tokenizers=("sentencepiece",),
    defaults={
        **{key: value for key, value in ERNIE4_5.defaults.items() if key != "head_dim"},
        "num_key_value_heads": 4,
        "moe_num_experts": 64,
        "moe_k": 6,
        "moe_layer_interval": 1,
        "moe_layer_start_index": 1,
        "moe_intermediate_size": 1536,
        "moe_num_shared_experts": 2,
    },
    optional_tensors=SHARED_EXPERT_STEMS | {"exp_probs_b"},
    optional_biases=QKV | {"attn_output"},
    # llama.cpp's loader expects experts in every layer after the first dense ones.
    accepted_values={
        **ANY_SILU,
        "moe_layer_interval": (1,),
        "use_bias": (False, None),
        "use_rmsnorm": (True, None),
        "moe_norm_min": (1e-12, None),
    },
    # The capacity of experts in training, and what the weights show anyway.
    harmless_keys=ERNIE_TRAINING_KEYS
    | {"moe_capacity", "moe_gate", "moe_use_aux_free", "moe_group", "moe_aux_loss_lambda"},
    vocabulary=space_prefix,
    skipped_prefixes=("model.mtp_",),
)
