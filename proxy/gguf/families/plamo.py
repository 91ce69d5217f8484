"""Preferred Networks' PLaMo, PLaMo 2, with layers of attention among layers of Mamba, and PLaMo 3, with windows. Pure.

The authors' code is in their repositories, and by the same authors in vLLM (models/plamo2.py and plamo3.py) and in
pfnet/plamo-translate-cli, which also names the two RoPE bases of PLaMo 2.
"""

from collections.abc import Mapping

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED, check_head_size, model_space_prefix
from proxy.gguf.families.common_tensors import (
    FUSED_MLP_SHAPES,
    QK_NORM_PER_HEAD_SHAPES,
    same_shape,
    size_from,
    squeezed,
)
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import AddOne, Copy, Reordered, Reshaped, Rule, stems_of
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import VOCABULARY_SIZE, Pairs, count, number
from proxy.gguf.model_config import CannotConvert, ModelConfig, finite
from proxy.gguf.plamo_vocabulary import adds_nothing, tokenizer_caveats
from proxy.gguf.tensors import shown

_LAYER = "model.layers.layers.{}."
_MIXER = _LAYER + "mixer."
_COMMON: Mapping[str, Rule | str] = {
    "model.embed_tokens": "token_embd",
    "model.norm": AddOne("output_norm"),
    "lm_head": "output",
    _LAYER + "pre_mixer_norm": AddOne("blk.{}.attn_norm"),
    _LAYER + "post_mixer_norm.weight": Reshaped("blk.{}.post_attention_norm", same_shape, offset=1 / 5),
    _LAYER + "pre_mlp_norm": AddOne("blk.{}.ffn_norm"),
    _LAYER + "post_mlp_norm.weight": Reshaped("blk.{}.post_ffw_norm", same_shape, offset=1 / 5**1.5),
    _MIXER + "qkv_proj": "blk.{}.attn_qkv",
    _MIXER + "o_proj": "blk.{}.attn_output",
    _LAYER + "mlp.gate_up_proj": "blk.{}.ffn_up",
    _LAYER + "mlp.down_proj": "blk.{}.ffn_down",
}
_MAMBA: Mapping[str, Rule | str] = {
    _MIXER + "in_proj": "blk.{}.ssm_in",
    _MIXER + "conv1d.weight": Reshaped("blk.{}.ssm_conv1d.weight", squeezed),
    _MIXER + "bcdt_proj": "blk.{}.ssm_x",
    _MIXER + "dt_proj": "blk.{}.ssm_dt",
    _MIXER + "dt_bias": Reshaped("blk.{}.ssm_dt.bias", same_shape),
    _MIXER + "A_log": Reshaped("blk.{}.ssm_a", same_shape, exponential=-1),
    _MIXER + "D": Reshaped("blk.{}.ssm_d", same_shape),
    _MIXER + "dt_norm_weight": Reshaped("blk.{}.ssm_dt_norm", same_shape),
    _MIXER + "B_norm_weight": Reshaped("blk.{}.ssm_b_norm", same_shape),
    _MIXER + "C_norm_weight": Reshaped("blk.{}.ssm_c_norm", same_shape),
    _MIXER + "out_proj": "blk.{}.ssm_out",
}
_OF_ATTENTION = ("attn_qkv", "attn_q_norm", "attn_k_norm", "attn_output")
_OF_MAMBA = stems_of(_MAMBA)
_QK_EPSILON = 1e-6
"""Of the norms of Q and K in the authors' code, whatever rms_norm_eps is; llama.cpp has one epsilon for all norms."""
_COMMON_KEYS = (
    count("block_count", "num_hidden_layers", required=True),
    count("context_length", "max_position_embeddings", required=True),
    count("embedding_length", "hidden_size", required=True),
    count("feed_forward_length", "intermediate_size", required=True),
    count("attention.head_count", "num_attention_heads", required=True),
    count("attention.key_length", "head_dim", required=True),
    count("attention.value_length", "head_dim", required=True),
    number("attention.layer_norm_rms_epsilon", "rms_norm_eps", required=True),
    VOCABULARY_SIZE,
)
_ACCEPTED: Mapping[str, tuple[object, ...]] = {
    "linear_type": ("normal", None),
    "image_feature_size": (None,),
    "eval_attention_n_bit": (None,),
    "eval_mlp_n_bit": (None,),
}
_HARMLESS = frozenset({"image_proj_type", "fp8_accum_dtype"})
"""Of images and of FP8, neither of which there is."""


def _has_mamba(config: ModelConfig, layer: int) -> bool:
    """As in the authors' `is_mamba`."""
    step = config.positive("mamba_step")
    if config.blocks <= step // 2:
        return layer != config.blocks - 1
    return layer % step != step // 2


