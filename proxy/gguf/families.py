"""The families of models: what each is called, and how its tensors and hyperparameters become a GGUF's. Pure.

A family is one declaration here, and one test. Its tensors are named as the weights name them, without `.weight` and
`.bias` and with `{}` for each number in the name; the facts come from llama.cpp's converter at b10488 and, for
`defaults`, from transformers 4.57, which takes these values for keys that config.json does not have.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from proxy.gguf.config import CannotConvert, Config, finite
from proxy.gguf.header import Field, Kind
from proxy.gguf.hyperparameters import (
    BASIC,
    VOCABULARY_SIZE,
    Pairs,
    Writer,
    always,
    count,
    flag,
    llama3_frequencies,
    longrope_factors,
    nonzero,
    number,
    partial_rope_dimensions,
    rope_base,
    rope_dimensions,
)

Size = Callable[[Config], int]


@dataclass(frozen=True, slots=True)
class Copy:
    """The tensor under another name."""

    name: str


@dataclass(frozen=True, slots=True)
class Turned:
    """Q or K, whose rows transformers keeps in the order of its own rope: two halves a head."""

    name: str
    heads: Size


@dataclass(frozen=True, slots=True)
class Raised:
    """A norm that transformers applies with 1 added to each number."""

    name: str


@dataclass(frozen=True, slots=True)
class Stacked:
    """One tensor of those that differ only in the last number of their names, of which there are `count`."""

    name: str
    count: Size


@dataclass(frozen=True, slots=True)
class Split:
    """Several tensors by rows: each part's name and its rows; of three dimensions those of each matrix."""

    parts: tuple[tuple[str, Size], ...]


@dataclass(frozen=True, slots=True)
class Grouped:
    """Fused Q, K and V in groups of heads: all Q first, then all K, then all V. Rows of one head stay together.

    `groups` is how many there are; each has as many Q as the group's size says, and one K and V.
    """

    name: str
    groups: Size
    heads: Size


@dataclass(frozen=True, slots=True)
class Absorbed:
    """DeepSeek's fused K and V of the compressed cache: K turned over head by head, and V, each a tensor of heads."""

    key: str
    value: str


Rule = Copy | Turned | Raised | Stacked | Split | Grouped | Absorbed


@dataclass(frozen=True, slots=True)
class Family:
    """`architecture` is llama.cpp's name. A rule that is only a name is a Copy."""

    architecture: str
    tensors: Mapping[str, Rule | str]
    hyperparameters: tuple[Writer, ...] = BASIC
    tokenizers: tuple[str, ...] = ("bpe",)
    """The kinds that llama.cpp's converter looks for, in its order: `sentencepiece`, `bpe`."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    made: Callable[[Config], Mapping[str, bytes]] = lambda _: {}
    """Tensors of F32 in one dimension that are calculated from the config."""
    ropes: frozenset[str] = frozenset({"default", "linear", "dynamic", "yarn"})
    """Kinds of scaling that reach the file, or change nothing within the original context."""
    only: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Keys of config.json that llama.cpp takes to have one of these values, whatever they say."""
    vocabulary: Callable[[Config, Mapping[str, Any]], Pairs] = lambda _config, _tokenizer: iter(())
    """What else is written of the tokenizer, from tokenizer_config.json."""
    specials: Mapping[str, str] = field(default_factory=dict)
    """Special tokens that llama.cpp's converter knows by their text, by kind."""
    added_from_json: bool = False
    """Beside a tokenizer.model, the added tokens of tokenizer.json count too, and only what is marked is special."""
    extra_layers: bool = False
    """Layers beyond those counted only help in training, and are left out."""

    def config(self, fields: Mapping[str, Any]) -> Config:
        return Config({**self.defaults, **fields})


ANY_SILU: Mapping[str, tuple[object, ...]] = {"hidden_act": ("silu", "swish", None)}

_LAYER = "model.layers.{}."
_ENDS: Mapping[str, str] = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_ATTENTION: Mapping[str, str] = {
    _LAYER + "self_attn.q_proj": "blk.{}.attn_q",
    _LAYER + "self_attn.k_proj": "blk.{}.attn_k",
    _LAYER + "self_attn.v_proj": "blk.{}.attn_v",
    _LAYER + "self_attn.o_proj": "blk.{}.attn_output",
}
_TURNED: Mapping[str, Rule | str] = {
    **_ATTENTION,
    _LAYER + "self_attn.q_proj": Turned("blk.{}.attn_q", lambda config: config.heads),
    _LAYER + "self_attn.k_proj": Turned("blk.{}.attn_k", lambda config: config.kv_heads),
}
_MLP: Mapping[str, str] = {
    _LAYER + "mlp.gate_proj": "blk.{}.ffn_gate",
    _LAYER + "mlp.up_proj": "blk.{}.ffn_up",
    _LAYER + "mlp.down_proj": "blk.{}.ffn_down",
}
_NORMS: Mapping[str, str] = {
    _LAYER + "input_layernorm": "blk.{}.attn_norm",
    _LAYER + "post_attention_layernorm": "blk.{}.ffn_norm",
}
_HEAD_NORMS: Mapping[str, str] = {
    _LAYER + "self_attn.q_norm": "blk.{}.attn_q_norm",
    _LAYER + "self_attn.k_norm": "blk.{}.attn_k_norm",
}
_POST_NORMS: Mapping[str, str] = {
    _LAYER + "post_attention_layernorm": "blk.{}.post_attention_norm",
    _LAYER + "post_feedforward_layernorm": "blk.{}.post_ffw_norm",
}


