"""Reads a SentencePiece model (tokenizer.model), which is a protocol buffer. Pure."""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

MAX_TOKENS = 1 << 20
"""Four times the largest known vocabulary."""
# Keys of the protocol buffer: a field's number and wire type in one.
PIECE = 0x0A
TEXT, SCORE, TYPE = 0x0A, 0x15, 0x18
SCORE_BYTES = 4
TRAINER_SPEC = 0x12
MODEL_TYPE = 0x18
UNIGRAM, BPE = 1, 2
NORMALIZER_SPEC = 0x1A
ADD_DUMMY_PREFIX = 0x18
MAX_SHIFT = 63


class PieceType(IntEnum):
    """The types of pieces in SentencePiece, and of tokens in a GGUF."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class TokenPiece(NamedTuple):
    text: str
    type: int
    score: float = 0.0


def count_pieces(model: bytes) -> int | None:
    """The number of pieces, each in a field of its own; None if `model` is not a SentencePiece model."""
    count = position = fields = 0
    try:
        while position < len(model) and fields < MAX_TOKENS:
            fields += 1
            key, position = _varint(model, position)
            if key & 7 == _BYTES:
                length, position = _varint(model, position)
                if key == PIECE:
                    # A piece begins with its text. A token list in another format does not, though its line ends
                    # look like the keys of pieces.
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
    """The pieces of a model that `count_pieces` accepts."""
    for key, content in _fields(model):
        if key == PIECE and isinstance(content, bytes):
            fields = dict(_fields(content))
            text, piece_type, score = fields.get(TEXT), fields.get(TYPE, PieceType.NORMAL), fields.get(SCORE)
            yield TokenPiece(
                text.decode(errors="replace") if isinstance(text, bytes) else "",
                piece_type if isinstance(piece_type, int) else 0,
                struct.unpack("<f", score)[0] if isinstance(score, bytes) and len(score) == SCORE_BYTES else 0.0,
            )


def read_model_type(model: bytes) -> int | None:
    """UNIGRAM, BPE or another type of a model that `count_pieces` accepts; None if the model does not contain it."""
    model_type = None
    for key, content in _fields(model):
        if key == TRAINER_SPEC and isinstance(content, bytes):
            try:
                value = dict(_fields(content)).get(MODEL_TYPE, UNIGRAM)
            except (IndexError, ValueError):
                return None
            model_type = value if isinstance(value, int) else None
    return model_type


def adds_dummy_prefix(model: bytes) -> bool:
    """Whether a model that `count_pieces` accepts puts a space before each text."""
    adds = True
    for key, content in _fields(model):
        if key == NORMALIZER_SPEC and isinstance(content, bytes):
            try:
                adds = dict(_fields(content)).get(ADD_DUMMY_PREFIX, adds) != 0
            except (IndexError, ValueError):
                continue
    return adds


_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types."""
_CONTINUES = 0x80
"""Set in each byte of a varint except the last one."""


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Key and value of each field."""
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        if key & 7 == _BYTES:
            length, position = _varint(content, position)
            yield key, content[position : position + length]
            position += length
        elif key & 7 == _VARINT:
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
        if shift > MAX_SHIFT:
            raise ValueError("a varint without an end")
        if not byte & _CONTINUES:
            return value, position
        shift += 7


def _skip(content: bytes, position: int, wire_type: int) -> int:
    if wire_type == _VARINT:
        return _varint(content, position)[1]
    if wire_type in (_FIXED64, _FIXED32):
        return position + (8 if wire_type == _FIXED64 else 4)
    raise ValueError(f"wire type {wire_type}")
