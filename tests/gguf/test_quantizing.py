"""Casts and Q8_0, against the `gguf` package, `struct` and what C says; `tests/real` asks Ollama itself."""

import math
import random
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Mapping
from functools import lru_cache

import gguf.quants
import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.gguf.casting import can_quantize, cast
from proxy.gguf.config import CannotConvert
from proxy.gguf.conversion import FILE_TYPES
from proxy.gguf.header import Header, read_header
from proxy.gguf.quantizing import quantized
from proxy.gguf.targets import Piece, Target
from proxy.gguf.tensors import TensorInfo, TensorType
from proxy.gguf.transforms import WIDTHS, Transform, chained, interleaved, transposed
from tests.gguf.tiny_repositories import HIDDEN, REPOSITORIES
from tests.gguf.writing import plan, write

Floats = npt.NDArray[np.float32]
BLOCK = 32
CASTS = [
    (dtype, kind)
    for dtype in WIDTHS
    for kind in (TensorType.Q8_0, TensorType.F16, TensorType.BF16)
    if kind.name != dtype
]


def run(transform: Transform, content: bytes, pieces: Callable[[], int] | None = None) -> bytes:
    """What becomes of it: whole, or in pieces of what `pieces` says."""
    step, made, at = transform(), [], 0
    while at < len(content):
        size = pieces() if pieces else len(content)
        made.append(step(content[at : at + size]))
        at += size
    return b"".join([*made, step(b"")])


def floats(dtype: str, content: bytes) -> Floats:
    if dtype == "BF16":
        return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(content, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)


def judged(numbers: Floats, kind: TensorType) -> bytes:
    """The `gguf` package's answer, for numbers of which each 32 have a scale."""
    if kind is TensorType.F32:
        return numbers.tobytes()
    with np.errstate(all="ignore"):
        return gguf.quants.quantize(numbers.reshape(-1, BLOCK), GGMLQuantizationType(kind)).tobytes()


