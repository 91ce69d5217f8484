"""Metadata writers, checks and caveats that several families share. Pure.

A check has the type of a writer and is listed among `hyperparameters`, but writes nothing: it refuses a config.json
that llama.cpp would run differently.
"""

from collections.abc import Collection, Mapping

from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import Pairs, Writer, llama3_frequencies
from proxy.gguf.model_config import CannotConvert, ModelConfig, finite
from proxy.gguf.sentencepiece import adds_dummy_prefix
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import TokenizerFiles

ANY_SILU: Mapping[str, tuple[object, ...]] = {"hidden_act": ("silu", "swish", None)}

UNTIED: Mapping[str, tuple[object, ...]] = {"tie_word_embeddings": (False, None)}
"""For families that llama.cpp loads only with an output tensor."""

LLAMA_ROPES = frozenset({"default", "linear", "dynamic", "yarn", "llama3"})
_SLIDING, _FULL = "sliding_attention", "full_attention"


def rope_frequencies(config: ModelConfig, default_factor: float = 8.0) -> Mapping[str, bytes]:
    """The tensor for a `llama3` RoPE scaling."""
    divisors = llama3_frequencies(config, default_factor)
    return {} if divisors is None else {"rope_freqs.weight": divisors}


def head_dim(config: ModelConfig) -> Pairs:
    """For families whose `head_dim` transformers fills in: llama.cpp's converter writes it in any case."""
    yield "attention.key_length", Field.uint32(config.head_size)
    yield "attention.value_length", Field.uint32(config.head_size)


