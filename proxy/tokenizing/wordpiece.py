"""WordPiece (BERT) as in llama.cpp b10488 (llm_tokenizer_wpm_session). Pure."""

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from proxy.gguf.tokens import SPACE
from proxy.tokenizing.pre_tokenization import is_space

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


@dataclass(frozen=True, slots=True)
class WordPiece:
    """`longest` is the length of the longest token in bytes."""

    ids: Mapping[str, int]
    unknown_id: int
    longest: int
    lowercase: bool
    strip_accents: bool

    def encode(self, text: str) -> Iterator[int]:
        for word in self._words(text):
            yield from self._match(SPACE + word) or [self.unknown_id]

    def _match(self, word: str) -> list[int]:
        """The longest tokens from the left; none where a part of the word has no token."""
        matches: list[int] = []
        start = 0
        while start < len(word):
            for stop in range(min(len(word), start + self.longest + 1), start, -1):
                if (token_id := self.ids.get(word[start:stop])) is not None:
                    matches.append(token_id)
                    start = stop
                    break
            else:
                return []
        return matches

    def _words(self, text: str) -> Iterator[str]:
        word = ""
        for character in text:
            # llama.cpp's table has only the first character of each decomposition.
            letter = unicodedata.normalize("NFD", character)[0] if self.strip_accents else character
            category = unicodedata.category(letter)
            if is_space(letter):
                yield from filter(None, [word])
                word = ""
            elif not self._is_dropped(letter, category):
                normalized = _lower(letter) if self.lowercase else letter
                if _is_word(letter, category):
                    yield from filter(None, [word])
                    yield normalized
                    word = ""
                else:
                    word += normalized
        yield from filter(None, [word])

    def _is_dropped(self, letter: str, category: str) -> bool:
        return letter in _DROPPED or category in _CONTROL or (self.strip_accents and category.startswith("M"))


def _is_word(letter: str, category: str) -> bool:
    """Whether this character is a word by itself."""
    return category.startswith("P") or (letter < "\x7f" and category.startswith("S")) or _is_chinese(letter)


def _lower(letter: str) -> str:
    """Unicode's simple mapping, which is always one character."""
    return letter.lower()[0]


def _is_chinese(letter: str) -> bool:
    return any(first <= ord(letter) <= last for first, last in _CHINESE)
