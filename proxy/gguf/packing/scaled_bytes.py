"""Tensors of one byte a number, each number multiplied by a scale: FP8 and INT8. Pure.

The scales are a tensor of their own: one number for the whole tensor, for each matrix, for each row, or for each block
of rows and columns. A product is rounded once, to F32, as in transformers and in llama.cpp's converter
(`dequant_simple` in conversion/base.py, b11434).
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from math import ceil, nan, prod
from typing import Any, NamedTuple

import numpy as np

from proxy.gguf.engine_numpy import to_floats
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.packing.coded_rows import Codes, ColumnGroups, codes_of, decode
from proxy.gguf.packing.packed import Array, Companion, Found, Located, PackedRows, RowGroups, RowSlice, decoder
from proxy.gguf.tensor_sources import LocatedTensor, SourceTensor

SCALE_BYTES = {"F32": 4, "BF16": 2, "F16": 2, "F8_E8M0": 1}
"""Bytes of a scale, by its safetensors dtype."""


def _e4m3(bits: int) -> float:
    """The format without infinities (float8_e4m3fn)."""
    exponent, fraction = bits >> 3 & 0xF, bits & 0x7
    is_nan = bits & 0x7F == 0x7F  # noqa: PLR2004 - all bits but the sign
    size = nan if is_nan else (fraction + 8 * (exponent > 0)) * 2.0 ** (max(exponent, 1) - 10)
    return -size if bits & 0x80 else size


def _e5m2(bits: int) -> float:
    """The upper byte of an F16."""
    return float(struct.unpack("<e", bytes((0, bits)))[0])


NUMBERS: Mapping[str, tuple[float, ...]] = {
    "F8_E4M3": tuple(map(_e4m3, range(256))),
    "F8_E5M2": tuple(map(_e5m2, range(256))),
    "I8": tuple(float(bits - (bits & 0x80) * 2) for bits in range(256)),
}
"""The number of each byte, by its safetensors dtype."""
FORMS = {"F8_E4M3": "FP8", "F8_E5M2": "FP8", "I8": "INT8"}
_SCALES = ("_scale_inv", "_scale")
"""What the name of a tensor's scales has in addition: DeepSeek and transformers; compressed-tensors and ModelOpt."""
_MISTRAL = (".weight", ".qscale_weight")
_DEEPSEEK_V4 = (".weight", ".scale")
"""DeepSeek-V4 calls the scales of its FP4 so too, whose numbers are of the type I8 (microscaling.py)."""


def find(weights: Located, settings: Mapping[str, Any]) -> Iterator[Found]:
    """The tensors of FP8 and INT8 numbers that have scales. Raises CannotConvert where these do not fit."""
    block = _block(settings)
    for name, numbers in weights.items():
        if numbers.dtype in NUMBERS and (scales := _scales_of(name, weights)) is not None:
            tensor = scaled_bytes(numbers, scales, find_grid(name, numbers.shape, scales.source, block))
            yield Found(name, numbers.path, tensor, (name, scales.name))


def _scales_of(name: str, weights: Located) -> LocatedTensor | None:
    candidates = [name + end for end in _SCALES]
    for end, scales in (_MISTRAL, *([_DEEPSEEK_V4] if FORMS[weights[name].dtype] == "FP8" else [])):
        if name.endswith(end):
            candidates.append(name.removesuffix(end) + scales)
    return next((weights[candidate] for candidate in candidates if candidate in weights), None)


def _block(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns that share a scale, where the quantization_config has them. Raises CannotConvert."""
    block = settings.get("weight_block_size")
    for group in config_groups(settings):
        weights = group.get("weights") if isinstance(group, dict) else None
        block = block or (weights.get("block_structure") if isinstance(weights, dict) else None)
    if block is None:
        return None
    if not isinstance(block, list) or len(block) != 2 or not all(type(size) is int and size > 0 for size in block):  # noqa: PLR2004
        raise CannotConvert(f"config.json has a quantization_config with blocks of {block!r:.100}")
    return block[0], block[1]


def config_groups(settings: object) -> list[Any]:
    """The values of the config_groups of compressed-tensors."""
    groups = settings.get("config_groups") if isinstance(settings, dict) else None
    return list(groups.values()) if isinstance(groups, dict) else []


class Grid(NamedTuple):
    """Which numbers of a tensor share a scale: those of a group of `rows` rows, and there of `columns` columns."""

    rows: int
    columns: int
    width: int
    """Numbers in a row of the tensor."""
    matrix_rows: int
    """A group ends at the last of so many rows, also if it has fewer rows than others."""

    @property
    def scales(self) -> int:
        """Scales of a group."""
        return ceil(self.width / self.columns)


def find_grid(name: str, shape: tuple[int, ...], scales: SourceTensor, block: tuple[int, int] | None) -> Grid:
    """`block`: the rows and columns that share a scale. Raises CannotConvert if the scales do not fit the shape."""
    if len(shape) > 1 and scales.dtype in SCALE_BYTES:
        *stack, rows, width = shape
        all_rows = prod(shape[:-1])
        counts = list(scales.shape)
        while counts and counts[-1] == 1:
            counts.pop()
        if prod(counts) == 1:
            return Grid(all_rows, width, width, all_rows)
        if counts == [*stack, rows]:
            return Grid(1, width, width, all_rows)
        if counts == stack:
            return Grid(rows, width, width, all_rows)
        if block and list(scales.shape) == [*stack, ceil(rows / block[0]), ceil(width / block[1])]:
            return Grid(*block, width, rows if rows % block[0] else all_rows)
    raise CannotConvert(
        f"{name} has the shape {list(shape)}, and its scales ({scales.dtype}) have {list(scales.shape)}: they do not "
        "fit each other"
    )


def scaled_bytes(numbers: LocatedTensor, scales: LocatedTensor, grid: Grid) -> PackedRows:
    """The products of the numbers and their scales, which may be in another file."""
    decode = decoder(_products, _Layout(numbers.dtype, scales.dtype, grid))
    return PackedRows(
        FORMS[numbers.dtype],
        numbers.shape,
        numbers,
        [Companion(scales, SCALE_BYTES[scales.dtype] * grid.scales)],
        RowGroups(decode, grid.rows, grid.matrix_rows),
    )


class _Layout(NamedTuple):
    dtype: str
    scale_dtype: str
    grid: Grid


def _products(layout: _Layout, rows: RowSlice, numbers: memoryview, companions: Sequence[memoryview]) -> bytes:
    grid = layout.grid
    packed = np.frombuffer(numbers, np.uint8).reshape(rows.rows, grid.width)
    scales = scale_numbers(layout.scale_dtype, companions[0]).reshape(-1, grid.scales)[rows.groups(grid.rows)]
    return decode(_codes(layout.dtype), packed, grid.width, ColumnGroups(scales, None, grid.columns))


def scale_numbers(dtype: str, content: memoryview) -> Array:
    """The scales as F32."""
    if dtype == "F8_E8M0":
        return _powers_of_two()[np.frombuffer(content, np.uint8)]
    return to_floats(dtype, np.frombuffer(content, f"<u{SCALE_BYTES[dtype]}"))


@cache
def _codes(dtype: str) -> Codes:
    return codes_of(8, NUMBERS[dtype])


@cache
def _powers_of_two() -> Array:
    return np.array([2.0 ** (bits - 127) for bits in range(255)] + [nan], np.float32)
