"""The `general.*` texts of a GGUF, from the repository's name. Pure.

The keys are those of llama.cpp's converter.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from proxy.gguf.header import Field
from proxy.gguf.tensors import TensorInfo


def describe(name: str, parameters: int, size_label: str) -> dict[str, Field]:
    """`name` is the repository's, without its owner. `size_label` is written if the name has no size."""
    parts = _Name.read(name, parameters)
    texts = {
        "name": parts.title,
        "version": parts.version,
        "finetune": parts.finetune,
        "basename": parts.basename,
        "size_label": parts.size or size_label,
    }
    return {f"general.{key}": Field.string(text) for key, text in texts.items() if text is not None}


_VERSION = re.compile(r"(?:v|iter)?\d+(?:\.\d+)*", re.IGNORECASE)
_TYPE = re.compile(r"i?q\d(?:_\w)*|b?fp?(?:16|32)", re.IGNORECASE)
_SIZE = re.compile(r"(?:A|\d+x)?\d+(?:[._]\d+)?[KMBT]\d?|small|mini|medium|large|x?xl", re.IGNORECASE)
_FINETUNE = re.compile(r"chat|instruct|vision|lora", re.IGNORECASE)
_SMALL_NUMBER = re.compile(r"v\d+(?:\.\d+)*|\d.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Name:
    """The parts of a name such as Mistral-7B-Instruct-v0.3."""

    title: str
    basename: str | None = None
    finetune: str | None = None
    version: str | None = None
    size: str | None = None

    @classmethod
    def read(cls, name: str, parameters: int) -> "_Name":
        """`parameters` is the model's count: a size far from it is the length of a context."""
        if " " in name:
            return cls(name)
        parts = [_classify(part, at, parameters) for at, part in enumerate(filter(None, name.split("-")))]
        if any(kind == "size" and re.search(r"\d", part) for part, kind in parts):
            parts = [(part, "" if kind == "size" and part.isalpha() else kind) for part, kind in parts]
        is_base = (kind == "version" or (not kind and part[0].isalpha()) for part, kind in parts)
        base = next((at for at, in_base in enumerate(is_base) if not in_base), len(parts))
        if base == len(parts):
            base -= sum(1 for _ in takewhile(lambda part: part[1] == "version", reversed(parts)))

        def joined(*kinds: str) -> str | None:
            return "-".join(part for part, kind in parts[base:] if kind in kinds) or None

        size = "-".join(dict.fromkeys(part for part, kind in parts if kind == "size")) or None
        finetune, version = joined("finetune", ""), joined("version")
        basename = "-".join(part for part, _ in parts[:base]) if size or finetune or version else ""
        return cls(_title(name), basename or None, finetune, version, size)


def _title(name: str) -> str:
    words = name.replace("-", " ").split()
    return " ".join(word.title() if word.islower() and not _SMALL_NUMBER.fullmatch(word) else word for word in words)


def _classify(part: str, at: int, parameters: int) -> tuple[str, str]:
    """The part as it is written, and its kind; "" if only its position decides."""
    if _VERSION.fullmatch(part):
        return part, "version"
    if _TYPE.fullmatch(part):
        return part, "type"
    if at and _SIZE.fullmatch(part):
        return _size(part.replace("_", "."), parameters)
    return part, "finetune" if at and _FINETUNE.fullmatch(part) else ""


def _size(part: str, parameters: int) -> tuple[str, str]:
    if part[-1].isdecimal():  # 7b1 means 7.1b
        part = f"{part[:-2]}.{part[-1]}{part[-2]}"
    if part[-2].isdecimal():
        part = part[:-1] + part[-1].upper()
    try:
        count = float(part[:-1]) * 1000.0 ** " KMBT".find(part[-1])
    except ValueError:
        return part, "size"
    if parameters and abs(count - parameters) > 7 * parameters // 8:
        return part[:-1] + part[-1].lower(), "finetune"
    return part, "size"


def size_label(infos: Sequence[TensorInfo]) -> str:
    """Such as `1.2B`, or `8x1.2B` with 8 experts: 1.2B counts one expert and all shared tensors."""
    shared = expert = experts = stacks = 0
    for info in infos:
        size = info.numbers
        if "_exps." in info.name and len(info.shape) > 1:
            expert += size // info.shape[-1]
            experts += info.shape[-1]
            stacks += 1
        else:
            shared += size
    label = _rounded(shared + expert)
    return f"{experts // stacks}x{label}" if stacks else label


def _rounded(parameters: int) -> str:
    for limit, factor, suffix in ((1e12, 1e-12, "T"), (1e9, 1e-9, "B"), (1e6, 1e-6, "M"), (-1.0, 1e-3, "K")):
        if parameters > limit:
            value = parameters * factor
            digits = max(2 - len(str(round(value)).lstrip("0")), 0)
            return f"{value:.{digits}f}{suffix}"
    raise AssertionError
