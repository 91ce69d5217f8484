"""Writes a config.json as metadata of a GGUF, key by key, as llama.cpp's converter does. Pure.

A writer takes the config and yields GGUF keys without the architecture's prefix. A later writer overrides an earlier
one.
"""

import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence

from proxy.gguf.header import Field, ValueType
from proxy.gguf.model_config import CannotConvert, ModelConfig, finite
from proxy.gguf.tensors import shown

Pairs = Iterator[tuple[str, Field]]
Writer = Callable[[ModelConfig], Pairs]


def count(key: str, *names: str, required: bool = False) -> Writer:
    """Writes a uint32, from the first of `names` that config.json has."""

    def write(config: ModelConfig) -> Pairs:
        value = config.count(*names) if required else config.optional_count(*names)
        if value is not None:
            yield key, Field.uint32(value)

    return write


def number(key: str, *names: str, required: bool = False) -> Writer:
    """Writes a float32, from the first of `names` that config.json has."""

    def write(config: ModelConfig) -> Pairs:
        value = config.number(*names) if required else config.optional_number(*names)
        if value is not None:
            yield key, Field.float32(value)

    return write


def nonzero(key: str, *names: str) -> Writer:
    """Writes a float32, except 0: llama.cpp leaves out Granite's factors of 0."""

    def write(config: ModelConfig) -> Pairs:
        value = config.optional_number(*names)
        if value:
            yield key, Field.float32(value)

    return write


def flag(key: str, name: str, *, default: bool) -> Writer:
    return lambda config: iter([(key, Field.boolean(config.flag(name, default)))])


def always(key: str, field: Field) -> Writer:
    return lambda _: iter([(key, field)])


def rope_dimensions(config: ModelConfig) -> Pairs:
    yield "rope.dimension_count", Field.uint32(config.head_size)


