"""The pieces of a SentencePiece model, read from its protocol buffer and written as one. Pure."""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

MOST_TOKENS = 1 << 20
"""Four times as many as the largest vocabulary has."""
PIECE = 0x0A
TEXT, SCORE, KIND = 0x0A, 0x15, 0x18
SCORE_BYTES = 4
TRAINER = 0x12
MODEL_TYPE = 0x18
UNIGRAM, BPE = 1, 2
NORMALIZER = 0x1A
ADD_DUMMY_PREFIX = 0x18
LONGEST_SHIFT = 63


class PieceType(IntEnum):
    """The types of pieces."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class TokenPiece(NamedTuple):
    text: str
    kind: int
    score: float = 0.0


def count_pieces(model: bytes) -> int | None:
    """How many pieces a SentencePiece model has; None for what is none (a protobuf, whose first field repeats)."""
    count = position = fields = 0
    try:
        while position < len(model) and fields < MOST_TOKENS:
            fields += 1
            key, position = _varint(model, position)
            if key & 7 == 2:  # noqa: PLR2004 - bytes of a length
                length, position = _varint(model, position)
                if key == PIECE:
                    # A piece begins with its text: a list of tokens in another format does not, whose line ends
                    # look like pieces.
                    if model[position] != TEXT:
                        return None
                    count += 1
                position += length
            else:
                position = _skip(model, position, key & 7)
    except (IndexError, ValueError):
        return None
    return count if count and position == len(model) else None


def read_pieces(model: bytes) -> Iterator[TokenPiece]:
    """Each piece of a model that has been counted."""
    for key, content in _fields(model):
        if key == PIECE and isinstance(content, bytes):
            fields = dict(_fields(content))
            text, kind, score = fields.get(TEXT), fields.get(KIND, PieceType.NORMAL), fields.get(SCORE)
            yield TokenPiece(
                text.decode(errors="replace") if isinstance(text, bytes) else "",
                kind if isinstance(kind, int) else 0,
                struct.unpack("<f", score)[0] if isinstance(score, bytes) and len(score) == SCORE_BYTES else 0.0,
            )


def read_trainer(model: bytes) -> int | None:
    """How a model that has been counted was trained: 1 is Unigram, 2 is BPE; None where it does not say."""
    trained = None
    for key, content in _fields(model):
        if key == TRAINER and isinstance(content, bytes):
            try:
                kind = dict(_fields(content)).get(MODEL_TYPE, UNIGRAM)
            except (IndexError, ValueError):
                return None
            trained = kind if isinstance(kind, int) else None
    return trained


def puts_space_before(model: bytes) -> bool:
    """Whether a model that has been counted begins each text with a space."""
    puts = True
    for key, content in _fields(model):
        if key == NORMALIZER and isinstance(content, bytes):
            try:
                puts = dict(_fields(content)).get(ADD_DUMMY_PREFIX, puts) != 0
            except (IndexError, ValueError):
                continue
    return puts


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer, each with its number and wire type in one."""
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        if key & 7 == 2:  # noqa: PLR2004 - bytes of a length
            length, position = _varint(content, position)
            yield key, content[position : position + length]
            position += length
        elif key & 7 == 0:
            value, position = _varint(content, position)
            yield key, value
        else:
            start, position = position, _skip(content, position, key & 7)
            yield key, content[start:position]


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if shift > LONGEST_SHIFT:
            raise ValueError("a number without an end")
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a number
            return value, position
        shift += 7


def _skip(content: bytes, position: int, wire_type: int) -> int:
    match wire_type:
        case 0:
            return _varint(content, position)[1]
        case 1:
            return position + 8
        case 5:
            return position + 4
        case _:
            raise ValueError(f"wire type {wire_type}")
