"""How llama.cpp b10488 makes tokens by the best sum of scores (llm_tokenizer_ugm_session). Pure."""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

from proxy.gguf.sentencepiece import PieceType
from proxy.gguf.tokens import SPACE

_PENALTY = 10.0
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()
_LEAF, _WIDE, _CHILD = 1 << 8, 1 << 9, 1 << 31 | 0xFF
_VALUE = (1 << 31) - 1
_MATCHED = (PieceType.NORMAL, PieceType.USER_DEFINED, PieceType.UNUSED)


class Charsmap:
    """SentencePiece's table of replacements: a trie in a double array, and the texts that it points to."""

    def __init__(self, content: bytes) -> None:
        size = int.from_bytes(content[:4], "little")
        self._nodes: tuple[int, ...] = struct.unpack_from(f"<{size // 4}I", content, 4) if content else ()
        self._texts = content[4 + size :]

    def replace(self, text: bytes, start: int) -> tuple[bytes, int] | None:
        """What stands for the longest known beginning, and its length; None where nothing is known.

        Raises IndexError for a table that points out of itself.
        """
        if not self._nodes:
            return None
        found = None
        node = self._base(0)
        for at in range(start, len(text)):
            node ^= text[at]
            entry = self._nodes[node]
            if text[at] == 0 or entry & _CHILD != text[at]:
                break
            node ^= self._base(node)
            if entry & _LEAF:
                found = at - start + 1, self._nodes[node] & _VALUE
        if found is None:
            return None
        length, place = found
        return self._texts[place : self._texts.index(b"\0", place)], length

    def _base(self, node: int) -> int:
        entry = self._nodes[node]
        return (entry >> 10) << ((entry & _WIDE) >> 6)


class Unigram:
    """The pieces of a vocabulary of this kind, and how a text is changed before it is cut."""

    def __init__(
        self,
        texts: Sequence[str],
        scores: Sequence[float],
        types: Sequence[int],
        unknown: int,
        charsmap: bytes,
        *,
        adds_space: bool,
        joins_spaces: bool,
    ) -> None:
        self._pieces: Mapping[str, tuple[int, float]] = {
            text: (number, 0.0 if kind == PieceType.USER_DEFINED else score)
            for number, (text, score, kind) in enumerate(zip(texts, scores, types, strict=True))
            if kind in _MATCHED
        }
        self._longest = max(map(len, self._pieces), default=0)
        normal = (score for score, kind in zip(scores, types, strict=True) if kind == PieceType.NORMAL)
        self._unknown, self._unknown_score = unknown, min(normal, default=0.0) - _PENALTY
        defined = (text.encode() for text, kind in zip(texts, types, strict=True) if kind == PieceType.USER_DEFINED)
        self._beginnings = {text[:stop] for text in defined for stop in range(1, len(text) + 1)}
        self._charsmap = Charsmap(charsmap)
        self._adds_space, self._joins_spaces = adds_space, joins_spaces

    def encode(self, text: str) -> Iterator[int]:
        normalized = self._normalized(text.encode()).decode(errors="replace")
        best: list[tuple[float, int, int]] = [(0.0, 0, self._unknown)]
        best += [(-float("inf"), 0, self._unknown)] * len(normalized)
        for start in range(len(normalized)):
            reached = best[start][0]
            for stop in range(start + 1, min(start + self._longest, len(normalized)) + 1):
                piece = self._pieces.get(normalized[start:stop])
                if piece is not None and reached + piece[1] > best[stop][0]:
                    best[stop] = reached + piece[1], start, piece[0]
            stop = start + 1
            if normalized[start:stop] not in self._pieces and reached + self._unknown_score > best[stop][0]:
                best[stop] = reached + self._unknown_score, start, self._unknown
        return self._without_repeated_unknown(reversed(list(self._backwards(best))))

    @staticmethod
    def _backwards(best: Sequence[tuple[float, int, int]]) -> Iterator[int]:
        stop = len(best) - 1
        while stop:
            _, stop, number = best[stop]
            yield number

    def _without_repeated_unknown(self, numbers: Iterable[int]) -> Iterator[int]:
        before = None
        for number in numbers:
            if not number == before == self._unknown:
                yield number
            before = number

    def _normalized(self, text: bytes) -> bytes:
        made = bytearray()
        space, at, in_word, has_begun = SPACE.encode(), 0, False, False
        while at < len(text):
            written, length = self._replaced(text, at)
            at += length
            for byte in written:
                if byte != ord(" "):
                    if not in_word and ((self._adds_space and not has_begun) or self._joins_spaces):
                        made += space
                        has_begun = True
                    in_word = True
                    made.append(byte)
                else:
                    in_word = False
                    if not self._joins_spaces:
                        made += space
        return bytes(made)

    def _replaced(self, text: bytes, start: int) -> tuple[bytes, int]:
        length = 0
        while start + length < len(text) and text[start : start + length + 1] in self._beginnings:
            length += 1
        if length:
            return text[start : start + length], length
        if (replaced := self._charsmap.replace(text, start)) is not None:
            return replaced
        first = text[start]
        length = 1 if first < 0x80 else 2 if 0xC0 <= first < 0xE0 else 3 if first < 0xF0 else 4  # noqa: PLR2004
        letter = text[start : start + length]
        try:
            letter.decode()
        except UnicodeDecodeError:
            return _REPLACEMENT, 1
        return letter, length
