"""Transforms against numpy. Any cut into whole blocks gives the same result."""

import random
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.gguf.model_config import CannotConvert
from proxy.gguf.transforms import (
    WIDTHS,
    Transform,
    add,
    chain,
    exponential,
    interleave,
    interleave_start,
    multiply,
    pick_part,
    repack_mxfp4,
    scale,
    softplus,
    to_f32,
    to_i32,
    transpose,
)


def _run(transform: Transform | None, content: bytes) -> bytes:
    """The output for all blocks, which must be the same for a few blocks at a time."""
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
    assert _run(interleave(20, 8), matrix.tobytes()) == heads.tobytes()


def test_only_the_first_rows_of_each_head_are_interleaved() -> None:
    matrix = np.random.default_rng(0).integers(0, 2**16, (3, 8, 10), np.uint16)
    first = matrix[:, :4].reshape(3, 2, 2, 10).swapaxes(1, 2).reshape(3, 4, 10)
    heads = np.concatenate((first, matrix[:, 4:]), axis=1)
    assert _run(interleave_start(20, 8, 4), matrix.tobytes()) == heads.tobytes()


def test_heads_are_transposed() -> None:
    for dtype, width in ((np.uint16, 2), (np.uint32, 4)):
        heads = np.random.default_rng(0).integers(0, 2**16, (3, 4, 5)).astype(dtype)
        assert _run(transpose(4, 5, width), heads.tobytes()) == heads.swapaxes(1, 2).tobytes()
        three_columns = transpose(4, 5, width, range(1, 4))
        assert _run(three_columns, heads.tobytes()) == heads[:, :, 1:4].swapaxes(1, 2).tobytes()
        assert three_columns.size(heads.nbytes) == heads[:, :, 1:4].nbytes
        every_second = transpose(4, 5, width, range(1, 5, 2))
        assert _run(every_second, heads.tobytes()) == heads[:, :, 1::2].swapaxes(1, 2).tobytes()


@pytest.mark.parametrize(("dtype", "size"), [(np.uint16, 2), (np.uint32, 4), (np.uint64, 8)])
def test_one_part_of_each_few_is_kept(dtype: Any, size: int) -> None:
    numbers = np.random.default_rng(0).integers(0, 2**16, 30).astype(dtype)
    for index in range(3):
        assert _run(pick_part(size, 3, index), numbers.tobytes()) == numbers[index::3].tobytes()


@pytest.mark.parametrize(("count", "index"), [(1, 0), (2, 0), (2, 1)])
def test_mxfp4_blocks_get_the_layout_of_ggml(count: int, index: int) -> None:
    """The source has neighbours in one byte; ggml's byte has numbers that are 16 apart."""
    generator = np.random.default_rng(0)
    scales = generator.integers(0, 256, (6, 5, 1), np.uint8)
    numbers = generator.integers(0, 16, (6, 5, 32), np.uint8)
    content = scales.tobytes() + (numbers[..., ::2] | numbers[..., 1::2] << 4).tobytes()
    blocks = np.concatenate((scales, numbers[..., :16] | numbers[..., 16:] << 4), axis=-1)
    assert repack_mxfp4(5, count, index).change(content) == blocks[index::count].tobytes()


