"""What each kind of rule makes of the tensors of a safetensors file. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from math import prod

from proxy.gguf.config import CannotConvert, ModelConfig
from proxy.gguf.families.rules import (
    AddOne,
    Auxiliary,
    Copy,
    Deinterleaved,
    MergedQkv,
    MlaKvB,
    Mxfp4Experts,
    Padded,
    Permuted,
    Reordered,
    Reshaped,
    RowsFrom,
    Rule,
    Scaled,
    Size,
    Split,
    SplitQkv,
    Stacked,
    StackedExperts,
    Transposed,
    Ungrouped,
    Unused,
)
from proxy.gguf.sources import MATRIX, TYPES, LocatedTensor, SourceRange, Target
from proxy.gguf.tensors import TensorInfo, TensorName, TensorType
from proxy.gguf.transforms import (
    MXFP4_BYTES,
    WIDTHS,
    Transform,
    add_one,
    chained,
    interleaved,
    neg_exp,
    packed,
    picked,
    repeated,
    scaled,
    transposed,
    widened,
)

_CUBE = 3
_MOST_BESIDE = 4 * 1024 * 1024
"""How many bytes of scales are held while their blocks come."""
_LEAST = 1 << 15
"""Bytes that are worth a range of their own; less of them is put in order in memory."""
_ALWAYS_F32 = (
    *("ffn_gate_inp", "ffn_gate_inp_shexp", "position_embd", "token_types", "ssm_conv1d"),
    *("altup_correct_coef", "altup_predict_coef"),
)
"""Matrices that llama.cpp keeps in F32, by the last part of their names; its norms and vectors are too."""


def apply(rule: Rule, config: ModelConfig, place: LocatedTensor, numbers: list[int], suffix: str) -> list[Target]:
    """Of one source tensor. `numbers` are those in its name, and `suffix` is the end of the new one.

    Raises CannotConvert for a shape that the rule does not expect.
    """
    shape = place.source.shape
    match rule:
        case Copy(name):
            return [_target(name.format(*numbers) + suffix, shape, place, [place.piece()])]
        case AddOne(name) if suffix == ".bias":
            return [_target(name.format(*numbers) + suffix, shape, place, [place.piece()])]
        case AddOne(name):
            info = TensorInfo(name.format(*numbers) + suffix, shape[::-1], TensorType.F32)
            return [Target(info, (replace(place.piece(), transform=add_one(place.source.dtype)),))]
        case Permuted(name, heads):
            rows = _rows_of_head(place, heads(config))
            steps = [interleaved(place.row, rows)]
            return [_target(name.format(*numbers) + suffix, shape, place, [place.piece()], steps)]
        case Split(parts):
            return _split(parts, config, place, numbers, suffix)
        case Transposed(parts):
            return _transposed(parts, config, place, numbers, suffix)
        case MergedQkv(name):
            pieces = list(_grouped(place, rule.groups(config), rule.heads(config)))
            return [_target(name.format(*numbers) + suffix, shape, place, pieces)]
        case Ungrouped():
            return list(_gathered(rule, config, place, numbers, suffix))
        case Reshaped(name):
            return [_reshaped(rule, config, place, name.format(*numbers))]
        case RowsFrom(name, first):
            number = first(config)
            if number >= place.rows:
                raise CannotConvert(f"{place.name} has {place.rows} rows, of which the first {number} are not used")
            kept = (place.rows - number, *shape[1:])
            return [_target(name.format(*numbers) + suffix, kept, place, [place.piece(number)])]
        case Scaled(name):
            return [_scaled(rule, config, place, name.format(*numbers) + suffix)]
        case Padded(name):
            return [_padded(place, rule.rows(config), name.format(*numbers) + suffix)]
        case SplitQkv():
            return _parted(rule, config, place, numbers, suffix)
        case MlaKvB(key, value):
            return _absorbed(config, place, key.format(*numbers) + suffix, value.format(*numbers) + suffix)
        case Deinterleaved(names):
            return _dealt([name.format(*numbers) + suffix for name in names], place)
        case StackedExperts(name):
            return [_heaped(rule, config, place, name.format(*numbers) + suffix)]
        case Auxiliary() | Unused():
            return []
        case Reordered(inner):
            [target] = apply(inner, config, place, numbers, suffix)
            return [_reordered(rule, config, place, target)]
        case Stacked() | Mxfp4Experts():
            raise AssertionError


def _target(
    name: str,
    shape: Sequence[int],
    place: LocatedTensor,
    pieces: Sequence[SourceRange],
    steps: Sequence[Transform] = (),
) -> Target:
    """A tensor that keeps its type, or becomes F32 where llama.cpp wants that, after these steps."""
    dtype = place.source.dtype
    wide = _stays_wide(name, shape)
    info = TensorInfo(name, tuple(reversed(shape)), TensorType.F32 if wide else TYPES[dtype])
    transform = chained([*steps, widened(dtype)] if wide and dtype != "F32" else steps)
    if transform is not None:
        pieces = [replace(piece, transform=transform) for piece in pieces]
    return Target(info, tuple(pieces), len(pieces))


def _stays_wide(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor of the GGUF is F32 in any case, which no quantizer touches."""
    named = TensorName.of(name)
    is_norm = named.stem.endswith("_norm")
    return len(shape) < MATRIX or is_norm or named.end != "weight" or named.stem in _ALWAYS_F32


