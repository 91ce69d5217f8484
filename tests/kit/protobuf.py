"""Writes the protocol buffers of a tokenizer.model, SentencePiece's format."""

import struct


def bytes_field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    size, length = len(content), bytearray()
    while True:
        size, low = size >> 7, size & 0x7F
        length.append(low | (0x80 if size else 0))
        if not size:
            return bytes([number << 3 | 2, *length]) + content


def piece_field(text: str, score: float, piece_type: int) -> bytes:
    """A piece, in field 1 of the model."""
    return bytes_field(
        1, bytes_field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, piece_type])
    )
