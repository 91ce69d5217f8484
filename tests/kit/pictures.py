"""Pictures as PNG files and as numbers."""

import struct
import zlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
"""Height, width, and red, green and blue."""
RED, GREEN, BLUE, WHITE = (220, 30, 40), (30, 180, 60), (30, 60, 210), (250, 250, 250)


def plain(color: tuple[int, int, int], size: int) -> Picture:
    """A square of one color."""
    return np.full((size, size, 3), color, np.uint8)


def quarters(size: int) -> Picture:
    """Four squares of different colors: which one is where matters."""
    picture = plain(WHITE, size)
    half = size // 2
    picture[:half, :half], picture[:half, half:], picture[half:, :half] = RED, GREEN, BLUE
    return picture


def pictures(size: int) -> Mapping[str, Picture]:
    return {"red": plain(RED, size), "blue": plain(BLUE, size), "quarters": quarters(size)}


def png(picture: Picture) -> bytes:
    height, width, _ = picture.shape
    rows = b"".join(b"\0" + row.tobytes() for row in picture)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
