"""A model's config.json, read key by key. A missing, odd or unknown value is refused by its name. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.gguf.tensors import GgufError, shown

MAX_BLOCKS = 512
"""llama.cpp's LLAMA_MAX_LAYERS; a hostile config could claim billions."""


ROPE_PREFIX, LOCAL_ROPE_PREFIX = "rope_parameters.", "rope_parameters.sliding_attention."
"""Put before a RoPE's keys in `ModelConfig.read_keys`."""


class CannotConvert(GgufError):
    """The repository cannot become a GGUF; the text names the unknown key, tensor or pre-tokenizer."""


class CannotKeep(CannotConvert):
    """Matrices cannot stay in the type that the repository has them in; the text gives the reason."""


class Rope(Mapping[str, Any]):
    """A RoPE's parameters. Each key that is read is added to `read_keys`, after `prefix`."""

    def __init__(self, fields: Mapping[str, Any], read_keys: set[str], prefix: str) -> None:
        self.fields = fields
        self._read_keys = read_keys
        self._prefix = prefix

    def __getitem__(self, key: str) -> Any:
        self._read_keys.add(self._prefix + key)
        return self.fields[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """`fields` are config.json's over the family's defaults; a key that is null is present, but has no value."""

    fields: Mapping[str, Any]
    read_keys: set[str] = field(default_factory=set, compare=False)
    """The keys that were read so far; those of its RoPEs stand after ROPE_PREFIX and LOCAL_ROPE_PREFIX."""

    def find(self, *keys: str) -> Any:
        """The value of the first key that is present; None if no key is present, or if this one is null."""
        self.read_keys.update(keys)
        present = [key for key in keys if key in self.fields]
        return self.fields[present[0]] if present else None

    def count(self, *keys: str) -> int:
        value = self.optional_count(*keys)
        if value is None:
            raise CannotConvert(f"config.json has no {keys[0]}")
        return value

    def optional_count(self, *keys: str) -> int | None:
        value = as_integer(self.find(*keys))
        if value is not None and (type(value) is not int or not 0 <= value < 1 << 32):
            raise CannotConvert(f"config.json has {keys[0]} = {shown(value)}, which is not a count")
        return value

    def positive(self, *keys: str) -> int:
        value = self.count(*keys)
        if value == 0:
            raise CannotConvert(f"config.json has {keys[0]} = 0, which must be positive")
        return value

    def number(self, *keys: str) -> float:
        value = self.optional_number(*keys)
        if value is None:
            raise CannotConvert(f"config.json has no {keys[0]}")
        return value

    def optional_number(self, *keys: str) -> float | None:
        value = self.find(*keys)
        return None if value is None else finite(f"config.json has {keys[0]}", value)

    def flag(self, key: str, default: bool) -> bool:
        self.read_keys.add(key)
        value = self.fields.get(key, default)
        if type(value) is not bool:
            raise CannotConvert(f"config.json has {key} = {shown(value)}, which is neither true nor false")
        return value

    @property
    def blocks(self) -> int:
        names, layer_types = ("n_layers", "num_hidden_layers", "n_layer", "num_layers"), self.find("layers_block_type")
        # transformers 5 writes no number of layers for Nemotron-H, only the type of each layer.
        only_types = isinstance(layer_types, list) and layer_types and self.find(*names) is None
        blocks = len(layer_types) if only_types else self.positive(*names)
        if blocks > MAX_BLOCKS:
            raise CannotConvert(f"config.json has num_hidden_layers = {blocks}, more than any model has")
        return blocks

    @property
    def hidden(self) -> int:
        return self.positive("hidden_size", "n_embd", "n_embed", "d_model")

    @property
    def heads(self) -> int:
        return self.positive("num_attention_heads", "n_head", "n_heads")

    @property
    def kv_heads(self) -> int:
        return self.optional_count("num_key_value_heads", "n_kv_heads") or self.heads

    @property
    def head_size(self) -> int:
        size = self.optional_count("head_dim")
        return self.hidden // self.heads if size is None else size

    @property
    def tied(self) -> bool:
        """If true, transformers uses the embeddings as the output too, whatever the weights hold."""
        return self.flag("tie_word_embeddings", default=False)

    @property
    def rope(self) -> Rope:
        """The RoPE parameters in one mapping: newer configs have `rope_parameters`, older ones two or three keys."""
        written = self._written_rope
        if not isinstance(written, dict):
            raise CannotConvert(f"config.json has rope_scaling = {shown(written)}, which is not an object")
        rope = dict(_rope_of(written, "full_attention") if _LAYER_TYPES & written.keys() else written)
        if rope.get("rope_type") is None and rope.get("type") is not None:
            rope["rope_type"] = rope["type"]
        for key, names in _ROPE_KEYS.items():
            value = self.find(*names)
            if key not in rope and value is not None:
                rope[key] = value
        if rope.get("rope_type") in _SCALED_FROM_CONTEXT:
            rope.setdefault("original_max_position_embeddings", self.find("max_position_embeddings"))
        return Rope(rope, self.read_keys, ROPE_PREFIX)

    @property
    def _written_rope(self) -> Any:
        """The older key wins over the newer one, as in transformers 5."""
        older, newer = self.find("rope_scaling"), self.find("rope_parameters")
        return older or newer or {}

    @property
    def local_rope(self) -> Rope:
        """The RoPE of layers with a sliding window; empty if config.json has one RoPE for all layers."""
        written = self._written_rope
        has_local = isinstance(written, dict) and written.get("sliding_attention") is not None
        return Rope(_rope_of(written, "sliding_attention") if has_local else {}, self.read_keys, LOCAL_ROPE_PREFIX)

    @property
    def has_two_ropes(self) -> bool:
        """Whether layers with a sliding window have another RoPE than the rest."""
        ropes = self._written_rope if isinstance(self._written_rope, dict) else {}
        return ropes.get("sliding_attention") not in (None, ropes.get("full_attention"))


_LAYER_TYPES = {"full_attention", "sliding_attention"}
_MAX_F32 = 3e38
_SCALED_FROM_CONTEXT = ("yarn", "longrope", "llama3")
"""RoPE types for which `original_max_position_embeddings` defaults to `max_position_embeddings` in transformers."""
_ROPE_KEYS: Mapping[str, Sequence[str]] = {
    "rope_theta": ("global_rope_theta", "rope_theta", "rotary_emb_base"),
    "partial_rotary_factor": ("partial_rotary_factor", "rope_pct", "rope_percent", "rotary_pct"),
    "original_max_position_embeddings": ("original_max_position_embeddings",),
}


def _rope_of(ropes: Mapping[str, Any], layer_type: str) -> Mapping[str, Any]:
    rope = ropes.get(layer_type)
    if not isinstance(rope, dict):
        raise CannotConvert(f"config.json has no rope_parameters for {layer_type}")
    return rope


def as_integer(value: object) -> object:
    """An integer for a float without a fraction, such as 2048.0; any other value unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def finite(what: str, value: object) -> float:
    """`value` unchanged; an integer stays one. Raises CannotConvert if it is not a number within F32."""
    if type(value) not in (int, float) or not abs(value) <= _MAX_F32:  # type: ignore[arg-type]
        raise CannotConvert(f"{what} = {shown(value)}, which is not a number")
    return value  # type: ignore[return-value]
