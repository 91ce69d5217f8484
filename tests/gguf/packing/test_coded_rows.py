"""The kernel decodes stored codes as numpy does, and both as the definition says."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from proxy.gguf.packing import coded_rows
from proxy.gguf.packing.coded_rows import Codes, ColumnGroups, codes_of, decode, read_codes
from proxy.gguf.packing.packed import Array

ROWS, WIDTH = 16, 1037
"""More columns than the kernel reads at a time; they end within a unit and within a group."""
KERNEL = coded_rows._decode_in_c  # pyright: ignore[reportPrivateUsage]
needs_kernel = pytest.mark.skipif(KERNEL is None, reason="the kernel is not built")


def forms() -> Iterator[Codes]:
    """Each number of bits without gaps and in units with unused bits, in whole numbers and in others."""
    for bits, is_whole in product(range(1, 9), (True, False)):
        numbers = [number - 5 if is_whole else number**2 / 3 - 7 for number in range(1 << bits)]
        yield codes_of(bits, numbers)
        for unit in (4, 5, 8):
            yield codes_of(bits, numbers, unit=unit)
    yield codes_of(4, range(16), unit=4, shifts=bytes((0, 16, 4, 28)))


def case(codes: Codes, width: int = WIDTH) -> tuple[Array, Array, Array]:
    """Random codes [rows, width], the packed bytes of them, and a scale and a zero point for each row and group."""
    random = np.random.default_rng(codes.bits)
    values = random.integers(0, 1 << codes.bits, (ROWS, width))
    packed = np.stack([np.frombuffer(pack(codes, row), np.uint8) for row in rows_to_pack(codes, values)])
    numbers = random.standard_normal((2, ROWS, width)).astype(np.float32)
    numbers[1] = np.round(numbers[1] * 3)
    return values, packed, numbers


def rows_to_pack(codes: Codes, values: Array) -> list[Array]:
    if not codes.shifts:
        return list(values)
    words = values.reshape(-1, len(codes.shifts), values.shape[1]) << np.frombuffer(codes.shifts, np.uint8)[:, None]
    return list(words.sum(axis=1))


def pack(codes: Codes, row: Array) -> bytes:
    """One after the other, as a large integer for each unit."""
    if codes.shifts:
        return row.astype("<u4").tobytes()
    each = 8 * codes.unit // codes.bits
    units = [row[first : first + each] for first in range(0, len(row), each)]
    whole = [sum(int(code) << codes.bits * place for place, code in enumerate(unit)) for unit in units]
    return b"".join(unit.to_bytes(codes.unit, "little") for unit in whole)


@pytest.mark.parametrize("codes", tuple(forms()), ids=lambda codes: f"{codes.bits}-{codes.unit}-{len(codes.shifts)}")
@pytest.mark.parametrize(
    "kernel", [pytest.param(KERNEL, marks=needs_kernel, id="kernel"), pytest.param(None, id="numpy")]
)
def test_each_number_is_that_of_its_code_less_the_zero_point_times_the_scale(
    monkeypatch: pytest.MonkeyPatch, codes: Codes, kernel: object
) -> None:
    monkeypatch.setattr(coded_rows, "_decode_in_c", kernel)
    values, packed, (scales, zeros) = case(codes)
    order = np.random.default_rng(0).integers(0, 9, WIDTH).astype(np.int32)
    assert np.array_equal(read_codes(codes, packed)[:, :WIDTH], values)
    numbers = np.frombuffer(codes.numbers, np.float32)[values]
    for columns, own_order, with_zeros in product((1, 16, 100, WIDTH), (None, order), (False, True)):
        count = 9 if own_order is not None else -(-WIDTH // columns)
        own = np.arange(WIDTH) // columns if own_order is None else own_order
        expected = (numbers - (zeros[:, own] if with_zeros else np.float32(0))) * scales[:, own]
        groups = ColumnGroups(scales[:, :count], zeros[:, :count] if with_zeros else None, columns, own_order)
        made = decode(codes, packed, WIDTH, groups)
        assert made == expected.astype(np.float32).tobytes()


@needs_kernel
@pytest.mark.parametrize("left_out", range(1, 9))
def test_a_row_may_end_within_its_last_unit(left_out: int) -> None:
    """The kernel reads eight bytes at a time, but none after the last."""
    codes = codes_of(3, range(8))
    values, packed, (scales, _) = case(codes, 8 * 20 - left_out)
    width = values.shape[1]
    size = -(-width * 3 // 8)
    made = decode(codes, packed[:, :size], width, ColumnGroups(scales[:, :1], None, width))
    assert made == (values.astype(np.float32) * scales[:, :1]).tobytes()


@needs_kernel
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"width": WIDTH + 8}, "too few bytes"),
        ({"row_size": 7}, "do not fill"),
        ({"row_size": 0}, "do not fill"),
        ({"bits": 9}, "1 to 8 bits"),
        ({"unit": 9}, "1 to 8 bits"),
        ({"unit": 0}, "1 to 8 bits"),
        ({"numbers": b"\0" * 60}, "each code has an F32 number"),
        ({"shifts": bytes((0, 29))}, "words of 32 bits"),
        ({"scales": np.zeros(16, np.float32)}, "too few scales"),
        ({"scales": np.zeros(17, np.float32)}, "each row has a scale"),
        ({"zeros": np.zeros(1, np.float32)}, "a zero point or none"),
        ({"columns": 0}, "too few scales"),
        ({"order": np.zeros(WIDTH - 1, np.int32)}, "each column has a group"),
        ({"order": np.full(WIDTH, 11, np.int32)}, "a group without scales"),
        ({"order": np.full(WIDTH, -1, np.int32)}, "a group without scales"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(change: dict[str, object], problem: str) -> None:
    """The kernel reads and writes no byte beyond its buffers."""
    packed = np.zeros((ROWS, WIDTH // 2 + 1), np.uint8)
    good: dict[str, object] = {"row_size": packed.shape[1], "width": WIDTH, "bits": 4, "unit": 1, "shifts": b""}
    good |= {
        "numbers": bytes(64),
        "scales": np.zeros((ROWS, 11), np.float32),
        "zeros": None,
        "columns": 100,
        "order": None,
    }

    def call(**use: object) -> bytes:
        codes, groups = (
            tuple(use[key] for key in keys)
            for keys in (("bits", "unit", "shifts", "numbers"), ("scales", "zeros", "columns", "order"))
        )
        assert KERNEL is not None
        return KERNEL(packed, use["row_size"], use["width"], codes, groups)

    assert len(call(**good)) == 4 * ROWS * WIDTH
    with pytest.raises(ValueError, match=problem):
        call(**good | change)
