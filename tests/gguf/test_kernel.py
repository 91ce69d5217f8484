"""The kernel against ggml itself, bit by bit, in every width that this CPU has."""

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

kernel = pytest.importorskip("proxy.gguf._kernel", reason="no C compiler has built the kernel", exc_type=ImportError)

Floats = npt.NDArray[np.float32]
SIZES = {  # numbers and bytes of a block
    TensorType.Q2_K: (256, 84),
    TensorType.Q3_K: (256, 110),
    TensorType.Q4_K: (256, 144),
    TensorType.Q5_K: (256, 176),
    TensorType.Q6_K: (256, 210),
    TensorType.IQ4_NL: (32, 18),
    TensorType.IQ4_XS: (256, 136),
}
DTYPES = {"F32": "<u4", "F16": "<u2", "BF16": "<u2"}
COUNT = 19 * 256  # no whole number of the chunks that the kernel looks at
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
def _as_wide_as_before() -> Iterator[None]:
    yield
    kernel.use(WIDEST)


def library() -> ctypes.CDLL | None:
    package = importlib.util.find_spec("libggml")
    if package is None or package.origin is None:
        return None
    names = ("lib64/libggml-base.so", "lib/libggml-base.so", "lib/libggml-base.dylib", "bin/ggml-base.dll")
    found = [path for name in names if (path := Path(package.origin).parent / name).exists()]
    return ctypes.CDLL(str(found[0])) if found else None


GGML = library()
beside_ggml = pytest.mark.skipif(
    GGML is None or platform.machine().lower() not in ("x86_64", "amd64"),
    reason="no libggml-python for x86-64, whose ggml alone rounds each product",
)


