"""The engines against the `gguf` package and each other, and whole files; `tests/real` asks Ollama itself."""

import logging
import math
import platform
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial

import gguf.quants
import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.gguf import engine as engine_module
from proxy.gguf import engine_ggml
from proxy.gguf.cast import NoEngine, cast, casting
from proxy.gguf.config import CannotConvert
from proxy.gguf.engine import Engine, described, engine_for, engines
from proxy.gguf.engine_numpy import NumpyEngine
from proxy.gguf.header import GgufHeader, read_header
from proxy.gguf.sources import SourceRange, Target
from proxy.gguf.tensor_types import FILE_TYPES, ModelFacts, quantized_types
from proxy.gguf.tensors import BLOCKS, TensorInfo, TensorType
from proxy.gguf.transforms import WIDTHS, chained, interleaved, transposed
from tests.gguf.make_quantized import FIGURES, REFUSED, data_digest
from tests.gguf.test_quantized_figures import figures
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.repository import HIDDEN
from tests.gguf.writing import plan, write

Floats = npt.NDArray[np.float32]
BLOCK = 32
NUMPY = NumpyEngine()
GGML = engine_ggml.load()
ENGINES: list[Engine] = [NUMPY] if GGML is None else [NUMPY, GGML]
JUDGED = (
    *(TensorType.F32, TensorType.F16, TensorType.BF16, TensorType.Q8_0, TensorType.Q4_0, TensorType.Q4_1),
    *(TensorType.Q5_0, TensorType.Q5_1, TensorType.TQ1_0, TensorType.TQ2_0, TensorType.MXFP4),
)
"""What the `gguf` package quantizes to."""
CASTS = [
    pytest.param(engine, dtype, kind, id=f"{engine.name.split()[0]}-{dtype}-{kind.name}")
    for engine in ENGINES
    for dtype in WIDTHS
    for kind in JUDGED
    if kind in engine.types and kind.name != dtype
]
INFINITY, NAN = float("inf"), float("nan")

every_engine = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: str(engine.name).split()[0])
beside_ggml = pytest.mark.skipif(GGML is None, reason="libggml-python is not installed")


def floats(dtype: str, content: bytes) -> Floats:
    if dtype == "BF16":
        return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(content, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)


def judged(numbers: Floats, kind: TensorType) -> bytes:
    """The `gguf` package's answer, for numbers of which each 32 have a scale."""
    if kind is TensorType.F32:
        return numbers.tobytes()
    with np.errstate(all="ignore"):
        return gguf.quants.quantize(numbers.reshape(-1, BLOCKS[kind][0]), GGMLQuantizationType(kind)).tobytes()


