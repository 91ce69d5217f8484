"""Tensors of a GGUF in another type than their source's. Pure."""

import importlib.util
from dataclasses import replace
from math import prod

from proxy.gguf.config import CannotConvert
from proxy.gguf.targets import Piece, Target, stays_wide
from proxy.gguf.tensors import BLOCKS, TensorType
from proxy.gguf.transforms import WIDTHS, Transform, chained, widened


def can_quantize() -> bool:
    """Whether numpy is there, which all casts but those to F32 take."""
    return importlib.util.find_spec("numpy") is not None


def cast(target: Target, kind: TensorType) -> Target:
    """The same with its numbers in another type, as any Ollama's quantizer would; what is always F32 stays it."""
    info = target.info
    if info.type == kind or stays_wide(info.name, info.shape):
        return target
    block, taken = BLOCKS[kind]
    if info.shape[0] % block:
        raise CannotConvert(f"{info.name} has rows of {info.shape[0]} numbers, no multiple of {kind.name}'s {block}")
    if prod(info.shape[1:]) == 1:
        raise CannotConvert(f"{info.name} has a single row, which Ollama casts to {kind.name} only before v0.30")
    dtype = TensorType(info.type).name
    step = _casting(dtype, kind)
    pieces = [
        replace(
            piece,
            transform=chained([piece.transform, step] if piece.transform else [step]),
            becomes=piece.size // WIDTHS[dtype] // block * taken,
        )
        for piece in target.pieces
        if isinstance(piece, Piece)
    ]
    return replace(target, info=replace(info, type=kind), pieces=tuple(pieces))


def _casting(dtype: str, kind: TensorType) -> Transform:
    if kind is TensorType.F32:
        return widened(dtype)
    if not can_quantize():
        raise CannotConvert(f"{dtype} becomes {kind.name} with numpy only: pip install 'ollama-hf-proxy[numpy]'")
    from proxy.gguf.quantizing import quantized

    return quantized(dtype, kind)
