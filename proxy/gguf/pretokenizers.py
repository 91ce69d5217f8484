"""How a byte-level BPE cuts a text before it merges: which of llama.cpp's ways a tokenizer.json's is. Pure.

llama.cpp's converter knows a pre-tokenizer by the hash of token numbers, which a new vocabulary changes. Here its
structure decides: its steps with every setting that has an effect, and whether a whole word is taken before any
merge, which llama.cpp goes by the name too. What is not known is refused: Ollama would cut by its default.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
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


def _split(*patterns: str, last: Fingerprint = ()) -> Fingerprint:
    return (*(("Split", pattern, "Isolated", False) for pattern in patterns), *last, ("ByteLevel", False))


def _matched(pattern: str) -> list[Fingerprint]:
    """A pattern that leaves nothing of a text, in both ways of writing that its matches are the parts."""
    return [_split(pattern), (("Split", pattern, "Removed", True), ("ByteLevel", False))]


CASED_LETTERS = (
    "\\s?[A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481"
    "\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf"
    "\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d"
    "\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-"
    "\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113"
    "\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149"
    "\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
    "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
    "\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-"
    "\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+"
)
_WORDS = ("ByteLevel", True)
_DIGITS_ONE_BY_ONE = ("Digits", True)

_ONE_BY_ONE, _THREES = _spelled(r"\p{N}"), _spelled(r"\p{N}{1,3}")
_QWEN35 = (
    f"{_CONTRACTIONS}|{_BEFORE}[\\p{{L}}\\p{{M}}]+|\\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = f"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\\p{{N}}{_CASED_TAIL}"
_GPT_4O = (
    f"{_BEFORE}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_BEFORE}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    f"|\\p{{N}}{{1,3}}{_CASED_TAIL}"
)
_SEED = (
    f"{_CONTRACTIONS}|[^\r\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|\\p{{N}}{{1}}"
    "| ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)

KNOWN: Mapping[tuple[Fingerprint, bool], str] = {
    **{(cut, True): "llama-bpe" for pattern in _THREES for cut in _matched(pattern)},
    **{(cut, False): "smaug-bpe" for pattern in _THREES for cut in _matched(pattern)},
    **{(cut, False): "qwen2" for pattern in _ONE_BY_ONE for cut in _matched(pattern)},
    **{(cut, False): "qwen35" for cut in _matched(_QWEN35)},
    **{(cut, True): "tekken" for cut in _matched(_TEKKEN)},
    **{(cut, False): "gpt-4o" for cut in _matched(_GPT_4O)},
    **{(cut, False): "seed-coder" for cut in _matched(_SEED)},
    (
        _split(
            r"\p{N}{1,3}",
            "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
            "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
        ),
        False,
    ): "deepseek-v3",
    **{
        ((("Split", r"(?:\r?\n)+(?!\r?\n)", "MergedWithNext", False), *_split(pattern)), False): "laguna"
        for pattern in _ONE_BY_ONE
    },
    (
        _split(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
        ),
        False,
    ): "bailingmoe",
    (
        _split(
            "[\r\n]",
            CASED_LETTERS,
            "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            r"\s+$",
            "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
            last=(_DIGITS_ONE_BY_ONE,),
        ),
        False,
    ): "deepseek-llm",
    (
        _split(
            "[\r\n]",
            r"\s?\p{L}+",
            r"\s?\p{P}+",
            "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
            last=(_DIGITS_ONE_BY_ONE,),
        ),
        False,
    ): "deepseek-coder",
    (
        (("Punctuation", "Contiguous"), _WORDS, ("Digits", False), ("Split", "[0-9][0-9][0-9]", "Isolated", False)),
        False,
    ): "falcon",
    (_split(" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"), False): "bloom",
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
    name, other = (KNOWN.get((steps, ignores)) for ignores in (ignores_merges, not ignores_merges))
    if name is None and other is not None and _merges_make_all(tokenizer):
        name = other
    if name is None:
        raise CannotConvert(
            f"tokenizer.json has a pre-tokenizer that is not known: {shown(steps)}"
            f"{', which takes whole words before merges' if ignores_merges else ''}"
        )
    if (joins := _JOINS.get(name)) and any(map(joins, _vocabulary(model))):
        raise CannotConvert("tokenizer.json has a pre-tokenizer that cuts at digits, and tokens that join what it cuts")
    return name


def _vocabulary(model: object) -> Mapping[str, Any]:
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    return vocabulary if isinstance(vocabulary, dict) else {}


_LONGEST = 128
"""Characters of a token whose merges are followed; o200k's longest has so many spaces."""


def _merges_make_all(tokenizer: Mapping[str, Any]) -> bool:
    """Whether every token is what its own text is merged to: then it changes nothing to take whole words first.

    Added tokens are found in a text before that.
    """
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
    merges = model.get("merges") if isinstance(model, dict) else None
    ranks: dict[tuple[str, str], int] = {}
    for merge in merges if isinstance(merges, list) else []:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):  # noqa: PLR2004
            return False
        ranks.setdefault((pair[0], pair[1]), len(ranks))
    found = {token.get("content") for token in added if isinstance(token, dict)} if isinstance(added, list) else set()
    tokens = _vocabulary(model).keys() - found
    return all(len(token) <= _LONGEST and _merge_whole(token, ranks) for token in tokens)


def _merge_whole(token: str, ranks: Mapping[tuple[str, str], int]) -> bool:
    parts, never = list(token), len(ranks)
    order = [ranks.get(pair, never) for pair in pairwise(parts)]
    while order:
        first = min(order)
        if first == never:
            return False
        at = order.index(first)
        del order[at]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        for changed in range(max(at - 1, 0), min(at + 1, len(order))):
            order[changed] = ranks.get((parts[changed], parts[changed + 1]), never)
    return True


_PRINTED = (*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = (byte for byte in range(256) if byte not in _PRINTED)
BYTES = {chr(byte): byte for byte in _PRINTED} | {chr(256 + at): byte for at, byte in enumerate(_OTHERS)}
"""By the character that stands for each in byte-level BPE."""
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


def _joins_digits(token: str) -> bool:
    text = bytes(BYTES[part] for part in token if part in BYTES).decode(errors="replace")
    return len(text) > 1 and {unicodedata.category(part)[0] for part in text if part != _UNFINISHED} == {"N"}


def _joins_digits_to_others(token: str) -> bool:
    return any(map(str.isnumeric, token)) and not token.isnumeric()


_JOINS: Mapping[str, Callable[[str], bool]] = {
    "deepseek-llm": _joins_digits,
    "falcon": _joins_digits_to_others,
}
"""Tokens that llama.cpp makes and these never do. DeepSeek's first models cut between digits, llama.cpp around all;
Falcon cuts around digits, and takes for one what stands for a byte and looks like it (`\u00bc`), llama.cpp does not.
"""


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
        case {"type": "Punctuation"}:
            return "Punctuation", fields.get("behavior", "Isolated")
        case {"type": "Digits"}:
            return "Digits", fields.get("individual_digits") is True
        case {"type": "ByteLevel"} if fields.get("add_prefix_space") is not True:
            return "ByteLevel", fields.get("use_regex", True) is True
    raise CannotConvert(f"tokenizer.json has a pre-tokenizer that is not known: {shown(part)}")
