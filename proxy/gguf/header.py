"""Reads and writes the header of a GGUF: its metadata and tensor infos, from the first bytes of the file. Pure."""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

from proxy.gguf.tensors import DEFAULT_ALIGNMENT, GgufError, TensorInfo, padding, shown

MAGIC = b"GGUF"
VERSION = 3
READABLE_VERSIONS = (2, 3)  # version 3 only adds big-endian files
ALIGNMENT = "general.alignment"
ARCHITECTURE = "general.architecture"
MAX_ALIGNMENT = 1 << 16
MAX_DIMENSIONS = 4
# Limits against hostile files, which can claim any size, and whose small entries take 20 times their size in memory.
# Real headers stay far below: 260,000 tokens with their merges take about 15 MB, and the largest models have fewer
# than 5,000 tensors.
MAX_BYTES = 128 << 20
MAX_ENTRIES = 1 << 16
FIRST_BYTES = 64 << 10

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_MIN_PAIR = 8 + 1 + 4 + 1
_MIN_TENSOR = 8 + 4 + 4 + 8

_T = TypeVar("_T", int, float, bool, str, list[Any])


class Incomplete(Exception):
    """The header is longer than the given bytes: read the file's first `at_least` bytes and try again.

    The length of a header is not known before it is read, so `at_least` grows in large steps.
    """

    def __init__(self, at_least: int) -> None:
        super().__init__(f"the header needs at least the file's first {at_least} bytes")
        self.at_least = at_least


class ValueType(IntEnum):
    """The types of metadata values."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_CODES = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
_WIDTHS = {kind: struct.calcsize(f"<{code}") for kind, code in _CODES.items()}


@dataclass(frozen=True, slots=True)
class Field:
    """One metadata value: the exact bytes that follow its type in the file."""

    kind: ValueType
    raw: bytes

    @property
    def value(self) -> int | float | bool | str | list[Any]:
        """Decodes at each call. Replaces invalid UTF-8 in strings; `raw` keeps the original bytes."""
        if self.kind is ValueType.STRING:
            return self.raw[8:].decode(errors="replace")
        if self.kind is ValueType.ARRAY:
            return self._items()
        (value,) = struct.unpack(f"<{_CODES[self.kind]}", self.raw)
        return value  # type: ignore[no-any-return]

    @property
    def length(self) -> int:
        """The length of an array. Raises GgufError for other values."""
        if self.kind is not ValueType.ARRAY:
            raise GgufError(f"{shown(self.value)} is not an array")
        return int(_U64.unpack_from(self.raw, 4)[0])

    @property
    def item_kind(self) -> ValueType | None:
        """The type of an array's items; None for other values."""
        return ValueType(_U32.unpack_from(self.raw)[0]) if self.kind is ValueType.ARRAY else None

    def texts(self) -> Iterator[bytes]:
        """The texts of an array of strings, as the file has them: not all are UTF-8."""
        position = 12
        for _ in range(self.length):
            start = position + 8
            position = start + _U64.unpack_from(self.raw, position)[0]
            yield self.raw[start:position]

    def _items(self) -> list[Any]:
        if self.item_kind is ValueType.STRING:
            return [text.decode(errors="replace") for text in self.texts()]
        kind, count = struct.unpack_from("<IQ", self.raw)
        return list(struct.unpack_from(f"<{count}{_CODES[ValueType(kind)]}", self.raw, 12))

    @classmethod
    def of(cls, kind: ValueType, value: float | bool | str) -> "Field":
        if isinstance(value, str):
            if kind is not ValueType.STRING:
                raise GgufError(f"{shown(value)} cannot be a {kind.name.lower()}")
            return cls(kind, _string(value))
        return cls(kind, _numbers(kind, [value]))

    @classmethod
    def uint16(cls, value: int) -> "Field":
        return cls.of(ValueType.UINT16, value)

    @classmethod
    def uint32(cls, value: int) -> "Field":
        return cls.of(ValueType.UINT32, value)

    @classmethod
    def int32(cls, value: int) -> "Field":
        return cls.of(ValueType.INT32, value)

    @classmethod
    def uint64(cls, value: int) -> "Field":
        return cls.of(ValueType.UINT64, value)

    @classmethod
    def float32(cls, value: float) -> "Field":
        return cls.of(ValueType.FLOAT32, value)

    @classmethod
    def boolean(cls, value: bool) -> "Field":
        return cls.of(ValueType.BOOL, value)

    @classmethod
    def string(cls, value: str) -> "Field":
        return cls.of(ValueType.STRING, value)

    @classmethod
    def strings(cls, values: Iterable[str]) -> "Field":
        items = [_string(value) for value in values]
        return cls(ValueType.ARRAY, struct.pack("<IQ", ValueType.STRING, len(items)) + b"".join(items))

    @classmethod
    def array(cls, kind: ValueType, values: Sequence[Any]) -> "Field":
        if kind is ValueType.STRING:
            return cls.strings(values)
        return cls(ValueType.ARRAY, struct.pack("<IQ", kind, len(values)) + _numbers(kind, values))


