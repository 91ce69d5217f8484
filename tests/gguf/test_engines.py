"""The engines against the `gguf` package and against each other."""

import math
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.gguf import engine_ggml
from proxy.gguf.engine import Engine, engine_for
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.tensors import BLOCKS, TensorType
from proxy.gguf.transforms import WIDTHS
from tests.kit.dtypes import numbers_of_all_magnitudes, to_floats, weight_numbers
from tests.kit.engines import ENGINES, GGML, NUMPY, every_engine, needs_ggml, reference

BLOCK = 32
REFERENCE_TYPES = (
    *(TensorType.F32, TensorType.F16, TensorType.BF16, TensorType.Q8_0, TensorType.Q4_0, TensorType.Q4_1),
    *(TensorType.Q5_0, TensorType.Q5_1, TensorType.TQ1_0, TensorType.TQ2_0, TensorType.MXFP4),
)
"""The types that the `gguf` package can make."""
CASTS = [
    pytest.param(engine, dtype, kind, id=f"{engine.name.split()[0]}-{dtype}-{kind.name}")
    for engine in ENGINES
    for dtype in WIDTHS
    for kind in REFERENCE_TYPES
    if kind in engine.types and kind.name != dtype
]
INFINITY, NAN = float("inf"), float("nan")


def q8_0(engine: Engine, *numbers: float) -> tuple[int, list[int]]:
    """The bits of the scale, and the quantized numbers. The block is filled up with zeros."""
    block = struct.pack("<32f", *numbers, *[0] * (BLOCK - len(numbers)))
    scale, *quantized = struct.unpack("<H32b", engine.quantize(TensorType.Q8_0, "F32", block))
    assert not any(quantized[len(numbers) :])
    return scale, quantized[: len(numbers)]


@pytest.mark.parametrize(("engine", "dtype", "kind"), CASTS)
def test_blocks_are_those_of_the_gguf_package(engine: Engine, dtype: str, kind: TensorType) -> None:
    """More numbers than an engine converts at a time."""
    make = numbers_of_all_magnitudes if kind in NUMPY.types else weight_numbers
    content = make(dtype, 1 << 17)
    blocks = engine.quantize(kind, dtype, content)
    assert blocks == reference(to_floats(dtype, content), kind)
    assert len(set(blocks)) > 50


@every_engine
@given(st.lists(st.floats(-65504, 65504, width=32), min_size=BLOCK, max_size=BLOCK))
def test_any_block_is_that_of_the_gguf_package(engine: Engine, numbers: list[float]) -> None:
    """Except where the scale has no reciprocal: there the package's result is arbitrary."""
    array = np.array(numbers, np.float32)
    if 0 < np.abs(array).max() < 2.0**-120:
        array *= np.float32(2.0**30)
    assert engine.quantize(TensorType.Q8_0, "F32", array.tobytes()) == reference(array, TensorType.Q8_0)


@needs_ggml
@pytest.mark.parametrize("dtype", sorted(WIDTHS))
@pytest.mark.parametrize("kind", sorted(NUMPY.types), ids=lambda kind: kind.name)
def test_both_engines_make_the_same_bits(dtype: str, kind: TensorType) -> None:
    assert GGML is not None
    for content in (numbers_of_all_magnitudes(dtype, 1 << 12, 3), weight_numbers(dtype, 1 << 12, 4), bytes(1 << 12)):
        assert GGML.quantize(kind, dtype, content) == NUMPY.quantize(kind, dtype, content)


@pytest.mark.parametrize("kind", sorted(engine_ggml.TYPES), ids=lambda kind: kind.name)
def test_dtype_and_cuts_do_not_change_the_blocks(kind: TensorType) -> None:
    """F16 and BF16 give the same blocks as their numbers in F32, and half of the blocks give half of the result."""
    engine = engine_for(kind)
    if engine is None:
        pytest.skip("no engine for this type")
    block_numbers, block_bytes = BLOCKS[kind]
    for dtype in ("F16", "BF16"):
        content = weight_numbers(dtype, 1 << 11)
        blocks = engine.quantize(kind, dtype, content)
        assert blocks == engine.quantize(kind, "F32", to_floats(dtype, content).tobytes())
        assert len(blocks) == (1 << 11) // block_numbers * block_bytes
        half = len(content) // 2
        assert engine.quantize(kind, dtype, content[:half]) + engine.quantize(kind, dtype, content[half:]) == blocks


