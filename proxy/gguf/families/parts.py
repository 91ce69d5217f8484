"""Names of tensors and ways to write keys that many families share. Pure."""

from collections.abc import Collection, Mapping

from proxy.gguf.config import CannotConvert, ModelConfig, finite
from proxy.gguf.families.rules import Permuted, Rule, Size, Split, Stacked, TextPart
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import Pairs, Writer, llama3_frequencies
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import TokenizerFiles

ANY_SILU: Mapping[str, tuple[object, ...]] = {"hidden_act": ("silu", "swish", None)}
UNTIED: Mapping[str, tuple[object, ...]] = {"tie_word_embeddings": (False, None)}
"""For families that llama.cpp loads with an output of their own only."""

PLAIN_YARN: Mapping[str, tuple[object, ...]] = {
    "attention_factor": (None,),
    "mscale": (None,),
    "mscale_all_dim": (None,),
    "beta_fast": (32, None),
    "beta_slow": (1, None),
    "truncate": (True, None),
}
"""What Ollama's llama.cpp takes yarn to be, whatever a GGUF says (v0.33)."""

ATTENTION_BIAS: Mapping[str, frozenset[str]] = {
    "attention_bias": frozenset({"attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias"})
}
MLP_BIAS: Mapping[str, frozenset[str]] = {"mlp_bias": frozenset({"ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"})}
BOTH_BIASES = {**ATTENTION_BIAS, **MLP_BIAS}

LAYER = "model.layers.{}."

ENDS: Mapping[str, str] = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}

BARE: Mapping[str, str] = {
    "layers.": "model.layers.",
    "embed_tokens.": "model.embed_tokens.",
    "norm.": "model.norm.",
}
"""Of models that were saved without what is around them, as those are that embed texts."""

ATTENTION: Mapping[str, str] = {
    LAYER + "self_attn.q_proj": "blk.{}.attn_q",
    LAYER + "self_attn.k_proj": "blk.{}.attn_k",
    LAYER + "self_attn.v_proj": "blk.{}.attn_v",
    LAYER + "self_attn.o_proj": "blk.{}.attn_output",
}

TURNED: Mapping[str, Rule | str] = {
    **ATTENTION,
    LAYER + "self_attn.q_proj": Permuted("blk.{}.attn_q", lambda config: config.heads),
    LAYER + "self_attn.k_proj": Permuted("blk.{}.attn_k", lambda config: config.kv_heads),
}

MLP: Mapping[str, str] = {
    LAYER + "mlp.gate_proj": "blk.{}.ffn_gate",
    LAYER + "mlp.up_proj": "blk.{}.ffn_up",
    LAYER + "mlp.down_proj": "blk.{}.ffn_down",
}

NORMS: Mapping[str, str] = {
    LAYER + "input_layernorm": "blk.{}.attn_norm",
    LAYER + "post_attention_layernorm": "blk.{}.ffn_norm",
}

HEAD_NORMS: Mapping[str, str] = {
    LAYER + "self_attn.q_norm": "blk.{}.attn_q_norm",
    LAYER + "self_attn.k_norm": "blk.{}.attn_k_norm",
}

POST_NORMS: Mapping[str, str] = {
    LAYER + "post_attention_layernorm": "blk.{}.post_attention_norm",
    LAYER + "post_feedforward_layernorm": "blk.{}.post_ffw_norm",
}

LAYER_INPUTS: Mapping[str, str] = {
    "model.embed_tokens_per_layer": "per_layer_token_embd",
    "model.per_layer_model_projection": "per_layer_model_proj",
    "model.per_layer_projection_norm": "per_layer_proj_norm",
    LAYER + "per_layer_input_gate": "blk.{}.inp_gate",
    LAYER + "per_layer_projection": "blk.{}.proj",
    LAYER + "post_per_layer_input_norm": "blk.{}.post_norm",
}
"""What each layer is told of a token by an embedding of its own."""


SENSES = TextPart(
    {"model.language_model.": "model."},
    ("model.vision_tower.", "model.embed_vision.", "model.audio_tower.", "model.embed_audio."),
    "see or hear",
)
"""Gemma 3n's and 4's."""


