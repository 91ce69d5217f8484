"""A model's config.json, read key by key: what is missing, odd or unknown is refused by its name. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.gguf.tensors import GgufError, shown

MOST_BLOCKS = 512
"""llama.cpp's LLAMA_MAX_LAYERS; a hostile config could claim billions."""


ROPE, LOCAL_ROPE = "rope_parameters.", "rope_parameters.sliding_attention."
"""How a key of a rope begins among those that were asked for."""


class CannotConvert(GgufError):
    """A repository of which no GGUF can be made; the text names the key, tensor or pre-tokenizer that is unknown."""


class Rope(Mapping[str, Any]):
    """The parameters of a rope, which add to `asked` each key that they are asked for, after `begin`."""

    def __init__(self, fields: Mapping[str, Any], asked: set[str], begin: str) -> None:
        self.fields = fields
        self._asked = asked
        self._begin = begin

    def __getitem__(self, key: str) -> Any:
        self._asked.add(self._begin + key)
        return self.fields[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """`fields` are config.json's over the family's defaults; a key that is null counts as there, but has no value."""

    fields: Mapping[str, Any]
    asked: set[str] = field(default_factory=set, compare=False)
    """The keys that were asked for so far, those of its ropes after ROPE and LOCAL_ROPE."""

    def find(self, *keys: str) -> Any:
        """The value of the first of the keys that is there; None where none is, or where it is null."""
        self.asked.update(keys)
        there = [key for key in keys if key in self.fields]
        return self.fields[there[0]] if there else None

    def count(self, *keys: str) -> int:
        value = self.optional_count(*keys)
        if value is None:
            raise CannotConvert(f"config.json has no {keys[0]}")
        return value

    def optional_count(self, *keys: str) -> int | None:
        value = whole(self.find(*keys))
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
        self.asked.add(key)
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
    def rope(self) -> Rope:
        """The rope's parameters under one roof: newer configs have `rope_parameters`, older ones two or three keys."""
        given = self._rope
        if not isinstance(given, dict):
            raise CannotConvert(f"config.json has rope_scaling = {shown(given)}")
        rope = dict(_rope_of(given, "full_attention") if _KINDS & given.keys() else given)
        if rope.get("rope_type") is None and rope.get("type") is not None:
            rope["rope_type"] = rope["type"]
        for key, names in _ROPE_KEYS.items():
            value = self.find(*names)
            if key not in rope and value is not None:
                rope[key] = value
        if rope.get("rope_type") in _OF_A_CONTEXT:
            rope.setdefault("original_max_position_embeddings", self.find("max_position_embeddings"))
        return Rope(rope, self.asked, ROPE)

    @property
    def _rope(self) -> Any:
        """As transformers 5 has it: what older files have goes before."""
        older, newer = self.find("rope_scaling"), self.find("rope_parameters")
        return older or newer or {}

    @property
    def local_rope(self) -> Rope:
        """That of the layers that see a window only, where config.json has one for each kind of layer."""
        given = self._rope
        is_told = isinstance(given, dict) and given.get("sliding_attention") is not None
        return Rope(_rope_of(given, "sliding_attention") if is_told else {}, self.asked, LOCAL_ROPE)

    @property
    def has_two_ropes(self) -> bool:
        """Whether the layers that see a window only have another rope than the others."""
        ropes = self._rope if isinstance(self._rope, dict) else {}
        return ropes.get("sliding_attention") not in (None, ropes.get("full_attention"))


_KINDS = {"full_attention", "sliding_attention"}
_LARGEST = 3e38
_OF_A_CONTEXT = ("yarn", "longrope", "llama3")
"""Kinds of rope for which transformers takes `max_position_embeddings` where the original ones are not told."""
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


def whole(value: object) -> object:
    """A whole number that is written as a float, such as 2048.0, as an integer; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def finite(what: str, value: object) -> float:
    """A number that fits into 32 bits, as it is: an integer stays one."""
    if type(value) not in (int, float) or not abs(value) <= _LARGEST:  # type: ignore[arg-type]
        raise CannotConvert(f"{what} = {shown(value)}, which is no number")
    return value  # type: ignore[return-value]
