"""Zhipu's GLM 4: dense, with experts, and the Lite (GLM-4.7-Flash), which is built like DeepSeek V3.

Upstage's Solar Open is a GLM 4 with experts in every layer. Pure.
"""

from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.families.common_keys import ANY_SILU, check_head_size, leading_dense_blocks
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    ATTENTION_BIAS,
    EMBEDDING_AND_OUTPUT,
    FUSED_EXPERTS,
    FUSED_MLP_SHAPES,
    LAYER,
    MLP,
    NORMS,
    QK_NORMS,
    QKV,
    ROUTED_EXPERTS,
    SHARED_EXPERT_STEMS,
    SHARED_EXPERTS,
)
from proxy.gguf.families.deepseek import DEEPSEEK2, DEEPSEEK3, with_query_tensors
from proxy.gguf.families.family import Family
from proxy.gguf.hyperparameters import (
    BASIC,
    FEED_FORWARD,
    SIGMOID_GATE,
    count,
    flag,
    number,
    partial_head_dimensions,
    rope_base,
)

GLM = Family(
    "chatglm",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **ATTENTION,
        LAYER + "mlp.gate_up_proj": "blk.{}.ffn_up",
        LAYER + "mlp.down_proj": "blk.{}.ffn_down",
    },
    # llama.cpp's converter reads these by ChatGLM's names first, and by these names otherwise.
    (
        count("context_length", "max_position_embeddings", required=True),
        count("embedding_length", "hidden_size", required=True),
        FEED_FORWARD,
        count("block_count", "num_hidden_layers", required=True),
        count("attention.head_count", "num_attention_heads", required=True),
        count("attention.head_count_kv", "num_key_value_heads", required=True),
        number("attention.layer_norm_rms_epsilon", "rms_norm_eps", required=True),
        check_head_size,
        partial_head_dimensions,
        rope_base,
    ),
    defaults={
        "max_position_embeddings": 131072,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1.5625e-7,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "head_dim": 128,
        "attention_bias": True,
    },
    tensor_flags=ATTENTION_BIAS,
    rope_types=frozenset({"default"}),
    accepted_values=ANY_SILU,
    special_tokens={"eos": "<|endoftext|>", "eot": "<|user|>", "unk": "<|endoftext|>"},
    shapes=FUSED_MLP_SHAPES,
    heads_fill_embedding=True,
)

GLM4 = replace(
    GLM,
    architecture="glm4",
    tensors={
        **GLM.tensors,
        LAYER + "post_self_attn_layernorm": "blk.{}.post_attention_norm",
        LAYER + "post_mlp_layernorm": "blk.{}.post_ffw_norm",
    },
    hyperparameters=(*BASIC, partial_head_dimensions),
    rope_types=frozenset({"default", "linear", "dynamic", "yarn"}),
    special_tokens={**GLM.special_tokens, "bos": "<|endoftext|>"},
    heads_fill_embedding=False,
)

GLM_MOE_SPECIAL_TOKENS: Mapping[str, str] = {
    "bos": "[gMASK]",
    "eot": "<|user|>",
    "unk": "<|endoftext|>",
    "eom": "<|observation|>",
}

GLM4_MOE = Family(
    "glm4moe",
    {
        **EMBEDDING_AND_OUTPUT,
        **ATTENTION,
        **QK_NORMS,
        **MLP,
        **ROUTED_EXPERTS,
        **FUSED_EXPERTS,
        **SHARED_EXPERTS,
        LAYER + "input_layernorm": "blk.{}.attn_norm",
        LAYER + "post_attention_layernorm": "blk.{}.post_attention_norm",
        LAYER + "mlp.gate.e_score_correction_bias": "blk.{}.exp_probs_b",
    },
    (
        *BASIC,
        partial_head_dimensions,
        count("expert_feed_forward_length", "moe_intermediate_size", required=True),
        count("expert_shared_count", "n_shared_experts", required=True),
        count("leading_dense_block_count", "first_k_dense_replace", required=True),
        SIGMOID_GATE,
        number("expert_weights_scale", "routed_scaling_factor", required=True),
        flag("expert_weights_norm", "norm_topk_prob", default=True),
    ),
    defaults={
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "n_routed_experts": 128,
        "num_experts_per_tok": 8,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 1408,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": True,
    },
    required_biases=QKV,
    accepted_values={**ANY_SILU, "attention_bias": (True,)},
    tensor_flags={"use_qk_norm": frozenset({"attn_q_norm.weight", "attn_k_norm.weight"})},
    special_tokens=GLM_MOE_SPECIAL_TOKENS,
    optional_tensors=SHARED_EXPERT_STEMS | {"attn_q_norm", "attn_k_norm"},
    # llama.cpp's converter keeps the layer for multi-token prediction, which Ollama does not run.
    skips_extra_layers=True,
)

SOLAR_OPEN = replace(
    GLM4_MOE,
    tensors={name: rule for name, rule in GLM4_MOE.tensors.items() if name not in QK_NORMS.keys() | MLP.keys()},
    defaults={
        **GLM4_MOE.defaults,
        "vocab_size": 196608,
        "hidden_size": 4096,
        "num_hidden_layers": 48,
        "num_attention_heads": 64,
        "head_dim": 128,
        "rope_theta": 1000000.0,
        "partial_rotary_factor": 1.0,
        "moe_intermediate_size": 1280,
        "first_k_dense_replace": 0,
    },
    required_biases=frozenset(),
    optional_biases=frozenset(),
    accepted_values={
        **ANY_SILU,
        "attention_bias": (False, None),
        "first_k_dense_replace": (0, None),
        "partial_rotary_factor": (1.0,),
        "use_qk_norm": (False, None),
    },
    tensor_flags={},
    special_tokens={"bos": "<|startoftext|>", "eos": "<|endoftext|>", "eot": "<|endoftext|>", "unk": "<unk>"},
    optional_tensors=frozenset(),
)

GLM4_MOE_LITE: Family = replace(
    DEEPSEEK3,
    tensors={**DEEPSEEK2.tensors, **FUSED_EXPERTS},
    # Without this key llama.cpp guesses the gating function by the size of the vocabulary.
    hyperparameters=(*DEEPSEEK2.hyperparameters, leading_dense_blocks, SIGMOID_GATE),
    defaults={
        "max_position_embeddings": 202752,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "head_dim": 64,
        "kv_lora_rank": 512,
        "q_lora_rank": 768,
        "qk_nope_head_dim": 192,
        "qk_rope_head_dim": 64,
        "v_head_dim": 256,
        "moe_intermediate_size": 1536,
        "n_routed_experts": 64,
        "n_shared_experts": 1,
        "num_experts_per_tok": 4,
        "num_key_value_heads": 20,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.8,
    },
    accepted_values={
        **DEEPSEEK2.accepted_values,
        "partial_rotary_factor": (1, None),
        "scoring_func": ("sigmoid", None),
        "topk_method": ("noaux_tc", None),
    },
    optional_tensors=frozenset(),
    special_tokens=GLM_MOE_SPECIAL_TOKENS,
    variant=lambda config: with_query_tensors(GLM4_MOE_LITE, config),
)
