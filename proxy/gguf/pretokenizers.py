"""Finds llama.cpp's name for the pre-tokenizer of a byte-level BPE, which splits a text before any merge. Pure.

llama.cpp's converter recognizes a pre-tokenizer by a hash of token ids, which a new vocabulary changes. Here the
structure decides: each step with every setting that has an effect, and `ignore_merges` (a whole word in the vocabulary
is one token without merges), which llama.cpp derives from the name too. An unknown pre-tokenizer is refused, because
Ollama would use its default.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from proxy.gguf.model_config import CannotConvert
from proxy.gguf.tensors import shown

Fingerprint = tuple[object, ...]

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_CONTRACTIONS_IN_FULL = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_CASED_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LEADING = r"[^\r\n\p{L}\p{N}]?"


def spaces_by_powers() -> str:
    """The pattern of Jais 2 for several spaces: as many as a power of two are one part."""
    counts = [f"{{{2**power}}}" for power in range(9, 1, -1)] + ["{1,2}"]
    return "|".join(rf"\s{count}(?!\S)" for count in counts) + r"|\s{1}"


def _with_contractions(digits: str) -> list[str]:
    """Patterns like Llama 3's, with contractions written in each of two ways."""
    return [f"{head}{_WORD}|{digits}{_TAIL}" for head in (_CONTRACTIONS, _CONTRACTIONS_IN_FULL)]


def _split(*patterns: str, last: Fingerprint = ()) -> Fingerprint:
    return (*(("Split", pattern, "Isolated", False) for pattern in patterns), *last, ("ByteLevel", False))


def _matched(pattern: str) -> list[Fingerprint]:
    """Two ways to write that the matches of a pattern, which covers every text, are the parts."""
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
_BYTE_LEVEL_WORDS = ("ByteLevel", True)
_INDIVIDUAL_DIGITS = ("Digits", True)

