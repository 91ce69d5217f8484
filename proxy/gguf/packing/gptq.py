"""GPTQ: integers of 2, 3, 4 or 8 bits, several in a word, in groups of inputs. Pure.

auto-gptq, gptqmodel and AutoRound write a layer as `qweight` [in · bits / 32, out], `qzeros` [groups, out · bits / 32],
`scales` [groups, out] and `g_idx` [in], the group of each input. With `desc_act` neighbouring inputs are in any groups.

A number is (integer - zero point) · scale, as in llama.cpp's converter (`dequant_gptq` in conversion/base.py, b11434),
auto-gptq 0.7.1 (nn_modules/qlinear/qlinear_cuda.py), gptqmodel 7.7.0 (nn_modules/qlinear/__init__.py) and AutoRound
0.16.1 (auto_round_extension/torch). Like llama.cpp we multiply in F32, which is exact for scales of F16 and BF16; the
others round the product to the type of the scales.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from proxy.gguf.engine_numpy import to_floats
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.packing.coded_rows import Codes, ColumnGroups, codes_of, decode, read_codes
from proxy.gguf.packing.packed import Array, Found, Located, PackedMatrix, decoder, transposed
from proxy.gguf.packing.quantized_layers import Packing, QuantizedLayer, find_layers
from proxy.gguf.transforms import WIDTHS

BITS = (2, 3, 4, 8)
WORD_BITS = 32
STRADDLING = 3
"""Bits of an integer that may begin in one word and end in the next."""


class Zeros(Enum):
    """How zero points are stored."""

    AS_THEY_ARE = 0
    LESS_ONE = 1
    """Each number is less by 1. A reader adds 1: where all of the 4 bits are set, the zero point is 16."""
    WORDS_LESS_ONE = 2
    """Whole words were subtracted (`convert_gptq_v2_to_v1_format_module` of gptqmodel 7.7.0, utils/model.py), so that a
    zero point of 0 borrows from its neighbour; whole words added restore both. Numbers of 3 bits wrap around."""


class _Layout(NamedTuple):
    bits: int
    inputs: int
    outputs: int
    zeros: Zeros
    scales: str
    """Their safetensors dtype."""
    group_size: int
    """Of consecutive inputs, where there is no g_idx or it is all 0; 0 if not known."""


def find(weights: Located, settings: Mapping[str, Any]) -> Iterator[Found]:
    """The matrices of GPTQ's layers. Raises CannotConvert where they do not fit, or nobody says how they are stored."""
    meta = settings.get("meta")
    is_of_gptqmodel = isinstance(meta, dict) and "gptqmodel" in str(meta.get("quantizer")).lower()
    for layer in find_layers(weights, settings, Packing.GPTQ, Packing.GPTQ_V2):
        zeros = Zeros.WORDS_LESS_ONE if is_of_gptqmodel else Zeros.LESS_ONE
        layout = _find_layout(
            layer, Zeros.AS_THEY_ARE if layer.packing is Packing.GPTQ_V2 else zeros, settings.get("group_size")
        )
        shape, decode = (layout.outputs, layout.inputs), decoder(_decode, layout)
        yield layer.found(PackedMatrix("GPTQ", shape, layer.numbers, decode, layer.tensors[1:]))


