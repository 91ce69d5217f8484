"""How llama.cpp b10488 makes tokens of BERT's kind (llm_tokenizer_wpm_session). Pure."""

import unicodedata
from collections.abc import Iterator, Mapping

from proxy.gguf.tokens import SPACE
from proxy.tokenizing.splitting import is_space

_CHINESE = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
_DROPPED = "\0\N{REPLACEMENT CHARACTER}"
_CONTROL = ("Cc", "Cf", "Co", "Cs")


def match_words(
    text: str, numbers: Mapping[str, int], unknown: int, longest: int, *, lowercase: bool, strip_accents: bool
) -> Iterator[int]:
    """`longest` is the length of the longest token in bytes."""
    for word in _words(text, lowercase=lowercase, strip_accents=strip_accents):
        yield from _match(SPACE + word, numbers, longest) or [unknown]


def _match(word: str, numbers: Mapping[str, int], longest: int) -> list[int]:
    """The longest tokens from the left; none where a part of the word has no token."""
    found: list[int] = []
    start = 0
    while start < len(word):
        for stop in range(min(len(word), start + longest + 1), start, -1):
            if (number := numbers.get(word[start:stop])) is not None:
                found.append(number)
                start = stop
                break
        else:
            return []
    return found


def _words(text: str, *, lowercase: bool, strip_accents: bool) -> Iterator[str]:
    word = ""
    for given in text:
        # llama.cpp's table has the first character of each decomposition only.
        letter = unicodedata.normalize("NFD", given)[0] if strip_accents else given
        category = unicodedata.category(letter)
        if is_space(letter):
            yield from filter(None, [word])
            word = ""
        elif not (letter in _DROPPED or category in _CONTROL or (strip_accents and category.startswith("M"))):
            written = _lower(letter) if lowercase else letter
            if category.startswith("P") or (letter < "\x7f" and category.startswith("S")) or _is_chinese(letter):
                yield from filter(None, [word])
                yield written
                word = ""
            else:
                word += written
    yield from filter(None, [word])


def _lower(letter: str) -> str:
    """The one character that Unicode has for it."""
    lower = letter.lower()
    return lower if len(lower) == 1 else lower[0]


def _is_chinese(letter: str) -> bool:
    return any(first <= ord(letter) <= last for first, last in _CHINESE)
