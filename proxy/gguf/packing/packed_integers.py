"""Integers of 2 to 8 bits that compressed-tensors has packed into I32 (`pack-quantized`), such as Kimi K2's. Pure.

A matrix `X.weight` is stored as `X.weight_packed`, `X.weight_scale`, `X.weight_shape`, for asymmetric numbers also
`X.weight_zero_point`, and where columns were ordered by their activations `X.weight_g_idx`. Each number is unsigned: a
signed one, plus 2^(bits - 1). From version 0.13 on compressed-tensors lets a number of 3, 5, 6 or 7 bits go on in the
next I32; earlier versions leave the upper bits of each I32 unused (compressors/…/pack_quantized, 0.9.4 and 0.20.1).

A weight is (number - zero point) * scale, and only the product is rounded. compressed-tensors rounds it to the type of
its scales, llama.cpp's converter (`dequant_packed` in conversion/base.py, b11434) to F32, as here.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from math import ceil, prod
from typing import Any, NamedTuple

import msgspec
import numpy as np

from proxy.gguf.model_config import CannotConvert
from proxy.gguf.packing.coded_rows import Codes, ColumnGroups, codes_of, decode, read_codes
from proxy.gguf.packing.packed import (
    Array,
    Companion,
    Found,
    Located,
    PackedRows,
    RowGroups,
    RowSlice,
    decoder,
)
from proxy.gguf.packing.scaled_bytes import config_groups, scale_numbers
from proxy.gguf.tensor_sources import MATRIX, LocatedTensor
from proxy.gguf.transforms import WIDTHS

_WORD = 4
"""Bytes of an I32."""
_WORD_BITS = 32
_BITS = range(2, 9)
_FORMS = {bits: f"INT{bits}" for bits in _BITS}
_SHAPE_TYPES = ("I64", "I32")
"""compressed-tensors writes the first."""


def find(weights: Located, settings: Mapping[str, Any]) -> Iterator[Found]:
    """The matrices of packed integers. Raises CannotConvert where they and the config do not say how to."""
    schemes = None
    for name, numbers in weights.items():
        if name.endswith(".weight_packed") and numbers.dtype == "I32":
            schemes = _schemes(settings) if schemes is None else schemes
            yield _found(name.removesuffix("_packed"), weights, schemes)


class _Scheme(NamedTuple):
    """What a group of the quantization_config says of its matrices."""

    bits: int
    columns: int
    """Columns that share a scale; 0: all."""
    rows: int
    """Rows that share a scale; 0: all."""
    is_symmetric: bool
    targets: tuple[str, ...]


class _Layout(NamedTuple):
    """What a decoder gets. It has no names: tens of thousands of experts share a few decoders."""

    shape: tuple[int, int]
    bits: int
    unit: int
    """Bytes after which a number begins at the first bit again."""
    columns: int
    """Columns that share a scale."""
    rows: int
    """Rows that share a scale."""
    scale_dtype: str
    zeros: str
    """The dtype of the zero points; empty without them."""
    is_ordered: bool

    @property
    def scales(self) -> int:
        """Scales of a row."""
        return ceil(self.shape[1] / self.columns)

    @property
    def group_rows(self) -> int:
        """Rows whose companions begin at whole bytes."""
        return self.zero_rows if self.zeros == "I32" else self.rows

    @property
    def zero_rows(self) -> int:
        """Rows after which packed zero points begin at the first bit of an I32 again."""
        return _WORD_BITS if self.is_dense else _WORD_BITS // self.bits

    @property
    def zero_words(self) -> int:
        """Packed I32 of so many rows, in each column."""
        return self.bits if self.is_dense else 1

    @property
    def is_dense(self) -> bool:
        return self.unit == self.bits and _WORD_BITS % self.bits > 0

    def words(self, numbers: int) -> int:
        """I32 for so many numbers."""
        return ceil(numbers * self.bits / _WORD_BITS) if self.is_dense else ceil(numbers / (_WORD_BITS // self.bits))


class _Form(msgspec.Struct, frozen=True, gc=False):
    """What of a tensor decides about the layout."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: LocatedTensor) -> "_Form":
        return cls(tensor.dtype, tensor.shape)


def _schemes(settings: Mapping[str, Any]) -> tuple[_Scheme, ...]:
    schemes = [_scheme(group) for group in config_groups(settings) if isinstance(group, dict)]
    return tuple(scheme for scheme in schemes if scheme)