def partial_rope_dimensions(config: ModelConfig) -> Pairs:
    """The part of each head that RoPE rotates; the head's size follows from the embedding's."""
    yield "rope.dimension_count", Field.uint32(int(_rotary_share(config) * (config.hidden // config.heads)))


def partial_head_dimensions(config: ModelConfig) -> Pairs:
    """The same for heads whose size config.json gives."""
    yield "rope.dimension_count", Field.uint32(int(config.head_size * _rotary_share(config)))


def _rotary_share(config: ModelConfig) -> float:
    share = finite("config.json has partial_rotary_factor", config.rope.get("partial_rotary_factor"))
    if not 0 <= share <= 1:
        raise CannotConvert(f"config.json has partial_rotary_factor = {share}, which is not between 0 and 1")
    return share


GATES = {"softmax": 1, "sigmoid": 2}
"""llama.cpp's numbers of the functions of a router."""
SIGMOID_GATE = always("expert_gating_func", Field.uint32(GATES["sigmoid"]))
_GATE_NAMES = ("score_function", "scoring_func", "score_func", "moe_router_activation", "moe_router_activation_func")


def router_function(config: ModelConfig) -> Pairs:
    name = config.find(*_GATE_NAMES)
    if name is None:
        return
    if not isinstance(name, str) or name not in GATES:
        raise CannotConvert(f"config.json has the unknown {_GATE_NAMES[1]} {shown(name)}")
    yield "expert_gating_func", Field.uint32(GATES[name])


def rope_base(config: ModelConfig) -> Pairs:
    theta = config.rope.get("rope_theta")
    if theta is not None:
        yield "rope.freq_base", Field.float32(finite("config.json has rope_theta", theta))


YARN_KEYS: Mapping[str, Sequence[str]] = {
    "rope.scaling.yarn_ext_factor": ("extrapolation_factor",),
    "rope.scaling.yarn_attn_factor": ("attention_factor", "attn_factor"),
    "rope.scaling.yarn_beta_fast": ("beta_fast",),
    "rope.scaling.yarn_beta_slow": ("beta_slow",),
}


def rope_scaling(config: ModelConfig) -> Pairs:
    """Writes nothing for `dynamic`, which changes nothing within the written context, and `llama3`, a tensor."""
    rope = config.rope
    rope_type = rope.get("rope_type")
    if rope_type in ("linear", "yarn"):
        yield "rope.scaling.type", Field.string(rope_type)
        yield "rope.scaling.factor", Field.float32(finite(f"config.json has a {rope_type} factor", rope.get("factor")))
    if rope_type == "yarn":
        original = ModelConfig(rope).count("original_max_position_embeddings")
        yield "rope.scaling.original_context_length", Field.uint32(original)
        for key, names in YARN_KEYS.items():
            value = ModelConfig(rope).optional_number(*names)
            if value is not None:
                yield key, Field.float32(value)
    if rope_type in ("longrope", "su"):
        yield "rope.scaling.type", Field.string("longrope")


FEED_FORWARD = count("feed_forward_length", "intermediate_size", "n_inner", "hidden_dim", required=True)
BASIC: tuple[Writer, ...] = (
    count("block_count", "n_layers", "num_hidden_layers", "n_layer", "num_layers", required=True),
    count(
        "context_length",
        *("max_position_embeddings", "n_ctx", "n_positions", "max_sequence_length", "model_max_length"),
        required=True,
    ),
    count("embedding_length", "hidden_size", "n_embd", required=True),
    FEED_FORWARD,
    count("attention.head_count", "num_attention_heads", "n_head", "n_heads", required=True),
    lambda config: iter([("attention.head_count_kv", Field.uint32(config.kv_heads))]),
    rope_scaling,
    rope_base,
    number("attention.layer_norm_rms_epsilon", "rms_norm_eps", "norm_eps"),
    number("attention.layer_norm_epsilon", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
    count("expert_count", "num_local_experts", "num_experts", "n_routed_experts"),
    count("expert_used_count", "num_experts_per_tok", "num_experts_per_token", "top_k_experts"),
    count("expert_group_count", "n_group"),
    count("expert_group_used_count", "topk_group"),
    router_function,
    count("attention.key_length", "head_dim"),
    count("attention.value_length", "head_dim"),
)
"""What llama.cpp's converter writes for every text model (TextModel.set_gguf_parameters)."""

VOCABULARY_SIZE = count("vocab_size", "vocab_size", required=True)


def llama3_frequencies(config: ModelConfig, default_factor: float = 8.0) -> bytes | None:
    """Divisors of the RoPE frequencies as F32, one for two numbers of a head; None if the RoPE is not `llama3`.

    Every step is rounded to 32 bits, as torch does. torch's own power is sometimes wrong in the last bit.
    """
    rope = config.rope
    if rope.get("rope_type") != "llama3":
        return None
    values = {
        key: finite(f"config.json has {key}", rope.get(key, default))
        for key, default in (
            ("rope_theta", 10000.0),
            ("factor", default_factor),
            ("low_freq_factor", 1.0),
            ("high_freq_factor", 4.0),
            ("original_max_position_embeddings", 8192),
        )
    }
    base, factor, low, high, context = values.values()
    if min(base, factor, low, context) <= 0 or high < low:
        raise CannotConvert(f"config.json has a rope scaling of the type llama3 with invalid values: {shown(values)}")
    size = config.head_size
    try:
        divisors = [_divisor(f32(base ** f32(at / size)), factor, low, high, context) for at in range(0, size, 2)]
    except (OverflowError, ZeroDivisionError):
        raise CannotConvert("config.json has a rope with frequencies outside the range of 32 bits") from None
    return struct.pack(f"<{len(divisors)}f", *divisors)


def _divisor(period: float, factor: float, low: float, high: float, context: float) -> float:
    """The divisor of the frequency 1 / `period`. torch divides a plain number by multiplying with its reciprocal."""
    wavelength = f32(f32(1 / f32(1 / period)) * f32(2 * math.pi))
    if wavelength < context / high:
        return 1.0
    if wavelength > context / low:
        return factor
    smooth = f32(f32(f32(f32(1 / wavelength) * context) - low) / f32(high - low))
    return f32(1 / f32(f32(f32(1 - smooth) / factor) + smooth))


def f32(value: float) -> float:
    """The nearest F32."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def longrope_factors(config: ModelConfig, size: int) -> dict[str, bytes]:
    """The tensors of a longrope scaling, by name. RoPE rotates `size` numbers of a head."""
    rope = config.rope
    factors = {name: rope.get(f"{name}_factor") for name in ("long", "short")}
    if not any(factors.values()):
        return {}
    tensors = {}
    for name, values in factors.items():
        if not isinstance(values, list) or 2 * len(values) != size:
            raise CannotConvert(f"config.json has no {size // 2} numbers in {name}_factor")
        numbers = [finite(f"config.json has a {name}_factor with", value) for value in values]
        tensors[f"rope_factors_{name}.weight"] = Field.array(ValueType.FLOAT32, numbers).raw[12:]
    return tensors