def some(dtype: str, count: int, seed: int = 0) -> bytes:
    """Numbers of about one size in each 32, of every size that has a reciprocal, and of both signs."""
    generator = np.random.default_rng(seed)
    sizes = np.exp2(generator.integers(-24 if dtype == "F16" else -120, 15, (count // BLOCK, 1)))
    numbers = (generator.uniform(-1, 1, (count // BLOCK, BLOCK)) * sizes).astype(np.float32)
    if dtype == "BF16":
        return (numbers.view("<u4") >> 16).astype("<u2").tobytes()
    return numbers.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def usual(dtype: str, count: int, seed: int = 0) -> bytes:
    """Numbers as weights are."""
    numbers = np.random.default_rng(seed).standard_normal(count).astype(np.float32) / np.float32(16)
    if dtype == "BF16":
        return (numbers.view("<u4") >> 16).astype("<u2").tobytes()
    return numbers.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def q8_0(engine: Engine, *numbers: float) -> tuple[int, list[int]]:
    """The bits of the scale, and the numbers; those missing are 0."""
    block = struct.pack("<32f", *numbers, *[0] * (BLOCK - len(numbers)))
    scale, *made = struct.unpack("<H32b", engine.quantize(TensorType.Q8_0, "F32", block))
    assert not any(made[len(numbers) :])
    return scale, made[: len(numbers)]


@pytest.mark.parametrize(("engine", "dtype", "kind"), CASTS)
def test_blocks_are_those_of_the_gguf_package(engine: Engine, dtype: str, kind: TensorType) -> None:
    """Of more numbers than are calculated at a time."""
    make = some if kind in NUMPY.types else usual
    content = make(dtype, 1 << 17)
    made = engine.quantize(kind, dtype, content)
    assert made == judged(floats(dtype, content), kind)
    assert len(set(made)) > 50


@every_engine
@given(st.lists(st.floats(-65504, 65504, width=32), min_size=BLOCK, max_size=BLOCK))
def test_any_block_is_quantized_as_by_the_gguf_package(engine: Engine, numbers: list[float]) -> None:
    """But for those whose scale has no reciprocal, of which its answer is chance."""
    array = np.array(numbers, np.float32)
    if 0 < np.abs(array).max() < 2.0**-120:
        array *= np.float32(2.0**30)
    assert engine.quantize(TensorType.Q8_0, "F32", array.tobytes()) == judged(array, TensorType.Q8_0)


@beside_ggml
@pytest.mark.parametrize("dtype", sorted(WIDTHS))
@pytest.mark.parametrize("kind", sorted(NUMPY.types), ids=lambda kind: kind.name)
def test_both_engines_make_the_same(dtype: str, kind: TensorType) -> None:
    assert GGML is not None
    for content in (some(dtype, 1 << 12, 3), usual(dtype, 1 << 12, 4), bytes(1 << 12)):
        assert GGML.quantize(kind, dtype, content) == NUMPY.quantize(kind, dtype, content)


@pytest.mark.parametrize("kind", sorted(engine_ggml.TYPES), ids=lambda kind: kind.name)
def test_an_engine_widens_by_itself(kind: TensorType) -> None:
    """F16 and BF16 become what the same numbers as F32 become, and any whole blocks what all become at once."""
    engine = engine_for(kind)
    if engine is None:
        pytest.skip("no engine for it")
    numbers, taken = BLOCKS[kind]
    for dtype in ("F16", "BF16"):
        content = usual(dtype, 1 << 11)
        made = engine.quantize(kind, dtype, content)
        assert made == engine.quantize(kind, "F32", floats(dtype, content).tobytes())
        assert len(made) == (1 << 11) // numbers * taken
        half = len(content) // 2
        assert engine.quantize(kind, dtype, content[:half]) + engine.quantize(kind, dtype, content[half:]) == made


@every_engine
def test_halves_are_rounded_away_from_zero(engine: Engine) -> None:
    below = [float(np.nextafter(np.float32(number), np.float32(0))) for number in (0.5, 1.5, 126.5)]
    scale, made = q8_0(engine, 127, 0.5, -0.5, 1.5, -1.5, 2.5, 100.5, -126.5, *below, -below[0])
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
    ],
)
def test_blocks_at_the_ends_of_what_floats_can_say(numbers: tuple[float, ...], scale: int, made: list[int]) -> None:
    assert q8_0(NUMPY, *numbers) == (scale, made)


@every_engine
@pytest.mark.parametrize("bad", [(INFINITY, 5.0), (5.0, -INFINITY, 5.0), (5.0,) * 31 + (NAN,)])
def test_a_block_without_a_scale_is_refused(engine: Engine, bad: tuple[float, ...]) -> None:
    """A NaN that C's maximum leaves out, which is each but the last, makes no invalid scale in ggml."""
    good = some("F32", 3 * BLOCK)
    block = struct.pack("<32f", *bad, *[0.0] * (BLOCK - len(bad)))
    with pytest.raises(CannotConvert, match="NaN"):
        engine.quantize(TensorType.Q8_0, "F32", good + block + good)


def half(number: float) -> bytes:
    """Python's own, which keeps a NaN's bits where ggml has one NaN."""
    if math.isnan(number):
        return b"\x00\xfe" if struct.pack("<d", number)[7] & 0x80 else b"\x00\x7e"
    return struct.pack("<e", number)


def fits(number: float) -> bool:
    return not math.isfinite(number) or abs(number) < 65520


def fits_bf16(bits: int) -> bool:
    """Of an F32: what lies nearer to 2 to the 128th than to the largest BF16 does not."""
    return not 0x7F7F8000 <= bits & 0x7FFFFFFF < 0x7F800000


@every_engine
def test_every_bf16_becomes_the_nearest_f16(engine: Engine) -> None:
    bits = np.arange(1 << 16, dtype="<u2")
    wide = floats("BF16", bits.tobytes())
    fitting = np.array([fits(float(number)) for number in wide])
    expected = b"".join(half(float(number)) for number in wide[fitting])
    assert engine.quantize(TensorType.F16, "BF16", bits[fitting].tobytes()) == expected


@every_engine
@pytest.mark.parametrize("kind", [TensorType.F16, TensorType.Q8_0], ids=lambda kind: kind.name)
@pytest.mark.parametrize("sign", [1, -1])
def test_what_f16_cannot_hold_is_refused(engine: Engine, kind: TensorType, sign: int) -> None:
    most = 1 if kind is TensorType.F16 else 127
    numbers = [0.0] * BLOCK
    numbers[7] = sign * most * 65504.0
    engine.quantize(kind, "F32", struct.pack("<32f", *numbers))
    numbers[7] = sign * most * 65520.0
    with pytest.raises(CannotConvert, match="beyond what F16 can hold|too large for Q8_0"):
        engine.quantize(kind, "F32", struct.pack("<32f", *numbers))


@every_engine
@pytest.mark.parametrize("kind", [TensorType.F16, TensorType.BF16], ids=lambda kind: kind.name)
def test_a_nan_and_an_infinity_stay(engine: Engine, kind: TensorType) -> None:
    """Beside a number that is too large they do not hide it."""
    content = struct.pack("<32f", *[INFINITY, -INFINITY, NAN, 1.0] * 8)
    made = floats(kind.name, engine.quantize(kind, "F32", content))
    assert np.array_equal(made, floats("F32", content), equal_nan=True)
    with pytest.raises(CannotConvert, match=f"beyond what {kind.name} can hold"):
        engine.quantize(kind, "F32", content[:-4] + struct.pack("<f", 3.4e38))


@every_engine
def test_every_f16_becomes_the_nearest_bf16(engine: Engine) -> None:
    content = np.arange(1 << 16, dtype="<u2").tobytes()
    assert engine.quantize(TensorType.BF16, "F16", content) == judged(floats("F16", content), TensorType.BF16)


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
        assert engine.quantize(TensorType.BF16, "F32", content) == judged(floats("F32", content), TensorType.BF16)
    else:
        with pytest.raises(CannotConvert, match="beyond what BF16 can hold"):
            engine.quantize(TensorType.BF16, "F32", content)


BAD = [NAN, INFINITY, -INFINITY, 3.4e38, -3.4e38, 65520.0, 1e-45, 0.0]


@beside_ggml
@pytest.mark.parametrize("kind", sorted(engine_ggml.TYPES), ids=lambda kind: kind.name)
@given(st.lists(st.integers(0, (1 << 32) - 1), min_size=8, max_size=64), st.sampled_from([0, 0x80000000, 0x7F800000]))
@example([0x7FC00000, 0xFF800001, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 1, 0, 0x80000000], 0)
def test_no_numbers_end_the_process(kind: TensorType, bits: list[int], set_bits: int) -> None:
    """Any F32 bits become a block of the right size or are refused; ggml by itself aborts for some in IQ3_S."""
    assert GGML is not None
    content = (np.resize(np.array(bits, "<u4"), 256) | np.uint32(set_bits)).tobytes()
    numbers, taken = BLOCKS[kind]
    try:
        made = GGML.quantize(kind, "F32", content)
    except CannotConvert:
        return
    assert len(made) == 256 // numbers * taken


@beside_ggml
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("at", [0, 100, 255])
def test_bad_numbers_among_good_ones_do_not_end_the_process(bad: float, at: int) -> None:
    assert GGML is not None
    array = np.frombuffer(usual("F32", 256), "<f4").copy()
    array[at] = bad
    for kind in sorted(engine_ggml.TYPES):
        numbers, taken = BLOCKS[kind]
        try:
            assert len(GGML.quantize(kind, "F32", array.tobytes())) == 256 // numbers * taken
        except CannotConvert:
            assert bad != 0


def test_a_refusal_names_the_tensor() -> None:
    info = TensorInfo("blk.1.ffn_up.weight", (HIDDEN, 2), TensorType.F32)
    for kind in (TensorType.F16, TensorType.BF16, TensorType.Q8_0):
        change = casting(info, kind)
        with pytest.raises(CannotConvert, match=rf"^blk\.1\.ffn_up\.weight cannot become {kind.name}: "):
            change.change(struct.pack("<32f", *[3.4e38] * BLOCK))


def test_a_cast_follows_other_changes() -> None:
    matrix = np.frombuffer(some("BF16", 24 * 64), "<u2").reshape(24, 64)
    turned = matrix.reshape(3, 2, 4, 64).swapaxes(1, 2).tobytes()
    over = matrix[:, :32].reshape(3, 8, 32).swapaxes(1, 2)  # three heads of 8 rows become heads of 32 rows of 8
    for change, content, expected in (
        (interleaved(128, 8), matrix.tobytes(), turned),
        (transposed(8, 32, 2), matrix[:, :32].tobytes(), over.tobytes()),
    ):
        both = chained([change, casting(TensorInfo("x", (64, 24), TensorType.BF16), TensorType.Q8_0)])
        assert both is not None
        made = [both.change(content[at : at + both.block]) for at in range(0, len(content), both.block)]
        assert b"".join(made) == judged(floats("BF16", expected), TensorType.Q8_0)


@pytest.mark.parametrize("kind", [TensorType.Q8_0, TensorType.F16], ids=lambda kind: kind.name)
def test_numpy_takes_little_memory(kind: TensorType) -> None:
    """Beside what it is given and what it makes."""
    content = bytes(1 << 23)
    NUMPY.quantize(kind, "BF16", content[:64])
    tracemalloc.start()
    NUMPY.quantize(kind, "BF16", content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20


# Which engine makes what.


class Wrong:
    """Makes of one type something else than it should."""

    name = "a wrong one"
    types = frozenset({TensorType.F16, TensorType.Q8_0})

    def quantize(self, kind: TensorType, dtype: str, content: bytes) -> bytes:
        made = NUMPY.quantize(kind, dtype, content)
        return made if kind is TensorType.F16 else made[:-1] + bytes([made[-1] ^ 1])


@pytest.fixture
def new_engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Engines are chosen anew in the test, and again after it."""
    engines.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    engines.cache_clear()


def only(monkeypatch: pytest.MonkeyPatch, *, kernel: Engine | None = None, numpy: Engine | None = None) -> None:
    """No engines but these."""
    monkeypatch.setattr(engine_module, "_kernel", lambda: kernel)
    monkeypatch.setattr(engine_module, "_numpy", lambda: numpy)
    monkeypatch.setattr(engine_ggml, "load", lambda: None)


def test_each_type_has_the_first_engine_that_makes_it() -> None:
    for kind in TensorType:
        makers = [engine for engine in engines() if kind in engine.types]
        assert engine_for(kind) is (makers[0] if makers else None)
    assert described() == ", ".join(engine.name for engine in engines())


@beside_ggml
def test_with_ggml_every_quantization_is_made(new_engines: pytest.MonkeyPatch) -> None:
    new_engines.setattr(engine_module, "_kernel", lambda: None)
    assert engines()[0].types == engine_ggml.TYPES
    assert all(engine_for(file_type.default) for file_type in FILE_TYPES.values())


def test_an_engine_that_makes_another_block_is_not_used_for_it(
    new_engines: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    only(new_engines, kernel=Wrong(), numpy=NUMPY)
    with caplog.at_level(logging.WARNING):
        found = engine_for(TensorType.Q8_0)
    assert found is not None
    assert found.name == NUMPY.name
    half_maker = engine_for(TensorType.F16)
    assert half_maker is not None
    assert half_maker.name == Wrong.name
    [record] = caplog.records
    assert "a wrong one makes other numbers than llama-quantize of Q8_0" in record.getMessage()


def test_an_engine_that_is_always_wrong_is_none(new_engines: pytest.MonkeyPatch) -> None:
    wrong = Wrong()
    wrong.types = frozenset({TensorType.Q8_0})
    only(new_engines, kernel=wrong)
    assert (engines(), described()) == ((), "none")


def test_without_the_library_numpy_makes_four_types(new_engines: pytest.MonkeyPatch) -> None:
    only(new_engines, numpy=NUMPY)
    assert {kind for kind in TensorType if engine_for(kind)} == NUMPY.types
    assert described() == NUMPY.name
    with pytest.raises(NoEngine, match=rf"^nothing on this machine makes Q4_K \(engines: numpy {np.__version__}\)$"):
        plan(repository("llama"), quantization="Q4_K_M")


def test_without_any_engine_only_f32_and_copies_are_made(new_engines: pytest.MonkeyPatch) -> None:
    only(new_engines)
    for quantization, kind in (("Q8_0", "Q8_0"), ("F16", "F16"), ("IQ4_XS", "IQ4_XS")):
        with pytest.raises(NoEngine, match=rf"^nothing on this machine makes {kind} \(engines: none\)$"):
            plan(repository("llama"), quantization=quantization)
    assert write(plan(repository("llama"), quantization="BF16"), repository("llama"))
    _, sources = parsed(plain("llama"))
    _, tensors = parsed(write(plan(repository("llama"), quantization="F32"), repository("llama")))
    for name, (tensor, data) in tensors.items():
        source, numbers = sources[name]
        assert tensor.type == TensorType.F32
        assert data == floats(TensorType(source.type).name, numbers).tobytes()


def test_without_numpy_and_the_library_there_is_no_engine() -> None:
    """As in an installation of nothing else."""
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from importlib.util import find_spec\n"
        "from proxy.gguf import engine, engine_ggml\n"
        "engine_ggml._libraries = lambda: iter(())\n"
        "engine._kernel = lambda: None\n"
        "engine.importlib.util.find_spec = lambda name: None if name == 'numpy' else find_spec(name)\n"
        "print(engine.described())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"none"


def test_a_library_that_does_not_load_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_ggml, "_libraries", lambda: iter([FIGURES]))
    assert engine_ggml.load() is None


def test_numpy_is_imported_when_it_is_needed() -> None:
    code = "import sys, proxy.gguf.conversion, proxy.planning.conversion_plan; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"False"


# Whole files.


@lru_cache(maxsize=4)
def repository(name: str) -> Mapping[str, bytes]:
    return REPOSITORIES[name].files()


@lru_cache(maxsize=4)
def plain(name: str) -> bytes:
    return write(plan(repository(name)), repository(name))


def parsed(content: bytes) -> tuple[GgufHeader, dict[str, tuple[TensorInfo, bytes]]]:
    header = read_header(content, size=len(content))
    starts = {tensor.name: header.data_start + tensor.offset for tensor in header.tensors}
    return header, {
        tensor.name: (tensor, content[starts[tensor.name] : starts[tensor.name] + tensor.size])
        for tensor in header.tensors
    }


_ROUND = 8
CASES = [
    (name, file_type)
    for number, name in enumerate(sorted(REPOSITORIES))
    for file_type in tuple(FILE_TYPES)[number % _ROUND :: _ROUND]
]


@beside_ggml
@pytest.mark.parametrize(("name", "file_type"), CASES)
def test_a_file_is_what_llama_quantize_makes_of_the_unquantized_one(name: str, file_type: str) -> None:
    """But for the tensors that Ollama has it make more precise."""
    expected = figures()[name][file_type]
    if expected.startswith(REFUSED):
        with pytest.raises(CannotConvert):
            plan(repository(name), quantization=file_type)
        return
    conversion = plan(repository(name), quantization=file_type)
    content = write(conversion, repository(name), window=9999)
    assert conversion.size == len(content)
    header, tensors = parsed(content)
    before, sources = parsed(plain(name))
    assert list(tensors) == list(sources)
    values = {key: field.value for key, field in header.metadata.items()}
    assert values["general.quantization_version"] == 2
    assert values.pop("general.file_type") == FILE_TYPES[file_type].number
    assert values == {key: field.value for key, field in before.metadata.items() if key != "general.file_type"}
    facts = ModelFacts.of(before.metadata)
    types = quantized_types(file_type, facts, before.tensors, as_ollama=True)
    assert {key: tensor.type for key, (tensor, _) in tensors.items()} == types
    assert {key: tensor.shape for key, (tensor, _) in tensors.items()} == {
        key: tensor.shape for key, (tensor, _) in sources.items()
    }
    if types == quantized_types(file_type, facts, before.tensors):
        if platform.machine().lower() not in ("x86_64", "amd64"):
            pytest.skip("ggml's bits are another's where a multiplication is fused with an addition")
        assert data_digest(tensors[key][1] for key in types) == expected.split()[2]


def test_the_sources_type_costs_nothing() -> None:
    """Bytes are copied as without a quantization."""
    asked, source = plan(repository("qwen3"), quantization="BF16"), plan(repository("qwen3"))
    assert asked.header == source.header
    changes = [
        [piece.transform is None for piece in conversion.pieces if isinstance(piece, SourceRange)]
        for conversion in (asked, source)
    ]
    assert changes[0] == changes[1]
    assert any(changes[0])


def test_what_a_size_is_reckoned_from_is_the_unquantized_tensors() -> None:
    conversion, source = plan(repository("llama"), quantization="Q4_K_M"), plan(repository("llama"))
    assert conversion.sources == source.sources
    assert {replace(tensor, offset=0) for tensor in conversion.sources} == {
        replace(tensor, offset=0) for tensor in source.tensors
    }
    assert conversion.facts == source.facts == ModelFacts.of(read_header(source.header).metadata)


def matrix(*shape: int, kind: TensorType = TensorType.BF16) -> Target:
    info = TensorInfo("blk.1.ffn_up.weight", shape, kind)
    return Target(info, (SourceRange("model.safetensors", 0, info.size),))


def test_a_cast_to_the_own_type_is_the_same_tensor() -> None:
    same = matrix(HIDDEN, 3)
    assert cast(same, TensorType.BF16) is same
    made = cast(same, TensorType.F16)
    assert (made.info.type, made.info.shape) == (TensorType.F16, same.info.shape)
    assert [piece.size for piece in made.pieces] == [made.info.size]


def test_quantized_numbers_are_not_quantized_again() -> None:
    again = partial(casting, matrix(HIDDEN, 3, kind=TensorType.Q8_0).info)
    with pytest.raises(CannotConvert, match=r"blk\.1\.ffn_up\.weight is Q8_0 already"):
        again(TensorType.Q4_K)