@every_engine
def test_halves_are_rounded_away_from_zero(engine: Engine) -> None:
    below = [float(np.nextafter(np.float32(number), np.float32(0))) for number in (0.5, 1.5, 126.5)]
    scale, quantized = q8_0(engine, 127, 0.5, -0.5, 1.5, -1.5, 2.5, 100.5, -126.5, *below, -below[0])
    assert scale == 0x3C00
    assert quantized == [127, 1, -1, 2, -2, 3, 101, -127, 0, 1, 126, 0]


@pytest.mark.parametrize(
    ("numbers", "scale", "quantized"),
    [
        ((0.0, -0.0), 0x0000, [0, 0]),
        ((2.0**-149,), 0x0000, [0]),  # divided by 127 it is 0
        ((2.0**-126, -(2.0**-127)), 0x0000, [0, 0]),  # the scale's reciprocal is infinite
        ((127 * 2.0**-127, -(2.0**-127)), 0x0000, [127, -1]),  # a denormal scale with a reciprocal; as F16 it is 0
        ((127 * 2.0**-24, 2.0**-24), 0x0001, [127, 1]),
        ((127 * 2.0**-25, 2.0**-25), 0x0000, [127, 1]),  # half of the smallest F16, rounded to even
        ((127 * 65504.0, 65504.0), 0x7BFF, [127, 1]),
    ],
)
def test_blocks_at_the_limits_of_floats(numbers: tuple[float, ...], scale: int, quantized: list[int]) -> None:
    assert q8_0(NUMPY, *numbers) == (scale, quantized)


@every_engine
@pytest.mark.parametrize("bad", [(INFINITY, 5.0), (5.0, -INFINITY, 5.0), (5.0,) * 31 + (NAN,)])
def test_a_block_without_a_scale_is_refused(engine: Engine, bad: tuple[float, ...]) -> None:
    """C's maximum ignores a NaN unless it is the last number; only then is ggml's scale invalid."""
    good = numbers_of_all_magnitudes("F32", 3 * BLOCK)
    block = struct.pack("<32f", *bad, *[0.0] * (BLOCK - len(bad)))
    with pytest.raises(CannotConvert, match="NaN"):
        engine.quantize(TensorType.Q8_0, "F32", good + block + good)


def half(number: float) -> bytes:
    """Python's F16, but with ggml's only NaN: Python keeps the bits of a NaN."""
    if math.isnan(number):
        return b"\x00\xfe" if struct.pack("<d", number)[7] & 0x80 else b"\x00\x7e"
    return struct.pack("<e", number)


def fits(number: float) -> bool:
    return not math.isfinite(number) or abs(number) < 65520


def fits_bf16(bits: int) -> bool:
    """Whether an F32 is nearer to the largest BF16 than to 2**128."""
    return not 0x7F7F8000 <= bits & 0x7FFFFFFF < 0x7F800000


@every_engine
def test_every_bf16_becomes_the_nearest_f16(engine: Engine) -> None:
    bits = np.arange(1 << 16, dtype="<u2")
    wide = to_floats("BF16", bits.tobytes())
    fitting = np.array([fits(float(number)) for number in wide])
    expected = b"".join(half(float(number)) for number in wide[fitting])
    assert engine.quantize(TensorType.F16, "BF16", bits[fitting].tobytes()) == expected


@every_engine
@pytest.mark.parametrize("kind", [TensorType.F16, TensorType.Q8_0], ids=lambda kind: kind.name)
@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_beyond_f16_are_refused(engine: Engine, kind: TensorType, sign: int) -> None:
    unit = 1 if kind is TensorType.F16 else 127
    numbers = [0.0] * BLOCK
    numbers[7] = sign * unit * 65504.0
    engine.quantize(kind, "F32", struct.pack("<32f", *numbers))
    numbers[7] = sign * unit * 65520.0
    with pytest.raises(CannotConvert, match="beyond what F16 can hold|too large for Q8_0"):
        engine.quantize(kind, "F32", struct.pack("<32f", *numbers))


