"""The DeepSeek models. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.families.common_keys import ANY_SILU, no_rope_scaling
from proxy.gguf.families.common_tensors import (
    ATTENTION_BIAS,
    EMBEDDING_AND_OUTPUT,
    LAYER,
    MLP,
    NORMS,
    ROUTED_EXPERTS,
    SHARED_EXPERTS,
)
from proxy.gguf.families.family import Family
from proxy.gguf.families.llama import LLAMA_TENSORS
from proxy.gguf.families.rules import MlaKvB, Rule
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import (
    BASIC,
    VOCABULARY_SIZE,
    Pairs,
    Writer,
    always,
    count,
    number,
    rope_dimensions,
)
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown

DEEPSEEK = Family(
    "deepseek",
    {**LLAMA_TENSORS, **ROUTED_EXPERTS, **SHARED_EXPERTS},
    (
        *BASIC,
        rope_dimensions,
        no_rope_scaling,
        count("leading_dense_block_count", "first_k_dense_replace", required=True),
        VOCABULARY_SIZE,
        count("expert_feed_forward_length", "moe_intermediate_size", required=True),
        always("expert_weights_scale", Field.float32(1.0)),
        count("expert_shared_count", "n_shared_experts", required=True),
    ),
    tokenizers=("sentencepiece", "bpe"),
    rope_types=frozenset({"default"}),
    tensor_flags=ATTENTION_BIAS,
    has_transformers_class=False,
    accepted_values={
        **ANY_SILU,
        "norm_topk_prob": (False, None),
        "moe_layer_freq": (1, None),
        "scoring_func": ("softmax", None),
    },
    heads_fill_embedding=True,
)

_LITE_BLOCKS, _KANANA = (26, 27), (48, 128256)
"""llama.cpp recognizes V2-Lite and models built like it by their number of layers, and Kanana 2 by its number of layers
and of tokens (deepseek2.cpp, b10488)."""


def _leading_dense_blocks(config: ModelConfig) -> Pairs:
    yield "leading_dense_block_count", Field.uint32(config.optional_count("first_k_dense_replace") or 0)


def _latent_attention(config: ModelConfig) -> Pairs:
    """The compressed cache has one head for K and V; the keys with `mla` are the sizes after decompression."""
    rank, rotary = config.positive("kv_lora_rank"), config.positive("qk_rope_head_dim")
    yield "attention.head_count_kv", Field.uint32(1)
    query = config.optional_count("q_lora_rank")
    if query is not None:
        yield "attention.q_lora_rank", Field.uint32(query)
    yield "attention.kv_lora_rank", Field.uint32(rank)
    yield "attention.key_length", Field.uint32(rank + rotary)
    yield "attention.value_length", Field.uint32(rank)
    yield "attention.key_length_mla", Field.uint32(config.positive("qk_nope_head_dim") + rotary)
    yield "attention.value_length_mla", Field.uint32(config.positive("v_head_dim"))
    yield "rope.dimension_count", Field.uint32(rotary)


def _check_lite(config: ModelConfig) -> Pairs:
    """llama.cpp's loader does not read `q_lora_rank` for models that it takes for V2-Lite or Kanana 2."""
    is_kanana = (config.blocks, config.count("vocab_size")) == _KANANA
    is_lite = is_kanana or config.blocks in _LITE_BLOCKS
    layers = f"{_LITE_BLOCKS[0]} or {_LITE_BLOCKS[1]} layers, or {_KANANA[0]} and {_KANANA[1]} tokens"
    query = config.optional_count("q_lora_rank")
    if query is None and not is_lite:
        raise CannotConvert(
            f"config.json has no q_lora_rank and {config.blocks} layers; llama.cpp runs this only with {layers}"
        )
    if query is not None and is_lite:
        raise CannotConvert(
            f"config.json has q_lora_rank = {query} and {config.blocks} layers; llama.cpp loads models with {layers} "
            "only without a q_lora_rank"
        )
    yield from ()


def _routing(config: ModelConfig) -> Pairs:
    if config.flag("norm_topk_prob", default=False):
        yield "expert_weights_norm", Field.boolean(True)
    if config.find("topk_method") == "group_limited_greedy" and config.count("n_group") > 1:
        raise CannotConvert(
            "config.json has topk_method = 'group_limited_greedy', and llama.cpp selects groups in another way"
        )


def _yarn(config: ModelConfig) -> Pairs:
    """llama.cpp scales all of the attention, transformers only by `mscale_all_dim`: the two agree if both are set."""
    rope = ModelConfig(config.rope)
    scale = rope.optional_number("mscale_all_dim")
    if rope.find("rope_type") == "yarn" and not scale:
        raise CannotConvert(
            "config.json has a yarn without mscale_all_dim, for which llama.cpp scales attention in another way"
        )
    if scale and rope.optional_number("mscale") != scale:
        raise CannotConvert(
            f"config.json has mscale_all_dim = {scale} and another mscale, and llama.cpp uses the former for both"
        )
    if scale is not None:
        yield "rope.scaling.yarn_log_multiplier", Field.float32(0.1 * scale)


def check_yarn_scale(config: ModelConfig) -> Pairs:
    """llama.cpp assumes that `mscale` is 1, but for DeepSeek 2 and 3 (llama-context.cpp, b10488)."""
    rope = ModelConfig(config.rope)
    if rope.find("rope_type") == "yarn" and rope.optional_number("mscale") != 1:
        raise CannotConvert(f"config.json has a yarn with mscale = {shown(rope.find('mscale'))}, and llama.cpp uses 1")
    yield from ()


