"""What makes a tensor's bytes, against numpy; any number of whole blocks at a time makes the same."""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.gguf.transforms import (
    WIDTHS,
    Transform,
    add_one,
    chained,
    interleaved,
    multiplied,
    neg_exp,
    packed,
    picked,
    scaled,
    transposed,
    widened,
)


def _run(transform: Transform | None, content: bytes) -> bytes:
    """What becomes of whole blocks, which is the same of a few blocks at a time."""
    assert transform is not None
    assert len(content) % transform.block == 0
    whole = transform.change(content)
    cut, parts, at = random.Random(1), [], 0
    while at < len(content):
        size = cut.randrange(1, 9) * transform.block
        parts.append(transform.change(content[at : at + size]))
        at += size
    assert b"".join(parts) == whole
    assert transform.size(len(content)) == len(whole)
    return whole


def test_rows_are_interleaved_as_torch_permutes_them() -> None:
    matrix = np.random.default_rng(0).integers(0, 2**16, (24, 10), np.uint16)
    heads = matrix.reshape(3, 2, 4, 10).swapaxes(1, 2).reshape(24, 10)
    assert _run(interleaved(20, 8), matrix.tobytes()) == heads.tobytes()


def test_heads_are_transposed() -> None:
    for dtype, width in ((np.uint16, 2), (np.uint32, 4)):
        heads = np.random.default_rng(0).integers(0, 2**16, (3, 4, 5)).astype(dtype)
        assert _run(transposed(4, 5, width), heads.tobytes()) == heads.swapaxes(1, 2).tobytes()
        some = transposed(4, 5, width, 1, 3)
        assert _run(some, heads.tobytes()) == heads[:, :, 1:4].swapaxes(1, 2).tobytes()
        assert some.size(heads.nbytes) == heads[:, :, 1:4].nbytes


@pytest.mark.parametrize(("dtype", "size"), [(np.uint16, 2), (np.uint32, 4), (np.uint64, 8)])
def test_every_so_many_parts_one_is_picked(dtype: Any, size: int) -> None:
    numbers = np.random.default_rng(0).integers(0, 2**16, 30).astype(dtype)
    for at in range(3):
        assert _run(picked(size, 3, at), numbers.tobytes()) == numbers[at::3].tobytes()


@pytest.mark.parametrize(("count", "at"), [(1, 0), (2, 0), (2, 1)])
def test_blocks_of_4_bits_are_packed_as_ggml_has_them(count: int, at: int) -> None:
    """Neighbours are in one byte before, and 16 numbers apart after that."""
    generator = np.random.default_rng(0)
    scales = generator.integers(0, 256, (6, 5, 1), np.uint8)
    numbers = generator.integers(0, 16, (6, 5, 32), np.uint8)
    content = scales.tobytes() + (numbers[..., ::2] | numbers[..., 1::2] << 4).tobytes()
    blocks = np.concatenate((scales, numbers[..., :16] | numbers[..., 16:] << 4), axis=-1)
    assert packed(5, count, at).change(content) == blocks[at::count].tobytes()