def _rows_of_head(place: LocatedTensor, heads: int) -> int:
    if not heads or place.rows % (2 * heads):
        raise CannotConvert(f"{place.name} has {place.rows} rows, which {heads} heads cannot share")
    return place.rows // heads


def _split(
    parts: Sequence[tuple[str, Size]], config: ModelConfig, place: LocatedTensor, numbers: list[int], suffix: str
) -> list[Target]:
    """By rows, of each matrix where there are several."""
    shape = place.source.shape
    matrices = shape[0] if len(shape) == _CUBE else 1
    rows = shape[-2] if len(shape) >= MATRIX else shape[0]
    sizes = [size(config) for _, size in parts]
    if sum(sizes) != rows or len(shape) > _CUBE:
        raise CannotConvert(f"{place.name} has the shape {list(shape)}, not {' + '.join(map(str, sizes))} rows")
    row = (place.source.stop - place.source.start) // (matrices * rows)
    made, first = [], 0
    for (name, _), size in zip(parts, sizes, strict=True):
        pieces = [place.piece(at * rows + first, at * rows + first + size, row) for at in range(matrices)]
        part = (*shape[:-2], size, *shape[-1:]) if len(shape) >= MATRIX else (size,)
        target = _target(name.format(*numbers) + suffix, part, place, pieces)
        made.append(replace(target, sources=matrices))
        first += size
    return made


def _transposed(
    parts: Sequence[tuple[str, Size]], config: ModelConfig, place: LocatedTensor, numbers: list[int], suffix: str
) -> list[Target]:
    """A matrix has to have come whole before its first row is known, and comes once for each part."""
    *stack, rows, columns = (1, 1, *place.source.shape)[-max(len(place.source.shape), MATRIX) :]
    sizes = [size(config) for _, size in parts]
    if sum(sizes) != columns:
        raise CannotConvert(
            f"{place.name} has the shape {list(place.source.shape)}, not {' + '.join(map(str, sizes))} columns"
        )
    kind, width = TYPES[place.source.dtype], WIDTHS[place.source.dtype]
    made, first = [], 0
    for (name, _), size in zip(parts, sizes, strict=True):
        change = transposed(rows, columns, width, first, size)
        info = TensorInfo(name.format(*numbers) + suffix, (rows, size, *reversed(stack)), kind)
        made.append(Target(info, (replace(place.piece(), transform=change),), len(parts)))
        first += size
    return made


def _grouped(place: LocatedTensor, groups: int, heads: int) -> Iterator[SourceRange]:
    """`groups` of heads, each its Q and then one K and one V: the Q of all, the K of all, the V of all."""
    each = heads // groups if groups else 0
    if not each or heads % groups or place.rows % (groups * (each + 2)):
        raise CannotConvert(f"{place.name} has {place.rows} rows, which {heads} heads in {groups} groups cannot share")
    size = place.rows // (groups * (each + 2))
    yield from _parts_of(place, groups, (each * size, size, size))


def _parts_of(place: LocatedTensor, groups: int, sizes: Sequence[int]) -> Iterator[SourceRange]:
    """Of `groups` with parts of these rows, each part of all groups."""
    for at, rows in enumerate(sizes):
        for group in range(groups):
            start = group * sum(sizes) + sum(sizes[:at])
            yield place.piece(start, start + rows)


