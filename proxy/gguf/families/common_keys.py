"""Metadata writers, checks and caveats that several families share. Pure."""

from collections.abc import Collection, Mapping

from proxy.gguf.config import CannotConvert, ModelConfig, finite
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import Pairs, Writer, llama3_frequencies
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import TokenizerFiles

ANY_SILU: Mapping[str, tuple[object, ...]] = {"hidden_act": ("silu", "swish", None)}

UNTIED: Mapping[str, tuple[object, ...]] = {"tie_word_embeddings": (False, None)}
"""For families that llama.cpp loads with an output of their own only."""


def rope_frequencies(config: ModelConfig) -> Mapping[str, bytes]:
    made = llama3_frequencies(config)
    return {} if made is None else {"rope_freqs.weight": made}


LLAMA_ROPES = frozenset({"default", "linear", "dynamic", "yarn", "llama3"})


def head_dim(config: ModelConfig) -> Pairs:
    """Where transformers fills `head_dim` in, so that llama.cpp writes it although config.json has none."""
    yield "attention.key_length", Field.uint32(config.head_size)
    yield "attention.value_length", Field.uint32(config.head_size)


def check_head_size(config: ModelConfig) -> Pairs:
    """For families of which no size of a head is written: llama.cpp shares the embedding out among them."""
    if config.head_size * config.heads != config.hidden:
        raise CannotConvert(f"config.json has head_dim = {config.head_size}, unknown for this architecture")
    yield from ()


def space_prefix(_: ModelConfig, files: TokenizerFiles) -> Pairs:
    if isinstance(files.config.get("add_prefix_space"), bool):
        yield "add_space_prefix", Field.boolean(files.config["add_prefix_space"])


def no_rope_scaling(_: ModelConfig) -> Pairs:
    yield "rope.scaling.type", Field.string("none")


def window_caveat(config: ModelConfig) -> str | None:
    """For families of which llama.cpp has each token see all that came before, also beyond the authors' window."""
    window, is_used, slides = _window_within(config), config.flag("use_sliding_window", default=True), _slides(config)
    if not window or not is_used or (slides and not any(slides)):
        return None
    return f"beyond {window} tokens it differs from its authors' model: llama.cpp has no window for this architecture"


def late_window_caveat(config: ModelConfig) -> str | None:
    """The same where only the layers from `max_window_layers` on have the window."""
    none_slides = config.count("max_window_layers") >= config.blocks and config.find("layer_types") is None
    told = window_caveat(config)
    return None if none_slides else told


def check_no_window(config: ModelConfig) -> Pairs:
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


def rope_bases(config: ModelConfig) -> Pairs:
    """The bases of layers that see all, and of those with a window, whose rope has no scaling."""
    local = config.local_rope
    if local.get("rope_type", "default") != "default":
        raise CannotConvert(f"config.json has a rope for sliding_attention = {shown(local)}")
    for key, base in (
        ("rope.freq_base", config.rope.get("rope_theta")),
        ("rope.freq_base_swa", local.get("rope_theta", config.find("rope_local_base_freq", "local_rope_theta"))),
    ):
        yield key, Field.float32(finite(f"config.json has {key}", base))


def sliding_by_layer(config: ModelConfig) -> list[bool]:
    """Layer by layer, whether it sees a window only, by `layer_types`, or by the place in a pattern."""
    if slides := _slides(config):
        return slides
    every = config.positive("sliding_window_pattern")
    return [bool((at + 1) % every) for at in range(config.blocks)]


def _slides(config: ModelConfig) -> list[bool]:
    """The same where `layer_types` tell; else empty."""
    kinds = config.find("layer_types")
    return (
        []
        if kinds is None
        else [kind == "sliding_attention" for kind in check_layer_types(config, kinds, _LAYER_TYPES)]
    )


def check_layer_types(config: ModelConfig, kinds: object, known: Collection[str]) -> list[str]:
    """`kinds` of layers, one of `known` for each layer. Raises CannotConvert for anything else."""
    if isinstance(kinds, list) and len(kinds) == config.blocks and set(map(str, kinds)) <= set(known):
        return kinds
    raise CannotConvert(f"config.json has no layer_types for {config.blocks} layers")


def check_full_attention(config: ModelConfig) -> Pairs:
    """For families of which llama.cpp has no layer with a window."""
    if any(_slides(config)):
        raise CannotConvert("config.json has layer_types with a window, and llama.cpp has none for this architecture")
    yield from ()


def check_unlimited_steps(config: ModelConfig) -> Pairs:
    """llama.cpp sets no limits to a state space's steps. transformers 5 writes an infinite number as an object."""
    limits, endless = config.find("time_step_limit"), (float("inf"), {"__float__": "Infinity"})
    if limits is not None and limits not in [[first, last] for first in (0, None) for last in (*endless, None)]:
        raise CannotConvert(f"config.json has time_step_limit = {shown(limits)}, and llama.cpp has no limits")
    yield from ()


def count_dense_layers(config: ModelConfig) -> int:
    """How many layers come before those with experts; transformers takes it to be one where nothing is said."""
    kinds = config.find("mlp_layer_types")
    kinds = ["dense"] if kinds is None else check_layer_types(config, kinds, ("dense", "sparse"))
    dense = kinds.index("sparse") if "sparse" in kinds else len(kinds)
    if "dense" in kinds[dense:]:
        raise CannotConvert("config.json has mlp_layer_types with a dense layer behind one with experts")
    return dense


def leading_dense_blocks(config: ModelConfig) -> Pairs:
    yield "leading_dense_block_count", Field.uint32(count_dense_layers(config))


def sliding_layers(config: ModelConfig) -> Pairs:
    window = config.optional_count("sliding_window")
    if window is None and any(_slides(config)):
        raise CannotConvert("config.json has layer_types with a window, and no sliding_window")
    if window is not None:
        yield "attention.sliding_window", Field.uint32(window)
        yield "attention.sliding_window_pattern", Field.array(ValueType.BOOL, sliding_by_layer(config))


def window_pattern(every: int) -> Writer:
    """In llama.cpp one layer of `every` sees all, and the others a window."""

    def write(config: ModelConfig) -> Pairs:
        kinds, pattern = config.find("layer_types"), config.find("sliding_window_pattern", "_sliding_window_pattern")
        usual = ["full_attention" if at % every == 0 else "sliding_attention" for at in range(1, config.blocks + 1)]
        if kinds not in (None, usual) or pattern not in (None, every):
            raise CannotConvert(f"config.json has layer_types other than {every - 1} with a window and one without")
        yield "attention.sliding_window", Field.uint32(config.positive("sliding_window"))

    return write


_LAYER_TYPES = {"sliding_attention", "full_attention"}