def _mamba(config: ModelConfig) -> Pairs:
    """All layers get heads of Q, although those of Mamba have none: llama.cpp rotates nothing if the first has none."""
    kv_heads = [0 if _has_mamba(config, layer) else config.kv_heads for layer in range(config.blocks)]
    heads = config.positive("mamba_num_heads")
    yield "attention.head_count_kv", Field.array(ValueType.INT32, kv_heads)
    yield "ssm.time_step_rank", Field.uint32(heads)
    yield "ssm.inner_size", Field.uint32(heads * config.head_size)
    yield "ssm.group_count", Field.uint32(0)


def _mamba_rope(config: ModelConfig) -> Pairs:
    """Layers with a window have a base of their own. The first code had neither key, and a base of 10,000."""
    base = finite("config.json has rope_theta", config.rope.get("rope_theta", 10000.0))
    local = config.optional_number("rope_local_theta") or base
    has_full, has_window = _attention_layers(config)
    if has_full and has_window and base != local:
        raise CannotConvert(
            "config.json has another rope_local_theta than rope_theta, and layers with either, but llama.cpp has one "
            "RoPE for all layers of this architecture"
        )
    yield "rope.freq_base", Field.float32(base if has_full else local)


def _attention_layers(config: ModelConfig) -> tuple[bool, bool]:
    """Whether some layers attend to all tokens, and whether some have a window."""
    full = config.find("full_attention_idx") or []
    if not isinstance(full, list):
        raise CannotConvert(f"config.json has full_attention_idx = {shown(full)}, which is not a list")
    attends = [layer in full for layer in range(config.blocks) if not _has_mamba(config, layer)]
    return any(attends), not all(attends)


def _mamba_window(config: ModelConfig) -> str | None:
    window = config.positive("attention_window_size")
    if not _attention_layers(config)[1]:
        return None
    return f"beyond {window} tokens it differs from its authors' model: llama.cpp has no window for this architecture"


def _absent(config: ModelConfig, layer: int | None) -> Mapping[str, bool]:
    if layer is None:
        return {}
    return dict.fromkeys(_OF_ATTENTION if _has_mamba(config, layer) else _OF_MAMBA, False)


_SHARING = size_from("n_shared_head")
"""How many heads of Q share each head of K and V."""