def _numbers(kind: ValueType, values: Sequence[Any]) -> bytes:
    if kind not in _CODES:
        raise GgufError(f"{shown(values)} cannot be a {kind.name.lower()}")
    try:
        return struct.pack(f"<{len(values)}{_CODES[kind]}", *values)
    except (struct.error, OverflowError) as error:
        raise GgufError(f"{shown(values)} do not fit into {kind.name.lower()}: {error}") from error


def _string(value: str) -> bytes:
    try:
        content = value.encode()
    except UnicodeEncodeError as error:
        raise GgufError(f"{shown(value)} cannot be written as UTF-8") from error
    return _U64.pack(len(content)) + content


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """`data_start` counts from the start of the file. Metadata and tensors keep the file's order."""

    metadata: dict[str, Field]
    tensors: tuple[TensorInfo, ...]
    data_start: int
    version: int = VERSION

    @property
    def alignment(self) -> int:
        return _alignment(self.metadata)

    @property
    def architecture(self) -> str | None:
        """None in the later parts of a split file."""
        return self.get(ARCHITECTURE, str)

    @property
    def data_size(self) -> int:
        """Bytes from the start of the data to the end of the last tensor."""
        return max((tensor.offset + tensor.size for tensor in self.tensors), default=0)

    def get(self, key: str, expected: type[_T]) -> _T | None:
        """None if the key is missing. Raises GgufError if the value has another type."""
        field = self.metadata.get(key)
        if field is None:
            return None
        value = field.value
        if type(value) is not expected:
            raise GgufError(f"{key} is of the kind {field.kind.name.lower()}")
        return value


def write_header(metadata: Mapping[str, Field], tensors: Sequence[TensorInfo]) -> bytes:
    """The bytes before the data. Metadata and tensors are written in the given order."""
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise GgufError("two tensors have the same name")
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, field in metadata.items():
        parts += _string(key), _U32.pack(field.kind), field.raw
    for tensor in tensors:
        count = len(tensor.shape)
        parts.append(_string(tensor.name))
        parts.append(struct.pack(f"<I{count}QIQ", count, *tensor.shape, tensor.type, tensor.offset))
    content = b"".join(parts)
    return content + bytes(padding(len(content), _alignment(metadata)))


def read_header(content: bytes, *, size: int | None = None) -> GgufHeader:
    """The header at the start of `content`. `size` is the size of the whole file; without it some checks are left out.

    Raises Incomplete if `content` ends too early, GgufError if the header is invalid.
    """
    cursor = _Cursor(content, size)
    version = _read_version(cursor)
    tensor_count, pair_count = cursor.u64(), cursor.u64()
    cursor.check_claim("metadata", pair_count, _MIN_PAIR)
    cursor.check_claim("tensors", tensor_count, _MIN_TENSOR)
    metadata: dict[str, Field] = {}
    for _ in range(pair_count):
        key = cursor.name()
        if not key or key in metadata:
            raise GgufError(f"the metadata has the key {shown(key)} twice" if key else "a key is empty")
        metadata[key] = cursor.field(key)
    alignment = _alignment(metadata)
    tensors = tuple(cursor.tensor() for _ in range(tensor_count))
    data_start = cursor.position + padding(cursor.position, alignment)
    if tensors:
        cursor.need(data_start)
    _check_tensors(tensors, alignment)
    header = GgufHeader(metadata, tensors, data_start, version)
    if size is not None and tensors and data_start + header.data_size > size:
        raise GgufError(
            f"the tensors end at byte {data_start + header.data_size} of a file of {size} bytes: it is incomplete"
        )
    return header


def _read_version(cursor: "_Cursor") -> int:
    magic = cursor.take(len(MAGIC))
    if magic not in (MAGIC, MAGIC[::-1]):
        raise GgufError(f"a GGUF begins with {MAGIC!r}, but this file begins with {magic!r}")
    version = cursor.u32()
    if magic != MAGIC or version & 0xFFFF == 0:
        raise GgufError("big-endian GGUFs cannot be read")
    if version not in READABLE_VERSIONS:
        raise GgufError(f"GGUF version {version} cannot be read, only 2 and 3")
    return version