def test_numbers_become_f32_and_larger() -> None:
    half = np.random.default_rng(0).standard_normal(99).astype(np.float16)
    assert _run(to_f32("F16"), half.tobytes()) == half.astype(np.float32).tobytes()
    for offset in (1, 0.2):
        assert _run(add("F16", offset), half.tobytes()) == (half.astype(np.float32) + np.float32(offset)).tobytes()
    upper = (half.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    wide = (upper.astype(np.uint32) << 16).view(np.float32)
    assert _run(to_f32("BF16"), upper.tobytes()) == wide.tobytes()
    both = chain([interleave(2, 6), to_f32("BF16")])
    assert _run(both, upper[:96].tobytes()) == wide[:96].reshape(16, 2, 3).swapaxes(1, 2).tobytes()


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_numbers_are_scaled_in_32_bits(dtype: str) -> None:
    all_bits = np.arange(1 << 16, dtype=np.uint16)

    def wide(numbers: Any) -> Any:
        if dtype == "F16":
            return numbers.view(np.float16).astype(np.float32)
        return (numbers.astype(np.uint32) << 16).view(np.float32)

    with np.errstate(over="ignore", invalid="ignore"):
        product = wide(all_bits) * np.float32(1.1) * np.float32(0.3)
        if dtype == "F16":
            expected = product.astype(np.float16).view(np.uint16)
        else:
            bits = product.view(np.uint32).astype(np.uint64)
            expected = (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)
    result = np.frombuffer(_run(scale(dtype, (1.1, 0.3)), all_bits.tobytes()), np.uint16)
    is_nan = np.isnan(product)
    assert (result[~is_nan] == expected[~is_nan]).all()
    assert np.isnan(wide(result)[is_nan]).all()


def test_numbers_beyond_32_bits_are_infinite() -> None:
    numbers = np.array([1e38, -3e38, 0.1, np.inf, 1e-45], np.float32)
    with np.errstate(over="ignore"):
        product = numbers * np.float32(5) * np.float32(0.3)
    assert _run(scale("F32", (5.0, 0.3)), numbers.tobytes()) == product.tobytes()


@pytest.mark.parametrize("sign", [1, -1])
def test_exponentials_are_the_nearest_f32(sign: int) -> None:
    half = np.random.default_rng(0).standard_normal(99).astype(np.float16)
    for dtype, numbers in (("F16", half), ("F32", half.astype(np.float32))):
        nearest = (sign * np.exp(numbers.astype(np.float64))).astype(np.float32)
        assert _run(exponential(dtype, sign), numbers.tobytes()) == nearest.tobytes()
    beyond = np.array([np.inf, 300, -300, -np.inf], np.float32)
    expected = sign * np.array([np.inf, np.inf, 0.0, 0.0], np.float32)
    assert _run(exponential("F32", sign), beyond.tobytes()) == expected.tobytes()


def test_softplus_is_rounded_as_torch_rounds_it() -> None:
    """The bits are those of torch 2.15; the nearest numbers are others."""
    bits = {-4.0: 0x3C94AF29, -1.5: 0x3E4E3F49, 1.25: 0x3FC03F37, 3.75: 0x40717CDA, 25.0: 0x41C80000, -200.0: 0}
    numbers = np.array(list(bits), np.float32)
    for dtype, content in (("F32", numbers), ("F16", numbers.astype(np.float16))):
        made = np.frombuffer(_run(softplus(dtype), content.tobytes()), np.uint32)
        assert made.tolist() == list(bits.values())
    nearest = np.log1p(np.exp(numbers[:4].astype(np.float64))).astype(np.float32)
    assert not set(nearest.view(np.uint32).tolist()) & set(bits.values())


TRANSFORMS = (
    *(interleave(row, rows) for row, rows in ((2, 2), (6, 4), (4, 6))),
    interleave_start(2, 6, 4),
    *(transpose(rows, columns, width) for rows, columns, width in ((2, 3, 2), (3, 2, 4), (1, 5, 4))),
    transpose(3, 4, 2, range(1, 3)),
    *(make(dtype) for make in (to_f32, partial(add, offset=0.2)) for dtype in ("F16", "BF16")),
    *(scale(dtype, (0.5, 3.0)) for dtype in WIDTHS),
    *(multiply(dtype, 0.3) for dtype in WIDTHS),
)


@given(st.lists(st.sampled_from(TRANSFORMS), min_size=1, max_size=3), st.integers(1, 6), st.integers(0, 999))
def test_a_chain_applies_its_links_in_order(links: list[Transform], blocks: int, seed: int) -> None:
    """Its block is the smallest that gives each link whole blocks."""
    chained = chain(links)
    assert chained is not None
    content = np.random.default_rng(seed).integers(0, 64, blocks * chained.block, np.uint8).tobytes()
    expected = content
    for link in links:
        assert len(expected) % link.block == 0
        assert link.size(len(expected)) == len(link.change(expected))
        expected = link.change(expected)
    assert _run(chained, content) == expected
    assert len(expected) == chained.size(len(content)) == blocks * chained.output_block


def test_chains_of_no_link_and_of_one() -> None:
    link = to_f32("F16")
    assert chain([]) is None
    assert chain([link]) == link


@pytest.mark.parametrize(
    ("links", "block", "output_block"),
    [
        ([to_f32("BF16")], 2, 4),
        ([interleave(20, 8), to_f32("BF16")], 160, 320),
        ([to_f32("F16"), interleave(6, 2)], 6, 12),
        ([to_f32("F16"), Transform(128, 34, bytes)], 64, 34),
        ([interleave(6, 2), Transform(64, 18, bytes)], 192, 54),
    ],
)
def test_sizes_of_a_chain(links: list[Transform], block: int, output_block: int) -> None:
    chained = chain(links)
    assert chained is not None
    assert (chained.block, chained.output_block) == (block, output_block)
    assert chained.size(3 * block) == 3 * output_block


@pytest.mark.parametrize("dtype", sorted(WIDTHS))
def test_numbers_are_multiplied_in_64_bits(dtype: str) -> None:
    """The product is rounded only once."""
    half = np.random.default_rng(0).standard_normal(99).astype(np.float16)
    single = half.astype(np.float32)
    by_dtype: dict[str, Any] = {"F16": half, "F32": single, "BF16": single.view(np.uint16)[1::2]}
    stored = by_dtype[dtype]
    wide = (stored.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else stored.astype(np.float32)
    expected = (wide.astype(np.float64) * 0.3).astype(np.float32)
    assert _run(multiply(dtype, 0.3), stored.tobytes()) == expected.tobytes()


@pytest.mark.parametrize("dtype", ["I32", "I64"])
def test_whole_numbers(dtype: str) -> None:
    """One outside of the range would let llama.cpp read another expert's memory."""
    numbers = np.random.default_rng(0).integers(0, 7, 50).astype(np.dtype(f"<i{int(dtype[1:]) // 8}"))
    assert _run(to_i32(dtype, "table", 7), numbers.tobytes()) == numbers.astype("<i4").tobytes()
    for wrong in (7, -1):
        numbers[9] = wrong
        with pytest.raises(CannotConvert, match=f"table has the number {wrong}, not one from 0 to 6"):
            to_i32(dtype, "table", 7).change(numbers.tobytes())