def _kv_heads(config: ModelConfig) -> Pairs:
    """The weights show that they divide the heads of Q."""
    yield "attention.head_count_kv", Field.uint32(config.heads // _SHARING(config))


def _interleaved(name: str, *, across: bool) -> Reordered:
    """Heads of Q that share K and V are as far apart as there are heads of K. In llama.cpp they are neighbours."""
    return Reordered(Copy(name), _SHARING, lambda config: config.heads, lambda config: config.head_size, across=across)


_FIRST_ATTENTION = _LAYER + "self_attn."
PLAMO = Family(
    "plamo",
    {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        _LAYER + "norm": "blk.{}.attn_norm",
        _FIRST_ATTENTION + "q_proj": _interleaved("blk.{}.attn_q", across=False),
        _FIRST_ATTENTION + "k_proj": "blk.{}.attn_k",
        _FIRST_ATTENTION + "v_proj": "blk.{}.attn_v",
        _FIRST_ATTENTION + "o_proj": _interleaved("blk.{}.attn_output", across=True),
        _LAYER + "mlp.gate_proj": "blk.{}.ffn_gate",
        _LAYER + "mlp.up_proj": "blk.{}.ffn_up",
        _LAYER + "mlp.down_proj": "blk.{}.ffn_down",
    },
    (
        count("block_count", "num_hidden_layers", required=True),
        count("context_length", "max_position_embeddings", required=True),
        count("embedding_length", "hidden_size", required=True),
        count("feed_forward_length", "intermediate_size", required=True),
        count("attention.head_count", "num_attention_heads", required=True),
        _kv_heads,
        number("attention.layer_norm_rms_epsilon", "rms_norm_eps", required=True),
        check_head_size,
    ),
    tokenizers=("sentencepiece",),
    has_transformers_class=False,
    # Those of the authors' configuration_plamo.py.
    defaults={"max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "n_shared_head": 8},
    rope_types=frozenset({"default"}),
    optional_biases=frozenset(),
    accepted_values={**ANY_SILU, **UNTIED, "rope_theta": (10000, None)},
    # What stands there is not the number of heads of K and V.
    harmless_keys=frozenset({"num_key_value_heads"}),
    vocabulary=model_space_prefix,
    heads_fill_embedding=True,
)

PLAMO2 = Family(
    "plamo2",
    {
        **_COMMON,
        **_MAMBA,
        _MIXER + "q_weight": "blk.{}.attn_q_norm",
        _MIXER + "k_weight": "blk.{}.attn_k_norm",
    },
    (
        *_COMMON_KEYS,
        count("ssm.state_size", "mamba_d_state", required=True),
        count("ssm.conv_kernel", "mamba_d_conv", required=True),
        _mamba,
        _mamba_rope,
    ),
    tokenizers=("plamo",),
    vocabulary=adds_nothing,
    tokenizer_caveats=tokenizer_caveats,
    key_aliases={"hidden_size_per_head": "head_dim"},
    # Those of the authors' configuration_plamo.py.
    defaults={
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "rms_norm_eps": 1e-6,
        "attention_window_size": 2048,
        "mamba_d_state": 64,
        "mamba_d_conv": 4,
        "mamba_num_heads": 64,
        "mamba_step": 2,
        "tie_word_embeddings": True,
    },
    rope_types=frozenset({"default"}),
    required_biases=frozenset({"ssm_dt"}),
    optional_biases=frozenset(),
    accepted_values={
        **_ACCEPTED,
        "rms_norm_eps": (_QK_EPSILON,),
        "mamba_enabled": (True, None),
        "use_predefined_initial_state": (False, None),
    },
    # vLLM's name of the window.
    harmless_keys=_HARMLESS | {"sliding_window"},
    has_transformers_class=False,
    absent_tensors=_absent,
    shapes={
        **FUSED_MLP_SHAPES,
        **QK_NORM_PER_HEAD_SHAPES,
        "ssm_in": "n_embd 2d_inner",
        "ssm_conv1d": "d_conv d_inner",
        "ssm_x": "d_inner dt_dim+2d_state",
        "ssm_dt": "dt_dim dt_rank",
        "ssm_a": "dt_rank",
        "ssm_d": "dt_rank",
        "ssm_dt_norm": "dt_dim",
        "ssm_b_norm": "d_state",
        "ssm_c_norm": "d_state",
        "ssm_out": "d_inner n_embd",
    },
    caveat=_mamba_window,
)


def _windows(config: ModelConfig) -> Pairs:
    """The authors' code has one size, and older files list it for each layer with a window."""
    period = config.positive("sliding_window_pattern")
    sizes: set[int] = set()
    for key in ("window_size", "sliding_window", "interleaved_sliding_window"):
        value = config.find(key)
        if isinstance(value, list):
            value = next(filter(None, value), None)
            expected = [None if layer % period == 0 else value for layer in range(1, config.blocks + 1)]
            if config.find(key) != expected:
                raise CannotConvert(
                    f"config.json has {key} = {shown(config.find(key))}, which does not fit sliding_window_pattern"
                )
        if value is not None:
            sizes.add(ModelConfig({key: value}).positive(key))
    if len(sizes) != 1:
        raise CannotConvert(f"config.json has no window_size, or several: {shown(sorted(sizes))}")
    yield "attention.sliding_window", Field.uint32(*sizes)
    yield "attention.sliding_window_pattern", Field.uint32(period)


def _bases(config: ModelConfig) -> Pairs:
    local = config.local_rope
    if local.get("rope_type", "default") != "default":
        raise CannotConvert(f"config.json has a rope for sliding_attention = {shown(local)}")
    for key, base in (
        ("rope.freq_base", config.rope.get("rope_theta")),
        ("rope.freq_base_swa", local.get("rope_theta", config.find("rope_local_theta"))),
    ):
        yield key, Field.float32(finite(f"config.json has {key}", base))


PLAMO3 = Family(
    "plamo3",
    {
        **_COMMON,
        _MIXER + "q_norm": AddOne("blk.{}.attn_q_norm"),
        _MIXER + "k_norm": AddOne("blk.{}.attn_k_norm"),
    },
    (*_COMMON_KEYS, count("attention.head_count_kv", "num_key_value_heads", required=True), _windows, _bases),
    tokenizers=("plamo",),
    vocabulary=adds_nothing,
    tokenizer_caveats=tokenizer_caveats,
    # Those of the authors' configuration_plamo.py in all its versions, which differ in the window and in rope_theta.
    defaults={
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "rms_norm_eps": 1e-6,
        "sliding_window_pattern": 8,
        "rope_local_theta": 10000,
        "tie_word_embeddings": True,
    },
    # With a factor it is a yarn without `truncate` in the layers without a window, which llama.cpp does not have.
    rope_types=frozenset({"default"}),
    has_local_rope=True,
    optional_biases=frozenset(),
    accepted_values={
        **_ACCEPTED,
        "attention_bias": (False, None),
        "hidden_activation": ("swiglu", None),
        "initial_context_length": (None,),
        "rope_scaling_factor": (1, None),
        "scale_embedding": (False, None),
    },
    harmless_keys=_HARMLESS,
    has_transformers_class=False,
    shapes=FUSED_MLP_SHAPES,
)
