"""The kernel against ggml, bit by bit, with every register width of this CPU."""

import ctypes
import hashlib
import importlib.util
import platform
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.gguf.tensors import TensorType
from tests.kit.dtypes import Floats, to_bytes, to_floats

kernel = pytest.importorskip("proxy.gguf._kernel", reason="the C kernel is not built", exc_type=ImportError)

SIZES = {  # numbers and bytes per block
    TensorType.Q2_K: (256, 84),
    TensorType.Q3_K: (256, 110),
    TensorType.Q4_K: (256, 144),
    TensorType.Q5_K: (256, 176),
    TensorType.Q6_K: (256, 210),
    TensorType.IQ4_NL: (32, 18),
    TensorType.IQ4_XS: (256, 136),
}
DTYPES = {"F32": "<u4", "F16": "<u2", "BF16": "<u2"}
COUNT = 19 * 256  # not a multiple of the chunks that the kernel quantizes at a time
NAN, INFINITY = float("nan"), float("inf")


def has(width: str) -> bool:
    try:
        kernel.use(width)
    except ValueError:
        return False
    return True


WIDEST = kernel.width()
WIDTHS = [width for width in ("avx512", "avx2", "sse2", "neon", "generic") if has(width)]
kernel.use(WIDEST)


@pytest.fixture(autouse=True)
def _restore_the_width() -> Iterator[None]:
    yield
    kernel.use(WIDEST)


def library() -> ctypes.CDLL | None:
    package = importlib.util.find_spec("libggml")
    if package is None or package.origin is None:
        return None
    names = ("lib64/libggml-base.so", "lib/libggml-base.so", "lib/libggml-base.dylib", "bin/ggml-base.dll")
    paths = [path for name in names if (path := Path(package.origin).parent / name).exists()]
    return ctypes.CDLL(str(paths[0])) if paths else None


GGML = library()
needs_ggml = pytest.mark.skipif(
    GGML is None or platform.machine().lower() not in ("x86_64", "amd64"),
    reason="only the ggml of libggml-python for x86-64 rounds each product",
)


