"""Small GGUFs for plans: valid headers and random data. No program can load them as models."""

import random

from proxy.gguf.header import Field, ValueType, read_header, write_header
from proxy.gguf.tensors import TensorInfo, TensorType, lay_out, padding

GGUF_TYPES = {
    "F32": (TensorType.F32, 0),
    "F16": (TensorType.F16, 1),
    "BF16": (TensorType.BF16, 32),
    "Q8_0": (TensorType.Q8_0, 7),
    "Q4_K_M": (TensorType.Q4_K, 15),
}
"""Label → the type of the matrices, and the value of `general.file_type`."""


def tiny_gguf(label: str = "Q4_K_M", *, seed: int = 0, blocks: int = 4, **metadata: Field | None) -> bytes:
    """A file of a few hundred kilobytes. More `blocks` make it larger.

    Two underscores in a key of `metadata` stand for a dot. None leaves a key out.
    """
    matrix, file_type = GGUF_TYPES[label]
    shapes = {"token_embd.weight": (256, 512), "output_norm.weight": (256,)}
    for block in range(blocks):
        shapes |= {f"blk.{block}.attn_norm.weight": (256,), f"blk.{block}.attn_q.weight": (256, 256)}
    tensors = lay_out(
        TensorInfo(name, shape, matrix if len(shape) > 1 else TensorType.F32) for name, shape in shapes.items()
    )
    fields: dict[str, Field | None] = {
        "general.architecture": Field.string("llama"),
        "general.type": Field.string("model"),
        "general.file_type": Field.uint32(file_type),
        "llama.block_count": Field.uint32(blocks),
    }
    fields |= {key.replace("__", "."): field for key, field in metadata.items()}
    rng = random.Random(seed)
    data = b"".join(rng.randbytes(tensor.size) + bytes(padding(tensor.size)) for tensor in tensors)
    return write_header({key: field for key, field in fields.items() if field is not None}, tensors) + data


def tiny_projector(*, seed: int = 0, rows: int = 64) -> bytes:
    tensors = lay_out([TensorInfo("v.patch_embd.weight", (256, rows), TensorType.F16)])
    metadata = {
        "general.architecture": Field.string("clip"),
        "general.type": Field.string("mmproj"),
        "clip.vision.block_count": Field.uint32(1),
    }
    return write_header(metadata, tensors) + random.Random(seed).randbytes(256 * rows * 2)


def finite(content: bytes) -> bytes:
    """The same GGUF with finite numbers below 2 only. NaN and infinity cannot be quantized."""
    header = read_header(content, size=len(content))
    numbers = bytearray(content)
    for tensor in header.tensors:
        width = 4 if tensor.type == TensorType.F32 else 2
        start = header.data_start + tensor.offset
        places = slice(start + width - 1, start + tensor.size, width)
        numbers[places] = bytes(byte & 0xBF for byte in numbers[places])
    return bytes(numbers)


def large_header(number: int, shards: int, size: int) -> bytes:
    """The header of a shard, or of a whole GGUF, with one F16 tensor of `size` bytes, a multiple of 512."""
    fields = {
        "general.architecture": Field.string("llama"),
        "general.file_type": Field.uint32(1),
        "split.no": Field.uint16(number),
        "split.count": Field.uint16(shards),
        "split.tensors.count": Field(ValueType.INT32, shards.to_bytes(4, "little")),
    }
    if number:
        del fields["general.architecture"], fields["general.file_type"]
    tensor = TensorInfo(f"blk.{number}.ffn_up.weight", (256, size // 512), TensorType.F16)
    return write_header(fields if shards > 1 else dict(list(fields.items())[:2]), lay_out([tensor]))