_SINGLE_DIGITS, _DIGIT_TRIPLES = _with_contractions(r"\p{N}"), _with_contractions(r"\p{N}{1,3}")
_JAIS_2 = _DIGIT_TRIPLES[0].removesuffix(r"\s+(?!\S)|\s+") + spaces_by_powers()
_QWEN35 = (
    f"{_CONTRACTIONS}|{_LEADING}[\\p{{L}}\\p{{M}}]+|\\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = f"{_LEADING}{_UPPER}*{_LOWER}+|{_LEADING}{_UPPER}+{_LOWER}*|\\p{{N}}{_CASED_TAIL}"
_GPT_4O = (
    f"{_LEADING}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_LEADING}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    f"|\\p{{N}}{{1,3}}{_CASED_TAIL}"
)
_RIGHT_TRIPLES = r"\d{1,3}(?=(?:\d{3})*\b)"
"""Groups of three digits, counted from the end of a number."""
_SEED = (
    f"{_CONTRACTIONS}|[^\r\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|\\p{{N}}{{1}}"
    "| ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
_EXAONE_MOE = (
    f"{_CONTRACTIONS}|{_LEADING}(?:\\p{{L}}\\p{{M}}*(?: \\p{{L}}\\p{{M}}*)*)+|\\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
_WITHOUT_HAN = r"&&[^\p{Han}]]"
_KIMI_UPPER, _KIMI_LOWER = (letters.removesuffix("]") + _WITHOUT_HAN for letters in (_UPPER, _LOWER))
_KIMI = (
    f"[\\p{{Han}}]+|{_LEADING}{_KIMI_UPPER}*{_KIMI_LOWER}+{_CONTRACTIONS}?"
    f"|{_LEADING}{_KIMI_UPPER}+{_KIMI_LOWER}*{_CONTRACTIONS}?|\\p{{N}}{{1,3}}{_TAIL}"
)

PRE_TOKENIZER_NAMES: Mapping[tuple[Fingerprint, bool], str] = {
    **{(steps, True): "llama-bpe" for pattern in _DIGIT_TRIPLES for steps in _matched(pattern)},
    **{(steps, False): "smaug-bpe" for pattern in _DIGIT_TRIPLES for steps in _matched(pattern)},
    **{(steps, False): "qwen2" for pattern in _SINGLE_DIGITS for steps in _matched(pattern)},
    **{(steps, False): "qwen35" for steps in _matched(_QWEN35)},
    **{(steps, True): "tekken" for steps in _matched(_TEKKEN)},
    **{(steps, False): "gpt-4o" for steps in _matched(_GPT_4O)},
    (_split(_KIMI), False): "kimi-k2",
    **{(steps, False): "jais-2" for steps in _matched(_JAIS_2)},
    (_split(_RIGHT_TRIPLES, _GPT_4O), False): "tiny_aya",
    **{(steps, False): "exaone-moe" for steps in _matched(_EXAONE_MOE)},
    **{(steps, False): "seed-coder" for steps in _matched(_SEED)},
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
        for pattern in _SINGLE_DIGITS
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
            last=(_INDIVIDUAL_DIGITS,),
        ),
        False,
    ): "deepseek-llm",
    (
        _split(
            "[\r\n]",
            r"\s?\p{L}+",
            r"\s?\p{P}+",
            "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
            last=(_INDIVIDUAL_DIGITS,),
        ),
        False,
    ): "deepseek-coder",
    (
        (
            ("Punctuation", "Contiguous"),
            _BYTE_LEVEL_WORDS,
            ("Digits", False),
            ("Split", "[0-9][0-9][0-9]", "Isolated", False),
        ),
        False,
    ): "falcon",
    (_split(" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"), False): "bloom",
    ((_BYTE_LEVEL_WORDS,), False): "gpt-2",
    ((_INDIVIDUAL_DIGITS, _BYTE_LEVEL_WORDS), False): "smollm",
}
"""(Steps, `ignore_merges`) → name. Only one of several names that mean the same in llama.cpp stands here."""


def knows_pattern(pattern: str, *, ignores_merges: bool) -> bool:
    """Whether there is a name for splits at the matches of this pattern."""
    return (_split(pattern), ignores_merges) in PRE_TOKENIZER_NAMES


def pattern_steps(pattern: str) -> list[dict[str, Any]]:
    """The steps in tokenizer.json for splits at the matches of this pattern."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [split, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]


def name_pre_tokenizer(tokenizer: Mapping[str, Any]) -> str:
    """`tokenizer.ggml.pre` for this tokenizer.json. Raises CannotConvert for an unknown pre-tokenizer."""
    _check_normalizer(tokenizer.get("normalizer"))
    model = tokenizer.get("model")
    ignores_merges = isinstance(model, dict) and model.get("ignore_merges") is True
    steps = tuple(_steps(tokenizer.get("pre_tokenizer")))
    name = PRE_TOKENIZER_NAMES.get((steps, ignores_merges))
    other = PRE_TOKENIZER_NAMES.get((steps, not ignores_merges))
    if name is None and other is not None and _merges_make_all(tokenizer):
        name = other
    if name is None:
        raise CannotConvert(
            f"tokenizer.json has an unknown pre-tokenizer: {shown(steps)}"
            f"{' with ignore_merges' if ignores_merges else ''}"
        )
    if (joins := _JOINS.get(name)) and any(map(joins, _vocabulary(model))):
        raise CannotConvert(
            "tokenizer.json has a pre-tokenizer that llama.cpp does not follow at each split, and tokens that span "
            "such splits"
        )
    return name


def _vocabulary(model: object) -> Mapping[str, Any]:
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    return vocabulary if isinstance(vocabulary, dict) else {}


_MAX_TOKEN = 128
"""Characters of a token whose merges are checked; the longest token of o200k has 128 spaces."""


def _merges_make_all(tokenizer: Mapping[str, Any]) -> bool:
    """Whether merges turn the text of every token into this token, so that `ignore_merges` has no effect.

    Added tokens do not count: they are found in a text before any merge.
    """
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
    merges = model.get("merges") if isinstance(model, dict) else None
    ranks: dict[tuple[str, str], int] = {}
    for merge in merges if isinstance(merges, list) else []:
        match merge.split(" ") if isinstance(merge, str) else merge:
            case [str(left), str(right)]:
                ranks.setdefault((left, right), len(ranks))
            case _:
                return False
    texts = {token.get("content") for token in added if isinstance(token, dict)} if isinstance(added, list) else set()
    tokens = _vocabulary(model).keys() - texts
    return all(len(token) <= _MAX_TOKEN and _merges_make(token, ranks) for token in tokens)


def _merges_make(token: str, ranks: Mapping[tuple[str, str], int]) -> bool:
    parts, no_merge = list(token), len(ranks)
    pair_ranks = [ranks.get(pair, no_merge) for pair in pairwise(parts)]
    while pair_ranks:
        best = min(pair_ranks)
        if best == no_merge:
            return False
        at = pair_ranks.index(best)
        del pair_ranks[at]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        for changed in range(max(at - 1, 0), min(at + 1, len(pair_ranks))):
            pair_ranks[changed] = ranks.get((parts[changed], parts[changed + 1]), no_merge)
    return True


_PRINTED = (*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = (byte for byte in range(256) if byte not in _PRINTED)
BYTE_BY_CHARACTER = {chr(byte): byte for byte in _PRINTED} | {chr(256 + at): byte for at, byte in enumerate(_OTHERS)}
"""Character of byte-level BPE → the byte that it stands for."""
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


def _joins_digits(token: str) -> bool:
    text = bytes(BYTE_BY_CHARACTER[part] for part in token if part in BYTE_BY_CHARACTER).decode(errors="replace")
    return len(text) > 1 and {unicodedata.category(part)[0] for part in text if part != _INCOMPLETE} == {"N"}


def _joins_digits_to_others(token: str) -> bool:
    return any(map(str.isnumeric, token)) and not token.isnumeric()


def _joins_cases(token: str) -> bool:
    text = bytes(BYTE_BY_CHARACTER[part] for part in token if part in BYTE_BY_CHARACTER).decode(errors="replace")
    categories = [unicodedata.category(part) for part in text]
    return any(first == "Ll" and second in ("Lu", "Lt") for first, second in pairwise(categories))


_JOINS: Mapping[str, Callable[[str], bool]] = {
    "deepseek-llm": _joins_digits,
    "falcon": _joins_digits_to_others,
    "tiny_aya": _joins_cases,
}
"""Pre-tokenizer → whether llama.cpp could make a token that the original never makes.

DeepSeek's first models split between digits, llama.cpp only around a run of digits. Falcon splits around digits, and
counts byte-level characters that look like numbers (`\u00bc`) as digits; llama.cpp does not. Tiny Aya and Command A+
split before an upper-case letter after a lower-case one; llama.cpp does not know cases there.
"""


def _check_normalizer(normalizer: object) -> None:
    """llama.cpp has no normalizer for byte-level BPE. NFC is accepted: it changes only decomposed characters."""
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
        raise CannotConvert(f"tokenizer.json has the unknown pre-tokenizer {shown(pre_tokenizer)}")
    if pre_tokenizer.get("type") != "Sequence":
        return [_step(pre_tokenizer)]
    parts = pre_tokenizer.get("pretokenizers")
    if not isinstance(parts, list):
        raise CannotConvert(f"tokenizer.json has the unknown pre-tokenizer {shown(pre_tokenizer)}")
    return [_step(part) for part in parts]


def _step(part: object) -> object:
    """The settings with an effect; `trim_offsets` has none on tokens."""
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
    raise CannotConvert(f"tokenizer.json has an unknown pre-tokenizer: {shown(part)}")
