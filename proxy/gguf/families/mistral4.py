"""The text part of Mistral Small 4: DeepSeek V2, with a temperature that depends on the position. Pure."""

from dataclasses import replace

from proxy.gguf.families.common_tensors import EMBEDDING_AND_OUTPUT, LAYER, MLP, NORMS, SHARED_EXPERTS
from proxy.gguf.families.deepseek import (
    DEEPSEEK2,
    LATENT_ATTENTION,
    LATENT_ATTENTION_SHAPES,
    check_yarn_scale,
    with_query_tensors,
)
from proxy.gguf.families.family import Family
from proxy.gguf.families.text_part import VISION_TEXT
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown


def _temperature(config: ModelConfig) -> Pairs:
    """llama.cpp's converter leaves this out, but its loader reads it (deepseek2.cpp, b9452 and b10488)."""
    rope = ModelConfig(config.rope)
    yield "attention.temperature_scale", Field.float32(rope.number("llama_4_scaling_beta"))
    yield "attention.temperature_length", Field.uint32(rope.positive("original_max_position_embeddings"))


def _check_rotary_part(config: ModelConfig) -> Pairs:
    rotated, rest = config.positive("qk_rope_head_dim"), config.positive("qk_nope_head_dim")
    share = config.rope.get("partial_rotary_factor")
    if share not in (None, rotated / (rotated + rest)):
        raise CannotConvert(
            f"config.json has partial_rotary_factor = {shown(share)}, and a RoPE for {rotated} numbers of a head of "
            f"{rotated + rest}"
        )
    yield from ()


MISTRAL4: Family = replace(
    DEEPSEEK2,
    architecture="mistral4",
    tensors={
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **MLP,
        **SHARED_EXPERTS,
        **LATENT_ATTENTION,
        LAYER + "mlp.gate": "blk.{}.ffn_gate_inp",
        LAYER + "mlp.experts.gate_up_proj": "blk.{}.ffn_gate_up_exps",
        LAYER + "mlp.experts.down_proj": "blk.{}.ffn_down_exps",
    },
    hyperparameters=(*DEEPSEEK2.hyperparameters, check_yarn_scale, _temperature, _check_rotary_part),
    defaults={
        "max_position_embeddings": 1048576,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "n_routed_experts": 128,
        "n_shared_experts": 1,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 2048,
        "kv_lora_rank": 256,
        "q_lora_rank": 1024,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 64,
        "v_head_dim": 128,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
        "tie_word_embeddings": True,
    },
    rope_types=frozenset({"yarn"}),
    accepted_values={
        **DEEPSEEK2.accepted_values,
        "n_group": (1, None),
        "topk_group": (1, None),
        "scoring_func": ("softmax", None),
    },
    # Of the RoPE; the same as the one outside of it.
    harmless_keys=DEEPSEEK2.harmless_keys | {"max_position_embeddings"},
    optional_tensors=frozenset(),
    shapes={**LATENT_ATTENTION_SHAPES, "ffn_gate_up_exps": "n_embd 2n_ff_exp n_expert"},
    keeps_output=True,
    text_part=VISION_TEXT,
    variant=lambda config: with_query_tensors(MISTRAL4, config),
)
