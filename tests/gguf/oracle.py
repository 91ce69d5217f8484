"""GGUF files from llama.cpp's own package `gguf`, and strategies for random ones."""

import string
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFEndian, GGUFReader, GGUFValueType, GGUFWriter
from hypothesis import strategies as st

from proxy.gguf.header import Field, ValueType
from proxy.gguf.tensors import BLOCKS, TensorType

ARCHITECTURE = "llama"


@dataclass(frozen=True)
class Value:
    """A metadata value for both writers; `items` is the type of an array's items."""

    kind: ValueType
    value: Any
    items: ValueType | None = None

    def field(self) -> Field:
        return Field.array(self.items, self.value) if self.items is not None else Field.of(self.kind, self.value)


@dataclass(frozen=True)
class Tensor:
    shape: tuple[int, ...]
    type: TensorType
    content: bytes


def write(
    metadata: Mapping[str, Value],
    tensors: Mapping[str, Tensor],
    *,
    alignment: int | None = None,
    big_endian: bool = False,
    most_tensors: int = 0,
    small_first: bool = False,
) -> list[bytes]:
    """The file, or its parts if `most_tensors` is smaller than the number of tensors.

    The keyword arguments are options of GGUFWriter: one function for them all, as its parts are written in one run.
    """
    with tempfile.TemporaryDirectory() as folder:
        writer = GGUFWriter(
            Path(folder) / "x.gguf",
            ARCHITECTURE,
            endianess=GGUFEndian.BIG if big_endian else GGUFEndian.LITTLE,
            split_max_tensors=most_tensors,
            small_first_shard=small_first,
        )
        if alignment is not None:
            writer.add_custom_alignment(alignment)
        for key, value in metadata.items():
            items = None if value.items is None else GGUFValueType(value.items)
            writer.add_key_value(key, value.value, GGUFValueType(value.kind), items)
        for name, tensor in tensors.items():
            _add(writer, name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return [path.read_bytes() for path in sorted(Path(folder).iterdir())]


def _add(writer: GGUFWriter, name: str, tensor: Tensor) -> None:
    block_numbers, block_bytes = BLOCKS[tensor.type]
    *outer, row = reversed(tensor.shape)
    array = np.frombuffer(tensor.content, np.uint8).reshape(*outer, row // block_numbers * block_bytes)
    writer.add_tensor(name, array, raw_dtype=GGMLQuantizationType(tensor.type))


def fields(metadata: Mapping[str, Value], alignment: int | None = None) -> dict[str, Field]:
    """The same metadata for the project's own writer."""
    first = {"general.architecture": Field.string(ARCHITECTURE)}
    if alignment is not None:
        first["general.alignment"] = Field.uint32(alignment)
    return first | {key: value.field() for key, value in metadata.items()}


def read_tensors(content: bytes) -> dict[str, tuple[tuple[int, ...], int, bytes]]:
    """Shape, type and bytes of each tensor, read by GGUFReader."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.gguf"
        path.write_bytes(content)
        return {
            tensor.name: (tuple(tensor.shape.tolist()), int(tensor.tensor_type), tensor.data.tobytes())
            for tensor in GGUFReader(path).tensors
        }


EXAMPLE_METADATA = {
    "general.name": Value(ValueType.STRING, "Zoë"),
    "llama.block_count": Value(ValueType.UINT32, 30),
    "llama.rope.freq_base": Value(ValueType.FLOAT32, 0.5),
    "tokenizer.ggml.add_bos_token": Value(ValueType.BOOL, value=False),
    "tokenizer.ggml.tokens": Value(ValueType.ARRAY, ["<s>", "", "ä"], ValueType.STRING),
    "tokenizer.ggml.scores": Value(ValueType.ARRAY, [0.0, -1.5, 2.0], ValueType.FLOAT32),
}
EXAMPLE_TENSORS = {
    "token_embd.weight": Tensor((32, 3), TensorType.Q8_0, bytes(range(102))),
    "output_norm.weight": Tensor((5,), TensorType.F32, bytes(range(20))),
    "blk.0.ffn_up_exps.weight": Tensor((4, 2, 3), TensorType.F16, bytes(range(48))),
}

_RANGES = {
    ValueType.UINT8: (0, 2**8 - 1),
    ValueType.INT8: (-(2**7), 2**7 - 1),
    ValueType.UINT16: (0, 2**16 - 1),
    ValueType.INT16: (-(2**15), 2**15 - 1),
    ValueType.UINT32: (0, 2**32 - 1),
    ValueType.INT32: (-(2**31), 2**31 - 1),
    ValueType.UINT64: (0, 2**64 - 1),
    ValueType.INT64: (-(2**63), 2**63 - 1),
}
_PLAIN: dict[ValueType, st.SearchStrategy[Any]] = {
    **{kind: st.integers(least, most) for kind, (least, most) in _RANGES.items()},
    ValueType.FLOAT32: st.floats(width=32, allow_nan=False),
    ValueType.FLOAT64: st.floats(allow_nan=False),
    ValueType.BOOL: st.booleans(),
    ValueType.STRING: st.text(max_size=20),
}
_names = st.text(string.ascii_lowercase + "._0ä", min_size=1, max_size=12)

values = st.sampled_from(sorted(_PLAIN)).flatmap(
    lambda kind: (
        st.builds(Value, st.just(kind), _PLAIN[kind])
        | st.builds(Value, st.just(ValueType.ARRAY), st.lists(_PLAIN[kind], min_size=1, max_size=5), st.just(kind))
    )
)
metadatas = st.dictionaries(_names.map("x.{}".format), values, max_size=6)
alignments = st.sampled_from([None, 1, 8, 32, 64, 256])


@st.composite
def _tensors(draw: st.DrawFn) -> Tensor:
    types = [TensorType.F32, TensorType.F16, TensorType.I8, TensorType.BF16, TensorType.Q4_1, TensorType.Q6_K]
    kind = draw(st.sampled_from(types))
    block_numbers, block_bytes = BLOCKS[kind]
    row, *outer = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    size = row * block_bytes * int(np.prod(outer, dtype=int))
    seed = draw(st.integers(0, 255))
    return Tensor((row * block_numbers, *outer), kind, bytes((seed + index) % 256 for index in range(size)))


tensor_sets = st.dictionaries(_names, _tensors(), max_size=7)
