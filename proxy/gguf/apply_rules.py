"""Applies a family's rules to the tensors of safetensors files. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from math import prod

from proxy.gguf.apply_qkv import merged_qkv, mla_kv_b, permuted, split_qkv, ungrouped
from proxy.gguf.families.rules import (
    AddOne,
    AlsoFirst,
    Auxiliary,
    ByLayer,
    Copy,
    Deinterleaved,
    Frames,
    Halved,
    MergedQkv,
    MlaKvB,
    Mxfp4Experts,
    Named,
    Numbers32,
    OneRow,
    Padded,
    Patches,
    Permuted,
    PermutedHeads,
    Reordered,
    Reshaped,
    RowsFrom,
    Rule,
    Scaled,
    Split,
    SplitQkv,
    Stacked,
    StackedExperts,
    Transposed,
    Ungrouped,
    Unused,
)
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.plain_targets import f32_steps, listed_sum, plain_target, wrong_shape
from proxy.gguf.tensor_sources import (
    MATRIX,
    TYPES,
    LocatedTensor,
    MatchedTensor,
    Mxfp4Pieces,
    PackedTensor,
    SourceRange,
    Target,
)
from proxy.gguf.tensors import TensorInfo, TensorType
from proxy.gguf.transforms import (
    MXFP4_BYTES,
    WIDTHS,
    add,
    exponential,
    interleave,
    pick_part,
    repeat,
    scale,
    softplus,
    to_i32,
    transpose,
)

_STACK = 3
"""The number of dimensions of a stack of matrices."""
_VIDEO = 5
"""The number of dimensions of the kernels of a convolution over images and time."""
_MIN_RANGE = 1 << 15
"""Heads of fewer bytes get no range of their own; they are reordered in memory."""


def apply(  # noqa: C901, PLR0911, PLR0912 - a table of rules
    rule: Rule, config: ModelConfig, tensor: MatchedTensor
) -> list[Target]:
    """The GGUF tensors that a rule builds from one source tensor.

    Raises CannotConvert for a shape that the rule does not expect.
    """
    match rule:
        case Copy(_, True):
            info = TensorInfo(tensor.new_name(rule.name), tensor.shape[::-1], TYPES[tensor.dtype])
            return [Target(info, (tensor.rows(),))]
        case Copy():
            return [plain_target(tensor, tensor.new_name(rule.name), tensor.shape)]
        case AlsoFirst():
            return _also_first(rule, tensor)
        case ByLayer():
            return [_by_layer(rule, config, tensor)]
        case AddOne():
            return [_add_one(rule, tensor)]
        case Permuted() | PermutedHeads():
            return [permuted(rule, config, tensor)]
        case Split():
            return _split(rule, config, tensor)
        case Transposed():
            return _transposed(rule, config, tensor)
        case MergedQkv():
            return [merged_qkv(rule, config, tensor)]
        case SplitQkv():
            return split_qkv(rule, config, tensor)
        case Ungrouped():
            return list(ungrouped(rule, config, tensor))
        case Reordered():
            return [_reordered(rule, config, tensor)]
        case Numbers32():
            return [_numbers32(rule, config, tensor)]
        case Reshaped():
            return [_reshaped(rule, config, tensor)]
        case Named():
            return [plain_target(tensor, rule.name.format(*tensor.numbers), tensor.shape)]
        case Frames():
            return _frames(rule, tensor)
        case Patches():
            return [_patches(rule, config, tensor)]
        case OneRow():
            return [_one_row(rule, config, tensor)]
        case RowsFrom():
            return [_rows_from(rule, config, tensor)]
        case Scaled():
            return [_scaled(rule, config, tensor)]
        case Halved():
            return [_halved(rule, config, tensor)]
        case Padded():
            return [_padded(rule, config, tensor)]
        case MlaKvB():
            return mla_kv_b(rule, config, tensor)
        case Deinterleaved():
            return _deinterleaved(rule, tensor)
        case StackedExperts():
            return [_stacked_experts(rule, config, tensor)]
        case Auxiliary() | Unused():
            return []
        case Stacked() | Mxfp4Experts():
            raise AssertionError("apply_stacked and apply_mxfp4 are for these rules")


def apply_mxfp4(rule: Mxfp4Experts, tensor: MatchedTensor, scales: LocatedTensor | None) -> list[Target]:
    """The experts in one tensor of MXFP4 blocks. Raises CannotConvert if the `scales` do not fit the blocks."""
    shape, count = tensor.shape, len(rule.names)
    if scales is None or (*scales.shape, MXFP4_BYTES) != shape or len(shape) <= _STACK or shape[1] % count:
        problem = "are missing" if scales is None else f"have the shape {list(scales.shape)}"
        raise wrong_shape(tensor, f"and its scales {problem}")
    # This needs numpy, whose import takes 0.1 s.
    from proxy.gguf.packing.microscaling import Part, mxfp4_rows

    rows = [mxfp4_rows(tensor, scales, Part(count, index)) for index in range(count)]
    return [
        _mxfp4(tensor.new_name(name), one.shape, [one.in_mxfp4()]) for name, one in zip(rule.names, rows, strict=True)
    ]


def _mxfp4(name: str, shape: Sequence[int], pieces: Sequence[Mxfp4Pieces]) -> Target:
    """A stack of matrices that stay in MXFP4."""
    info = TensorInfo(name, tuple(reversed(shape)), TensorType.MXFP4)
    kept, f32 = (tuple(chain.from_iterable(parts)) for parts in zip(*pieces, strict=True))
    return Target(info, kept, in_source_order=False, f32_pieces=f32)


def apply_stacked(name: str, rule: Stacked, config: ModelConfig, tensors: Mapping[int, LocatedTensor]) -> Target:
    """Stacks source tensors by their numbers. Raises CannotConvert if one is missing, or differs in shape."""
    count = rule.count(config)
    if len(tensors) != count or max(tensors) >= count:
        raise CannotConvert(f"{name} needs {count} tensors, but the weights have {len(tensors)}")
    ordered = [tensors[number] for number in range(count)]
    first = ordered[0]
    for tensor in ordered:
        if (tensor.shape, tensor.dtype) != (first.shape, first.dtype):
            raise CannotConvert(f"{tensor.name} differs from {first.name} in shape or type")
    packed = [tensor.source for tensor in ordered if rule.keeps_mxfp4 and isinstance(tensor.source, PackedTensor)]
    kept = [pieces for one in packed if (pieces := one.in_mxfp4())]
    if len(kept) == count:
        return _mxfp4(name, (count, *first.shape), kept)
    return plain_target(first, name, (count, *first.shape), [tensor.rows() for tensor in ordered])


def _add_one(rule: AddOne, tensor: MatchedTensor) -> Target:
    if tensor.suffix == ".bias":
        return plain_target(tensor, tensor.new_name(rule.name), tensor.shape)
    info = TensorInfo(tensor.new_name(rule.name), tensor.shape[::-1], TensorType.F32)
    return Target(info, (tensor.rows().then([add(tensor.dtype, 1)]),))


def _also_first(rule: AlsoFirst, tensor: MatchedTensor) -> list[Target]:
    target = plain_target(tensor, tensor.new_name(rule.name), tensor.shape)
    if tensor.numbers[0]:
        return [target]
    first = plain_target(tensor, tensor.new_name(rule.first), tensor.shape)
    return [replace(one, in_source_order=False) for one in (target, first)]


def _by_layer(rule: ByLayer, config: ModelConfig, tensor: MatchedTensor) -> Target:
    name = rule.names[rule.has_second(config, tensor.numbers[0])]
    return plain_target(tensor, tensor.new_name(name), tensor.shape)


def _split(rule: Split, config: ModelConfig, tensor: MatchedTensor) -> list[Target]:
    """Splits the rows of a matrix, or of each matrix in a stack."""
    shape = tensor.shape
    matrices = shape[0] if len(shape) == _STACK else 1
    rows = shape[-2] if len(shape) >= MATRIX else shape[0]
    sizes = [size(config) for _, size in rule.parts]
    if sum(sizes) != rows or len(shape) > _STACK:
        raise wrong_shape(tensor, f"not {listed_sum(sizes)} rows")
    row_size = tensor.size // (matrices * rows)
    targets, first = [], 0
    for (name, _), size in zip(rule.parts, sizes, strict=True):
        starts = (matrix * rows + first for matrix in range(matrices))
        pieces = [tensor.rows(start, start + size, size=row_size) for start in starts]
        part_shape = (*shape[:-2], size, *shape[-1:]) if len(shape) >= MATRIX else (size,)
        targets.append(plain_target(tensor, tensor.new_name(name), part_shape, pieces))
        first += size
    return targets


def _transposed(rule: Transposed, config: ModelConfig, tensor: MatchedTensor) -> list[Target]:
    """The first output row needs the whole matrix, so the matrix is read once for each part."""
    *stack, rows, columns = (1, 1, *tensor.shape)[-max(len(tensor.shape), MATRIX) :]
    sizes = [size(config) for _, size in rule.parts]
    if sum(sizes) != columns:
        raise wrong_shape(tensor, f"not {listed_sum(sizes)} columns")
    targets, first = [], 0
    for (name, _), size in zip(rule.parts, sizes, strict=True):
        step = transpose(rows, columns, WIDTHS[tensor.dtype], range(first, first + size))
        target = plain_target(tensor, tensor.new_name(name), (*stack, size, rows), [tensor.rows().then([step])])
        targets.append(replace(target, in_source_order=len(sizes) == 1))
        first += size
    return targets


def _reordered(rule: Reordered, config: ModelConfig, tensor: MatchedTensor) -> Target:
    [target] = apply(rule.rule, config, tensor)
    groups, heads, size, before = (get(config) for get in (rule.groups, rule.heads, rule.size, rule.before))
    length = tensor.shape[-1] if rule.across else tensor.row_count
    if heads % groups or length != before + heads * size:
        raise wrong_shape(tensor, f"not {before} and {heads} heads of {size} in {groups} groups")
    if heads == groups:
        return target
    head_bytes = size * (WIDTHS[tensor.dtype] if rule.across else tensor.row_size)
    steps = [piece.transform for piece in target.pieces if isinstance(piece, SourceRange) and piece.transform]
    unchanged_rows = [tensor.rows(0, before).then(steps)] if before else []
    if rule.across or head_bytes < _MIN_RANGE:
        heads_piece = tensor.rows(before).then([interleave(head_bytes, heads, groups), *steps])
        return replace(target, pieces=(*unchanged_rows, heads_piece))
    in_group = heads // groups
    order = (head for index in range(in_group) for head in range(index, heads, in_group))
    starts = (before + head * size for head in order)
    pieces = [*unchanged_rows, *(tensor.rows(start, start + size).then(steps) for start in starts)]
    return replace(target, pieces=tuple(pieces), in_source_order=False)


def _reshaped(rule: Reshaped, config: ModelConfig, tensor: MatchedTensor) -> Target:
    shape = rule.shape(config, tensor.shape)
    if prod(shape) != prod(tensor.shape):
        raise wrong_shape(tensor, f"which cannot be reshaped to {list(shape)}")
    info = TensorInfo(rule.name.format(*tensor.numbers), tuple(reversed(shape)), TensorType.F32)
    steps = f32_steps(tensor.dtype)
    if rule.exponential:
        steps = [exponential(tensor.dtype, rule.exponential)]
    elif rule.softplus:
        steps = [softplus(tensor.dtype)]
    elif rule.offset:
        steps = [add(tensor.dtype, rule.offset)]
    return Target(info, (tensor.rows().then(steps),))


def _numbers32(rule: Numbers32, config: ModelConfig, tensor: MatchedTensor) -> Target:
    info = TensorInfo(tensor.new_name(rule.name), tensor.shape[::-1], TensorType.I32)
    return Target(info, (tensor.rows().then([to_i32(tensor.dtype, tensor.name, rule.count(config))]),))


def _rows_from(rule: RowsFrom, config: ModelConfig, tensor: MatchedTensor) -> Target:
    first = rule.first(config)
    if first >= tensor.row_count:
        raise CannotConvert(f"{tensor.name} has {tensor.row_count} rows, but the first {first} rows are not used")
    shape = (tensor.row_count - first, *tensor.shape[1:])
    return plain_target(tensor, tensor.new_name(rule.name), shape, [tensor.rows(first)])


def _frames(rule: Frames, tensor: MatchedTensor) -> list[Target]:
    shape, count = tensor.shape, len(rule.names)
    if len(shape) != _VIDEO or shape[2] != count:
        raise wrong_shape(tensor, f"not one with {count} moments")
    size = prod(shape[3:]) * WIDTHS[tensor.dtype]
    targets = []
    for index, name in enumerate(rule.names):
        info = TensorInfo(name, (*shape[:2], *shape[3:])[::-1], TYPES[tensor.dtype])
        targets.append(Target(info, (tensor.rows().then([pick_part(size, count, index)]),), in_source_order=False))
    return targets


def _patches(rule: Patches, config: ModelConfig, tensor: MatchedTensor) -> Target:
    if tensor.suffix == ".bias":
        return plain_target(tensor, tensor.new_name(rule.name), tensor.shape)
    side, channels = rule.side(config), 3
    if len(tensor.shape) != MATRIX or tensor.shape[1] != channels * side * side:
        raise wrong_shape(tensor, f"not rows of {side} x {side} pixels")
    info = TensorInfo(tensor.new_name(rule.name), (side, side, channels, tensor.shape[0]), TYPES[tensor.dtype])
    return Target(info, (tensor.rows().then([transpose(side * side, channels, WIDTHS[tensor.dtype])]),))


def _one_row(rule: OneRow, config: ModelConfig, tensor: MatchedTensor) -> Target:
    number = rule.number(config)
    if len(tensor.shape) != MATRIX or number >= tensor.row_count:
        raise wrong_shape(tensor, f"which has no row {number}")
    info = TensorInfo(rule.name, tensor.shape[1:], TensorType.F32)
    return Target(info, (tensor.rows(number, number + 1).then(f32_steps(tensor.dtype)),))


def _scaled(rule: Scaled, config: ModelConfig, tensor: MatchedTensor) -> Target:
    shares, dtype = rule.shares(config), tensor.dtype
    counts = [tensor.row_count] if len(shares) == 1 else [rows for rows, _ in shares]
    if len(tensor.shape) != MATRIX or sum(counts) != tensor.row_count:
        raise wrong_shape(tensor, f"not {listed_sum(counts)} rows")
    pieces, f32_pieces, first = [], [], 0
    for rows, (_, factors) in zip(counts, shares, strict=True):
        if rows:
            piece = tensor.rows(first, first + rows)
            pieces.append(piece.then([scale(dtype, factors)]))
            f32_pieces.append(piece.then([scale(dtype, factors, "F32")]))
        first += rows
    info = TensorInfo(tensor.new_name(rule.name), tensor.shape[::-1], TYPES[dtype])
    return Target(info, tuple(pieces), f32_pieces=tuple(f32_pieces))


def _halved(rule: Halved, config: ModelConfig, tensor: MatchedTensor) -> Target:
    period = rule.period(config)
    times = tensor.numbers[0] // period if period else 0
    if not times:
        return plain_target(tensor, tensor.new_name(rule.name), tensor.shape)
    return _scaled(Scaled(rule.name, lambda _: ((0, (0.5**times,)),)), config, tensor)


def _padded(rule: Padded, config: ModelConfig, tensor: MatchedTensor) -> Target:
    rows = rule.rows(config)
    missing = rows - tensor.row_count
    if len(tensor.shape) != MATRIX or missing < 0:
        raise wrong_shape(tensor, f"of which {rows} rows are wanted")
    pieces = [tensor.rows()]
    if missing:
        pieces.append(tensor.rows(0, 1).then([repeat(tensor.row_size, missing)]))
    return plain_target(tensor, tensor.new_name(rule.name), (rows, tensor.shape[1]), pieces)


def _deinterleaved(rule: Deinterleaved, tensor: MatchedTensor) -> list[Target]:
    shape, width, count = tensor.shape, WIDTHS[tensor.dtype], len(rule.names)
    if len(shape) not in (MATRIX, _STACK) or shape[-1] % count:
        raise wrong_shape(tensor, f"which does not make {count} tensors")
    targets = []
    for index, name in enumerate(rule.names):
        if len(shape) == _STACK:
            step = transpose(shape[1], shape[2], width, range(index, shape[2], count))
        else:
            step = pick_part(width, count, index)
        target = plain_target(tensor, tensor.new_name(name), (shape[0], shape[-1] // count, *shape[1:-1]), steps=[step])
        targets.append(replace(target, in_source_order=count == 1))
    return targets


def _stacked_experts(rule: StackedExperts, config: ModelConfig, tensor: MatchedTensor) -> Target:
    count, shape, name = rule.count(config), tensor.shape, tensor.new_name(rule.name)
    if len(shape) != MATRIX or shape[0] % count:
        raise wrong_shape(tensor, f"which does not make {count} matrices")
    rows, columns = shape[0] // count, shape[1]
    if not rule.transposed:
        return plain_target(tensor, name, (count, rows, columns))
    step = transpose(rows, columns, WIDTHS[tensor.dtype])
    return plain_target(tensor, name, (count, columns, rows), steps=[step])