def _experts(config: Config) -> int:
    return config.positive("num_local_experts", "num_experts", "n_routed_experts")


_ROUTED: Mapping[str, Rule | str] = {
    _LAYER + "mlp.gate": "blk.{}.ffn_gate_inp",
    _LAYER + "mlp.experts.{}.gate_proj": Stacked("blk.{}.ffn_gate_exps", _experts),
    _LAYER + "mlp.experts.{}.up_proj": Stacked("blk.{}.ffn_up_exps", _experts),
    _LAYER + "mlp.experts.{}.down_proj": Stacked("blk.{}.ffn_down_exps", _experts),
}


def _half_of(*names: str) -> Size:
    return lambda config: config.positive(*names)


_FUSED_EXPERTS: Mapping[str, Rule | str] = {
    _LAYER + "mlp.experts.gate_up_proj": Split(
        (
            ("blk.{}.ffn_gate_exps", _half_of("moe_intermediate_size", "intermediate_size")),
            ("blk.{}.ffn_up_exps", _half_of("moe_intermediate_size", "intermediate_size")),
        )
    ),
    _LAYER + "mlp.experts.down_proj": "blk.{}.ffn_down_exps",
}
"""As transformers 5 saves them: all experts in one tensor."""


def _rope_frequencies(config: Config) -> Mapping[str, bytes]:
    made = llama3_frequencies(config)
    return {} if made is None else {"rope_freqs.weight": made}


_LLAMA_ROPES = frozenset({"default", "linear", "dynamic", "yarn", "llama3"})
_LLAMA_TENSORS = {**_ENDS, **_NORMS, **_TURNED, **_MLP}
_LLAMA_KEYS = (*BASIC, VOCABULARY_SIZE, rope_dimensions)
_LLAMA_DEFAULTS: Mapping[str, Any] = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0}


def _head_dim(config: Config) -> Pairs:
    """Where transformers fills `head_dim` in, so that llama.cpp writes it although config.json has none."""
    yield "attention.key_length", Field.uint32(config.head_size)
    yield "attention.value_length", Field.uint32(config.head_size)


def _prefix_space(_: Config, tokenizer: Mapping[str, Any]) -> Pairs:
    if isinstance(tokenizer.get("add_prefix_space"), bool):
        yield "add_space_prefix", Field.boolean(tokenizer["add_prefix_space"])


def _llama_vocabulary(config: Config, tokenizer: Mapping[str, Any]) -> Pairs:
    yield from _prefix_space(config, tokenizer)
    size = config.optional_count("vocab_size")
    if size == 49152:  # noqa: PLR2004 - llama.cpp knows Granite's small models, and SmolLM's, by it
        yield "add_bos_token", Field.boolean(False)
    if size == 32016:  # noqa: PLR2004 - and CodeLlama by this
        for kind, token in (("prefix", 32007), ("suffix", 32008), ("middle", 32009), ("eot", 32010)):
            yield f"{kind}_token_id", Field.uint32(token)


LLAMA = Family(
    "llama",
    _LLAMA_TENSORS,
    (*_LLAMA_KEYS, _head_dim),
    tokenizers=("sentencepiece", "bpe"),
    defaults=_LLAMA_DEFAULTS,
    made=_rope_frequencies,
    ropes=_LLAMA_ROPES,
    only=ANY_SILU,
    vocabulary=_llama_vocabulary,
)

MISTRAL = Family(
    "llama",
    _LLAMA_TENSORS,
    _LLAMA_KEYS,
    tokenizers=("sentencepiece", "bpe"),
    defaults={**_LLAMA_DEFAULTS, "max_position_embeddings": 131072, "num_key_value_heads": 8},
    made=_rope_frequencies,
    ropes=_LLAMA_ROPES,
    only=ANY_SILU,
    vocabulary=_llama_vocabulary,
)

