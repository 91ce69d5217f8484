"""Tensors of a GGUF in another type than their source's. Pure."""

from dataclasses import replace
from functools import partial

from proxy.gguf.config import CannotConvert
from proxy.gguf.engine import Engine, described, engine_for
from proxy.gguf.sources import SourceRange, Target
from proxy.gguf.tensor_types import quantized_already
from proxy.gguf.tensors import BLOCKS, TensorInfo, TensorType
from proxy.gguf.transforms import WIDTHS, Transform, chained, widened


class NoEngine(CannotConvert):
    """Nothing on this machine makes a type; the text names it."""


def cast(target: Target, kind: TensorType) -> Target:
    """The same tensor with its numbers as `kind`. Raises NoEngine."""
    if target.info.type == kind:
        return target
    if target.exact is not None:
        info = replace(target.info, type=TensorType.F32)
        return cast(replace(target, info=info, pieces=target.exact, exact=None), kind)
    step = casting(target.info, kind)
    pieces = [
        replace(piece, transform=chained([piece.transform, step] if piece.transform else [step]))
        for piece in target.pieces
        if isinstance(piece, SourceRange)
    ]
    return replace(target, info=replace(target.info, type=kind), pieces=tuple(pieces))


def casting(source: TensorInfo, kind: TensorType) -> Transform:
    """What makes blocks of `kind` of a tensor's numbers, which are F32, F16 or BF16.

    Raises CannotConvert for other numbers, NoEngine where no engine of this machine makes `kind`.
    """
    dtype = TensorType(source.type).name
    if dtype not in WIDTHS:
        raise CannotConvert(f"{source.name} is {quantized_already(source.type)}")
    if kind is TensorType.F32 and engine_for(kind) is None:
        return widened(dtype)
    _engine(kind)
    numbers, made = BLOCKS[kind]
    # Without the engine itself, which no other process could be given.
    return Transform(numbers * WIDTHS[dtype], made, partial(_quantize, source.name, kind, dtype))


def _engine(kind: TensorType) -> Engine:
    engine = engine_for(kind)
    if engine is None:
        raise NoEngine(f"nothing on this machine makes {kind.name} (engines: {described()})")
    return engine


def _quantize(name: str, kind: TensorType, dtype: str, content: bytes) -> bytes:
    engine = _engine(kind)
    try:
        return engine.quantize(kind, dtype, content)
    except CannotConvert as error:
        others = "F32" if kind is TensorType.BF16 else "BF16 or F32"
        raise CannotConvert(f"{name} cannot become {kind.name}: {error}; pull it as {others}") from error