def some(dtype: str, count: int, seed: int = 0) -> bytes:
    """Numbers of about one size in each 32, of every size that has a reciprocal, and of both signs."""
    generator = np.random.default_rng(seed)
    sizes = np.exp2(generator.integers(-24 if dtype == "F16" else -120, 15, (count // BLOCK, 1)))
    numbers = (generator.uniform(-1, 1, (count // BLOCK, BLOCK)) * sizes).astype(np.float32)
    if dtype == "BF16":
        return (numbers.view("<u4") >> 16).astype("<u2").tobytes()
    return numbers.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def q8_0(*numbers: float) -> tuple[int, list[int]]:
    """The bits of the scale, and the numbers; those missing are 0."""
    content = run(quantized("F32", TensorType.Q8_0), struct.pack("<32f", *numbers, *[0] * (BLOCK - len(numbers))))
    scale, *made = struct.unpack("<H32b", content)
    assert not any(made[len(numbers) :])
    return scale, made[: len(numbers)]


@pytest.mark.parametrize(("dtype", "kind"), CASTS)
def test_casts_are_those_of_the_gguf_package(dtype: str, kind: TensorType) -> None:
    """Of more numbers than are calculated at a time."""
    content = some(dtype, 1 << 18)
    made = run(quantized(dtype, kind), content)
    assert made == judged(floats(dtype, content), kind)
    assert len(set(made)) > 100


@given(st.lists(st.floats(-65504, 65504, width=32), min_size=BLOCK, max_size=BLOCK))
def test_any_block_is_quantized_as_by_the_gguf_package(numbers: list[float]) -> None:
    """But for those whose scale has no reciprocal, of which its answer is chance."""
    array = np.array(numbers, np.float32)
    if 0 < np.abs(array).max() < 2.0**-120:
        array *= np.float32(2.0**30)
    assert run(quantized("F32", TensorType.Q8_0), array.tobytes()) == judged(array, TensorType.Q8_0)


def test_halves_are_rounded_away_from_zero() -> None:
    below = [float(np.nextafter(np.float32(number), np.float32(0))) for number in (0.5, 1.5, 126.5)]
    scale, made = q8_0(127, 0.5, -0.5, 1.5, -1.5, 2.5, 100.5, -126.5, *below, -below[0])
    assert scale == 0x3C00
    assert made == [127, 1, -1, 2, -2, 3, 101, -127, 0, 1, 126, 0]


@pytest.mark.parametrize(
    ("numbers", "scale", "made"),
    [
        ((0.0, -0.0), 0x0000, [0, 0]),
        ((2.0**-149,), 0x0000, [0]),  # a 127th of it is nothing
        ((2.0**-126, -(2.0**-127)), 0x0000, [0, 0]),  # the scale's reciprocal is infinite
        ((127 * 2.0**-127, -(2.0**-127)), 0x0000, [127, -1]),  # a denormal scale with a reciprocal; it is 0 as F16
        ((127 * 2.0**-24, 2.0**-24), 0x0001, [127, 1]),
        ((127 * 2.0**-25, 2.0**-25), 0x0000, [127, 1]),  # half of the least F16: to the even
        ((127 * 65504.0, 65504.0), 0x7BFF, [127, 1]),
        ((float("inf"), 5.0), 0x7C00, [0, 0]),
        ((5.0, float("-inf"), 5.0), 0x7C00, [0, 0, 0]),
        ((5.0, float("nan"), 5.0), 0x7E00, [0, 0, 0]),  # C takes the largest behind the last NaN
    ],
)
def test_blocks_at_the_ends_of_what_floats_can_say(numbers: tuple[float, ...], scale: int, made: list[int]) -> None:
    assert q8_0(*numbers) == (scale, made)


def test_one_bad_block_leaves_the_others_as_they_are() -> None:
    good = some("BF16", 3 * BLOCK)
    bad = good[:64] + b"\x80\x7f" * BLOCK + good[128:]
    ours, whole = run(quantized("BF16", TensorType.Q8_0), bad), run(quantized("BF16", TensorType.Q8_0), good)
    assert (ours[:34], ours[68:]) == (whole[:34], whole[68:])
    assert ours[34:68] == b"\x00\x7c" + bytes(BLOCK)


def half(number: float) -> bytes:
    """Python's own, which keeps a NaN's bits where ggml has one NaN."""
    if math.isnan(number):
        return b"\x00\xfe" if struct.pack("<d", number)[7] & 0x80 else b"\x00\x7e"
    return struct.pack("<e", number)


def fits(number: float) -> bool:
    return not math.isfinite(number) or abs(number) < 65520


def test_every_bf16_becomes_the_nearest_f16() -> None:
    bits = np.arange(1 << 16, dtype="<u2")
    wide = floats("BF16", bits.tobytes())
    fitting = np.array([fits(float(number)) for number in wide])
    expected = b"".join(half(float(number)) for number in wide[fitting])
    assert run(quantized("BF16", TensorType.F16), bits[fitting].tobytes()) == expected


@pytest.mark.parametrize("kind", [TensorType.F16, TensorType.Q8_0])
@pytest.mark.parametrize("sign", [1, -1])
def test_what_f16_cannot_hold_is_refused(kind: TensorType, sign: int) -> None:
    most = 1 if kind is TensorType.F16 else 127
    numbers = [0.0] * BLOCK
    numbers[7] = sign * most * 65504.0
    run(quantized("F32", kind), struct.pack("<32f", *numbers))
    numbers[7] = sign * most * 65520.0
    with pytest.raises(CannotConvert, match="655[0-9]+, is beyond what F16 can hold"):
        run(quantized("F32", kind), struct.pack("<32f", *numbers))


def test_every_f16_becomes_the_nearest_bf16() -> None:
    content = np.arange(1 << 16, dtype="<u2").tobytes()
    assert run(quantized("F16", TensorType.BF16), content) == judged(floats("F16", content), TensorType.BF16)


BITS = st.lists(st.integers(0, (1 << 32) - 1), min_size=BLOCK, max_size=BLOCK)
NAN = [0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF, 0xFF800001]
AT_THE_EDGE = [0x477FEFFF, 0x477FF000, 0x387FDFFF, 0x33000000, 0x33000001, 0xB3000000, 1, 0x7FFF, 0x8000, 0x18000]
LARGEST = [0x7F7FFFFF, 0x7F7F7FFF, 0x7F7F8000, 0x7F800000, 0xFF800000]


@given(BITS)
@example([*NAN, *AT_THE_EDGE, *LARGEST, *[0] * 13])
def test_any_f32_becomes_the_nearest_half(bits: list[int]) -> None:
    content = struct.pack("<32I", *bits)
    numbers = struct.unpack("<32f", content)
    if all(map(fits, numbers)):
        assert run(quantized("F32", TensorType.F16), content) == b"".join(map(half, numbers))
    else:
        with pytest.raises(CannotConvert, match="beyond what F16 can hold"):
            run(quantized("F32", TensorType.F16), content)
    assert run(quantized("F32", TensorType.BF16), content) == judged(floats("F32", content), TensorType.BF16)


@given(st.sampled_from(CASTS), st.integers(1, 8), st.randoms(use_true_random=False))
def test_pieces_of_any_size_become_the_same(cast: tuple[str, TensorType], blocks: int, cut: random.Random) -> None:
    transform, content = quantized(*cast), some(cast[0], blocks * BLOCK)
    assert run(transform, content, lambda: cut.randrange(1, 100)) == run(transform, content)


def test_a_cast_follows_other_steps() -> None:
    matrix = np.frombuffer(some("BF16", 24 * 64), "<u2").reshape(24, 64)
    turned = matrix.reshape(3, 2, 4, 64).swapaxes(1, 2).tobytes()
    over = matrix[:, :32].reshape(3, 8, 32).swapaxes(1, 2)  # three heads of 8 rows become heads of 32 rows of 8
    cut = random.Random(1)
    for steps, content, expected in (
        (interleaved(128, 8), matrix.tobytes(), turned),
        (transposed(8, 32, 2), matrix[:, :32].tobytes(), over.tobytes()),
    ):
        both = chained([steps, quantized("BF16", TensorType.Q8_0)])
        assert both is not None
        made = run(both, content, lambda: cut.randrange(1, 300))
        assert made == judged(floats("BF16", expected), TensorType.Q8_0)


@pytest.mark.parametrize("kind", [TensorType.Q8_0, TensorType.F16])
@pytest.mark.parametrize(("window", "count", "most"), [(1 << 16, 256, 2 << 20), (1 << 23, 2, 40 << 20)])
def test_neither_a_tensor_nor_a_piece_costs_many_times_its_size(
    kind: TensorType, window: int, count: int, most: int
) -> None:
    step, piece = quantized("BF16", kind)(), bytes(window)
    step(piece[:64])
    tracemalloc.start()
    for _ in range(count):
        step(piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < most


# Whole files.


@lru_cache(maxsize=4)
def repository(name: str) -> Mapping[str, bytes]:
    return REPOSITORIES[name].files()


@lru_cache(maxsize=4)
def plain(name: str) -> bytes:
    return write(plan(repository(name)), repository(name))


def parsed(content: bytes) -> tuple[Header, dict[str, tuple[TensorInfo, bytes]]]:
    header = read_header(content, size=len(content))
    starts = {tensor.name: header.data_start + tensor.offset for tensor in header.tensors}
    return header, {
        tensor.name: (tensor, content[starts[tensor.name] : starts[tensor.name] + tensor.size])
        for tensor in header.tensors
    }


WITH_SHORT_ROWS = ("falcon_mamba", "jamba", "mamba")


def is_matrix(tensor: TensorInfo) -> bool:
    """What llama-quant.cpp of b10488 takes, of the tensors that these families have."""
    kept = ("_norm.weight", "ffn_gate_inp", "ssm_conv1d")
    rows = len([size for size in tensor.shape[1:] if size > 1])
    return bool(rows) and tensor.name.endswith("weight") and not any(part in tensor.name for part in kept)


@pytest.mark.parametrize("matrices", FILE_TYPES)
@pytest.mark.parametrize("name", sorted(REPOSITORIES))
def test_a_file_has_the_asked_type_where_ollama_would_quantize(name: str, matrices: str) -> None:
    kind = TensorType[matrices]
    if matrices == "Q8_0" and name in WITH_SHORT_ROWS:
        with pytest.raises(CannotConvert, match="ssm_dt.weight has rows of 16 numbers, no multiple of Q8_0's 32"):
            plan(repository(name), matrices=matrices)
        return
    conversion = plan(repository(name), matrices=matrices)
    content = write(conversion, repository(name), window=9999)
    assert conversion.size == len(content)
    header, tensors = parsed(content)
    before, sources = parsed(plain(name))
    assert list(tensors) == list(sources)
    for tensor, data in tensors.values():
        source, numbers = sources[tensor.name]
        assert tensor.shape == source.shape
        assert tensor.type == (kind if is_matrix(tensor) else source.type)
        if tensor.type != source.type:
            numbers = judged(floats(TensorType(source.type).name, numbers), kind)
        assert data == numbers, tensor.name
    values = {key: field.value for key, field in header.metadata.items()}
    assert values["general.quantization_version"] == 2
    assert values.pop("general.file_type") == {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7}[matrices]
    assert values == {key: field.value for key, field in before.metadata.items() if key != "general.file_type"}


def test_the_sources_type_costs_nothing() -> None:
    """Bytes are copied as without `matrices`."""
    asked, source = (plan(repository("qwen3"), **options) for options in ({"matrices": "BF16"}, {}))
    assert asked.header == source.header
    steps = [
        [piece.transform is None for piece in conversion.pieces if isinstance(piece, Piece)]
        for conversion in (asked, source)
    ]
    assert steps[0] == steps[1]
    assert any(steps[0])


@pytest.mark.parametrize("matrices", ["F16", "F32"])
def test_a_quantizer_that_takes_no_bf16_gets_another_type(matrices: str) -> None:
    conversion = plan(repository("llama"), matrices=matrices, for_ollama_quantizer_below_0_30=True)
    header = read_header(conversion.header)
    assert header.metadata["general.file_type"].value == FILE_TYPES["F16"]
    assert {TensorType(tensor.type).name for tensor in header.tensors} == {matrices, "F32"}
    names = [tensor.name for tensor in header.tensors if tensor.name.startswith("blk.")]
    assert names == sorted(names)


def matrix(*shape: int) -> Target:
    info = TensorInfo("blk.1.ffn_up.weight", shape, TensorType.BF16)
    return Target(info, (Piece("model.safetensors", 0, info.size),))


def test_rows_that_no_block_fits_are_left_to_ollama() -> None:
    """Before v0.30 it makes F16 of such a tensor, and then refuses the whole."""
    with pytest.raises(CannotConvert, match=r"blk\.1\.ffn_up\.weight has rows of 48 numbers"):
        cast(matrix(48, HIDDEN), TensorType.Q8_0)
    assert cast(matrix(48, HIDDEN), TensorType.F16).info.type is TensorType.F16


def test_a_single_row_is_left_to_ollama() -> None:
    """Before v0.30 it quantizes one, and then does not."""
    for kind in (TensorType.Q8_0, TensorType.F32):
        with pytest.raises(CannotConvert, match=r"blk\.1\.ffn_up\.weight has a single row"):
            cast(matrix(HIDDEN, 1), kind)
    assert cast(matrix(HIDDEN, 1), TensorType.BF16) == matrix(HIDDEN, 1)


@pytest.mark.parametrize("matrices", ["Q4_K_M", "Q8_1", "q8_0", "I8"])
def test_other_types_are_left_to_ollama(matrices: str) -> None:
    with pytest.raises(CannotConvert, match=matrices):
        plan(repository("llama"), matrices=matrices)


def test_without_numpy_only_f32_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_quantize()
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert not can_quantize()
    for matrices in ("Q8_0", "F16"):
        with pytest.raises(CannotConvert, match=r"ollama-hf-proxy\[numpy\]"):
            plan(repository("llama"), matrices=matrices)
    assert plan(repository("llama"), matrices="BF16")
    wide = plan(repository("llama"), matrices="F32")
    assert any(piece.becomes for piece in wide.pieces if isinstance(piece, Piece))


def test_numpy_is_imported_when_it_is_needed() -> None:
    code = "import sys, proxy.gguf.conversion, proxy.planning.conversion_plan; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"False"
