"""Unigram as in llama.cpp b10488: the tokens with the best sum of scores (llm_tokenizer_ugm_session). Pure."""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

from proxy.gguf.sentencepiece import PieceType, TokenPiece
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
        """The replacement of the longest known prefix from `start`, and the length of this prefix; None without one.

        Raises IndexError for a table that points outside itself.
        """
        if not self._nodes:
            return None
        longest = None
        node = self._base(0)
        for at in range(start, len(text)):
            node ^= text[at]
            entry = self._nodes[node]
            if text[at] == 0 or entry & _CHILD != text[at]:
                break
            node ^= self._base(node)
            if entry & _LEAF:
                longest = at - start + 1, self._nodes[node] & _VALUE
        if longest is None:
            return None
        length, offset = longest
        return self._texts[offset : self._texts.index(b"\0", offset)], length

    def _base(self, node: int) -> int:
        entry = self._nodes[node]
        return (entry >> 10) << ((entry & _WIDE) >> 6)


class Normalizer:
    """Replaces characters and writes spaces as SentencePiece does. User-defined pieces stay as they are."""

    def __init__(self, charsmap: bytes, user_defined: Iterable[str], *, adds_space: bool, joins_spaces: bool) -> None:
        self._charsmap = Charsmap(charsmap)
        encoded = (text.encode() for text in user_defined)
        self._prefixes = {text[:stop] for text in encoded for stop in range(1, len(text) + 1)}
        self._adds_space, self._joins_spaces = adds_space, joins_spaces

    def normalize(self, text: bytes) -> bytes:
        normalized = bytearray()
        space, at, in_word, has_begun = SPACE.encode(), 0, False, False
        while at < len(text):
            replacement, length = self._replace(text, at)
            at += length
            for byte in replacement:
                if byte != ord(" "):
                    if not in_word and ((self._adds_space and not has_begun) or self._joins_spaces):
                        normalized += space
                        has_begun = True
                    in_word = True
                    normalized.append(byte)
                else:
                    in_word = False
                    if not self._joins_spaces:
                        normalized += space
        return bytes(normalized)

    def _replace(self, text: bytes, start: int) -> tuple[bytes, int]:
        """The bytes to write, and how many bytes of `text` they replace."""
        length = 0
        while start + length < len(text) and text[start : start + length + 1] in self._prefixes:
            length += 1
        if length:
            return text[start : start + length], length
        if (replacement := self._charsmap.replace(text, start)) is not None:
            return replacement
        first = text[start]
        length = 1 if first < 0x80 else 2 if 0xC0 <= first < 0xE0 else 3 if first < 0xF0 else 4  # noqa: PLR2004
        letter = text[start : start + length]
        try:
            letter.decode()
        except UnicodeDecodeError:
            return _REPLACEMENT, 1
        return letter, length


class Unigram:
    """`pieces` is the vocabulary in the order of its ids."""

    def __init__(self, pieces: Sequence[TokenPiece], unknown_id: int, normalizer: Normalizer) -> None:
        self._pieces: Mapping[str, tuple[int, float]] = {
            piece.text: (token_id, 0.0 if piece.type == PieceType.USER_DEFINED else piece.score)
            for token_id, piece in enumerate(pieces)
            if piece.type in _MATCHED
        }
        self._longest = max(map(len, self._pieces), default=0)
        normal = (piece.score for piece in pieces if piece.type == PieceType.NORMAL)
        self._unknown_id, self._unknown_score = unknown_id, min(normal, default=0.0) - _PENALTY
        self._normalizer = normalizer

    def encode(self, text: str) -> Iterator[int]:
        """By the Viterbi algorithm: `best` has for every end the best score, the last piece's start and its id."""
        normalized = self._normalizer.normalize(text.encode()).decode(errors="replace")
        best: list[tuple[float, int, int]] = [(0.0, 0, self._unknown_id)]
        best += [(-float("inf"), 0, self._unknown_id)] * len(normalized)
        for start in range(len(normalized)):
            score = best[start][0]
            for stop in range(start + 1, min(start + self._longest, len(normalized)) + 1):
                piece = self._pieces.get(normalized[start:stop])
                if piece is not None and score + piece[1] > best[stop][0]:
                    best[stop] = score + piece[1], start, piece[0]
            stop = start + 1
            if normalized[start:stop] not in self._pieces and score + self._unknown_score > best[stop][0]:
                best[stop] = score + self._unknown_score, start, self._unknown_id
        return self._without_repeated_unknown(reversed(list(self._backwards(best))))

    @staticmethod
    def _backwards(best: Sequence[tuple[float, int, int]]) -> Iterator[int]:
        stop = len(best) - 1
        while stop:
            _, stop, token_id = best[stop]
            yield token_id

    def _without_repeated_unknown(self, ids: Iterable[int]) -> Iterator[int]:
        before = None
        for token_id in ids:
            if not token_id == before == self._unknown_id:
                yield token_id
            before = token_id
