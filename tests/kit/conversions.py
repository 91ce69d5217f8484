"""The expected results of converting a tiny repository, for tests of whole pulls."""

import json
from collections.abc import Mapping
from typing import Any

import orjson

from proxy.gguf.conversion import Conversion, ModelDescription, convert
from proxy.gguf.tensor_sources import SourceRange
from proxy.planning.embedding import pooling_of
from proxy.planning.safetensors import SafetensorsHeader, header_size, read_header
from tests.gguf.writing import tensors_of, with_bytes, write
from tests.kit.support import digest_of


def headers(files: Mapping[str, bytes]) -> dict[str, SafetensorsHeader]:
    return {
        path: read_header(path, content[: header_size(path, content[:8], len(content))], len(content))
        for path, content in sorted(files.items())
        if path.endswith(".safetensors")
    }


def conversion(files: Mapping[str, bytes], name: str = "tiny", /, **options: Any) -> Conversion:
    """Plan the conversion of a repository of this name."""
    weights = with_bytes(tensors_of(files), files)
    tokenizer = json.loads(files["tokenizer_config.json"])
    template = tokenizer.get("chat_template")
    # A chat template without BOS decides for conversations, even if the tokenizer adds BOS to other texts.
    adds_bos = False if template and not ("bos_token" in template and tokenizer.get("bos_token")) else None
    pooling = pooling_of("acme/tiny", files, embeds=False)
    description = ModelDescription(name, template, adds_bos, pooling=pooling)
    return convert(json.loads(files["config.json"]), files, weights, description, **options)


def converted(files: Mapping[str, bytes], name: str = "tiny", /, **options: Any) -> bytes:
    """The bytes of the expected GGUF."""
    return write(conversion(files, name, **options), files)


def gguf_digest(files: Mapping[str, bytes], name: str) -> str:
    """The digest of the GGUF that the proxy makes for the model `name`, whose tag is a quantization."""
    return digest_of(converted(files, quantization=name.rpartition(":")[2].upper()))


def native_tag(files: Mapping[str, bytes]) -> str:
    """The tag that keeps the types of the weights. Quantized weights allow no other tag."""
    tensors = [tensor for header in headers(files).values() for tensor in header.tensors.values()]
    if any(tensor.dtype == "U8" for tensor in tensors):
        return "MXFP4_MOE"
    return next(tensor.dtype for tensor in tensors if len(tensor.shape) > 1)


def weights_of(files: Mapping[str, bytes]) -> dict[str, int]:
    """Digest → size of the weight files."""
    weights = (".safetensors", ".gguf")
    return {digest_of(content): len(content) for path, content in files.items() if path.endswith(weights)}


def bytes_per_file(files: Mapping[str, bytes], plan: Conversion, reached: int) -> dict[str, int]:
    """How many of the first `reached` fetched bytes come from each file.

    A conversion in file order fetches whole files. Other conversions fetch only the ranges that they need.
    """
    weights = {path: len(content) for path, content in sorted(files.items()) if path.endswith(".safetensors")}
    pieces = []
    for piece in plan.pieces:
        if isinstance(piece, SourceRange):
            pieces += [(beside.path, beside.stop - beside.start) for beside in piece.beside]
            pieces.append((piece.path, piece.stop - piece.start))
    counts = dict.fromkeys(weights, 0)
    for path, size in weights.items() if plan.in_file_order else pieces:
        counts[path] += min(size, reached)
        reached -= min(size, reached)
    return counts


def striped(files: Mapping[str, bytes], shards: int = 2) -> dict[str, bytes]:
    """The same repository in several shards. Tensor n is in shard n modulo `shards`."""
    tensors = [
        (name, tensor, files[path][tensor.start : tensor.stop])
        for path, header in headers(files).items()
        for name, tensor in header.tensors.items()
    ]
    others = {path: content for path, content in files.items() if "safetensors" not in path}
    index: dict[str, str] = {}
    for number in range(shards):
        path = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        header: dict[str, Any] = {}
        data = b""
        for name, tensor, content in tensors[number::shards]:
            offsets = [len(data), len(data) + len(content)]
            header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}
            data += content
            index[name] = path
        text = orjson.dumps(header)
        text += b" " * (-len(text) % 8)
        others[path] = len(text).to_bytes(8, "little") + text + data
    return others | {"model.safetensors.index.json": orjson.dumps({"metadata": {}, "weight_map": index})}
