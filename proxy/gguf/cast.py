"""Casts the tensors of a GGUF to another type. Pure."""

from dataclasses import replace
from functools import partial

from proxy.gguf.engine import Engine, engine_for, engine_names
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.tensor_sources import SourceRange, Target
from proxy.gguf.tensor_types import already_quantized
from proxy.gguf.tensors import BLOCKS, TensorInfo, TensorType
from proxy.gguf.transforms import WIDTHS, Transform, to_f32

PULL_AS = "pull it as {}"
"""What to do with a tensor whose numbers have no place in a type; `{}` stands for other types."""


class NoEngine(CannotConvert):
    """No engine of this machine makes a type; the text names the type."""


def cast(target: Target, kind: TensorType, remedy: str = PULL_AS) -> Target:
    """The same tensor with numbers of type `kind`. `remedy` is said of numbers that do not fit. Raises NoEngine."""
    if target.info.type == kind:
        return target
    if target.f32_pieces is not None:
        info = replace(target.info, type=TensorType.F32)
        return cast(replace(target, info=info, pieces=target.f32_pieces, f32_pieces=None), kind, remedy)
    step = cast_transform(target.info, kind, remedy)
    pieces = [piece.then([step]) for piece in target.pieces if isinstance(piece, SourceRange)]
    return replace(target, info=replace(target.info, type=kind), pieces=tuple(pieces))


def cast_transform(source: TensorInfo, kind: TensorType, remedy: str = PULL_AS) -> Transform:
    """The transform from a tensor's numbers, which must be F32, F16 or BF16, to blocks of `kind`.

    Raises CannotConvert for other numbers, NoEngine where no engine of this machine makes `kind`.
    """
    dtype = TensorType(source.type).name
    if dtype not in WIDTHS:
        raise CannotConvert(f"{source.name} is {already_quantized(source.type)}")
    if kind is TensorType.F32 and engine_for(kind) is None:
        return to_f32(dtype)
    _engine(kind)
    numbers, block_size = BLOCKS[kind]
    # The transform must not hold the engine: it is pickled for another process, and an engine cannot be.
    return Transform(numbers * WIDTHS[dtype], block_size, partial(_quantize, source.name, kind, dtype, remedy))


def _engine(kind: TensorType) -> Engine:
    engine = engine_for(kind)
    if engine is None:
        raise NoEngine(f"nothing on this machine makes {kind.name} (engines: {engine_names()})")
    return engine


def _quantize(name: str, kind: TensorType, dtype: str, remedy: str, content: bytes) -> bytes:
    engine = _engine(kind)
    try:
        return engine.quantize(kind, dtype, content)
    except CannotConvert as error:
        others = "F32" if kind is TensorType.BF16 else "BF16 or F32"
        raise CannotConvert(f"{name} cannot become {kind.name}: {error}; {remedy.format(others)}") from error
