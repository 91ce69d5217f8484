"""Conversions between numbers and their bytes in the dtypes of safetensors."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
_NUMPY_DTYPES = {"F32": "<f4", "F16": "<f2"}
_BLOCK = 32


def to_floats(dtype: str, content: bytes) -> Floats:
    if dtype == "BF16":
        return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(content, _NUMPY_DTYPES[dtype]).astype(np.float32)


def to_bytes(dtype: str, numbers: npt.NDArray[np.floating]) -> bytes:
    """BF16 is truncated, not rounded: the tests need any BF16 value, not the nearest one."""
    with np.errstate(all="ignore"):
        wide = numbers.astype("<f4")
        if dtype == "BF16":
            return (wide.view("<u4") >> 16).astype("<u2").tobytes()
        return wide.astype(_NUMPY_DTYPES[dtype]).tobytes()


def numbers_of_all_magnitudes(dtype: str, count: int, seed: int = 0) -> bytes:
    """Random numbers of both signs. Each block of 32 has one magnitude, and every magnitude has a reciprocal."""
    generator = np.random.default_rng(seed)
    sizes = np.exp2(generator.integers(-24 if dtype == "F16" else -120, 15, (count // _BLOCK, 1)))
    return to_bytes(dtype, (generator.uniform(-1, 1, (count // _BLOCK, _BLOCK)) * sizes).astype(np.float32))


def weight_numbers(dtype: str, count: int, seed: int = 0) -> bytes:
    """Random numbers with the distribution of a model's weights."""
    return to_bytes(dtype, np.random.default_rng(seed).standard_normal(count).astype(np.float32) / np.float32(16))
