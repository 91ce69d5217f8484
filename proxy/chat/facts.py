"""The input of this package besides the Jinja, and its output."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """The texts of the special tokens ("" for none), and whether the tokenizer adds BOS."""

    bos: str = ""
    eos: tuple[str, ...] = ()
    unk: str = ""
    pad: str = ""
    added: tuple[str, ...] = ()
    adds_bos: bool = False

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> "TokenizerFacts":
        return cls(
            str(value.get("bos", "")),
            tuple(map(str, value.get("eos", ()))),
            str(value.get("unk", "")),
            str(value.get("pad", "")),
            tuple(map(str, value.get("added", ()))),
            bool(value.get("adds_bos", False)),
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "bos": self.bos,
            "eos": list(self.eos),
            "unk": self.unk,
            "pad": self.pad,
            "added": list(self.added),
            "adds_bos": self.adds_bos,
        }


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A Go template for Ollama and its properties. `template` is "" if the proxy cannot write one.

    - `shapes`: for each group of conversations that the Jinja renders, whether the Go template writes the same texts.
    - `exact`: it writes the same texts for the four plain shapes and the long one.
    - `emits_bos`: the Jinja begins with BOS; `template` never does.
    - `native`: as `shapes`, for llama.cpp's own server with the Jinja; only the plain shapes, the long one, and how a
      request sets `think`.
    - `loads`: this server starts with the Jinja.
    - `trims`: the Jinja strips whitespace from the ends of messages; `template` does not.
    - `sample`: a conversation as the Jinja renders it, with BOS; "" if it renders none.
    """

    template: str = ""
    stops: tuple[str, ...] = ()
    end_of_turn: str = ""
    capabilities: frozenset[str] = frozenset()
    exact: bool = False
    shapes: Mapping[str, bool] = field(default_factory=dict)
    emits_bos: bool = False
    think_tags: tuple[str, str] | None = None
    warnings: tuple[str, ...] = ()
    native: Mapping[str, bool] = field(default_factory=dict)
    loads: bool = True
    trims: bool = False
    sample: str = ""

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> "ChatTemplate":
        tags = value["think_tags"]
        return cls(
            value["template"],
            tuple(value["stops"]),
            value["end_of_turn"],
            frozenset(value["capabilities"]),
            value["exact"],
            dict(value["shapes"]),
            value["emits_bos"],
            (tags[0], tags[1]) if tags else None,
            tuple(value["warnings"]),
            dict(value["native"]),
            value["loads"],
            value["trims"],
            value["sample"],
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "template": self.template,
            "stops": list(self.stops),
            "end_of_turn": self.end_of_turn,
            "capabilities": sorted(self.capabilities),
            "exact": self.exact,
            "shapes": dict(self.shapes),
            "emits_bos": self.emits_bos,
            "think_tags": list(self.think_tags) if self.think_tags else None,
            "warnings": list(self.warnings),
            "native": dict(self.native),
            "loads": self.loads,
            "trims": self.trims,
            "sample": self.sample,
        }