def ggml(kind: TensorType, numbers: Floats) -> bytes:
    assert GGML is not None
    size, length = SIZES[kind]
    made = ctypes.create_string_buffer(numbers.size // size * length)
    GGML.ggml_quantize_chunk.restype = ctypes.c_size_t
    written = GGML.ggml_quantize_chunk(
        ctypes.c_int(kind),
        ctypes.c_void_p(numbers.ctypes.data),
        made,
        ctypes.c_int64(0),
        ctypes.c_int64(1),
        ctypes.c_int64(numbers.size),
        None,
    )
    assert written == len(made)
    return made.raw


def narrowed(numbers: npt.NDArray[np.floating], dtype: str) -> bytes:
    with np.errstate(all="ignore"):
        wide = numbers.astype("<f4")
        if dtype == "BF16":
            return (wide.view("<u4") >> 16).astype("<u2").tobytes()
        return wide.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def floats(content: bytes, dtype: str) -> Floats:
    if dtype == "BF16":
        return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(content, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)


def check(kind: TensorType, dtype: str, content: bytes) -> None:
    expected = ggml(kind, floats(content, dtype))
    for width in WIDTHS:
        kernel.use(width)
        assert kernel.width() == width
        made = kernel.quantize(kind, dtype, content)
        assert len(made) == len(expected)
        blocks = [np.frombuffer(whole, np.uint8).reshape(-1, SIZES[kind][1]) for whole in (made, expected)]
        assert not np.flatnonzero((blocks[0] != blocks[1]).any(axis=1)).tolist(), f"blocks that differ with {width}"


# Numbers of all kinds.

GAUSSIAN = np.random.default_rng(1).standard_normal(COUNT)
UNIFORM = np.random.default_rng(2).uniform(-1, 1, COUNT)
PLACES = np.random.default_rng(3).integers(0, COUNT, COUNT // 300)


def among(numbers: npt.NDArray[np.float64], **others: float) -> npt.NDArray[np.float64]:
    """With others in it: alone in their blocks, or not."""
    made = numbers.copy()
    for order, other in enumerate(others.values()):
        made[np.roll(PLACES, order)[order :: len(others)]] = other
        made[order * 256 + 32 * order] = other
    return made


def sized(length: int, least: int, most: int) -> npt.NDArray[np.float64]:
    """Each so many numbers of another size."""
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
    "hardly more than nothing": lambda: GAUSSIAN * 1e-15,
    "huge": lambda: GAUSSIAN * 1e30,
    "as huge as can be": lambda: UNIFORM * 3.4e38,
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
    "all that is not finite": lambda: among(GAUSSIAN, nan=NAN, minus=-NAN, infinity=INFINITY, negative=-INFINITY),
    "nothing finite": lambda: np.where(GAUSSIAN > 0, INFINITY, np.where(UNIFORM > 0, NAN, -INFINITY)),
}


@lru_cache
def content(name: str, dtype: str) -> bytes:
    return narrowed(NUMBERS[name](), dtype)


@beside_ggml
@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", SIZES)
def test_blocks_are_those_of_ggml(kind: TensorType, dtype: str, name: str) -> None:
    check(kind, dtype, content(name, dtype))


def without_nans_of_many_kinds(bits: npt.NDArray[np.unsignedinteger], dtype: str) -> bytes:
    """Of two NaNs that meet the compiler chooses whose bits are kept, so all have the same."""
    sign = {"F32": 1 << 31}.get(dtype, 1 << 15)
    infinity, nan = {"F32": (0x7F800000, 0x7FC00000), "F16": (0x7C00, 0x7E00), "BF16": (0x7F80, 0x7FC0)}[dtype]
    bits = bits.astype("<u4")
    return np.where(bits & (sign - 1) > infinity, bits & sign | nan, bits).astype(DTYPES[dtype]).tobytes()


@beside_ggml
@settings(deadline=None)
@given(st.sampled_from([*SIZES]), st.sampled_from([*DTYPES]), st.integers(1, 9), st.integers(0, 1 << 32))
def test_any_bits_become_those_of_ggml(kind: TensorType, dtype: str, blocks: int, seed: int) -> None:
    most = 1 << 8 * np.dtype(DTYPES[dtype]).itemsize
    bits = np.random.default_rng(seed).integers(0, most, blocks * SIZES[kind][0], dtype="<u4")
    check(kind, dtype, without_nans_of_many_kinds(bits, dtype))


@beside_ggml
@settings(deadline=None)
@given(st.sampled_from([*SIZES]), st.lists(st.floats(width=32), min_size=1, max_size=40), st.integers(1, 6))
@example(TensorType.Q6_K, [1e-15, -9e-16], 1)
@example(TensorType.IQ4_XS, [-127.0, -115.5, -4.5, 0.0, 113.0], 1)
def test_any_numbers_become_those_of_ggml(kind: TensorType, numbers: list[float], blocks: int) -> None:
    """The same over and over, so that there are ties."""
    bits = np.resize(np.array(numbers, "<f4").view("<u4"), blocks * SIZES[kind][0])
    check(kind, "F32", without_nans_of_many_kinds(bits, "F32"))


@beside_ggml
@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("nan", [0x7F800001, 0xFF800001, 0x7FC12345, 0x7FFFFFFF, 0xFFFFFFFF])
def test_the_bits_of_a_nan_are_heeded_as_by_ggml(kind: TensorType, nan: int) -> None:
    bits = np.frombuffer(content("gaussian", "F32"), "<u4").copy()
    bits[PLACES] = nan
    check(kind, "F32", bits.tobytes())


@beside_ggml
@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_half_is_widened_as_by_ggml(dtype: str) -> None:
    """Each with a block of its own, and the NaNs of every kind too."""
    halves = np.arange(1 << 16, dtype="<u2").repeat(32).reshape(-1, 32)
    halves[:, 1:] = 0
    check(TensorType.IQ4_NL, dtype, halves.tobytes())


# Everywhere, without ggml.

SCATTERED = (np.arange(9 * 1024, dtype="<u4") * np.uint32(2654435761)).view("<i4").astype("<f4")
SCATTERED /= np.float32(1 << 32)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_cpu_makes_the_same(width: str) -> None:
    """And ggml the same, but on x86-64 only."""
    kernel.use(width)
    made = b"".join(kernel.quantize(kind, "F32", SCATTERED.tobytes()) for kind in SIZES)
    assert hashlib.sha256(made).hexdigest() == "3c81304df81750122adda09ab5850fba6ce4937d00207300416de6134ce70526"


@beside_ggml
def test_ggml_makes_the_same() -> None:
    made = b"".join(ggml(kind, SCATTERED) for kind in SIZES)
    assert hashlib.sha256(made).hexdigest() == "3c81304df81750122adda09ab5850fba6ce4937d00207300416de6134ce70526"


def test_the_widest_registers_are_used() -> None:
    assert WIDTHS[0] == WIDEST
    with pytest.raises(ValueError, match="has no mmx"):
        kernel.use("mmx")
    assert kernel.width() == WIDEST


def test_types_are_those_of_gguf() -> None:
    assert kernel.types() == tuple(SIZES)


@pytest.mark.parametrize("kind", SIZES)
def test_a_block_is_its_own(kind: TensorType) -> None:
    size, length = SIZES[kind]
    whole = kernel.quantize(kind, "BF16", content("gaussian", "BF16"))
    for count in (0, 1, 2, 3, 5, 33):
        some = memoryview(content("gaussian", "BF16"))[size * 2 : size * 2 * (count + 1)]
        assert kernel.quantize(kind, "BF16", some) == whole[length : length * (count + 1)]


@pytest.mark.parametrize(
    ("kind", "dtype", "length", "reason"),
    [
        (8, "F32", 1024, "type 8 is not one of those made here"),
        (12, "F64", 2048, "numbers of dtype F64 are not read here"),
        (12, "F32", 1023, "1023 bytes are no whole blocks of 256 F32"),
        (20, "BF16", 96, "96 bytes are no whole blocks of 32 BF16"),
    ],
)
def test_what_it_cannot_take_is_refused(kind: int, dtype: str, length: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        kernel.quantize(kind, dtype, bytes(length))
