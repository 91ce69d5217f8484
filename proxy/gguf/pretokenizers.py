"""How a byte-level BPE cuts a text before it merges: which of llama.cpp's ways a tokenizer.json's is. Pure.

llama.cpp's converter knows a pre-tokenizer by the hash of token numbers, which a new vocabulary changes. Here its
structure decides: its steps with every setting that has an effect, and whether a whole word is taken before any
merge, which llama.cpp goes by the name too. What is not known is refused: Ollama would cut by its default.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from proxy.gguf.config import CannotConvert
from proxy.gguf.tensors import shown

Fingerprint = tuple[object, ...]

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_CONTRACTIONS_IN_FULL = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_CASED_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"


def _spelled(digits: str) -> list[str]:
    """Llama 3's pattern and its like, in both ways of writing contractions."""
    return [f"{head}{_WORD}|{digits}{_TAIL}" for head in (_CONTRACTIONS, _CONTRACTIONS_IN_FULL)]


def _split(*patterns: str) -> Fingerprint:
    return (*(("Split", pattern, "Isolated", False) for pattern in patterns), ("ByteLevel", False))


_LETTERS_AND_MARKS = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
_WORDS = ("ByteLevel", True)
_DIGITS_ONE_BY_ONE = ("Digits", True)

KNOWN: Mapping[tuple[Fingerprint, bool], str] = {
    **{(_split(pattern), True): "llama-bpe" for pattern in _spelled(r"\p{N}{1,3}")},
    **{(_split(pattern), False): "smaug-bpe" for pattern in _spelled(r"\p{N}{1,3}")},
    **{(_split(pattern), False): "qwen2" for pattern in _spelled(r"\p{N}")},
    (
        _split(
            f"{_CONTRACTIONS}|{_BEFORE}[\\p{{L}}\\p{{M}}]+|\\p{{N}}"
            r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        False,
    ): "qwen35",
    (_split(f"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\\p{{N}}{_CASED_TAIL}"), True): "tekken",
    (
        _split(
            f"{_BEFORE}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_BEFORE}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
            f"|\\p{{N}}{{1,3}}{_CASED_TAIL}"
        ),
        False,
    ): "gpt-4o",
    (
        _split(
            r"\p{N}{1,3}",
            "[一-龥\u3040-ゟ゠-ヿ]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
            "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
        ),
        False,
    ): "deepseek-v3",
    (
        _split("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+")[:-1]
        + (_DIGITS_ONE_BY_ONE, ("ByteLevel", False)),
        False,
    ): "deepseek-coder",
    ((_WORDS,), False): "gpt-2",
    ((_DIGITS_ONE_BY_ONE, _WORDS), False): "smollm",
}
"""The name by the steps and by `ignore_merges`. Names that mean the same to llama.cpp have one here."""


def name_pre_tokenizer(tokenizer: Mapping[str, Any]) -> str:
    """What `tokenizer.ggml.pre` has to be for this tokenizer.json. Raises CannotConvert for an unknown one."""
    _check_normalizer(tokenizer.get("normalizer"))
    model = tokenizer.get("model")
    ignores_merges = isinstance(model, dict) and model.get("ignore_merges") is True
    steps = tuple(_steps(tokenizer.get("pre_tokenizer")))
    name = KNOWN.get((steps, ignores_merges))
    if name is None:
        raise CannotConvert(
            f"tokenizer.json has a pre-tokenizer that is not known: {shown(steps)}"
            f"{', which takes whole words before merges' if ignores_merges else ''}"
        )
    return name


def _check_normalizer(normalizer: object) -> None:
    """llama.cpp has none for this kind; it goes without NFC, which changes only texts that are not composed."""
    parts: Sequence[object] = [normalizer]
    if isinstance(normalizer, dict) and normalizer.get("type") == "Sequence":
        parts = normalizer.get("normalizers") or []
        if not isinstance(parts, list):
            raise CannotConvert(f"tokenizer.json has the unknown normalizer {shown(normalizer)}")
    for part in parts:
        if part is not None and not (isinstance(part, dict) and part.get("type") == "NFC"):
            raise CannotConvert(f"tokenizer.json has the unknown normalizer {shown(part)}")


def _steps(pre_tokenizer: object) -> list[object]:
    if not isinstance(pre_tokenizer, dict):
        raise CannotConvert(f"tokenizer.json has the pre-tokenizer {shown(pre_tokenizer)}")
    if pre_tokenizer.get("type") != "Sequence":
        return [_step(pre_tokenizer)]
    parts = pre_tokenizer.get("pretokenizers")
    if not isinstance(parts, list):
        raise CannotConvert(f"tokenizer.json has the pre-tokenizer {shown(pre_tokenizer)}")
    return [_step(part) for part in parts]


def _step(part: object) -> object:
    """One step; `trim_offsets` has no effect on tokens."""
    fields: Mapping[str, Any] = part if isinstance(part, dict) else {}
    match fields:
        case {"type": "Split", "pattern": {"Regex": str() as text}, "behavior": str() as behavior}:
            return "Split", text, behavior, fields.get("invert") is True
        case {"type": "Digits"}:
            return "Digits", fields.get("individual_digits") is True
        case {"type": "ByteLevel"} if fields.get("add_prefix_space") is not True:
            return "ByteLevel", fields.get("use_regex", True) is True
    raise CannotConvert(f"tokenizer.json has a pre-tokenizer that is not known: {shown(part)}")
