"""RWKV-7, in the form of flash-linear-attention. Pure."""

import math

from proxy.gguf.families.common_keys import UNTIED
from proxy.gguf.families.common_tensors import LAYER, flat, same_shape
from proxy.gguf.families.family import Family
from proxy.gguf.families.mamba import UNLIMITED_CONTEXT
from proxy.gguf.families.rules import AlsoFirst, Reshaped, Stacked
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, always, count, number
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown

_ATTENTION = LAYER + "attn."
_LERPS = "rwkvag"
_GROUP_NORM_EPSILON = 64e-5


def _check(config: ModelConfig) -> Pairs:
    heads, head = config.optional_count("num_heads"), config.positive("head_dim")
    if heads not in (None, config.hidden // head):
        raise CannotConvert(f"config.json has num_heads = {heads} and head_dim = {head}, which do not fit hidden_size")
    sizes = config.find("value_dim")
    if sizes is not None and sizes != [config.hidden] * config.blocks and sizes != config.hidden:
        raise CannotConvert(f"config.json has value_dim = {shown(sizes)}, unknown for this architecture")
    epsilon = head * config.number("norm_eps")
    if not math.isclose(epsilon, _GROUP_NORM_EPSILON):
        raise CannotConvert(
            f"config.json has norm_eps and head_dim whose product is {epsilon}, but llama.cpp normalizes heads with an "
            f"epsilon of {_GROUP_NORM_EPSILON}"
        )
    yield from ()


RWKV7 = Family(
    "rwkv7",
    {
        "model.embeddings": "token_embd",
        "model.pre_norm": "token_embd_norm",
        "model.norm": "output_norm",
        "lm_head": "output",
        LAYER + "attn_norm": "blk.{}.attn_norm",
        LAYER + "ffn_norm": "blk.{}.attn_norm_2",
        _ATTENTION + "x.{}": Stacked("blk.{}.time_mix_lerp_fused", lambda _: len(_LERPS)),
        **{_ATTENTION + f"w{part}": f"blk.{{}}.time_mix_w{part}" for part in "012"},
        # llama.cpp loads values for the first layer too, though it does not use them there.
        **{
            _ATTENTION + f"a{part}": AlsoFirst(*(f"blk.{{}}.time_mix_{letter}{part}" for letter in "av"))
            for part in "012"
        },
        **{_ATTENTION + f"v{part}": f"blk.{{}}.time_mix_v{part}" for part in "012"},
        **{_ATTENTION + f"g{part}": f"blk.{{}}.time_mix_g{part}" for part in "12"},
        _ATTENTION + "k_k": Reshaped("blk.{}.time_mix_k_k.weight", flat),
        _ATTENTION + "k_a": Reshaped("blk.{}.time_mix_k_a.weight", flat),
        _ATTENTION + "r_k": Reshaped("blk.{}.time_mix_r_k.weight", flat),
        _ATTENTION + "r_proj": "blk.{}.time_mix_receptance",
        _ATTENTION + "k_proj": "blk.{}.time_mix_key",
        _ATTENTION + "v_proj": "blk.{}.time_mix_value",
        _ATTENTION + "o_proj": "blk.{}.time_mix_output",
        _ATTENTION + "g_norm": "blk.{}.time_mix_ln",
        LAYER + "ffn.x_k": Reshaped("blk.{}.channel_mix_lerp_k.weight", same_shape),
        LAYER + "ffn.key": "blk.{}.channel_mix_key",
        LAYER + "ffn.value": "blk.{}.channel_mix_value",
    },
    (
        always("context_length", Field.uint32(UNLIMITED_CONTEXT)),
        count("embedding_length", "hidden_size", required=True),
        count("block_count", "num_hidden_layers", required=True),
        number("attention.layer_norm_epsilon", "norm_eps", required=True),
        count("wkv.head_size", "head_dim", required=True),
        count("attention.decay_lora_rank", "decay_low_rank_dim", required=True),
        count("attention.iclr_lora_rank", "a_low_rank_dim", required=True),
        count("attention.value_residual_mix_lora_rank", "v_low_rank_dim", required=True),
        count("attention.gate_lora_rank", "gate_low_rank_dim", required=True),
        count("feed_forward_length", "intermediate_size", required=True),
        always("attention.head_count", Field.uint32(0)),
        _check,
    ),
    tokenizers=("rwkv",),
    has_transformers_class=False,
    # It has no attention, but the general checks need a number of heads.
    defaults={"num_attention_heads": 1},
    required_biases=frozenset({"token_embd_norm", "output_norm", "attn_norm", "attn_norm_2", "time_mix_ln"}),
    optional_biases=frozenset(),
    accepted_values={
        **UNTIED,
        "hidden_act": ("sqrelu",),
        "norm_first": (True,),
        "norm_bias": (True,),
        "attn": (None,),
    },
    # How it is calculated, the ratio of two other sizes, training, and a context that is not limited.
    harmless_keys=frozenset({"attn_mode", "hidden_ratio", "use_l2warp", "max_position_embeddings"}),
    prefix_aliases={"model.layers.0.pre_norm.": "model.pre_norm."},
    renamed_parts={
        **{f".attn.x_{letter}": f".attn.x.{at}" for at, letter in enumerate(_LERPS)},
        "_lora.lora.0.weight": "1.weight",
        "_lora.lora.2.weight": "2.weight",
        "_lora.lora.2.bias": "0.weight",
    },
    # Some files have them, and no implementation reads them.
    skipped_prefixes=("model.layers.0.attn.v_lora.",),
    shapes={
        "token_embd_norm": "n_embd",
        "attn_norm_2": "n_embd",
        "time_mix_lerp_fused": "n_embd 1 1 6",
        **dict.fromkeys(("time_mix_w0", "time_mix_a0", "time_mix_v0"), "n_embd"),
        "time_mix_w1": "n_embd n_lora_decay",
        "time_mix_w2": "n_lora_decay n_embd",
        "time_mix_a1": "n_embd n_lora_iclr",
        "time_mix_a2": "n_lora_iclr n_embd",
        "time_mix_v1": "n_embd n_lora_value",
        "time_mix_v2": "n_lora_value n_embd",
        "time_mix_g1": "n_embd n_lora_gate",
        "time_mix_g2": "n_lora_gate n_embd",
        **dict.fromkeys(("time_mix_k_k", "time_mix_k_a", "time_mix_r_k", "time_mix_ln"), "n_embd"),
        **dict.fromkeys((f"time_mix_{name}" for name in ("receptance", "key", "value", "output")), "n_embd n_embd"),
        "channel_mix_lerp_k": "n_embd",
        "channel_mix_key": "n_embd n_ff",
        "channel_mix_value": "n_ff n_embd",
    },
)