def _find_layout(layer: QuantizedLayer, zeros: Zeros, stated_size: object) -> _Layout:
    words, outputs = layer.numbers.shape
    groups = layer.scales.shape[0]
    fitting = [bits for bits in BITS if layer.zeros.shape == (groups, _words(outputs, bits))]
    if outputs != layer.scales.shape[1] or len(fitting) != 1:
        raise CannotConvert(f"{layer.shapes()}: they do not fit each other as GPTQ's do")
    [bits] = fitting
    inputs = words * WORD_BITS // bits
    if layer.group_of is not None:
        inputs = layer.group_of.shape[0] if len(layer.group_of.shape) == 1 else 0
        if layer.group_of.dtype != "I32" or _words(inputs, bits) != words:
            raise CannotConvert(f"{layer.shapes()}: g_idx does not fit numbers of {bits} bits")
    if bits == STRADDLING and (inputs % WORD_BITS or outputs % WORD_BITS):
        raise CannotConvert(f"{layer.shapes()}: numbers of 3 bits come in multiples of 32")
    size = _group_size(inputs, groups, stated_size)
    if not size and layer.group_of is None:
        raise CannotConvert(f"{layer.shapes()}, and there is no g_idx: how many inputs are in a group is not known")
    return _Layout(bits, inputs, outputs, zeros, layer.scales.dtype, size)


def _words(count: int, bits: int) -> int:
    return -(-count * bits // WORD_BITS)


def _group_size(inputs: int, groups: int, stated: object) -> int:
    """The inputs of a group; 0 if not known. Single layers have another size than config.json: the shapes decide."""
    if groups == 1:
        return inputs
    if type(stated) is int and stated > 0 and -(-inputs // stated) == groups:
        return stated
    size = inputs // groups
    return size if size * groups == inputs and size & size - 1 == 0 else 0


def _decode(layout: _Layout, numbers: memoryview, companions: Sequence[memoryview], rows: range) -> bytes:
    outputs = slice(rows.start, rows.stop)
    words = np.frombuffer(numbers, "<u4").reshape(-1, layout.outputs)[:, outputs]
    zeros, scales, *group_of = companions
    bits = np.frombuffer(scales, f"<u{WIDTHS[layout.scales]}").reshape(-1, layout.outputs)[:, outputs]
    order = _order(layout, b"".join(group_of), len(bits))
    groups = ColumnGroups(
        transposed(to_floats(layout.scales, bits)),
        _zeros(layout, zeros, len(bits), outputs).T,
        layout.group_size,
        order,
    )
    return decode(_codes(layout.bits), transposed(words).view(np.uint8), layout.inputs, groups)


@cache
def _codes(bits: int) -> Codes:
    return codes_of(bits, range(1 << bits))


def _zeros(layout: _Layout, content: memoryview, groups: int, outputs: slice) -> Array:
    """The zero points, a row for each group."""
    bits = layout.bits
    first = outputs.start // WORD_BITS * WORD_BITS
    words = np.frombuffer(content, "<u4").reshape(groups, -1)[:, _words(first, bits) : _words(outputs.stop, bits)]
    if layout.zeros is Zeros.WORDS_LESS_ONE and bits != STRADDLING:
        words = words + np.uint32(sum(1 << shift for shift in range(0, WORD_BITS, bits)))
    zeros = read_codes(_codes(bits), words.copy().view(np.uint8))[:, outputs.start - first : outputs.stop - first]
    if layout.zeros is Zeros.WORDS_LESS_ONE and bits == STRADDLING:
        return zeros + 1 & (1 << bits) - 1
    return zeros.astype(np.uint16) + 1 if layout.zeros is Zeros.LESS_ONE else zeros


@lru_cache(maxsize=16)
def _order(layout: _Layout, stored: bytes, count: int) -> Array | None:
    """The group of each input; None if they follow each other. `stored` is g_idx, if there is one.

    A g_idx of zeros stands for consecutive groups: no quantizer writes groups that are not used. Raises CannotConvert.
    """
    groups = np.frombuffer(stored, "<i4")
    if len(groups) and (groups.min() < 0 or groups.max() >= count):
        raise CannotConvert(f"a g_idx has groups from {groups.min()} to {groups.max()}, but there are {count}")
    if not groups.any():
        if not layout.group_size:
            raise CannotConvert("a g_idx has zeros only, and how many inputs are in a group is not known")
        return None
    is_consecutive = layout.group_size and np.array_equal(groups, np.arange(layout.inputs) // layout.group_size)
    return None if is_consecutive else groups
