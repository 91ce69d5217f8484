"""Splits a text before BPE merges, as llama.cpp b10488 does (unicode_regex_split in src/unicode.cpp). Pure."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

from proxy.gguf.pretokenizers import CASED_LETTERS, spaces_by_powers

_ENDINGS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"((?=[\p{L}])([^a-z]))", r"((?=[\p{L}])([^A-Z]))"
_QWEN35 = (
    f"{_ENDINGS}|{_BEFORE}[\\p{{L}}\\p{{M}}]+|\\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SEED = f"{_ENDINGS}{_WORD}|\\p{{N}}{{1}}" r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
_EXAONE_MOE = (
    f"{_ENDINGS}|{_BEFORE}(?:\\p{{L}}\\p{{M}}*(?: \\p{{L}}\\p{{M}}*)*)+|\\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
_BAILING = (
    r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
_DEEPSEEK_V3 = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
_UPPER_CLASS, _LOWER_CLASS = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TINY_AYA = (
    f"{_BEFORE}{_UPPER_CLASS}*{_LOWER_CLASS}+{_ENDINGS}?|{_BEFORE}{_UPPER_CLASS}+{_LOWER_CLASS}*{_ENDINGS}?"
    f"|\\p{{N}}{{1,3}}{_CASED_TAIL}"
)
_TRIPLES_FROM_THE_END = r"[^\p{N}]*\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
"""unicode_regex_split_custom_afmoe: a number's first group keeps the text before it."""
_THREES = f"{_ENDINGS}{_WORD}|\\p{{N}}{{1,3}}{_TAIL}"
_ONES = f"{_ENDINGS}{_WORD}|\\p{{N}}{_TAIL}"
_KIMI_K2 = (
    rf"\p{{Han}}+|[^\r\n\p{{L}}\p{{N}}\p{{Han}}]?\p{{L}}+{_ENDINGS}?|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}\p{Han}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LINES = (r"[^\n]+|[\n]+",)
"""Gemma 4's pattern."""

PATTERNS: Mapping[str, tuple[str, ...]] = {
    "llama-bpe": (_THREES,),
    "smaug-bpe": (_THREES,),
    "qwen2": (_ONES,),
    "laguna": (*LINES, _ONES),
    "qwen35": (_QWEN35,),
    "tekken": (f"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\\p{{N}}{_CASED_TAIL}",),
    "gpt-4o": (
        f"{_BEFORE}{_UPPER}*{_LOWER}+{_ENDINGS}?|{_BEFORE}{_UPPER}+{_LOWER}*{_ENDINGS}?|\\p{{N}}{{1,3}}{_CASED_TAIL}",
    ),
    "kimi-k2": (_KIMI_K2,),
    "jais-2": (_THREES.removesuffix(r"\s+(?!\S)|\s+") + spaces_by_powers(),),
    "tiny_aya": (_TRIPLES_FROM_THE_END, _TINY_AYA),
    "exaone-moe": (_EXAONE_MOE,),
    "seed-coder": (_SEED,),
    "bailingmoe": (_BAILING,),
    "deepseek-v3": (r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", _DEEPSEEK_V3),
    "deepseek-llm": (
        "[\r\n]",
        CASED_LETTERS,
        "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
        r"\s+$",
        "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
        r"\p{N}+",
    ),
    "deepseek-coder": (
        "[\r\n]",
        r"\s?\p{L}+",
        r"\s?\p{P}+",
        "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
        r"\p{N}",
    ),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT_2, "[0-9][0-9][0-9]"),
    "bloom": (" ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+",),
    "gpt-2": (_GPT_2,),
    "smollm": (r"\p{N}", _GPT_2),
}
"""By the name in `tokenizer.ggml.pre`. Each pattern splits the parts that the pattern before it gave."""

_CLASSES: Mapping[str, tuple[str, str]] = {
    "N": ("\xd1", "0-9"),
    "L": ("\xd2", "A-Za-z"),
    **dict.fromkeys(("Ll", "Lm", "Lo", "Lt", "Lu"), ("\xd2", "A-Za-z")),
    "P": ("\xd3", r"!-#%-*,-/:-;?-@\[-\]_\{\}"),
    "M": ("\xd4", ""),
    "S": ("\xd5", r"\$\+<->\^`\|"),
    "Han": ("\xd6", ""),
}
"""By Unicode category: llama.cpp's stand-in for characters beyond ASCII, and a regex class of the ASCII characters.
A Chinese character counts as `Han` for the patterns that name it, and as a letter for all others."""
_OTHER, _SPACE_BEYOND_ASCII, _ASCII = "\xd0", "\x0b", "\x80"
_SPACES = frozenset(
    "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
)
_HAN = re.compile(
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002ebef\U0002f800-\U0002fa1f]"
)
"""unicode_cpt_is_han in src/unicode.cpp."""
_PARTS = re.compile(r"\\p\{(\w+)\}|\\.|[\[\]]|[^\\\[\]]+", re.DOTALL)


def is_space(letter: str) -> bool:
    """Whether it has Unicode's White_Space property, as in llama.cpp; `str.isspace` accepts more characters."""
    return letter in _SPACES


def split(text: str, patterns: Sequence[str]) -> list[str]:
    """The parts of a text, in order and without gaps."""
    spans = [(0, len(text))]
    for pattern in patterns:
        collapse, compiled = _compile(pattern)
        subject = "".join(map(collapse, text))
        spans = [span for start, stop in spans for span in _split_span(compiled, subject, start, stop)]
    return [text[start:stop] for start, stop in spans]


def _split_span(pattern: re.Pattern[str], text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The matches within a span and the texts between them. The pattern does not see beyond the span."""
    part, at = text[start:stop], 0
    for match in pattern.finditer(part):
        if at < match.start():
            yield start + at, start + match.start()
        if match.start() < match.end():
            yield start + match.start(), start + match.end()
        at = match.end()
    if at < len(part):
        yield start + at, stop


def _collapse(letter: str) -> str:
    if letter < _ASCII:
        return letter
    if is_space(letter):
        return _SPACE_BEYOND_ASCII
    return _CLASSES.get(unicodedata.category(letter)[0], (_OTHER, ""))[0]


def _collapse_but_han(letter: str) -> str:
    return _CLASSES["Han"][0] if _HAN.match(letter) else _collapse(letter)


def _collapse_space(letter: str) -> str:
    return _SPACE_BEYOND_ASCII if letter >= _ASCII and is_space(letter) else letter


@cache
def _compile(pattern: str) -> tuple[Callable[[str], str], re.Pattern[str]]:
    """What the pattern sees of a letter, which depends on the Unicode categories that it names, and how it is used."""
    named, in_class, regex = set(), False, []
    for part in _PARTS.finditer(pattern):
        text = part[0]
        if part[1] is None:
            in_class = text == "[" or (in_class and text != "]")
        else:
            named.add(part[1])
            text = "".join(_CLASSES[part[1]])
            text = text if in_class else f"[{text}]"
        regex.append(text)
    collapse = _collapse_but_han if "Han" in named else _collapse if named else _collapse_space
    # For std::regex, only ASCII spaces are spaces.
    return collapse, re.compile("".join(regex), re.ASCII)