def _scheme(group: Mapping[str, Any]) -> _Scheme | None:
    """None for numbers that are no integers, or whose scales this module does not know."""
    weights, targets = group.get("weights"), group.get("targets")
    if not isinstance(weights, dict) or weights.get("type", "int") != "int" or weights.get("num_bits") not in _BITS:
        return None
    size = weights.get("group_size")
    default = "tensor" if size is None else "channel" if size == -1 else "group"
    grid = _grid(weights.get("strategy") or default, size, weights.get("block_structure"))
    if grid is None:
        return None
    named = tuple(one for one in targets if isinstance(one, str)) if isinstance(targets, list) else ()
    return _Scheme(weights["num_bits"], *grid, weights.get("symmetric", True) is True, named)


def _grid(strategy: object, size: object, block: object) -> tuple[int, int] | None:
    """The columns and the rows that share a scale; 0: all."""
    match strategy, size, block:
        case "group", int(), _ if type(size) is int and size > 0:
            return size, 1
        case "channel", _, _:
            return 0, 1
        case "tensor", _, _:
            return 0, 0
        case "block", _, [int(rows), int(columns)] if rows > 0 and columns > 0:
            return columns, rows
    return None


def _found(name: str, weights: Located, schemes: tuple[_Scheme, ...]) -> Found:
    numbers = weights[f"{name}_packed"]
    scales, shape = (_companion(f"{name}_{end}", weights) for end in ("scale", "shape"))
    zeros, order = weights.get(f"{name}_zero_point"), weights.get(f"{name}_g_idx")
    layout = _layout(name, numbers, scales, schemes, zeros)
    columns = layout.shape[1]
    if (
        shape.dtype not in _SHAPE_TYPES
        or shape.shape != (MATRIX,)
        or (
            order
            and ((order.dtype, order.shape) != ("I32", (columns,)) or layout.columns == columns or layout.rows > 1)
        )
    ):
        raise _unfit(name, [numbers, shape, *filter(None, [order])])
    groups, scale_size, zero_size = _groups(layout, is_ordered=order is not None)
    companions = [Companion(shape), Companion(scales, scale_size)]
    if zeros:
        companions.append(Companion(zeros, zero_size))
    if order:
        companions.append(Companion(order))
    tensor = PackedRows(_FORMS[layout.bits], layout.shape, numbers, companions, groups)
    return Found(name, numbers.path, tensor, (numbers.name, *(one.tensor.name for one in companions)))