def ggml(kind: TensorType, numbers: Floats) -> bytes:
    assert GGML is not None
    size, length = SIZES[kind]
    blocks = ctypes.create_string_buffer(numbers.size // size * length)
    GGML.ggml_quantize_chunk.restype = ctypes.c_size_t
    written = GGML.ggml_quantize_chunk(
        ctypes.c_int(kind),
        ctypes.c_void_p(numbers.ctypes.data),
        blocks,
        ctypes.c_int64(0),
        ctypes.c_int64(1),
        ctypes.c_int64(numbers.size),
        None,
    )
    assert written == len(blocks)
    return blocks.raw


def check(kind: TensorType, dtype: str, content: bytes) -> None:
    expected = ggml(kind, to_floats(dtype, content))
    for width in WIDTHS:
        kernel.use(width)
        assert kernel.width() == width
        result = kernel.quantize(kind, dtype, content)
        assert len(result) == len(expected)
        ours, theirs = (np.frombuffer(blocks, np.uint8).reshape(-1, SIZES[kind][1]) for blocks in (result, expected))
        assert not np.flatnonzero((ours != theirs).any(axis=1)).tolist(), f"blocks that differ with {width}"


# Test data.

GAUSSIAN = np.random.default_rng(1).standard_normal(COUNT)
UNIFORM = np.random.default_rng(2).uniform(-1, 1, COUNT)
PLACES = np.random.default_rng(3).integers(0, COUNT, COUNT // 300)


def among(numbers: npt.NDArray[np.float64], **others: float) -> npt.NDArray[np.float64]:
    """The numbers with some replaced by others: alone in their blocks, or together."""
    mixed = numbers.copy()
    for order, other in enumerate(others.values()):
        mixed[np.roll(PLACES, order)[order :: len(others)]] = other
        mixed[order * 256 + 32 * order] = other
    return mixed


def sized(length: int, least: int, most: int) -> npt.NDArray[np.float64]:
    """Each `length` numbers have another size."""
    return GAUSSIAN * np.exp2(np.random.default_rng(4).integers(least, most, COUNT // length)).repeat(length)


NUMBERS: dict[str, Callable[[], npt.NDArray[np.floating]]] = {
    "gaussian": lambda: GAUSSIAN * 0.02,
    "uniform": lambda: UNIFORM,
    "positive": lambda: UNIFORM + 1.5,
    "negative": lambda: UNIFORM - 1.5,
    "ties": lambda: np.round(GAUSSIAN * 4) / 4,
    "ties of few values": lambda: np.round(UNIFORM * 3) / 8,
    "two values": lambda: np.sign(GAUSSIAN) * 0.3,
    "equal": lambda: np.full(COUNT, 0.3),
    "equal and negative": lambda: np.full(COUNT, -0.3),
    "zeros": lambda: np.zeros(COUNT),
    "negative zeros": lambda: np.full(COUNT, -0.0),
    "zeros of both signs": lambda: np.sign(GAUSSIAN) * 0.0,
    "denormal as F32": lambda: GAUSSIAN * 1e-40,
    "denormal as F16": lambda: GAUSSIAN * 1e-6,
    "barely above 0": lambda: GAUSSIAN * 1e-15,
    "huge": lambda: GAUSSIAN * 1e30,
    "up to the largest F32": lambda: UNIFORM * 3.4e38,
    "all 3e38": lambda: np.sign(GAUSSIAN) * 3e38,
    "sub-blocks of any size": lambda: sized(32, -140, 120),
    "sub-blocks of many sizes": lambda: sized(16, -20, 15),
    "an outlier": lambda: among(GAUSSIAN, outlier=1e6),
    "outliers": lambda: among(GAUSSIAN, outlier=1e4, other=-3e4, least=1e-9),
    "sorted": lambda: np.sort(GAUSSIAN.reshape(-1, 256)).reshape(-1),
    "sparse": lambda: np.where(UNIFORM > 0.94, GAUSSIAN, 0),
    "NaN": lambda: among(GAUSSIAN, nan=NAN),
    "infinity": lambda: among(GAUSSIAN, infinity=INFINITY),
    "negative infinity": lambda: among(GAUSSIAN, infinity=-INFINITY),
    "NaNs and infinities": lambda: among(GAUSSIAN, nan=NAN, minus=-NAN, infinity=INFINITY, negative=-INFINITY),
    "nothing finite": lambda: np.where(GAUSSIAN > 0, INFINITY, np.where(UNIFORM > 0, NAN, -INFINITY)),
}


@lru_cache
def content(name: str, dtype: str) -> bytes:
    return to_bytes(dtype, NUMBERS[name]())


@needs_ggml
@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", SIZES)
def test_blocks_are_those_of_ggml(kind: TensorType, dtype: str, name: str) -> None:
    check(kind, dtype, content(name, dtype))


def with_one_nan(bits: npt.NDArray[np.unsignedinteger], dtype: str) -> bytes:
    """Gives all NaNs the same bits: when two NaNs meet, the compiler chooses whose bits stay."""
    sign = {"F32": 1 << 31}.get(dtype, 1 << 15)
    infinity, nan = {"F32": (0x7F800000, 0x7FC00000), "F16": (0x7C00, 0x7E00), "BF16": (0x7F80, 0x7FC0)}[dtype]
    bits = bits.astype("<u4")
    return np.where(bits & (sign - 1) > infinity, bits & sign | nan, bits).astype(DTYPES[dtype]).tobytes()


@needs_ggml
@settings(deadline=None)
@given(st.sampled_from([*SIZES]), st.sampled_from([*DTYPES]), st.integers(1, 9), st.integers(0, 1 << 32))
def test_any_bits_become_those_of_ggml(kind: TensorType, dtype: str, blocks: int, seed: int) -> None:
    most = 1 << 8 * np.dtype(DTYPES[dtype]).itemsize
    bits = np.random.default_rng(seed).integers(0, most, blocks * SIZES[kind][0], dtype="<u4")
    check(kind, dtype, with_one_nan(bits, dtype))


@needs_ggml
@settings(deadline=None)
@given(st.sampled_from([*SIZES]), st.lists(st.floats(width=32), min_size=1, max_size=40), st.integers(1, 6))
@example(TensorType.Q6_K, [1e-15, -9e-16], 1)
@example(TensorType.IQ4_XS, [-127.0, -115.5, -4.5, 0.0, 113.0], 1)
def test_any_numbers_become_those_of_ggml(kind: TensorType, numbers: list[float], blocks: int) -> None:
    """A few numbers are repeated, so there are ties."""
    bits = np.resize(np.array(numbers, "<f4").view("<u4"), blocks * SIZES[kind][0])
    check(kind, "F32", with_one_nan(bits, "F32"))


@needs_ggml
@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("nan", [0x7F800001, 0xFF800001, 0x7FC12345, 0x7FFFFFFF, 0xFFFFFFFF])
def test_bits_of_a_nan_count_as_in_ggml(kind: TensorType, nan: int) -> None:
    bits = np.frombuffer(content("gaussian", "F32"), "<u4").copy()
    bits[PLACES] = nan
    check(kind, "F32", bits.tobytes())


@needs_ggml
@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_half_is_read_as_by_ggml(dtype: str) -> None:
    """Each half has a block of its own; every NaN is included."""
    halves = np.arange(1 << 16, dtype="<u2").repeat(32).reshape(-1, 32)
    halves[:, 1:] = 0
    check(TensorType.IQ4_NL, dtype, halves.tobytes())


# On every platform, without ggml.

SCATTERED = (np.arange(9 * 1024, dtype="<u4") * np.uint32(2654435761)).view("<i4").astype("<f4")
SCATTERED /= np.float32(1 << 32)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_cpu_makes_the_same_bits(width: str) -> None:
    """The same bits as ggml on x86-64."""
    kernel.use(width)
    blocks = b"".join(kernel.quantize(kind, "F32", SCATTERED.tobytes()) for kind in SIZES)
    assert hashlib.sha256(blocks).hexdigest() == "3c81304df81750122adda09ab5850fba6ce4937d00207300416de6134ce70526"


@needs_ggml
def test_ggml_makes_the_same_bits() -> None:
    blocks = b"".join(ggml(kind, SCATTERED) for kind in SIZES)
    assert hashlib.sha256(blocks).hexdigest() == "3c81304df81750122adda09ab5850fba6ce4937d00207300416de6134ce70526"


def test_the_widest_registers_are_used() -> None:
    assert WIDTHS[0] == WIDEST
    with pytest.raises(ValueError, match="has no mmx"):
        kernel.use("mmx")
    assert kernel.width() == WIDEST


def test_types_are_those_of_gguf() -> None:
    assert kernel.types() == tuple(SIZES)


@pytest.mark.parametrize("kind", SIZES)
def test_blocks_are_independent(kind: TensorType) -> None:
    size, length = SIZES[kind]
    whole = kernel.quantize(kind, "BF16", content("gaussian", "BF16"))
    for count in (0, 1, 2, 3, 5, 33):
        part = memoryview(content("gaussian", "BF16"))[size * 2 : size * 2 * (count + 1)]
        assert kernel.quantize(kind, "BF16", part) == whole[length : length * (count + 1)]


@pytest.mark.parametrize(
    ("kind", "dtype", "length", "reason"),
    [
        (8, "F32", 1024, "type 8 is not one of those made here"),
        (12, "F64", 2048, "numbers of dtype F64 are not read here"),
        (12, "F32", 1023, "1023 bytes are no whole blocks of 256 F32"),
        (20, "BF16", 96, "96 bytes are no whole blocks of 32 BF16"),
    ],
)
def test_refuses_wrong_arguments(kind: int, dtype: str, length: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        kernel.quantize(kind, dtype, bytes(length))
