"""ggml's order of numbers of four bits: in a block, a number shares a byte with the one half a block later. Pure."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def in_halves(codes: NDArray[Any], size: int) -> NDArray[Any]:
    """Each `size` bytes (8 or 16) with the numbers 2i and 2i + 1, the lower bits first, get the numbers i and i + size.

    `codes` is rows of whole blocks without gaps.
    """
    words = codes.view(f"<u{size // 2}")
    low = words.dtype.type(int.from_bytes(b"\x0f" * (size // 2), "little"))
    first, second = words[:, ::2], words[:, 1::2]
    even = first & low | (second & low) << 4
    odd = first >> 4 & low | second & ~low
    halves: NDArray[Any] = even.view(np.uint8) | odd.view(np.uint8).astype("<u2") << 8
    return halves.view(np.uint8)


def repack_mxfp4(groups: int, count: int, index: int, content: bytes) -> bytes:
    """The bytes that `transforms.repack_mxfp4` makes."""
    whole = np.frombuffer(content, np.uint8)
    # A scale belongs to 16 bytes of numbers.
    scales, numbers = np.split(whole, [len(whole) // 17])
    blocks = np.empty((len(scales) // count, 17), np.uint8)
    blocks[:, 0] = scales.reshape(-1, count, groups)[:, index].reshape(-1)
    blocks[:, 1:] = in_halves(numbers.reshape(-1, count, groups, 16)[:, index].reshape(-1, 16), 16)
    return blocks.tobytes()
