"""RWKV-6 with the World vocabulary, in the form of its authors' Hugging Face repositories. Pure."""

from proxy.gguf.families.common_keys import UNTIED
from proxy.gguf.families.common_tensors import flat
from proxy.gguf.families.family import Family
from proxy.gguf.families.mamba import UNLIMITED_CONTEXT
from proxy.gguf.families.rules import Halved, Reshaped, Stacked, Transposed
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, always, count, number
from proxy.gguf.model_config import CannotConvert, ModelConfig

_LAYER = "rwkv.blocks.{}."
_ATTENTION, _FEED_FORWARD = _LAYER + "attention.", _LAYER + "feed_forward."
_LERPS = "wkvrg"
_WIDE = 4096
"""Models of this width have small matrices of twice the size, in the authors' code and in llama.cpp's converter."""


def _mix_size(config: ModelConfig) -> int:
    return 64 if config.hidden == _WIDE else 32


def _decay_size(config: ModelConfig) -> int:
    return 2 * _mix_size(config)


def _rescale_period(config: ModelConfig) -> int:
    return config.count("rescale_every")


def _sizes(config: ModelConfig) -> Pairs:
    feed_forward = config.optional_count("intermediate_size")
    if feed_forward is None:
        feed_forward = int(config.hidden * 3.5) // 32 * 32
    attention, head = config.optional_count("attention_hidden_size"), config.positive("head_size")
    if attention not in (None, config.hidden) or config.hidden % head:
        raise CannotConvert(
            f"config.json has attention_hidden_size = {attention} and head_size = {head}, but llama.cpp shares "
            f"{config.hidden} numbers among the heads"
        )
    yield "wkv.head_size", Field.uint32(head)
    yield "time_mix_extra_dim", Field.uint32(_mix_size(config))
    yield "time_decay_extra_dim", Field.uint32(_decay_size(config))
    yield "feed_forward_length", Field.uint32(feed_forward)
    yield "rescale_every_n_layers", Field.uint32(_rescale_period(config))


RWKV6 = Family(
    "rwkv6",
    {
        "rwkv.embeddings": "token_embd",
        "rwkv.pre_ln": "token_embd_norm",
        "rwkv.ln_out": "output_norm",
        "head": "output",
        _LAYER + "ln1": "blk.{}.attn_norm",
        _LAYER + "ln2": "blk.{}.attn_norm_2",
        _ATTENTION + "time_maa_x": Reshaped("blk.{}.time_mix_lerp_x.weight", flat),
        _ATTENTION + "time_maa.{}": Stacked("blk.{}.time_mix_lerp_fused", lambda _: len(_LERPS)),
        _ATTENTION + "mix1": Transposed((("blk.{}.time_mix_w1", lambda config: len(_LERPS) * _mix_size(config)),)),
        _ATTENTION + "mix2": Transposed((("blk.{}.time_mix_w2", lambda config: config.hidden),)),
        _ATTENTION + "time_decay": Reshaped("blk.{}.time_mix_decay.weight", flat),
        _ATTENTION + "time_decay_w1": Transposed((("blk.{}.time_mix_decay_w1", _decay_size),)),
        _ATTENTION + "time_decay_w2": Transposed((("blk.{}.time_mix_decay_w2", lambda config: config.hidden),)),
        _ATTENTION + "time_faaaa": "blk.{}.time_mix_first",
        _ATTENTION + "receptance": "blk.{}.time_mix_receptance",
        _ATTENTION + "key": "blk.{}.time_mix_key",
        _ATTENTION + "value": "blk.{}.time_mix_value",
        _ATTENTION + "gate": "blk.{}.time_mix_gate",
        _ATTENTION + "ln_x": "blk.{}.time_mix_ln",
        # The graph divides the layers' results in the same way, as the authors' code does.
        _ATTENTION + "output": Halved("blk.{}.time_mix_output", _rescale_period),
        _FEED_FORWARD + "time_maa_k": Reshaped("blk.{}.channel_mix_lerp_k.weight", flat),
        _FEED_FORWARD + "time_maa_r": Reshaped("blk.{}.channel_mix_lerp_r.weight", flat),
        _FEED_FORWARD + "key": "blk.{}.channel_mix_key",
        _FEED_FORWARD + "receptance": "blk.{}.channel_mix_receptance",
        _FEED_FORWARD + "value": Halved("blk.{}.channel_mix_value", _rescale_period),
    },
    (
        always("context_length", Field.uint32(UNLIMITED_CONTEXT)),
        count("embedding_length", "hidden_size", required=True),
        count("block_count", "num_hidden_layers", required=True),
        number("attention.layer_norm_epsilon", "layer_norm_epsilon", required=True),
        always("attention.head_count", Field.uint32(0)),
        _sizes,
    ),
    tokenizers=("rwkv",),
    has_transformers_class=False,
    # It has no attention, but the general checks need a number of heads.
    defaults={"num_attention_heads": 1},
    required_biases=frozenset({"token_embd_norm", "output_norm", "attn_norm", "attn_norm_2", "time_mix_ln"}),
    optional_biases=frozenset(),
    accepted_values={
        **UNTIED,
        # The authors' last norm has this epsilon, whatever the file has; llama.cpp has one for all.
        "layer_norm_epsilon": (1e-5,),
        # With it, the norm of the heads has the epsilon of llama.cpp.
        "head_size_divisor": (8,),
    },
    harmless_keys=frozenset({"context_length", "max_context_length", "num_attention_heads"}),
    prefix_aliases={"rwkv.blocks.0.pre_ln.": "rwkv.pre_ln."},
    renamed_parts={
        ".attention.time_maa_w1": ".attention.mix1",
        ".attention.time_maa_w2": ".attention.mix2",
        **{f".attention.time_maa_{letter}": f".attention.time_maa.{at}" for at, letter in enumerate(_LERPS)},
    },
    shapes={
        "token_embd_norm": "n_embd",
        "attn_norm_2": "n_embd",
        "time_mix_lerp_fused": "n_embd 1 1 5",
        "time_mix_w1": "n_embd 5n_mix",
        "time_mix_w2": "n_mix n_embd 5",
        "time_mix_first": "n_wkv n_embd/n_wkv",
        "time_mix_decay_w1": "n_embd n_decay",
        "time_mix_decay_w2": "n_decay n_embd",
        **dict.fromkeys(("time_mix_lerp_x", "time_mix_decay", "time_mix_ln"), "n_embd"),
        **dict.fromkeys((f"time_mix_{name}" for name in ("receptance", "key", "value")), "n_embd n_embd"),
        **dict.fromkeys(("time_mix_gate", "time_mix_output"), "n_embd n_embd"),
        **dict.fromkeys(("channel_mix_lerp_k", "channel_mix_lerp_r"), "n_embd"),
        "channel_mix_key": "n_embd n_ff",
        "channel_mix_receptance": "n_embd n_embd",
        "channel_mix_value": "n_ff n_embd",
    },
)