def _alignment(metadata: Mapping[str, Field]) -> int:
    field = metadata.get(ALIGNMENT)
    if field is None:
        return DEFAULT_ALIGNMENT
    value = field.value
    if field.kind is not ValueType.UINT32 or not isinstance(value, int):
        raise GgufError(f"{ALIGNMENT} is of the kind {field.kind.name.lower()} instead of uint32")
    if not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
        raise GgufError(f"{ALIGNMENT} is {value}, not a power of two up to {MAX_ALIGNMENT}")
    return value


def _check_tensors(tensors: Sequence[TensorInfo], alignment: int) -> None:
    names: set[str] = set()
    for tensor in tensors:
        if tensor.name in names:
            raise GgufError(f"there are two tensors {shown(tensor.name)}")
        names.add(tensor.name)
        if tensor.offset % alignment:
            raise GgufError(f"the tensor {shown(tensor.name)} is not aligned to {alignment} bytes")
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.size and tensor.offset < end:
            raise GgufError(f"the tensor {shown(tensor.name)} overlaps another tensor")
        end = max(end, tensor.offset + tensor.size)


class _Cursor:
    """Reads a header's bytes in order."""

    def __init__(self, content: bytes, size: int | None) -> None:
        self._content = content
        self._size = size
        self.position = 0

    def need(self, stop: int, estimate: int = 0) -> None:
        """Raises Incomplete, or GgufError, unless `content` has the bytes up to `stop`."""
        available = len(self._content)
        if stop <= available:
            return
        if self._size is not None and stop > self._size:
            raise GgufError(f"the file ends after {self._size} bytes, inside its header: it is incomplete")
        if stop > MAX_BYTES:
            raise GgufError(f"the header claims to be longer than {MAX_BYTES} bytes")
        at_least = max(stop, estimate, 2 * available, FIRST_BYTES)
        raise Incomplete(min(at_least, MAX_BYTES, at_least if self._size is None else self._size))

    def check_claim(self, what: str, count: int, least: int) -> None:
        """Raises GgufError for a count that no file, or not this file, can have."""
        if count > MAX_ENTRIES or (self._size is not None and count * least > self._size - self.position):
            raise GgufError(f"the file claims {count} {what}, more than it can hold")

    def take(self, count: int) -> bytes:
        start, stop = self.position, self.position + count
        self.need(stop)
        self.position = stop
        return self._content[start:stop]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def name(self) -> str:
        content = self.take(self.u64())
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise GgufError(f"the name {shown(content)} is not UTF-8") from None

    def field(self, key: str) -> Field:
        kind = self._kind(key)
        start = self.position
        if kind is ValueType.STRING:
            self.take(self.u64())
        elif kind is ValueType.ARRAY:
            self._skip_array(key)
        else:
            self.take(_WIDTHS[kind])
        return Field(kind, self._content[start : self.position])

    def tensor(self) -> TensorInfo:
        name = self.name()
        count = self.u32()
        if count > MAX_DIMENSIONS:
            raise GgufError(f"the tensor {shown(name)} has {count} dimensions, more than {MAX_DIMENSIONS}")
        *shape, kind, offset = struct.unpack(f"<{count}QIQ", self.take(8 * count + 12))
        tensor = TensorInfo(name, tuple(shape), kind, offset)
        if max(shape, default=0) >> 63 or tensor.size >> 63 or offset >> 63:
            raise GgufError(f"the tensor {shown(name)} claims to be larger than any file")
        return tensor

    def _kind(self, key: str) -> ValueType:
        number = self.u32()
        try:
            return ValueType(number)
        except ValueError:
            raise GgufError(f"the value of {shown(key)} has the unknown kind {number}") from None

    def _skip_array(self, key: str) -> None:
        kind, count = self._kind(key), self.u64()
        if kind is ValueType.ARRAY:
            raise GgufError(f"the value of {shown(key)} is an array of arrays")
        if kind is ValueType.STRING:
            self._skip_strings(count)
        else:
            self.take(count * _WIDTHS[kind])

    def _skip_strings(self, count: int) -> None:
        """Only finds their end: a vocabulary has hundreds of thousands. `Field.value` decodes them on demand."""
        content, length_at = self._content, _U64.unpack_from
        start = position = self.position
        skipped = 0
        try:
            for skipped in range(count):  # noqa: B007
                position += 8 + length_at(content, position)[0]
        except (struct.error, OverflowError):
            missing = count - skipped
            average = (position - start) // max(skipped, 1)
            self.need(position + 8 * missing, estimate=position + average * missing)
        self.need(position)
        self.position = position
