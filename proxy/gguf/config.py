"""A model's config.json, read key by key: what is missing, odd or unknown is refused by its name. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.gguf.tensors import GgufError, shown

MOST_BLOCKS = 512
"""llama.cpp's LLAMA_MAX_LAYERS; a hostile config could claim billions."""


class CannotConvert(GgufError):
    """A repository of which no GGUF can be made; the text names the key, tensor or pre-tokenizer that is unknown."""


@dataclass(frozen=True, slots=True)
class Config:
    """`fields` are config.json's over the family's defaults; a key that is null counts as there, but has no value."""

    fields: Mapping[str, Any]

    def find(self, *keys: str) -> Any:
        """The value of the first of the keys that is there; None where none is, or where it is null."""
        return next((self.fields[key] for key in keys if key in self.fields), None)

    def count(self, *keys: str) -> int:
        value = self.optional_count(*keys)
        if value is None:
            raise CannotConvert(f"config.json has no {keys[0]}")
        return value

    def optional_count(self, *keys: str) -> int | None:
        value = self.find(*keys)
        if value is not None and (type(value) is not int or not 0 <= value < 1 << 32):
            raise CannotConvert(f"config.json has {keys[0]} = {shown(value)}, which is no count")
        return value

    def positive(self, *keys: str) -> int:
        value = self.count(*keys)
        if value == 0:
            raise CannotConvert(f"config.json has {keys[0]} = 0")
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
        value = self.fields.get(key, default)
        if type(value) is not bool:
            raise CannotConvert(f"config.json has {key} = {shown(value)}, which is neither true nor false")
        return value

    @property
    def blocks(self) -> int:
        names, kinds = ("n_layers", "num_hidden_layers", "n_layer", "num_layers"), self.find("layers_block_type")
        # Of Nemotron-H transformers 5 writes no other number of layers.
        told = isinstance(kinds, list) and kinds and self.find(*names) is None
        blocks = len(kinds) if told else self.positive(*names)
        if blocks > MOST_BLOCKS:
            raise CannotConvert(f"config.json has num_hidden_layers = {blocks}, more than any model has")
        return blocks

    @property
    def hidden(self) -> int:
        return self.positive("hidden_size", "n_embd", "n_embed")

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
        """Then transformers takes the embeddings for the output too, whatever the weights hold."""
        return self.flag("tie_word_embeddings", default=False)

    @property
    def rope(self) -> Mapping[str, Any]:
        """The rope's parameters under one roof: newer configs have `rope_parameters`, older ones two or three keys."""
        given = self.find("rope_parameters", "rope_scaling") or {}
        if not isinstance(given, dict):
            raise CannotConvert(f"config.json has rope_scaling = {shown(given)}")
        if _KINDS & given.keys():
            return _rope_of(given, "full_attention")
        rope = dict(given)
        if rope.get("rope_type") is None and rope.get("type") is not None:
            rope["rope_type"] = rope["type"]
        for key, names in _ROPE_KEYS.items():
            value = self.find(*names)
            if key not in rope and value is not None:
                rope[key] = value
        return rope

    @property
    def local_rope(self) -> Mapping[str, Any]:
        """That of the layers that see a window only, where config.json has one for each kind of layer."""
        given = self.find("rope_parameters", "rope_scaling")
        is_told = isinstance(given, dict) and given.get("sliding_attention") is not None
        return _rope_of(given, "sliding_attention") if is_told else {}


_KINDS = {"full_attention", "sliding_attention"}
_LARGEST = 3e38
_ROPE_KEYS: Mapping[str, Sequence[str]] = {
    "rope_theta": ("global_rope_theta", "rope_theta", "rotary_emb_base"),
    "partial_rotary_factor": ("partial_rotary_factor", "rope_pct", "rope_percent", "rotary_pct"),
    "original_max_position_embeddings": ("original_max_position_embeddings",),
}


def _rope_of(ropes: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    rope = ropes.get(kind)
    if not isinstance(rope, dict):
        raise CannotConvert(f"config.json has no rope_parameters for {kind}")
    return rope


def finite(what: str, value: object) -> float:
    """A number that fits into 32 bits, as it is: an integer stays one."""
    if type(value) not in (int, float) or not abs(value) <= _LARGEST:  # type: ignore[arg-type]
        raise CannotConvert(f"{what} = {shown(value)}, which is no number")
    return value  # type: ignore[return-value]