def test_numbers_are_widened_and_increased() -> None:
    half = np.random.default_rng(0).standard_normal(99).astype(np.float16)
    assert _run(widened("F16"), half.tobytes()) == half.astype(np.float32).tobytes()
    assert _run(add_one("F16"), half.tobytes()) == (half.astype(np.float32) + np.float32(1)).tobytes()
    upper = (half.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    wide = (upper.astype(np.uint32) << 16).view(np.float32)
    assert _run(widened("BF16"), upper.tobytes()) == wide.tobytes()
    both = chained([interleaved(2, 6), widened("BF16")])
    assert _run(both, upper[:96].tobytes()) == wide[:96].reshape(16, 2, 3).swapaxes(1, 2).tobytes()


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_numbers_are_scaled_in_32_bits(dtype: str) -> None:
    every = np.arange(1 << 16, dtype=np.uint16)

    def wide(numbers: Any) -> Any:
        if dtype == "F16":
            return numbers.view(np.float16).astype(np.float32)
        return (numbers.astype(np.uint32) << 16).view(np.float32)

    with np.errstate(over="ignore", invalid="ignore"):
        product = wide(every) * np.float32(1.1) * np.float32(0.3)
        if dtype == "F16":
            expected = product.astype(np.float16).view(np.uint16)
        else:
            bits = product.view(np.uint32).astype(np.uint64)
            expected = (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)
    found = np.frombuffer(_run(scaled(dtype, (1.1, 0.3)), every.tobytes()), np.uint16)
    nothing = np.isnan(product)
    assert (found[~nothing] == expected[~nothing]).all()
    assert np.isnan(wide(found)[nothing]).all()


def test_numbers_beyond_32_bits_are_infinite() -> None:
    some = np.array([1e38, -3e38, 0.1, np.inf, 1e-45], np.float32)
    with np.errstate(over="ignore"):
        product = some * np.float32(5) * np.float32(0.3)
    assert _run(scaled("F32", (5.0, 0.3)), some.tobytes()) == product.tobytes()


def test_negative_exponentials_are_the_nearest_of_32_bits() -> None:
    half = np.random.default_rng(0).standard_normal(99).astype(np.float16)
    for dtype, numbers in (("F16", half), ("F32", half.astype(np.float32))):
        nearest = (-np.exp(numbers.astype(np.float64))).astype(np.float32)
        assert _run(neg_exp(dtype), numbers.tobytes()) == nearest.tobytes()
    beyond = np.array([np.inf, 300, -300, -np.inf], np.float32)
    assert _run(neg_exp("F32"), beyond.tobytes()) == np.array([-np.inf, -np.inf, -0.0, -0.0], np.float32).tobytes()


TRANSFORMS = (
    *(interleaved(row, rows) for row, rows in ((2, 2), (6, 4), (4, 6))),
    *(transposed(rows, columns, width) for rows, columns, width in ((2, 3, 2), (3, 2, 4), (1, 5, 4))),
    transposed(3, 4, 2, 1, 2),
    *(make(dtype) for make in (widened, add_one) for dtype in ("F16", "BF16")),
    *(scaled(dtype, (0.5, 3.0)) for dtype in WIDTHS),
    *(multiplied(dtype, 0.3) for dtype in WIDTHS),
)


@given(st.lists(st.sampled_from(TRANSFORMS), min_size=1, max_size=3), st.integers(1, 6), st.integers(0, 999))
def test_a_chain_is_one_change_after_the_other(links: list[Transform], blocks: int, seed: int) -> None:
    """Its block is the least that gives each link whole blocks."""
    chain = chained(links)
    assert chain is not None
    content = np.random.default_rng(seed).integers(0, 64, blocks * chain.block, np.uint8).tobytes()
    expected = content
    for link in links:
        assert len(expected) % link.block == 0
        assert link.size(len(expected)) == len(link.change(expected))
        expected = link.change(expected)
    assert _run(chain, content) == expected
    assert len(expected) == chain.size(len(content)) == blocks * chain.made


def test_a_chain_of_none_is_none_and_of_one_is_that_one() -> None:
    link = widened("F16")
    assert chained([]) is None
    assert chained([link]) == link


@pytest.mark.parametrize(
    ("links", "block", "made"),
    [
        ([widened("BF16")], 2, 4),
        ([interleaved(20, 8), widened("BF16")], 160, 320),
        ([widened("F16"), interleaved(6, 2)], 6, 12),
        ([widened("F16"), Transform(128, 34, bytes)], 64, 34),
        ([interleaved(6, 2), Transform(64, 18, bytes)], 192, 54),
    ],
)
def test_sizes_of_a_chain(links: list[Transform], block: int, made: int) -> None:
    chain = chained(links)
    assert chain is not None
    assert (chain.block, chain.made) == (block, made)
    assert chain.size(3 * block) == 3 * made


@pytest.mark.parametrize("dtype", sorted(WIDTHS))
def test_numbers_are_multiplied_in_64_bits(dtype: str) -> None:
    """Once, and rounded once."""
    half = np.random.default_rng(0).standard_normal(99).astype(np.float16)
    single = half.astype(np.float32)
    by_dtype: dict[str, Any] = {"F16": half, "F32": single, "BF16": single.view(np.uint16)[1::2]}
    stored = by_dtype[dtype]
    wide = (stored.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else stored.astype(np.float32)
    expected = (wide.astype(np.float64) * 0.3).astype(np.float32)
    assert _run(multiplied(dtype, 0.3), stored.tobytes()) == expected.tobytes()