@lru_cache
def _groups(layout: _Layout, *, is_ordered: bool) -> tuple[RowGroups, int, int]:
    """The groups of rows, and the bytes of a group's scales and zero points.

    Cached, because tens of thousands of experts share a few.
    """
    rows = layout.group_rows
    count = layout.scales * (rows // layout.rows)
    zeros = _WORD * layout.zero_words * layout.scales if layout.zeros == "I32" else count
    decode = decoder(_weights, layout._replace(is_ordered=is_ordered))
    groups = RowGroups(decode, rows, layout.shape[0], are_alike=layout.zeros != "I32")
    return groups, WIDTHS[layout.scale_dtype] * count, zeros


def _companion(name: str, weights: Located) -> LocatedTensor:
    if name not in weights:
        raise CannotConvert(f"the weights have packed integers without {name}")
    return weights[name]


def _layout(
    name: str,
    numbers: LocatedTensor,
    scales: LocatedTensor,
    schemes: tuple[_Scheme, ...],
    zeros: LocatedTensor | None,
) -> _Layout:
    """The only layout that the shapes and the config allow."""
    if not schemes:
        raise CannotConvert(f"{name}_packed has packed integers, but config.json does not say of how many bits")
    tensors = [numbers, scales, *([zeros] if zeros else [])]
    forms = tuple(map(_Form.of, tensors))
    layouts = _layouts(forms, schemes)
    if len(layouts) > 1:
        layouts = _layouts(forms, _targeting(name, schemes))
    if len(layouts) != 1:
        raise _unfit(name, tensors)
    return layouts[0]


def _unfit(name: str, tensors: Sequence[LocatedTensor]) -> CannotConvert:
    shown = ", ".join(f"{one.name.rpartition('.')[2]} {list(one.shape)} ({one.dtype})" for one in tensors)
    return CannotConvert(
        f"{name} is stored as packed integers that the proxy cannot read for certain: the tensors {shown} and the "
        "quantization_config in config.json do not fit each other"
    )


@lru_cache
def _layouts(tensors: tuple[_Form, ...], schemes: tuple[_Scheme, ...]) -> tuple[_Layout, ...]:
    """Each way to read the tensors by one of the schemes that fits their shapes. Cached as the groups are."""
    return tuple(dict.fromkeys(layout for scheme in schemes for layout in _fitting(tensors, scheme)))


def _fitting(tensors: tuple[_Form, ...], scheme: _Scheme) -> Iterator[_Layout]:
    numbers, scales, *zeros = tensors
    if len(numbers.shape) != MATRIX or scales.dtype not in WIDTHS or not (scheme.is_symmetric or zeros):
        return
    rows, words = numbers.shape
    bits = scheme.bits
    units = (_WORD,) if _WORD_BITS % bits == 0 else (bits, _WORD)
    for unit in units:
        width = _width(scheme, unit, words, scales)
        layout = _Layout(
            (rows, width),
            bits,
            unit,
            scheme.columns or width,
            scheme.rows or rows,
            scales.dtype,
            zeros[0].dtype if zeros else "",
            is_ordered=False,
        )
        if width and layout.words(width) == words and _fit(layout, scales, zeros):
            yield layout


def _width(scheme: _Scheme, unit: int, words: int, scales: _Form) -> int:
    """Columns of the matrix; 0 if the shapes do not tell."""
    if scheme.columns and scheme.rows == 1:
        return scheme.columns * scales.shape[-1] if len(scales.shape) == MATRIX else 0
    return words * _WORD_BITS // scheme.bits if _WORD_BITS % scheme.bits == 0 and unit == _WORD else 0


def _fit(layout: _Layout, scales: _Form, zeros: Sequence[_Form]) -> bool:
    counts = (ceil(layout.shape[0] / layout.rows), layout.scales)
    is_scalar = prod(counts) == prod(scales.shape) == 1
    if scales.shape != counts and not is_scalar and (scales.shape, layout.scales) != (counts[:1], 1):
        return False
    for one in zeros:
        packed = (layout.words(layout.shape[0]), layout.scales)
        if (one.dtype, one.shape) not in (("I8", scales.shape), ("I32", packed)) or (
            one.dtype == "I32" and layout.rows > 1
        ):
            return False
    return True


def _targeting(name: str, schemes: Sequence[_Scheme]) -> tuple[_Scheme, ...]:
    """Those of the most specific targets: a name, else a pattern, else a class (`match_targets` of utils/match.py)."""
    module = name.removesuffix(".weight")
    for is_target in (module.__eq__, partial(_matches, module), "Linear".__eq__):
        if targeting := tuple(scheme for scheme in schemes if any(map(is_target, scheme.targets))):
            return targeting
    return ()


def _matches(module: str, target: str) -> bool:
    """Whether a pattern matches. Patterns that could take long are not tried: they come from a repository."""
    pattern = target.removeprefix("re:")
    repeats = re.findall(r"(?<!\\)[*+{]", pattern)
    if pattern == target or len(repeats) > 3 or len(pattern) > 200 or re.search(r"\)[*+{]", pattern):  # noqa: PLR2004
        return False
    try:
        return re.match(pattern, module) is not None
    except re.error:
        return False


def _weights(layout: _Layout, rows: RowSlice, packed: memoryview, companions: Sequence[memoryview]) -> bytes:
    shape, scale_bytes, *others = companions
    sizes = np.frombuffer(shape, f"<i{len(shape) // MATRIX}").tolist()
    if tuple(sizes) != layout.shape:
        raise CannotConvert(
            f"a weight_shape is {sizes}, but its weight_packed has numbers for the shape {list(layout.shape)}"
        )
    each = rows.groups(layout.rows)
    scales = scale_numbers(layout.scale_dtype, scale_bytes).reshape(-1, layout.scales)[each]
    zeros = _zeros(layout, others.pop(0))[each] if layout.zeros else None
    order = _order(layout, others[0]) if layout.is_ordered else None
    numbers = np.frombuffer(packed, np.uint8).reshape(rows.rows, -1)
    return decode(_codes(layout), numbers, layout.shape[1], ColumnGroups(scales, zeros, layout.columns, order))


@lru_cache
def _codes(layout: _Layout) -> Codes:
    """Signed numbers, or unsigned ones where the zero points are unsigned."""
    first = 0 if layout.zeros == "I32" else -1 << (layout.bits - 1)
    numbers = range(first, first + (1 << layout.bits))
    return codes_of(layout.bits, numbers, unit=0 if _WORD_BITS % layout.bits == 0 else layout.unit)


def _zeros(layout: _Layout, content: memoryview) -> Array:
    """The zero points of each row."""
    if layout.zeros == "I8":
        return np.frombuffer(content, np.int8).reshape(-1, layout.scales)
    words = np.frombuffer(content, "<u4").reshape(-1, layout.scales)
    return read_codes(_codes(layout), np.ascontiguousarray(words.T).view(np.uint8)).T


def _order(layout: _Layout, content: memoryview) -> Array | None:
    """The group of each column; None if they follow each other, for which compressed-tensors writes -1."""
    order = np.frombuffer(content, "<i4")
    if (order == -1).any():
        return None
    if order.min() < 0 or order.max() >= layout.scales:
        raise CannotConvert("a weight_g_idx has groups that its weight_scale does not have")
    return order