def _gathered(
    rule: Ungrouped, config: ModelConfig, place: LocatedTensor, numbers: list[int], suffix: str
) -> Iterator[Target]:
    groups, sizes = rule.groups(config), [[size(config) for size in parts] for _, parts in rule.tensors]
    if place.rows != groups * sum(map(sum, sizes)):
        raise CannotConvert(f"{place.name} has {place.rows} rows, not {groups} groups of {sum(map(sum, sizes))}")
    pieces = _parts_of(place, groups, [rows for parts in sizes for rows in parts])
    for (name, _), parts in zip(rule.tensors, sizes, strict=True):
        shape = (groups * sum(parts), *place.source.shape[1:])
        yield _target(name.format(*numbers) + suffix, shape, place, list(islice(pieces, groups * len(parts))))


def _reordered(rule: Reordered, config: ModelConfig, place: LocatedTensor, target: Target) -> Target:
    groups, heads, size, before = (of(config) for of in (rule.groups, rule.heads, rule.size, rule.before))
    there = place.source.shape[-1] if rule.across else place.rows
    if heads % groups or there != before + heads * size:
        raise CannotConvert(
            f"{place.name} has the shape {list(place.source.shape)}, "
            f"not {before} and {heads} heads of {size} in {groups} groups"
        )
    if heads == groups:
        return target
    bytes_each = size * (WIDTHS[place.source.dtype] if rule.across else place.row)
    transforms = [piece.transform for piece in target.pieces if isinstance(piece, SourceRange) and piece.transform]
    as_is, ordered = chained(transforms), chained([interleaved(bytes_each, heads, groups), *transforms])
    first = [replace(place.piece(0, before), transform=as_is)] if before else []
    if rule.across or bytes_each < _LEAST:
        return replace(target, pieces=(*first, replace(place.piece(before), transform=ordered)))
    each = heads // groups
    starts = (before + head * size for at in range(each) for head in range(at, heads, each))
    pieces = [*first, *(replace(place.piece(start, start + size), transform=as_is) for start in starts)]
    return replace(target, pieces=tuple(pieces), sources=len(pieces))


def _reshaped(rule: Reshaped, config: ModelConfig, place: LocatedTensor, name: str) -> Target:
    shape, dtype = rule.shape(config, place.source.shape), place.source.dtype
    if prod(shape) != prod(place.source.shape):
        raise CannotConvert(f"{place.name} has the shape {list(place.source.shape)}, which cannot be {list(shape)}")
    info = TensorInfo(name, tuple(reversed(shape)), TensorType.F32)
    steps = [neg_exp(dtype)] if rule.exponential else [widened(dtype)] if dtype != "F32" else []
    transform = chained(steps)
    piece = place.piece()
    return Target(info, (piece if transform is None else replace(piece, transform=transform),))


def _scaled(rule: Scaled, config: ModelConfig, place: LocatedTensor, name: str) -> Target:
    shares, shape, dtype = rule.shares(config), place.source.shape, place.source.dtype
    counts = [place.rows] if len(shares) == 1 else [rows for rows, _ in shares]
    if len(shape) != MATRIX or sum(counts) != place.rows:
        raise CannotConvert(f"{place.name} has the shape {list(shape)}, not {' + '.join(map(str, counts))} rows")
    pieces, exact, first = [], [], 0
    for rows, (_, factors) in zip(counts, shares, strict=True):
        if rows:
            piece = place.piece(first, first + rows)
            pieces.append(replace(piece, transform=scaled(dtype, factors)))
            exact.append(replace(piece, transform=scaled(dtype, factors, "F32")))
        first += rows
    return Target(TensorInfo(name, shape[::-1], TYPES[dtype]), tuple(pieces), exact=tuple(exact))


def _heaped(rule: StackedExperts, config: ModelConfig, place: LocatedTensor, name: str) -> Target:
    count, shape = rule.count(config), place.source.shape
    if len(shape) != MATRIX or shape[0] % count:
        raise CannotConvert(f"{place.name} has the shape {list(shape)}, which does not make {count} matrices")
    rows, columns = shape[0] // count, shape[1]
    if not rule.transposed:
        return _target(name, (count, rows, columns), place, [place.piece()])
    step = transposed(rows, columns, WIDTHS[place.source.dtype])
    return _target(name, (count, columns, rows), place, [place.piece()], [step])


def _padded(place: LocatedTensor, rows: int, name: str) -> Target:
    missing = rows - place.rows
    if len(place.source.shape) != MATRIX or missing < 0:
        raise CannotConvert(f"{place.name} has the shape {list(place.source.shape)}, of which {rows} rows are wanted")
    pieces = [place.piece()]
    if missing:
        pieces.append(replace(place.piece(0, 1), transform=repeated(place.row, missing)))
    return _target(name, (rows, place.source.shape[1]), place, pieces)