@every_engine
@pytest.mark.parametrize("kind", [TensorType.F16, TensorType.BF16], ids=lambda kind: kind.name)
def test_nans_and_infinities_stay(engine: Engine, kind: TensorType) -> None:
    """And a number that is too large is still refused beside them."""
    content = struct.pack("<32f", *[INFINITY, -INFINITY, NAN, 1.0] * 8)
    halves = to_floats(kind.name, engine.quantize(kind, "F32", content))
    assert np.array_equal(halves, to_floats("F32", content), equal_nan=True)
    with pytest.raises(CannotConvert, match=f"beyond what {kind.name} can hold"):
        engine.quantize(kind, "F32", content[:-4] + struct.pack("<f", 3.4e38))


@every_engine
def test_every_f16_becomes_the_nearest_bf16(engine: Engine) -> None:
    content = np.arange(1 << 16, dtype="<u2").tobytes()
    assert engine.quantize(TensorType.BF16, "F16", content) == reference(to_floats("F16", content), TensorType.BF16)


BITS = st.lists(st.integers(0, (1 << 32) - 1), min_size=BLOCK, max_size=BLOCK)
NANS = [0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF, 0xFF800001]
AT_THE_EDGE = [0x477FEFFF, 0x477FF000, 0x387FDFFF, 0x33000000, 0x33000001, 0xB3000000, 1, 0x7FFF, 0x8000, 0x18000]
INFINITIES = [0x7F800000, 0xFF800000]
LARGEST = [0x7F7FFFFF, 0x7F7F8000]
LARGE = [0x7F7F7FFF, 0xFF7F7FFF]


@every_engine
@given(BITS)
@example([*NANS, *AT_THE_EDGE, *LARGEST, *LARGE, *INFINITIES, *[0] * 12])
@example([*NANS, *AT_THE_EDGE, *LARGE, *INFINITIES, *[0] * 14])
def test_any_f32_becomes_the_nearest_half(engine: Engine, bits: list[int]) -> None:
    content = struct.pack("<32I", *bits)
    numbers = struct.unpack("<32f", content)
    if all(map(fits, numbers)):
        assert engine.quantize(TensorType.F16, "F32", content) == b"".join(map(half, numbers))
    else:
        with pytest.raises(CannotConvert, match="beyond what F16 can hold"):
            engine.quantize(TensorType.F16, "F32", content)
    if all(map(fits_bf16, bits)):
        assert engine.quantize(TensorType.BF16, "F32", content) == reference(to_floats("F32", content), TensorType.BF16)
    else:
        with pytest.raises(CannotConvert, match="beyond what BF16 can hold"):
            engine.quantize(TensorType.BF16, "F32", content)


BAD = [NAN, INFINITY, -INFINITY, 3.4e38, -3.4e38, 65520.0, 1e-45, 0.0]


@needs_ggml
@pytest.mark.parametrize("kind", sorted(engine_ggml.TYPES), ids=lambda kind: kind.name)
@given(st.lists(st.integers(0, (1 << 32) - 1), min_size=8, max_size=64), st.sampled_from([0, 0x80000000, 0x7F800000]))
@example([0x7FC00000, 0xFF800001, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 1, 0, 0x80000000], 0)
def test_no_bits_end_the_process(kind: TensorType, bits: list[int], set_bits: int) -> None:
    """Any F32 bits give a block of the right size or are refused. ggml alone aborts for some in IQ3_S."""
    assert GGML is not None
    content = (np.resize(np.array(bits, "<u4"), 256) | np.uint32(set_bits)).tobytes()
    block_numbers, block_bytes = BLOCKS[kind]
    try:
        blocks = GGML.quantize(kind, "F32", content)
    except CannotConvert:
        return
    assert len(blocks) == 256 // block_numbers * block_bytes


@needs_ggml
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("index", [0, 100, 255])
def test_a_bad_number_does_not_end_the_process(bad: float, index: int) -> None:
    assert GGML is not None
    array = np.frombuffer(weight_numbers("F32", 256), "<f4").copy()
    array[index] = bad
    for kind in sorted(engine_ggml.TYPES):
        block_numbers, block_bytes = BLOCKS[kind]
        try:
            assert len(GGML.quantize(kind, "F32", array.tobytes())) == 256 // block_numbers * block_bytes
        except CannotConvert:
            assert bad != 0


@pytest.mark.parametrize("kind", [TensorType.Q8_0, TensorType.F16], ids=lambda kind: kind.name)
def test_numpy_needs_little_memory(kind: TensorType) -> None:
    """In addition to its input and output."""
    content = bytes(1 << 23)
    NUMPY.quantize(kind, "BF16", content[:64])
    tracemalloc.start()
    NUMPY.quantize(kind, "BF16", content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20
