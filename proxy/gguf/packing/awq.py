"""AWQ: integers of 4 bits, eight outputs in a word, in groups of inputs. Pure.

AutoAWQ (version `gemm`), gptqmodel and AutoRound write a layer as `qweight` [in, out / 8], `qzeros` [groups, out / 8]
and `scales` [groups, out]. From its lowest bits on, a word has the outputs 0, 2, 4, 6, 1, 3, 5 and 7 of its eight.

A number is (integer - zero point) · scale, as in AutoAWQ 0.2.9 (`dequantize_gemm` in utils/packing_utils.py), gptqmodel
7.7.0 (quantization/awq/utils/packing_utils.py) and AutoRound 0.16.1 (export/export_to_awq/utils.py). We multiply in
F32, which is exact for scales of F16 and BF16; they round the product to the type of the scales.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from proxy.gguf.engine_numpy import to_floats
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.packing.coded_rows import ColumnGroups, codes_of, decode, read_codes
from proxy.gguf.packing.packed import Array, Found, Located, PackedMatrix, decoder, transposed
from proxy.gguf.packing.quantized_layers import Packing, QuantizedLayer, find_layers
from proxy.gguf.transforms import WIDTHS

_F32 = 4
BITS = 4
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The output of each integer in a word, from the lowest bits on."""
_CODES = codes_of(BITS, range(1 << BITS), unit=4, shifts=bytes(BITS * ORDER.index(output) for output in range(8)))


class _Layout(NamedTuple):
    inputs: int
    outputs: int
    scales: str
    """Their safetensors dtype."""


def find(weights: Located, settings: Mapping[str, Any]) -> Iterator[Found]:
    """The matrices of AWQ's layers. Raises CannotConvert where they do not fit, or nobody says how they are stored."""
    for layer in find_layers(weights, settings, Packing.AWQ):
        layout = _find_layout(layer)
        shape, decode = (layout.outputs, layout.inputs), decoder(_decode, layout)
        yield layer.found(PackedMatrix("AWQ", shape, layer.numbers, decode, (layer.zeros, layer.scales)))


def _find_layout(layer: QuantizedLayer) -> _Layout:
    inputs, words = layer.numbers.shape
    groups, outputs = layer.scales.shape
    if inputs % groups or words * len(ORDER) != outputs or layer.zeros.shape != (groups, words) or layer.group_of:
        raise CannotConvert(f"{layer.shapes()}: they do not fit each other as AWQ's of 4 bits do")
    return _Layout(inputs, outputs, layer.scales.dtype)


def _decode(layout: _Layout, numbers: memoryview, companions: Sequence[memoryview], rows: range) -> bytes:
    span = slice(rows.start // len(ORDER), -(-rows.stop // len(ORDER)))
    outputs = slice(span.start * len(ORDER), span.stop * len(ORDER))
    words, zeros = (
        np.frombuffer(content, "<u4").reshape(-1, layout.outputs // len(ORDER))[:, span]
        for content in (numbers, companions[0])
    )
    bits = np.frombuffer(companions[1], f"<u{WIDTHS[layout.scales]}").reshape(-1, layout.outputs)[:, outputs]
    scales = transposed(to_floats(layout.scales, bits))
    groups = ColumnGroups(scales, read_codes(_CODES, _rows(zeros)), layout.inputs // scales.shape[1])
    decoded, size = decode(_CODES, _rows(words), layout.inputs, groups), _F32 * layout.inputs
    return decoded[size * (rows.start - outputs.start) : size * (rows.stop - outputs.start)]


def _rows(words: Array) -> Array:
    """The bytes of each column of words."""
    return transposed(words).view(np.uint8)
