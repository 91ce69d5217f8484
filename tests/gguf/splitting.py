"""Splits a GGUF as `llama-gguf-split` does, and joins the pieces that `merge` plans."""

import struct
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from proxy.gguf.header import Field, read_header, write_header
from proxy.gguf.split import MergedGguf, ShardRange
from proxy.gguf.tensors import lay_out, padding


def split(
    content: bytes | Path, shards: int, *, prefix: str = "model", no_tensor_first: bool = False
) -> dict[str, bytes]:
    """The parts by name. The first has all metadata, and no tensors if `no_tensor_first`."""
    whole = content.read_bytes() if isinstance(content, Path) else content
    header = read_header(whole, size=len(whole))
    count = len(header.tensors)
    holders = shards - no_tensor_first
    bounds = [0] * no_tensor_first + [count * index // holders for index in range(holders + 1)]
    parts = {}
    for number, (start, stop) in enumerate(pairwise(bounds)):
        metadata = {} if number else dict(header.metadata)
        metadata |= {
            "split.no": Field.uint16(number),
            "split.count": Field.uint16(shards),
            "split.tensors.count": Field.int32(count),
        }
        chosen = header.tensors[start:stop]
        # llama-gguf-split lays out the later parts without the metadata of the first, so with the default alignment.
        alignment = header.alignment if number == 0 else 32
        data = bytearray()
        for tensor in chosen:
            begin = header.data_start + tensor.offset
            data += whole[begin : begin + tensor.size] + bytes(padding(tensor.size, alignment))
        name = f"{prefix}-{number + 1:05}-of-{shards:05}.gguf"
        parts[name] = write_header(metadata, lay_out(chosen, alignment)) + bytes(data)
    return parts


def joined(merged: MergedGguf, parts: Sequence[bytes]) -> bytes:
    content = bytearray(merged.header)
    for piece in merged.pieces:
        content += parts[piece.shard][piece.start : piece.stop] if isinstance(piece, ShardRange) else bytes(piece.size)
    return bytes(content)


def with_offsets(content: bytes, offsets: Sequence[int]) -> bytes:
    """The same file with other offsets in its tensor infos, as a hostile or careless writer leaves them."""
    header = read_header(content)
    tensors = [replace(tensor, offset=offset) for tensor, offset in zip(header.tensors, offsets, strict=True)]
    return write_header(header.metadata, tensors) + content[header.data_start :]


def with_version(content: bytes, version: int) -> bytes:
    return content[:4] + struct.pack("<I", version) + content[8:]
