"""Reads from a GGUF what the stand-in Ollama needs: architecture, file type, number of parameters."""

import math
import struct
from dataclasses import dataclass
from typing import Any

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_FILE_TYPES = {
    **dict(enumerate(("F16", "Q4_0", "Q4_1"), 1)),  # F32 is 0, which Ollama reads as "no file type"
    **dict(enumerate(("Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L"), 7)),
    **dict(enumerate(("Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K"), 14)),
    **dict(enumerate(("BF16",), 32)),
    **dict(enumerate(("MXFP4", "NVFP4"), 38)),
}


@dataclass(frozen=True)
class WeightFacts:
    architecture: str
    file_type: str
    parameters: int
    chat_template: str = ""
    kind: str = "model"  # of the layer that it becomes
    part: int = 0  # number of this shard in a split GGUF, from 0
    parts: int = 0  # shards of the split GGUF


NO_FACTS = WeightFacts("", "", 0)


def gguf_facts(beginning: bytes, size: int) -> WeightFacts:
    """The facts in the beginning of a GGUF. The parameters are a guess if the list of tensors is not all in it."""
    reader = _Reader(beginning)
    _version, tensors, entries = reader.unpack("<4xIQQ")
    metadata: dict[str, Any] = {}
    parameters = 0
    try:
        for _ in range(entries):
            key = reader.string()
            metadata[key] = reader.value(reader.number("I"))
        for _ in range(tensors):
            reader.string()
            shape = [reader.number("Q") for _ in range(reader.number("I"))]
            reader.unpack("<IQ")
            parameters += math.prod(shape)
    except struct.error:
        parameters = size // 2
    return WeightFacts(
        str(metadata.get("general.architecture", "unknown")),
        _FILE_TYPES.get(metadata.get("general.file_type", -1), "unknown"),
        parameters,
        str(metadata.get("tokenizer.chat_template", "")),
        _layer_kind(metadata),
        metadata.get("split.no", 0),
        metadata.get("split.count", 0),
    )


def _layer_kind(metadata: dict[str, Any]) -> str:
    kind = metadata.get("general.type")
    if kind == "adapter":
        return "adapter"
    is_vision_only = any(key.endswith(".vision.block_count") for key in metadata) and not any(
        key.endswith(".block_count") and not key.endswith(".vision.block_count") for key in metadata
    )
    return "projector" if kind in {"projector", "mmproj"} or is_vision_only else "model"


class _Reader:
    """Steps through the little-endian values of a GGUF. Raises `struct.error` at the end of the data."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def unpack(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(layout, self._data, self._offset)
        self._offset += struct.calcsize(layout)
        return values

    def number(self, code: str) -> Any:
        return self.unpack("<" + code)[0]

    def string(self) -> str:
        length = self.number("Q")
        if length > len(self._data) - self._offset:
            raise struct.error("the string ends beyond the data")
        self._offset += length
        return self._data[self._offset - length : self._offset].decode(errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if inner in _SCALARS:
                self._offset += count * struct.calcsize("<" + _SCALARS[inner])
                return None
            for _ in range(count):
                self.value(inner)
            return None
        return self.number(_SCALARS[kind])
