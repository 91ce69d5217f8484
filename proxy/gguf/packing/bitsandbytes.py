"""Tensors of bitsandbytes: NF4 and FP4, with and without double quantization, and INT8 (LLM.int8). Pure.

A matrix of 4 bits is flat: two numbers a byte, the first in the upper half. Each 64 consecutive numbers, or another
power of two, share a scale (`absmax`), also where a row ends between them. With double quantization the scales are
bytes: the number of each in a table, times the `nested_absmax` of 256 of them, plus an offset. JSON in a tensor
(`quant_state`) has the shape and the offset.

Results are the F32 numbers of `dequantize_4bit` and of `int8_vectorwise_dequant` (bitsandbytes 0.50.2, functional.py
and backends/cpu/ops.py), bit for bit. bitsandbytes then rounds them to the dtype of the state, which is that of the
model before quantization. The table of 4 bits is the library's: it ignores the `quant_map` that it writes.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from math import gcd, prod
from typing import Any, NamedTuple

import numpy as np

from proxy.gguf.model_config import CannotConvert
from proxy.gguf.packing.coded_rows import Codes, ColumnGroups, codes_of, decode
from proxy.gguf.packing.packed import Array, Companion, Found, Located, PackedRows, RowGroups, RowSlice, decoder
from proxy.gguf.packing.scaled_bytes import NUMBERS
from proxy.gguf.tensor_sources import MATRIX, LocatedTensor, ReadTensor

_STATE = re.compile(r"(.+)\.quant_state\.bitsandbytes__(nf4|fp4)")
_SCALES, _FORMAT = ".SCB", ".weight_format"
_MAX_STATE = 1 << 16
"""Bytes of a state that are read; states have about 170."""
_ROW_FORMAT = 0
"""The weight_format of rows (bitsandbytes 0.50.2, utils.py); others are for certain GPUs, and it reads them no more."""

_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_FP4_SIZES = (0.0, 1 / 192, 2 / 3, 1.0, 1 / 3, 1 / 2, 1 / 6, 1 / 4)
_NUMBERS = {"nf4": _NF4, "fp4": (*_FP4_SIZES, *(-size for size in _FP4_SIZES))}
"""The number of each 4 bits, before it is multiplied by its scale."""
_PER_BYTE = 2
_NIBBLE = 4
_BLOCKS = tuple(2**power for power in range(5, 13))
"""The numbers that may share a scale."""
_F32 = 4
_TABLE_SIZE = 256
_INT8 = codes_of(8, NUMBERS["I8"])
_INT8_FACTOR = np.float32(7.874015718698502e-3)
"""1/127; bitsandbytes multiplies by the scale first, and rounds both products."""


class _State(NamedTuple):
    """What a quant_state says of a matrix."""

    kind: str
    """`nf4` or `fp4`."""
    shape: tuple[int, int]
    block: int
    """Numbers that share a scale."""
    nested_block: int = 0
    """Scales that share a scale; 0 without double quantization."""
    offset: float = 0.0
    """What is added to each scale."""

    @property
    def scales(self) -> int:
        return -(-prod(self.shape) // self.block)

    @property
    def group(self) -> int:
        """The least number of rows that has whole blocks only."""
        unit = self.block * (self.nested_block or 1)
        return unit // gcd(unit, self.shape[1])


def wanted(weights: Located) -> Iterator[LocatedTensor]:
    """The tensors whose bytes a plan needs.

    Of matrices whose names differ in numbers only, such as those of layers and experts, and which have equally many
    bytes, one state is enough. Those of the others are checked when their matrix is read.
    """
    states: dict[tuple[str, int], LocatedTensor] = {}
    for name, state in _states(weights):
        states.setdefault(_kin(weights, name, state), state)
    yield from (state for state in states.values() if state.size <= _MAX_STATE)
    yield from (weights[name] for name in map(_format_name, _int8_names(weights)) if name in weights)


def find(weights: Located, _: Mapping[str, Any]) -> Iterator[Found]:
    """The matrices of bitsandbytes. Raises CannotConvert where their tensors do not fit each other."""
    known = {
        _kin(weights, name, state): _state_of(state.name, state.source.content)
        for name, state in _states(weights)
        if isinstance(state.source, ReadTensor)
    }
    for name, state in _states(weights):
        expected = known.get(_kin(weights, name, state))
        if expected is None:
            raise CannotConvert(f"{state.name}, which has the shape of a matrix, was not read")
        yield _find_4bit(weights, name, state, expected)
    for name in _int8_names(weights):
        yield _find_int8(weights, name)


def _states(weights: Located) -> Iterator[tuple[str, LocatedTensor]]:
    """The name of each matrix of 4 bits, and its state."""
    for name, state in weights.items():
        if "bitsandbytes__" in name and (match := _STATE.fullmatch(name)):
            yield match[1], state


def _kin(weights: Located, name: str, state: LocatedTensor) -> tuple[str, int]:
    numbers = _get(weights, name, state.name)
    return re.sub(r"\d+", "0", state.name), numbers.size


def _get(weights: Located, name: str, beside: str) -> LocatedTensor:
    if name not in weights:
        raise CannotConvert(f"the weights have {beside}, but not {name}")
    return weights[name]


def _state_of(name: str, content: bytes) -> _State:
    try:
        return _read_state(content)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise CannotConvert(f"{name} cannot be read ({error})") from error


@lru_cache(maxsize=64)
def _read_state(content: bytes) -> _State:
    """Raises ValueError, TypeError, LookupError or AttributeError for a state that bitsandbytes does not write."""
    fields = json.loads(content)
    kind, shape, block = fields["quant_type"], tuple(fields["shape"]), fields["blocksize"]
    if kind not in _NUMBERS or block not in _BLOCKS:
        raise ValueError(f"{kind!r:.20} in blocks of {block!r:.20}")
    if len(shape) != MATRIX or not all(type(size) is int and size > 0 for size in shape) or shape[1] % _PER_BYTE:
        raise ValueError(f"the shape {shape!r:.100}")
    if "nested_blocksize" not in fields:
        return _State(kind, shape, block)
    nested_block, dtype, offset = (fields[f"nested_{key}"] for key in ("blocksize", "dtype", "offset"))
    if dtype != "float32" or type(nested_block) is not int or nested_block <= 0:
        raise ValueError(f"scales of the type {dtype!r:.20} in blocks of {nested_block!r:.20}")
    return _State(kind, shape, block, nested_block, float(offset))


def _find_4bit(weights: Located, name: str, state: LocatedTensor, expected: _State) -> Found:
    numbers, scales = weights[name], _get(weights, f"{name}.absmax", state.name)
    rows, width = expected.shape
    share = expected.group * width // expected.block
    _check_size(numbers, None, rows * width // _PER_BYTE)
    if expected.nested_block:
        nested_scales = _get(weights, f"{name}.nested_absmax", state.name)
        table = _get(weights, f"{name}.nested_quant_map", state.name)
        _check_size(scales, "U8", expected.scales)
        _check_size(nested_scales, "F32", _F32 * -(-expected.scales // expected.nested_block))
        _check_size(table, "F32", _F32 * _TABLE_SIZE)
        # Neighbours in the file are neighbours here: they are one request.
        companions = [
            Companion(nested_scales, _F32 * share // expected.nested_block),
            Companion(table),
            Companion(scales, share),
            Companion(state),
        ]
    else:
        _check_size(scales, "F32", _F32 * expected.scales)
        companions = [Companion(scales, _F32 * share), Companion(state)]
    decode = decoder(_decode_4bit, expected._replace(offset=0.0))
    tensor = PackedRows(
        expected.kind.upper(),
        expected.shape,
        numbers,
        companions,
        RowGroups(decode, expected.group, rows, are_alike=expected.group == 1),
    )
    known = (name, f"{name}.quant_map", *(one.tensor.name for one in companions))
    return Found(name, numbers.path, tensor, known)


def _check_size(tensor: LocatedTensor, dtype: str | None, size: int) -> None:
    """`dtype` None: any, for its bytes are what matters (`quant_storage`)."""
    if (dtype or tensor.dtype) != tensor.dtype or tensor.size != size:
        raise CannotConvert(
            f"{tensor.name} has {tensor.size} bytes of the type {tensor.dtype}, but its quant_state wants {size} bytes"
            + (f" of {dtype}" if dtype else "")
        )


def _decode_4bit(expected: _State, rows: RowSlice, numbers: memoryview, companions: Sequence[memoryview]) -> bytes:
    *others, state = companions
    actual = _state_of("the quant_state of a matrix", bytes(state))
    if actual._replace(offset=0.0) != expected:
        raise CannotConvert(
            f"the quant_state of a matrix has {_shown(actual)}, unlike {_shown(expected)} in other layers"
        )
    width, block = actual.shape[1], actual.block
    count, skipped = rows.rows * width, rows.skipped * width
    first, inside = divmod(skipped, block)
    scales = _scales(actual, others)[first : -(-(skipped + count) // block)]
    codes: Array = np.frombuffer(numbers, np.uint8)
    if missing := len(scales) * block - count:
        # A row may begin and end within a block.
        codes = np.pad(codes, (inside // _PER_BYTE, (missing - inside) // _PER_BYTE))
    codes = codes << _NIBBLE | codes >> _NIBBLE
    groups = ColumnGroups(scales[None], None, block)
    products = decode(_codes(actual.kind), codes[None], len(scales) * block, groups)
    return products[_F32 * inside : _F32 * (inside + count)]


def _shown(state: _State) -> str:
    nested = f" and of {state.nested_block} scales" if state.nested_block else ""
    return f"{state.kind} of the shape {list(state.shape)} in blocks of {state.block}{nested}"


def _scales(state: _State, companions: Sequence[memoryview]) -> Array:
    if not state.nested_block:
        return np.frombuffer(companions[0], np.float32)
    nested_scales, table = (np.frombuffer(content, np.float32) for content in companions[:2])
    scales = table[np.frombuffer(companions[2], np.uint8)]
    scales *= nested_scales.repeat(state.nested_block)[: len(scales)]
    scales += np.float32(state.offset)
    return scales


@cache
def _codes(kind: str) -> Codes:
    return codes_of(_NIBBLE, _NUMBERS[kind])


def _int8_names(weights: Located) -> Iterator[str]:
    for name in weights:
        if name.endswith(_SCALES):
            yield f"{name.removesuffix(_SCALES)}.weight"


def _format_name(name: str) -> str:
    return f"{name.removesuffix('.weight')}{_FORMAT}"


def _find_int8(weights: Located, name: str) -> Found:
    scales = weights[f"{name.removesuffix('.weight')}{_SCALES}"]
    numbers, form = _get(weights, name, scales.name), weights.get(_format_name(name))
    if numbers.dtype != "I8" or len(numbers.shape) != MATRIX:
        raise CannotConvert(
            f"{name} has the shape {list(numbers.shape)} of the type {numbers.dtype}; with {scales.name} beside it, it "
            "would be a matrix of I8"
        )
    rows = numbers.row_count
    if scales.dtype != "F32" or prod(scales.shape) != rows:
        raise CannotConvert(
            f"{scales.name} has the shape {list(scales.shape)} of the type {scales.dtype}, not F32 for {rows} rows"
        )
    if form is not None:
        content = form.source.content if isinstance(form.source, ReadTensor) else b""
        if len(content) != 1 or content[0] != _ROW_FORMAT:
            raise CannotConvert(f"{form.name} is {content.hex() or 'unread'}; only rows ({_ROW_FORMAT:02x}) are known")
    groups = RowGroups(decoder(_decode_int8, numbers.shape[1]), 1, rows)
    tensor = PackedRows("INT8", numbers.shape, numbers, [Companion(scales, _F32)], groups)
    return Found(name, numbers.path, tensor, (name, scales.name, _format_name(name)))


def _decode_int8(width: int, rows: RowSlice, numbers: memoryview, companions: Sequence[memoryview]) -> bytes:
    codes = np.frombuffer(numbers, np.uint8).reshape(rows.rows, width)
    scales = np.frombuffer(companions[0], np.float32)[:, None]
    products = np.frombuffer(decode(_INT8, codes, width, ColumnGroups(scales, None, width)), np.float32)
    return (products * _INT8_FACTOR).tobytes()