def rotary_size(config: ModelConfig) -> int:
    """How many numbers of a head RoPE rotates: all of them unless config.json has `partial_rotary_factor`."""
    factor = finite("config.json has partial_rotary_factor", config.rope.get("partial_rotary_factor", 1.0))
    return int(factor * (config.hidden // config.heads))


def rotary_dimensions(config: ModelConfig) -> Pairs:
    yield "rope.dimension_count", Field.uint32(rotary_size(config))


def check_rope_base(config: ModelConfig) -> Pairs:
    """For families whose default base differs between transformers 4, transformers 5 and the authors' code."""
    if config.rope.get("rope_theta") is None:
        raise CannotConvert("config.json has no rope_theta")
    yield from ()


def check_head_size(config: ModelConfig) -> Pairs:
    """For families without a head size in the GGUF: llama.cpp divides the embedding by the number of heads."""
    if config.head_size * config.heads != config.hidden:
        raise CannotConvert(f"config.json has head_dim = {config.head_size}, unknown for this architecture")
    yield from ()


def check_equal_heads(config: ModelConfig) -> Pairs:
    """For families whose K and V llama.cpp expects in the size of Q."""
    if config.kv_heads != config.heads:
        raise CannotConvert(
            f"config.json has num_key_value_heads = {config.kv_heads} and num_attention_heads = {config.heads}, "
            "which llama.cpp expects to be equal for this architecture"
        )
    yield from ()


def space_prefix(_: ModelConfig, files: TokenizerFiles) -> Pairs:
    if isinstance(files.config.get("add_prefix_space"), bool):
        yield "add_space_prefix", Field.boolean(files.config["add_prefix_space"])


def model_space_prefix(_: ModelConfig, files: TokenizerFiles) -> Pairs:
    """For families whose tokenizers leave spaces to tokenizer.model, which llama.cpp's converter does not ask."""
    if files.model is not None and not adds_dummy_prefix(files.model):
        yield "add_space_prefix", Field.boolean(False)


def no_rope_scaling(_: ModelConfig) -> Pairs:
    yield "rope.scaling.type", Field.string("none")


def window_caveat(config: ModelConfig) -> str | None:
    """For families with a sliding window that llama.cpp does not implement: each token attends to all earlier ones."""
    window, is_used = _effective_window(config), config.flag("use_sliding_window", default=True)
    slides = _slides_by_type(config)
    if not window or not is_used or (slides and not any(slides)):
        return None
    return f"beyond {window} tokens it differs from its authors' model: llama.cpp has no window for this architecture"


def late_window_caveat(config: ModelConfig) -> str | None:
    """The same if only the layers from `max_window_layers` on have the window."""
    none_slides = config.count("max_window_layers") >= config.blocks and config.find("layer_types") is None
    caveat = window_caveat(config)
    return None if none_slides else caveat


def check_no_window(config: ModelConfig) -> Pairs:
    """For families whose sliding window llama.cpp does not implement."""
    window = _effective_window(config)
    if window is not None:
        raise CannotConvert(
            f"config.json has sliding_window = {window} in a context of {config.find('max_position_embeddings')}, and "
            "llama.cpp has no window for this architecture"
        )
    yield from ()


def _effective_window(config: ModelConfig) -> int | None:
    """The window if it is smaller than the context, else None."""
    window, context = config.optional_count("sliding_window"), config.positive("max_position_embeddings")
    return window if window is not None and window < context else None


def rope_bases(config: ModelConfig) -> Pairs:
    """The RoPE bases of full-attention layers and of sliding-window layers. The latter must not be scaled."""
    local = config.local_rope
    if local.get("rope_type", "default") != "default":
        raise CannotConvert(f"config.json has a rope for sliding_attention = {shown(local)}")
    for key, base in (
        ("rope.freq_base", config.rope.get("rope_theta")),
        ("rope.freq_base_swa", local.get("rope_theta", config.find("rope_local_base_freq", "local_rope_theta"))),
    ):
        yield key, Field.float32(finite(f"config.json has {key}", base))


def one_rope_base(config: ModelConfig) -> Pairs:
    """For families in which llama.cpp uses one base for all layers, and scales RoPE only in full-attention layers."""
    rope = config.find("rope_scaling") or config.find("rope_parameters") or {}
    if "full_attention" not in rope:
        return
    bases = dict(rope_bases(config))
    if bases["rope.freq_base"] != bases["rope.freq_base_swa"]:
        raise CannotConvert(
            "config.json has another rope_theta for sliding_attention, which llama.cpp does not support"
        )
    yield from bases.items()


def sliding_by_layer(config: ModelConfig) -> list[bool]:
    """For each layer whether it has a sliding window, by `layer_types` or else by `sliding_window_pattern`."""
    if slides := _slides_by_type(config):
        return slides
    period = config.positive("sliding_window_pattern")
    return [bool((layer + 1) % period) for layer in range(config.blocks)]


def _slides_by_type(config: ModelConfig) -> list[bool]:
    """For each layer whether it has a sliding window, by `layer_types`; empty if config.json has none."""
    types = config.find("layer_types")
    if types is None:
        return []
    return [layer_type == _SLIDING for layer_type in check_layer_types(config, types, (_SLIDING, _FULL))]


def check_layer_types(config: ModelConfig, types: object, known: Collection[str]) -> list[str]:
    """Returns `types` as a list with one of `known` for each layer. Raises CannotConvert for anything else."""
    if isinstance(types, list) and len(types) == config.blocks and set(map(str, types)) <= set(known):
        return types
    raise CannotConvert(f"config.json has no layer_types for {config.blocks} layers")


def check_full_attention(config: ModelConfig) -> Pairs:
    """For families that llama.cpp runs without sliding windows."""
    if any(_slides_by_type(config)):
        raise CannotConvert("config.json has layer_types with a window, and llama.cpp has none for this architecture")
    yield from ()


def check_several_experts(config: ModelConfig) -> Pairs:
    """llama.cpp divides the chosen experts' weights by their sum, the authors' code only if several are chosen."""
    if config.count("num_experts_per_tok") == 1:
        raise CannotConvert("config.json has num_experts_per_tok = 1, and llama.cpp always gives one expert all weight")
    yield from ()


def limits_by_layer(config: ModelConfig, name: str) -> list[float] | None:
    """For each layer the limit of its feed-forward's activations, 0 for none; None if config.json has no such list."""
    values = config.find(name)
    if values is None:
        return None
    if not isinstance(values, list):
        raise CannotConvert(f"config.json has {name} = {shown(values)}, which is not a list")
    limits = [0.0 if value is None else finite(f"config.json has {name} with", value) for value in values]
    if any(limit < 0 for limit in limits):
        raise CannotConvert(f"config.json has {name} = {shown(values)}, with a negative limit")
    return [*limits, *[0.0] * config.blocks][: config.blocks]


def check_unlimited_steps(config: ModelConfig) -> Pairs:
    """llama.cpp does not limit the time steps of Mamba. transformers 5 writes an infinite number as an object."""
    limits, unlimited = config.find("time_step_limit"), (float("inf"), {"__float__": "Infinity"}, None)
    if limits is not None and limits not in [[lowest, highest] for lowest in (0, None) for highest in unlimited]:
        raise CannotConvert(f"config.json has time_step_limit = {shown(limits)}, and llama.cpp has no limits")
    yield from ()


def count_dense_layers(config: ModelConfig) -> int:
    """The number of dense layers before the first layer with experts; transformers' default is 1."""
    types = config.find("mlp_layer_types")
    types = ["dense"] if types is None else check_layer_types(config, types, ("dense", "sparse"))
    dense = types.index("sparse") if "sparse" in types else len(types)
    if "dense" in types[dense:]:
        raise CannotConvert("config.json has mlp_layer_types with a dense layer after one with experts")
    return dense


def leading_dense_blocks(config: ModelConfig) -> Pairs:
    yield "leading_dense_block_count", Field.uint32(count_dense_layers(config))


def sliding_layers(config: ModelConfig) -> Pairs:
    """The window and, for each layer, whether it has one."""
    window = config.optional_count("sliding_window")
    if window is None and any(_slides_by_type(config)):
        raise CannotConvert("config.json has layer_types with a window, and no sliding_window")
    if window is not None:
        yield "attention.sliding_window", Field.uint32(window)
        yield "attention.sliding_window_pattern", Field.array(ValueType.BOOL, sliding_by_layer(config))


def window_pattern(period: int) -> Writer:
    """For families in which llama.cpp gives every `period`-th layer full attention and all others a sliding window."""

    def write(config: ModelConfig) -> Pairs:
        types, pattern = config.find("layer_types"), config.find("sliding_window_pattern", "_sliding_window_pattern")
        expected = [_SLIDING if layer % period else _FULL for layer in range(1, config.blocks + 1)]
        if types not in (None, expected) or pattern not in (None, period):
            raise CannotConvert(
                f"config.json has layer_types that do not repeat {period - 1} layers with a window and one without"
            )
        yield "attention.sliding_window", Field.uint32(config.positive("sliding_window"))

    return write