def _parted(rule: SplitQkv, config: ModelConfig, place: LocatedTensor, numbers: list[int], suffix: str) -> list[Target]:
    groups, heads = rule.groups(config), rule.heads(config)
    pieces = list(_grouped(place, groups, heads))
    size = place.rows // (heads + 2 * groups)
    made = []
    turned = [interleaved(place.row, size)]
    for at, (name, count, steps) in enumerate(
        ((rule.query, heads, turned), (rule.key, groups, turned), (rule.value, groups, []))
    ):
        shape = (count * size, *place.source.shape[1:])
        share = pieces[at * groups : (at + 1) * groups]
        made.append(_target(name.format(*numbers) + suffix, shape, place, share, steps))
    return made


def _absorbed(config: ModelConfig, place: LocatedTensor, key: str, value: str) -> list[Target]:
    heads, rank = config.heads, place.source.shape[-1]
    keys, values = config.positive("qk_nope_head_dim"), config.positive("v_head_dim")
    if len(place.source.shape) != MATRIX or place.rows != heads * (keys + values):
        raise CannotConvert(
            f"{place.name} has the shape {list(place.source.shape)}, not {heads} heads of {keys + values}"
        )
    width, each = WIDTHS[place.source.dtype], keys + values
    kind = TYPES[place.source.dtype]
    key_pieces = [
        replace(place.piece(head * each, head * each + keys), transform=transposed(keys, rank, width))
        for head in range(heads)
    ]
    value_pieces = [place.piece(head * each + keys, (head + 1) * each) for head in range(heads)]
    return [
        Target(TensorInfo(key, (keys, rank, heads), kind), tuple(key_pieces), heads),
        Target(TensorInfo(value, (rank, values, heads), kind), tuple(value_pieces), heads),
    ]


def _dealt(names: Sequence[str], place: LocatedTensor) -> list[Target]:
    shape, width, count = place.source.shape, WIDTHS[place.source.dtype], len(names)
    if len(shape) not in (MATRIX, _CUBE) or shape[-1] % count:
        raise CannotConvert(f"{place.name} has the shape {list(shape)}, which does not make {count} tensors")
    made = []
    for at, name in enumerate(names):
        if len(shape) == _CUBE:
            step = transposed(shape[1], shape[2], width, at, every=count)
        else:
            step = picked(width, count, at)
        part = (shape[0], shape[-1] // count, *shape[1:-1])
        made.append(replace(_target(name, part, place, [place.piece()], [step]), sources=count))
    return made


def apply_packed(
    rule: Mxfp4Experts, place: LocatedTensor, scales: LocatedTensor | None, numbers: list[int], suffix: str
) -> list[Target]:
    """Of blocks and the tensor of their `scales`. Raises CannotConvert where the two do not fit together."""
    shape, count = place.source.shape, len(rule.names)
    known = None if scales is None else scales.source.shape
    if scales is None or (*scales.source.shape, MXFP4_BYTES) != shape or len(shape) <= _CUBE or shape[1] % count:
        raise CannotConvert(f"{place.name} has the shape {list(shape)}, and its scales {known and list(known)}")
    matrices, rows, groups = scales.source.shape
    size = groups * MXFP4_BYTES
    each = max(_MOST_BESIDE // (groups * count), 1) * count
    cuts = [(first, min(first + each, matrices * rows)) for first in range(0, matrices * rows, each)]
    made = []
    for at, name in enumerate(rule.names):
        step = packed(groups, count, at)
        pieces = [replace(place.piece(*cut, size), transform=step, beside=scales.piece(*cut, groups)) for cut in cuts]
        kept = TensorInfo(name.format(*numbers) + suffix, (32 * groups, rows // count, matrices), TensorType.MXFP4)
        made.append(Target(kept, tuple(pieces), 2))
    return made


def apply_stacked(name: str, count: int, places: Mapping[int, LocatedTensor]) -> Target:
    """Of `count` source tensors by their numbers. Raises CannotConvert where they are not all there, and alike."""
    if len(places) != count or max(places) >= count:
        raise CannotConvert(f"{name} is made of {count} tensors, but {len(places)} are there")
    ordered = [places[number] for number in range(count)]
    first = ordered[0].source
    for place in ordered:
        if (place.source.shape, place.source.dtype) != (first.shape, first.dtype):
            raise CannotConvert(f"{place.name} differs from {ordered[0].name} in shape or type")
    return _target(name, (count, *first.shape), ordered[0], [place.piece() for place in ordered])