_WHOLE_QUERY: Mapping[str, str] = {LAYER + "self_attn.q_proj": "blk.{}.attn_q"}

COMPRESSED_QUERY: Mapping[str, str] = {
    LAYER + "self_attn.q_a_proj": "blk.{}.attn_q_a",
    LAYER + "self_attn.q_a_layernorm": "blk.{}.attn_q_a_norm",
    LAYER + "self_attn.q_b_proj": "blk.{}.attn_q_b",
}


def with_query_tensors(family: Family, config: ModelConfig) -> Family:
    query = _WHOLE_QUERY if config.optional_count("q_lora_rank") is None else COMPRESSED_QUERY
    return replace(family, tensors={**family.tensors, **query})


LATENT_ATTENTION: Mapping[str, Rule | str] = {
    LAYER + "self_attn.kv_a_proj_with_mqa": "blk.{}.attn_kv_a_mqa",
    LAYER + "self_attn.kv_a_layernorm": "blk.{}.attn_kv_a_norm",
    LAYER + "self_attn.kv_b_proj": MlaKvB("blk.{}.attn_k_b", "blk.{}.attn_v_b"),
    LAYER + "self_attn.o_proj": "blk.{}.attn_output",
}

LATENT_ATTENTION_SHAPES: Mapping[str, str] = {
    "attn_q": "n_embd n_q_mla",
    "attn_q_a": "n_embd q_lora_rank",
    "attn_q_a_norm": "q_lora_rank",
    "attn_q_b": "q_lora_rank n_q_mla",
    "attn_kv_a_mqa": "n_embd kv_lora_rank+n_rot",
    "attn_kv_a_norm": "kv_lora_rank",
    "attn_k_b": "n_embd_head_mla-n_rot kv_lora_rank n_head",
    "attn_v_b": "kv_lora_rank n_embd_head_v_mla n_head",
    "attn_output": "n_o_mla n_embd",
}

LATENT_KEYS: tuple[Writer, ...] = (
    *BASIC,
    VOCABULARY_SIZE,
    _leading_dense_blocks,
    _latent_attention,
    _routing,
    _yarn,
    count("expert_feed_forward_length", "moe_intermediate_size", "intermediate_size", required=True),
    count("expert_shared_count", "n_shared_experts", required=True),
    number("expert_weights_scale", "routed_scaling_factor"),
)

DEEPSEEK2: Family = Family(
    "deepseek2",
    tensors={
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **MLP,
        **ROUTED_EXPERTS,
        **SHARED_EXPERTS,
        LAYER + "mlp.gate.e_score_correction_bias": "blk.{}.exp_probs_b",
        **LATENT_ATTENTION,
    },
    hyperparameters=(*LATENT_KEYS, _check_lite),
    defaults={
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "routed_scaling_factor": 1.0,
    },
    accepted_values={
        **ANY_SILU,
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "moe_layer_freq": (1, None),
        "rope_interleave": (True, None),
        "attention_factor": (None,),
        "topk_method": ("greedy", "group_limited_greedy", "noaux_tc", None),
    },
    # llama.cpp scales the attention of every other RoPE that is scaled.
    rope_types=frozenset({"default", "dynamic", "yarn"}),
    # The sum of two other keys.
    harmless_keys=frozenset({"qk_head_dim"}),
    checks_own_yarn=True,
    skips_extra_layers=True,
    optional_tensors=frozenset({"exp_probs_b"}),
    optional_biases=frozenset(),
    variant=lambda config: with_query_tensors(DEEPSEEK2, config),
    shapes=LATENT_ATTENTION_SHAPES,
)

_FAST, _LLAMA_CPP_FAST, _KIMI_FAST = "beta_fast", 32, 1


def _slow_pairs(config: ModelConfig) -> str | None:
    """Kimi-K2 has `beta_fast` = 1 in its YaRN, but K2.5 has 32, which llama.cpp uses for all (b10488, llama-hparams.h).

    RoPE rotates pairs of numbers, each pair more slowly than the one before. YaRN divides the speed of the slow ones by
    its factor: of Kimi-K2's 32 pairs, those from the 21st on. llama.cpp also slows the 10th to the 20th, each more than
    the one before; a turn of the 10th has 132 tokens. In a tiny random model with Kimi-K2's YaRN, the logprobs of the
    five likeliest tokens differ by up to 0.03 after 16 tokens, 0.05 after 64, 0.31 after 256 and 0.23 after 1024
    (transformers 5.24 with 1 and with 32; llama.cpp's are those with 32).
    """
    rope = ModelConfig(config.rope)
    if rope.find("rope_type") != "yarn" or rope.optional_number(_FAST) != _KIMI_FAST:
        return None
    return (
        f"llama.cpp uses beta_fast = {_LLAMA_CPP_FAST} in YaRN, and this model has {_KIMI_FAST}: a third of the pairs "
        "that RoPE rotates are slower than in its authors' model. Every GGUF of it differs so, most after 100 tokens"
    )


DEEPSEEK3: Family = replace(
    DEEPSEEK2,
    tokenizers=("bpe", "tiktoken"),
    variant=lambda config: with_query_tensors(DEEPSEEK3, config),
    accepted_values={**DEEPSEEK2.accepted_values, _FAST: (_LLAMA_CPP_FAST, _KIMI_FAST, None)},
    yarn_keys=frozenset({_FAST}),
    caveat=_slow_pairs,
    defaults={
        **DEEPSEEK2.defaults,
        "max_position_embeddings": 4096,
        "first_k_dense_replace": 3,
        "num_experts_per_tok": 8,
        "scoring_func": "sigmoid",
        "n_group": 8,
        "topk_group": 4,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
    },
)