def experts(config: ModelConfig) -> int:
    return config.positive("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


ROUTED: Mapping[str, Rule | str] = {
    LAYER + "mlp.gate": "blk.{}.ffn_gate_inp",
    LAYER + "mlp.experts.{}.gate_proj": Stacked("blk.{}.ffn_gate_exps", experts),
    LAYER + "mlp.experts.{}.up_proj": Stacked("blk.{}.ffn_up_exps", experts),
    LAYER + "mlp.experts.{}.down_proj": Stacked("blk.{}.ffn_down_exps", experts),
}


def flat(_: ModelConfig, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A convolution's, which goes through each channel alone."""
    return (shape[0], *(size for size in shape[1:] if size != 1))


def half_of(*names: str) -> Size:
    return lambda config: config.positive(*names)


FUSED_EXPERTS: Mapping[str, Rule | str] = {
    LAYER + "mlp.experts.gate_up_proj": Split(
        (
            ("blk.{}.ffn_gate_exps", half_of("moe_intermediate_size", "intermediate_size")),
            ("blk.{}.ffn_up_exps", half_of("moe_intermediate_size", "intermediate_size")),
        )
    ),
    LAYER + "mlp.experts.down_proj": "blk.{}.ffn_down_exps",
}
"""As transformers 5 saves them: all experts in one tensor."""

SHARED_EXPERTS: Mapping[str, str] = {
    LAYER + "mlp.shared_experts.gate_proj": "blk.{}.ffn_gate_shexp",
    LAYER + "mlp.shared_experts.up_proj": "blk.{}.ffn_up_shexp",
    LAYER + "mlp.shared_experts.down_proj": "blk.{}.ffn_down_shexp",
}

GLM_SPECIALS: Mapping[str, str] = {
    "bos": "[gMASK]",
    "eot": "<|user|>",
    "unk": "<|endoftext|>",
    "eom": "<|observation|>",
}


def same_shape(_: ModelConfig, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape


def rope_frequencies(config: ModelConfig) -> Mapping[str, bytes]:
    made = llama3_frequencies(config)
    return {} if made is None else {"rope_freqs.weight": made}


VISION_LANGUAGE_PREFIX = TextPart(
    {"language_model.model.": "model.", "model.language_model.": "model.", "language_model.lm_head.": "lm_head."},
    ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."),
    "see",
)
"""As Gemma 3 and Mistral 3 are saved; the second name is transformers 5's."""

LLAMA_ROPES = frozenset({"default", "linear", "dynamic", "yarn", "llama3"})


def head_dim(config: ModelConfig) -> Pairs:
    """Where transformers fills `head_dim` in, so that llama.cpp writes it although config.json has none."""
    yield "attention.key_length", Field.uint32(config.head_size)
    yield "attention.value_length", Field.uint32(config.head_size)


def usual_heads(config: ModelConfig) -> Pairs:
    """For families of which no size of a head is written: llama.cpp shares the embedding out among them."""
    if config.head_size * config.heads != config.hidden:
        raise CannotConvert(f"config.json has head_dim = {config.head_size}, unknown for this architecture")
    yield from ()


def prefix_space(_: ModelConfig, files: TokenizerFiles) -> Pairs:
    if isinstance(files.config.get("add_prefix_space"), bool):
        yield "add_space_prefix", Field.boolean(files.config["add_prefix_space"])


def no_scaling(_: ModelConfig) -> Pairs:
    yield "rope.scaling.type", Field.string("none")


def window_ignored(config: ModelConfig) -> str | None:
    """For families of which llama.cpp has each token see all that came before, also beyond the authors' window."""
    window, is_used, slides = _window_within(config), config.flag("use_sliding_window", default=True), _slides(config)
    if not window or not is_used or (slides and not any(slides)):
        return None
    return f"beyond {window} tokens it differs from its authors' model: llama.cpp has no window for this architecture"


def later_window_ignored(config: ModelConfig) -> str | None:
    """The same where only the layers from `max_window_layers` on have the window."""
    none_slides = config.count("max_window_layers") >= config.blocks and config.find("layer_types") is None
    told = window_ignored(config)
    return None if none_slides else told


def no_window(config: ModelConfig) -> Pairs:
    """For families of which llama.cpp has each token see all that came before."""
    window = _window_within(config)
    if window is not None:
        raise CannotConvert(
            f"config.json has sliding_window = {window} in a context of {config.find('max_position_embeddings')}, and "
            "llama.cpp has no window for this architecture"
        )
    yield from ()


def _window_within(config: ModelConfig) -> int | None:
    """A window that is smaller than the context; None for one that changes nothing."""
    window, context = config.optional_count("sliding_window"), config.positive("max_position_embeddings")
    return window if window is not None and window < context else None


def two_ropes(config: ModelConfig) -> Pairs:
    """The bases of layers that see all, and of those with a window, whose rope has no scaling."""
    local = config.local_rope
    if local.get("rope_type", "default") != "default":
        raise CannotConvert(f"config.json has a rope for sliding_attention = {shown(local)}")
    for key, base in (
        ("rope.freq_base", config.rope.get("rope_theta")),
        ("rope.freq_base_swa", local.get("rope_theta", config.find("rope_local_base_freq", "local_rope_theta"))),
    ):
        yield key, Field.float32(finite(f"config.json has {key}", base))


def sliding(config: ModelConfig) -> list[bool]:
    """Layer by layer, whether it sees a window only, by `layer_types`, or by the place in a pattern."""
    if slides := _slides(config):
        return slides
    every = config.positive("sliding_window_pattern")
    return [bool((at + 1) % every) for at in range(config.blocks)]


def _slides(config: ModelConfig) -> list[bool]:
    """The same where `layer_types` tell; else empty."""
    kinds = config.find("layer_types")
    return [] if kinds is None else [kind == "sliding_attention" for kind in known_kinds(config, kinds, _LAYER_TYPES)]


def known_kinds(config: ModelConfig, kinds: object, known: Collection[str]) -> list[str]:
    """`kinds` of layers, one of `known` for each layer. Raises CannotConvert for anything else."""
    if isinstance(kinds, list) and len(kinds) == config.blocks and set(map(str, kinds)) <= set(known):
        return kinds
    raise CannotConvert(f"config.json has no layer_types for {config.blocks} layers")


def all_see_all(config: ModelConfig) -> Pairs:
    """For families of which llama.cpp has no layer with a window."""
    if any(_slides(config)):
        raise CannotConvert("config.json has layer_types with a window, and llama.cpp has none for this architecture")
    yield from ()


def steps_of_any_length(config: ModelConfig) -> Pairs:
    """llama.cpp sets no limits to a state space's steps. transformers 5 writes an infinite number as an object."""
    limits, endless = config.find("time_step_limit"), (float("inf"), {"__float__": "Infinity"})
    if limits is not None and limits not in [[first, last] for first in (0, None) for last in (*endless, None)]:
        raise CannotConvert(f"config.json has time_step_limit = {shown(limits)}, and llama.cpp has no limits")
    yield from ()


def dense_layers(config: ModelConfig) -> int:
    """How many layers come before those with experts; transformers takes it to be one where nothing is said."""
    kinds = config.find("mlp_layer_types")
    kinds = ["dense"] if kinds is None else known_kinds(config, kinds, ("dense", "sparse"))
    dense = kinds.index("sparse") if "sparse" in kinds else len(kinds)
    if "dense" in kinds[dense:]:
        raise CannotConvert("config.json has mlp_layer_types with a dense layer behind one with experts")
    return dense


def dense_first(config: ModelConfig) -> Pairs:
    yield "leading_dense_block_count", Field.uint32(dense_layers(config))


def sliding_layers(config: ModelConfig) -> Pairs:
    window = config.optional_count("sliding_window")
    if window is None and any(_slides(config)):
        raise CannotConvert("config.json has layer_types with a window, and no sliding_window")
    if window is not None:
        yield "attention.sliding_window", Field.uint32(window)
        yield "attention.sliding_window_pattern", Field.array(ValueType.BOOL, sliding(config))


def windows(every: int) -> Writer:
    """In llama.cpp one layer of `every` sees all, and the others a window."""

    def write(config: ModelConfig) -> Pairs:
        kinds, pattern = config.find("layer_types"), config.find("sliding_window_pattern", "_sliding_window_pattern")
        usual = ["full_attention" if at % every == 0 else "sliding_attention" for at in range(1, config.blocks + 1)]
        if kinds not in (None, usual) or pattern not in (None, every):
            raise CannotConvert(f"config.json has layer_types other than {every - 1} with a window and one without")
        yield "attention.sliding_window", Field.uint32(config.positive("sliding_window"))

    return write


_LAYER_TYPES = {"sliding_attention", "full_attention"}