MIXTRAL = Family(
    "llama",
    {
        **_ENDS,
        **_NORMS,
        **_TURNED,
        _LAYER + "block_sparse_moe.gate": "blk.{}.ffn_gate_inp",
        _LAYER + "block_sparse_moe.experts.{}.w1": Stacked("blk.{}.ffn_gate_exps", _experts),
        _LAYER + "block_sparse_moe.experts.{}.w2": Stacked("blk.{}.ffn_down_exps", _experts),
        _LAYER + "block_sparse_moe.experts.{}.w3": Stacked("blk.{}.ffn_up_exps", _experts),
    },
    _LLAMA_KEYS,
    tokenizers=("sentencepiece", "bpe"),
    defaults={
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    made=_rope_frequencies,
    ropes=_LLAMA_ROPES,
    only=ANY_SILU,
    vocabulary=_llama_vocabulary,
)

ARCEE = Family(
    "arcee",
    {
        **_ENDS,
        **_NORMS,
        **_TURNED,
        _LAYER + "mlp.up_proj": "blk.{}.ffn_up",
        _LAYER + "mlp.down_proj": "blk.{}.ffn_down",
    },
    (*_LLAMA_KEYS, _head_dim),
    tokenizers=("sentencepiece", "bpe"),
    defaults={"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0},
    made=_rope_frequencies,
    ropes=_LLAMA_ROPES,
    only={"hidden_act": ("relu2", None)},
    vocabulary=_llama_vocabulary,
)

SMOLLM3 = Family(
    "smollm3",
    _LLAMA_TENSORS,
    _LLAMA_KEYS,
    tokenizers=("sentencepiece", "bpe"),
    defaults={
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 2000000.0,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    },
    made=_rope_frequencies,
    ropes=_LLAMA_ROPES,
    # llama.cpp leaves every fourth layer without a rope.
    only={**ANY_SILU, "no_rope_layer_interval": (4, None), "use_sliding_window": (False, None)},
    vocabulary=_llama_vocabulary,
)

_GRANITE_KEYS = (
    *BASIC,
    VOCABULARY_SIZE,
    rope_dimensions,
    nonzero("attention.scale", "attention_multiplier"),
    nonzero("embedding_scale", "embedding_multiplier"),
    nonzero("residual_scale", "residual_multiplier"),
    nonzero("logit_scale", "logits_scaling"),
)
_GRANITE_DEFAULTS: Mapping[str, Any] = {
    **_LLAMA_DEFAULTS,
    **dict.fromkeys(("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"), 1.0),
}

GRANITE = Family(
    "granite",
    _LLAMA_TENSORS,
    _GRANITE_KEYS,
    tokenizers=("sentencepiece", "bpe"),
    defaults=_GRANITE_DEFAULTS,
    made=_rope_frequencies,
    ropes=_LLAMA_ROPES,
    only={**ANY_SILU, "head_dim": (None,)},
    vocabulary=_llama_vocabulary,
)

GRANITE_MOE = Family(
    "granitemoe",
    {
        **_ENDS,
        **_NORMS,
        **_TURNED,
        _LAYER + "block_sparse_moe.router.layer": "blk.{}.ffn_gate_inp",
        _LAYER + "block_sparse_moe.input_linear": Split(
            (
                ("blk.{}.ffn_gate_exps", _half_of("intermediate_size")),
                ("blk.{}.ffn_up_exps", _half_of("intermediate_size")),
            )
        ),
        _LAYER + "block_sparse_moe.output_linear": "blk.{}.ffn_down_exps",
        _LAYER + "shared_mlp.input_linear": Split(
            (
                ("blk.{}.ffn_gate_shexp", _half_of("shared_intermediate_size")),
                ("blk.{}.ffn_up_shexp", _half_of("shared_intermediate_size")),
            )
        ),
        _LAYER + "shared_mlp.output_linear": "blk.{}.ffn_down_shexp",
    },
    (*_GRANITE_KEYS, count("expert_shared_feed_forward_length", "shared_intermediate_size")),
    tokenizers=("sentencepiece", "bpe"),
    defaults={**_GRANITE_DEFAULTS, "num_local_experts": 8, "num_experts_per_tok": 2},
    made=_rope_frequencies,
    ropes=_LLAMA_ROPES,
    only={**ANY_SILU, "head_dim": (None,)},
    vocabulary=_llama_vocabulary,
)

OLMO = Family(
    "olmo",
    {**_ENDS, **_TURNED, **_MLP},
    (*BASIC, always("attention.layer_norm_epsilon", Field.float32(1e-5)), number("attention.clamp_kqv", "clip_qkv")),
    defaults={"max_position_embeddings": 2048, "rope_theta": 10000.0},
    only=ANY_SILU,
)

_OLMO2_TENSORS = {**_ENDS, **_ATTENTION, **_HEAD_NORMS, **_MLP, **_POST_NORMS}

OLMO2 = Family(
    "olmo2",
    _OLMO2_TENSORS,
    defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0},
    only=ANY_SILU,
)

QWEN2 = Family(
    "qwen2",
    {**_ENDS, **_NORMS, **_ATTENTION, **_MLP},
    tokenizers=("sentencepiece", "bpe"),
    defaults={
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    },
    only=ANY_SILU,
)

QWEN3 = Family(
    "qwen3",
    {**_ENDS, **_NORMS, **_ATTENTION, **_HEAD_NORMS, **_MLP},
    tokenizers=("sentencepiece", "bpe"),
    defaults={**QWEN2.defaults, "head_dim": 128},
    only=ANY_SILU,
)

_MOE_SIZES = (
    count("expert_feed_forward_length", "moe_intermediate_size"),
    count("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
)

QWEN2_MOE = Family(
    "qwen2moe",
    {
        **_ENDS,
        **_NORMS,
        **_ATTENTION,
        **_MLP,
        **_ROUTED,
        **_FUSED_EXPERTS,
        _LAYER + "mlp.shared_expert.gate_proj": "blk.{}.ffn_gate_shexp",
        _LAYER + "mlp.shared_expert.up_proj": "blk.{}.ffn_up_shexp",
        _LAYER + "mlp.shared_expert.down_proj": "blk.{}.ffn_down_shexp",
        _LAYER + "mlp.shared_expert_gate": "blk.{}.ffn_gate_inp_shexp",
    },
    (*BASIC, *_MOE_SIZES),
    defaults={
        **QWEN2.defaults,
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    },
    only={**ANY_SILU, "norm_topk_prob": (False, None)},
)

QWEN3_MOE = Family(
    "qwen3moe",
    {**_ENDS, **_NORMS, **_ATTENTION, **_HEAD_NORMS, **_MLP, **_ROUTED, **_FUSED_EXPERTS},
    # Ollama's own engine reads norm_top_k_prob, and takes it to be true where it is missing; llama.cpp always does.
    (*BASIC, *_MOE_SIZES, flag("norm_top_k_prob", "norm_topk_prob", default=False)),
    defaults={
        **QWEN2.defaults,
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
    only={**ANY_SILU, "norm_topk_prob": (True,)},
)

OLMOE = Family(
    "olmoe",
    {**_ENDS, **_NORMS, **_ATTENTION, **_HEAD_NORMS, **_ROUTED, **_FUSED_EXPERTS},
    (*BASIC, always("attention.layer_norm_rms_epsilon", Field.float32(1e-5))),
    defaults={
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "num_experts": 64,
        "num_experts_per_tok": 8,
    },
    only={**ANY_SILU, "norm_topk_prob": (False, None), "clip_qkv": (None,)},
)

STARCODER2 = Family(
    "starcoder2",
    {
        **_ENDS,
        **_NORMS,
        **_ATTENTION,
        _LAYER + "mlp.c_fc": "blk.{}.ffn_up",
        _LAYER + "mlp.c_proj": "blk.{}.ffn_down",
    },
    defaults={
        "max_position_embeddings": 4096,
        "norm_epsilon": 1e-5,
        "num_key_value_heads": 2,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    },
    only={"hidden_act": ("gelu_pytorch_tanh", "gelu", None)},
)

SEED_OSS = Family(
    "seed_oss",
    {
        **_ENDS,
        **_ATTENTION,
        **_MLP,
        _LAYER + "input_layernorm": "blk.{}.attn_norm",
        _LAYER + "post_attention_layernorm": "blk.{}.post_attention_norm",
    },
    defaults={
        "max_position_embeddings": 524288,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "head_dim": 128,
    },
    only=ANY_SILU,
)

STABLELM = Family(
    "stablelm",
    {
        **_ENDS,
        **_NORMS,
        **_ATTENTION,
        **_MLP,
        _LAYER + "self_attn.q_layernorm.norms.{}": Stacked("blk.{}.attn_q_norm", lambda config: config.heads),
        _LAYER + "self_attn.k_layernorm.norms.{}": Stacked("blk.{}.attn_k_norm", lambda config: config.kv_heads),
    },
    (
        count("context_length", "max_position_embeddings", required=True),
        count("embedding_length", "hidden_size", required=True),
        count("block_count", "num_hidden_layers", required=True),
        count("feed_forward_length", "intermediate_size", required=True),
        partial_rope_dimensions,
        count("attention.head_count", "num_attention_heads", required=True),
        count("attention.head_count_kv", "num_key_value_heads", required=True),
        flag("use_parallel_residual", "use_parallel_residual", default=True),
        number("attention.layer_norm_epsilon", "layer_norm_eps", "norm_eps", required=True),
    ),
    defaults={
        "max_position_embeddings": 4096,
        "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 0.25,
        "use_parallel_residual": False,
        "num_key_value_heads": 32,
    },
    # Neither a rope's base nor its scaling is written: llama.cpp takes 10000.
    ropes=frozenset({"default"}),
    only={**ANY_SILU, "rope_theta": (10000, None)},
)


def _no_scaling(_: Config) -> Pairs:
    yield "rope.scaling.type", Field.string("none")


def _window(config: Config) -> Pairs:
    window = config.optional_count("sliding_window")
    yield "attention.sliding_window", Field.uint32(window or 0)


def _sliding_layers(config: Config) -> Pairs:
    """Which layers see a window only, by `layer_types`, or by the place in a pattern."""
    window = config.optional_count("sliding_window")
    if window is None:
        return
    yield "attention.sliding_window", Field.uint32(window)
    kinds, blocks = config.find("layer_types"), config.blocks
    if kinds is None:
        every = config.positive("sliding_window_pattern")
        sliding = [bool((at + 1) % every) for at in range(blocks)]
    elif isinstance(kinds, list) and len(kinds) == blocks and set(map(str, kinds)) <= _LAYER_TYPES:
        sliding = [kind == "sliding_attention" for kind in kinds]
    else:
        raise CannotConvert(f"config.json has no layer_types for {blocks} layers")
    yield "attention.sliding_window_pattern", Field.array(Kind.BOOL, sliding)


_LAYER_TYPES = {"sliding_attention", "full_attention"}

OLMO3 = Family(
    "olmo2",
    _OLMO2_TENSORS,
    (*BASIC, _sliding_layers),
    defaults={**OLMO2.defaults, "sliding_window": 4096, "sliding_window_pattern": 4},
    only=ANY_SILU,
)

_COHERE_TENSORS: Mapping[str, Rule | str] = {
    **_ENDS,
    **_ATTENTION,
    **_MLP,
    _LAYER + "input_layernorm": "blk.{}.attn_norm",
}

COHERE = Family(
    "command-r",
    {**_COHERE_TENSORS, **_HEAD_NORMS},
    (
        *BASIC,
        count("context_length", "model_max_length", "max_position_embeddings", required=True),
        number("logit_scale", "logit_scale", required=True),
        _no_scaling,
    ),
    defaults={
        "max_position_embeddings": 8192,
        "layer_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "logit_scale": 0.0625,
    },
    ropes=frozenset({"default"}),
    only=ANY_SILU,
)


def _phi3_scaling(config: Config) -> Pairs:
    """The factor by which attention grows with the context; transformers calculates the same."""
    rope = Config(config.rope)
    original, context = rope.positive("original_max_position_embeddings"), config.positive("max_position_embeddings")
    yield "rope.scaling.original_context_length", Field.uint32(original)
    if rope.find("long_factor"):
        scale = context / original
        factor = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 and original > 1 else 1.0
        yield "rope.scaling.attn_factor", Field.float32(factor)


def _phi3_turned(config: Config) -> int:
    share = finite("config.json has partial_rotary_factor", config.rope.get("partial_rotary_factor", 1.0))
    return int(share * config.hidden) // config.heads


def _phi3_dimensions(config: Config) -> Pairs:
    yield "rope.dimension_count", Field.uint32(_phi3_turned(config))


PHI3 = Family(
    "phi3",
    {
        **_ENDS,
        **_NORMS,
        _LAYER + "self_attn.qkv_proj": "blk.{}.attn_qkv",
        _LAYER + "self_attn.o_proj": "blk.{}.attn_output",
        _LAYER + "mlp.gate_up_proj": "blk.{}.ffn_up",
        _LAYER + "mlp.down_proj": "blk.{}.ffn_down",
    },
    (
        count("context_length", "n_positions", "max_position_embeddings", required=True),
        _phi3_scaling,
        count("embedding_length", "hidden_size", "n_embd", required=True),
        count("feed_forward_length", "intermediate_size", required=True),
        count("block_count", "num_hidden_layers", required=True),
        count("attention.head_count", "num_attention_heads", "n_head", required=True),
        count("attention.head_count_kv", "num_key_value_heads", "n_head_kv", required=True),
        number("attention.layer_norm_rms_epsilon", "rms_norm_eps", required=True),
        _phi3_dimensions,
        rope_base,
        _window,
    ),
    tokenizers=("sentencepiece", "bpe"),
    added_from_json=True,
    defaults={
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
    },
    made=lambda config: longrope_factors(config, _phi3_turned(config)),
    ropes=frozenset({"default", "longrope", "su"}),
    only=ANY_SILU,
)

COHERE2 = Family(
    "cohere2",
    _COHERE_TENSORS,
    (
        *BASIC,
        _head_dim,
        number("logit_scale", "logit_scale", required=True),
        count("attention.sliding_window", "sliding_window", required=True),
        VOCABULARY_SIZE,
        lambda config: iter(
            [("rope.dimension_count", Field.uint32(int(config.number("rotary_pct") * (config.hidden // config.heads))))]
        ),
        _no_scaling,
    ),
    defaults={**COHERE.defaults, "sliding_window": 4096},
    ropes=frozenset({"default"}),
    # llama.cpp takes every fourth layer to see all.
    only={**ANY_SILU, "sliding_window_pattern": (4, None)},
)

GLM4 = Family(
    "glm4",
    {
        **_ENDS,
        **_NORMS,
        **_ATTENTION,
        _LAYER + "post_self_attn_layernorm": "blk.{}.post_attention_norm",
        _LAYER + "post_mlp_layernorm": "blk.{}.post_ffw_norm",
        _LAYER + "mlp.gate_up_proj": "blk.{}.ffn_up",
        _LAYER + "mlp.down_proj": "blk.{}.ffn_down",
    },
    (
        *BASIC,
        lambda config: iter(
            [("rope.dimension_count", Field.uint32(int(config.head_size * config.number("partial_rotary_factor"))))]
        ),
    ),
    defaults={
        "max_position_embeddings": 131072,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1.5625e-7,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "head_dim": 128,
    },
    only=ANY_SILU,
    specials={"eos": "<|endoftext|>", "eot": "<|user|>", "unk": "<|endoftext|>", "bos": "<|endoftext|>"},
)


def _exaone_frequencies(config: Config) -> Mapping[str, bytes]:
    made = llama3_frequencies(config, default_factor=16.0)
    return {} if made is None else {"rope_freqs.weight": made}


EXAONE4 = Family(
    "exaone4",
    _OLMO2_TENSORS,
    (*BASIC, VOCABULARY_SIZE, _sliding_layers),
    defaults={
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
    },
    made=_exaone_frequencies,
    ropes=_LLAMA_ROPES,
    only=ANY_SILU,
)


def _nemotron_rope(config: Config) -> Pairs:
    share = finite("config.json has partial_rotary_factor", config.rope.get("partial_rotary_factor"))
    yield "rope.dimension_count", Field.uint32(int(share * config.hidden) // config.heads)
    factor = config.find("factor") or config.rope.get("factor")
    if factor is None:
        yield "rope.scaling.type", Field.string("none")
    else:
        yield "rope.scaling.type", Field.string("linear")
        yield "rope.scaling.factor", Field.float32(finite("config.json has factor", factor))


def _nemotron_tokens(_config: Config, _tokenizer: Mapping[str, Any]) -> Pairs:
    yield "padding_token_id", Field.uint32(0)
    yield "unknown_token_id", Field.uint32(1)


NEMOTRON = Family(
    "nemotron",
    {
        **_ENDS,
        **_ATTENTION,
        "model.norm": Raised("output_norm"),
        _LAYER + "input_layernorm": Raised("blk.{}.attn_norm"),
        _LAYER + "post_attention_layernorm": Raised("blk.{}.ffn_norm"),
        _LAYER + "mlp.up_proj": "blk.{}.ffn_up",
        _LAYER + "mlp.down_proj": "blk.{}.ffn_down",
    },
    (
        *BASIC,
        _head_dim,
        VOCABULARY_SIZE,
        number("attention.layer_norm_epsilon", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
        _nemotron_rope,
    ),
    tokenizers=("sentencepiece",),
    defaults={
        "max_position_embeddings": 4096,
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
    },
    ropes=frozenset({"default", "linear"}),
    only={"hidden_act": ("relu2", None)},
    vocabulary=_nemotron_tokens,
)

ERNIE4_5 = Family(
    "ernie4_5",
    {**_ENDS, **_NORMS, **_ATTENTION, **_MLP},
    tokenizers=("sentencepiece",),
    defaults={
        "max_position_embeddings": 131072,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "head_dim": 128,
        "tie_word_embeddings": True,
    },
    only=ANY_SILU,
    vocabulary=_prefix_space,
)


def _minicpm_scales(config: Config) -> Pairs:
    yield "embedding_scale", Field.float32(config.number("scale_emb"))
    yield "residual_scale", Field.float32(config.number("scale_depth") / config.blocks**0.5)
    yield "logit_scale", Field.float32(config.hidden / config.positive("dim_model_base"))


MINICPM = Family(
    "minicpm",
    _LLAMA_TENSORS,
    (*BASIC, _minicpm_scales),
    tokenizers=("sentencepiece",),
    defaults={"tie_word_embeddings": True},
    made=lambda config: longrope_factors(config, config.hidden // config.heads),
    ropes=frozenset({"default", "linear", "dynamic", "longrope", "su"}),
    only=ANY_SILU,
)

PHI2 = Family(
    "phi2",
    {
        "model.embed_tokens": "token_embd",
        "model.final_layernorm": "output_norm",
        "lm_head": "output",
        _LAYER + "input_layernorm": "blk.{}.attn_norm",
        _LAYER + "self_attn.q_proj": "blk.{}.attn_q",
        _LAYER + "self_attn.k_proj": "blk.{}.attn_k",
        _LAYER + "self_attn.v_proj": "blk.{}.attn_v",
        _LAYER + "self_attn.dense": "blk.{}.attn_output",
        _LAYER + "mlp.fc1": "blk.{}.ffn_up",
        _LAYER + "mlp.fc2": "blk.{}.ffn_down",
    },
    (
        count("context_length", "n_positions", "max_position_embeddings", required=True),
        count("embedding_length", "hidden_size", "n_embd", required=True),
        lambda config: iter([("feed_forward_length", Field.uint32(4 * config.hidden))]),
        count("block_count", "num_hidden_layers", required=True),
        count("attention.head_count", "num_attention_heads", required=True),
        count("attention.head_count_kv", "num_attention_heads", required=True),
        number("attention.layer_norm_epsilon", "layer_norm_epsilon", "layer_norm_eps", required=True),
        _phi3_dimensions,
    ),
    defaults={
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 0.5,
    },
    ropes=frozenset({"default"}),
    only={"hidden_act": ("gelu_new", None), "rope_theta": (10000, None), "qk_layernorm": (False, None)},
    vocabulary=lambda _config, _tokenizer: iter([("add_bos_token", Field.boolean(False))]),
)

_NEOX = "gpt_neox.layers.{}."

GPT_NEOX = Family(
    "gptneox",
    {
        "gpt_neox.embed_in": "token_embd",
        "gpt_neox.final_layer_norm": "output_norm",
        "embed_out": "output",
        _NEOX + "input_layernorm": "blk.{}.attn_norm",
        _NEOX + "post_attention_layernorm": "blk.{}.ffn_norm",
        _NEOX + "attention.query_key_value": Grouped(
            "blk.{}.attn_qkv", lambda config: config.heads, lambda config: config.heads
        ),
        _NEOX + "attention.dense": "blk.{}.attn_output",
        _NEOX + "mlp.dense_h_to_4h": "blk.{}.ffn_up",
        _NEOX + "mlp.dense_4h_to_h": "blk.{}.ffn_down",
    },
    (
        count("context_length", "max_position_embeddings", required=True),
        count("embedding_length", "hidden_size", required=True),
        count("block_count", "num_hidden_layers", required=True),
        count("feed_forward_length", "intermediate_size", required=True),
        lambda config: iter(
            [("rope.dimension_count", Field.uint32(int(config.number("rotary_pct") * (config.hidden // config.heads))))]
        ),
        count("attention.head_count", "num_attention_heads", required=True),
        flag("use_parallel_residual", "use_parallel_residual", default=True),
        number("attention.layer_norm_epsilon", "layer_norm_eps", required=True),
    ),
    defaults={"max_position_embeddings": 2048, "rotary_pct": 0.25, "layer_norm_eps": 1e-5},
    ropes=frozenset({"default"}),
    only={"hidden_act": ("gelu", None), "rotary_emb_base": (10000, None)},
)

_FALCON = "transformer.h.{}."


def _falcon_groups(config: Config) -> int:
    return config.positive("num_kv_heads", "n_head_kv")


FALCON = Family(
    "falcon",
    {
        "transformer.word_embeddings": "token_embd",
        "transformer.ln_f": "output_norm",
        "lm_head": "output",
        _FALCON + "input_layernorm": "blk.{}.attn_norm",
        _FALCON + "ln_mlp": "blk.{}.attn_norm",
        _FALCON + "ln_attn": "blk.{}.attn_norm_2",
        _FALCON + "self_attention.query_key_value": Grouped(
            "blk.{}.attn_qkv", _falcon_groups, lambda config: config.heads
        ),
        _FALCON + "self_attention.dense": "blk.{}.attn_output",
        _FALCON + "mlp.dense_h_to_4h": "blk.{}.ffn_up",
        _FALCON + "mlp.dense_4h_to_h": "blk.{}.ffn_down",
    },
    (
        always("context_length", Field.uint32(2048)),
        always("tensor_data_layout", Field.string("jploski")),
        count("embedding_length", "hidden_size", required=True),
        lambda config: iter([("feed_forward_length", Field.uint32(4 * config.hidden))]),
        count("block_count", "num_hidden_layers", "n_layer", required=True),
        count("attention.head_count", "num_attention_heads", "n_head", required=True),
        lambda config: iter([("attention.head_count_kv", Field.uint32(_falcon_groups(config)))]),
        number("attention.layer_norm_epsilon", "layer_norm_epsilon", required=True),
    ),
    defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    ropes=frozenset({"default"}),
    # transformers counts the heads of K and V for the new architecture only; the old one has a single K and V.
    only={
        "new_decoder_architecture": (True,),
        "alibi": (False, None),
        "rope_theta": (10000, None),
        "bias": (False, None),
    },
)

_BLOOM: Mapping[str, Rule | str] = {
    "word_embeddings": "token_embd",
    "word_embeddings_layernorm": "token_embd_norm",
    "ln_f": "output_norm",
    "h.{}.input_layernorm": "blk.{}.attn_norm",
    "h.{}.post_attention_layernorm": "blk.{}.ffn_norm",
    "h.{}.self_attention.query_key_value": Grouped(
        "blk.{}.attn_qkv", lambda config: config.heads, lambda config: config.heads
    ),
    "h.{}.self_attention.dense": "blk.{}.attn_output",
    "h.{}.mlp.dense_h_to_4h": "blk.{}.ffn_up",
    "h.{}.mlp.dense_4h_to_h": "blk.{}.ffn_down",
}


def _bloom_sizes(config: Config) -> Pairs:
    yield "context_length", Field.uint32(config.optional_count("seq_length") or config.hidden)
    yield "embedding_length", Field.uint32(config.hidden)
    yield "feed_forward_length", Field.uint32(4 * config.hidden)
    yield "block_count", Field.uint32(config.blocks)
    yield "attention.head_count", Field.uint32(config.heads)
    yield "attention.head_count_kv", Field.uint32(config.heads)


BLOOM = Family(
    "bloom",
    {**_BLOOM, **{f"transformer.{name}": rule for name, rule in _BLOOM.items()}, "lm_head": "output"},
    (_bloom_sizes, number("attention.layer_norm_epsilon", "layer_norm_epsilon", required=True)),
    defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    ropes=frozenset({"default"}),
    only={"apply_residual_connection_post_layernorm": (False, None)},
)

_SHARED_EXPERTS: Mapping[str, str] = {
    _LAYER + "mlp.shared_experts.gate_proj": "blk.{}.ffn_gate_shexp",
    _LAYER + "mlp.shared_experts.up_proj": "blk.{}.ffn_up_shexp",
    _LAYER + "mlp.shared_experts.down_proj": "blk.{}.ffn_down_shexp",
}

DEEPSEEK = Family(
    "deepseek",
    {**_LLAMA_TENSORS, **_ROUTED, **_SHARED_EXPERTS},
    (
        *BASIC,
        rope_dimensions,
        _no_scaling,
        count("leading_dense_block_count", "first_k_dense_replace", required=True),
        VOCABULARY_SIZE,
        count("expert_feed_forward_length", "moe_intermediate_size", required=True),
        always("expert_weights_scale", Field.float32(1.0)),
        count("expert_shared_count", "n_shared_experts", required=True),
    ),
    tokenizers=("sentencepiece", "bpe"),
    ropes=frozenset({"default"}),
    only={**ANY_SILU, "norm_topk_prob": (False, None), "moe_layer_freq": (1, None), "scoring_func": ("softmax", None)},
)


def _deepseek2_sizes(config: Config) -> Pairs:
    """The compressed cache makes one head of K and V of all, which is spread again to the sizes called `mla`."""
    rank, turned = config.positive("kv_lora_rank"), config.positive("qk_rope_head_dim")
    yield "attention.head_count_kv", Field.uint32(1)
    yield "leading_dense_block_count", Field.uint32(config.optional_count("first_k_dense_replace") or 0)
    query = config.optional_count("q_lora_rank")
    if query is not None:
        yield "attention.q_lora_rank", Field.uint32(query)
    yield "attention.kv_lora_rank", Field.uint32(rank)
    yield "attention.key_length", Field.uint32(rank + turned)
    yield "attention.value_length", Field.uint32(rank)
    yield "attention.key_length_mla", Field.uint32(config.positive("qk_nope_head_dim") + turned)
    yield "attention.value_length_mla", Field.uint32(config.positive("v_head_dim"))
    yield "rope.dimension_count", Field.uint32(turned)
    if config.flag("norm_topk_prob", default=False):
        yield "expert_weights_norm", Field.boolean(True)
    scale = Config(config.rope).optional_number("mscale_all_dim")
    if scale is not None:
        yield "rope.scaling.yarn_log_multiplier", Field.float32(0.1 * scale)


DEEPSEEK2 = Family(
    "deepseek2",
    {
        **_ENDS,
        **_NORMS,
        **_MLP,
        **_ROUTED,
        **_SHARED_EXPERTS,
        _LAYER + "mlp.gate.e_score_correction_bias": "blk.{}.exp_probs_b",
        _LAYER + "self_attn.q_proj": "blk.{}.attn_q",
        _LAYER + "self_attn.q_a_proj": "blk.{}.attn_q_a",
        _LAYER + "self_attn.q_a_layernorm": "blk.{}.attn_q_a_norm",
        _LAYER + "self_attn.q_b_proj": "blk.{}.attn_q_b",
        _LAYER + "self_attn.kv_a_proj_with_mqa": "blk.{}.attn_kv_a_mqa",
        _LAYER + "self_attn.kv_a_layernorm": "blk.{}.attn_kv_a_norm",
        _LAYER + "self_attn.kv_b_proj": Absorbed("blk.{}.attn_k_b", "blk.{}.attn_v_b"),
        _LAYER + "self_attn.o_proj": "blk.{}.attn_output",
    },
    (
        *BASIC,
        VOCABULARY_SIZE,
        _deepseek2_sizes,
        count("expert_feed_forward_length", "moe_intermediate_size", "intermediate_size", required=True),
        count("expert_shared_count", "n_shared_experts", required=True),
        number("expert_weights_scale", "routed_scaling_factor"),
    ),
    defaults={
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "routed_scaling_factor": 1.0,
    },
    only={**ANY_SILU, "attention_bias": (False, None), "moe_layer_freq": (1, None)},
    extra_layers=True,
)

DEEPSEEK3 = replace(
    DEEPSEEK2,
    defaults={
        **DEEPSEEK2.defaults,
        "max_position_embeddings": 4096,
        "first_k_dense_replace": 3,
        "num_experts_per_tok": 8,
        "n_group": 8,
        "topk_group": 4,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
    },
)

FAMILIES: Mapping[str, Family] = {
    "ArceeForCausalLM": ARCEE,
    "Cohere2ForCausalLM": COHERE2,
    "BloomForCausalLM": BLOOM,
    "CohereForCausalLM": COHERE,
    "DeepseekForCausalLM": DEEPSEEK,
    "DeepseekV2ForCausalLM": DEEPSEEK2,
    "DeepseekV3ForCausalLM": DEEPSEEK3,
    "Ernie4_5ForCausalLM": ERNIE4_5,
    "Ernie4_5_ForCausalLM": ERNIE4_5,
    "Exaone4ForCausalLM": EXAONE4,
    "FalconForCausalLM": FALCON,
    "GPTNeoXForCausalLM": GPT_NEOX,
    "Glm4ForCausalLM": GLM4,
    "GraniteForCausalLM": GRANITE,
    "GraniteMoeForCausalLM": GRANITE_MOE,
    "GraniteMoeSharedForCausalLM": GRANITE_MOE,
    "LlamaForCausalLM": LLAMA,
    "MiniCPMForCausalLM": MINICPM,
    "MistralForCausalLM": MISTRAL,
    "MixtralForCausalLM": MIXTRAL,
    "NemotronForCausalLM": NEMOTRON,
    "Olmo2ForCausalLM": OLMO2,
    "Olmo3ForCausalLM": OLMO3,
    "OlmoForCausalLM": OLMO,
    "OlmoeForCausalLM": OLMOE,
    "Phi3ForCausalLM": PHI3,
    "PhiForCausalLM": PHI2,
    "Qwen2ForCausalLM": QWEN2,
    "Qwen2MoeForCausalLM": QWEN2_MOE,
    "Qwen3ForCausalLM": QWEN3,
    "Qwen3MoeForCausalLM": QWEN3_MOE,
    "SeedOssForCausalLM": SEED_OSS,
    "SmolLM3ForCausalLM": SMOLLM3,
    "StableLmForCausalLM": STABLELM,
    "Starcoder2ForCausalLM": STARCODER2,
}
"""By the first of config.json's `architectures`."""
