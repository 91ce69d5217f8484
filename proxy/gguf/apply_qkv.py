"""The rules for Q, K and V: in the order of llama.cpp's RoPE, and out of tensors in which they are together. Pure."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, islice

from proxy.gguf.families.rules import MergedQkv, MlaKvB, Permuted, PermutedHeads, SplitQkv, Ungrouped
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.plain_targets import plain_target, wrong_shape
from proxy.gguf.tensor_sources import MATRIX, TYPES, LocatedTensor, MatchedTensor, SourceRange, Target
from proxy.gguf.tensors import TensorInfo
from proxy.gguf.transforms import WIDTHS, interleave, interleave_start, transpose


def permuted(rule: Permuted | PermutedHeads, config: ModelConfig, tensor: MatchedTensor) -> Target:
    heads = rule.heads(config) if isinstance(rule, Permuted) else tensor.row_count / rule.size(config)
    if not heads or heads % 1 or tensor.row_count % (2 * heads):
        raise CannotConvert(f"{tensor.name} has {tensor.row_count} rows, which {heads:g} heads cannot share")
    rows = tensor.row_count // int(heads)
    if isinstance(rule, PermutedHeads) or rule.rotated is None:
        step = interleave(tensor.row_size, rows)
    else:
        count = rule.rotated(config)
        if count % 2 or count > rows:
            raise CannotConvert(f"{tensor.name} has heads of {rows} rows, of which RoPE cannot rotate {count}")
        step = interleave_start(tensor.row_size, rows, count)
    return plain_target(tensor, tensor.new_name(rule.name), tensor.shape, steps=[step])


def merged_qkv(rule: MergedQkv, config: ModelConfig, tensor: MatchedTensor) -> Target:
    query, key, value = _qkv_ranges(tensor, rule.groups(config), rule.heads(config))
    return plain_target(tensor, tensor.new_name(rule.name), tensor.shape, [*query, *key, *value])


def split_qkv(rule: SplitQkv, config: ModelConfig, tensor: MatchedTensor) -> list[Target]:
    groups, heads, kv_heads = rule.groups(config), rule.heads(config), rule.kv_heads(config)
    query, key, value = _qkv_ranges(tensor, groups, heads, kv_heads)
    head_rows = tensor.row_count // (heads + 2 * groups * kv_heads)
    permute = interleave(tensor.row_size, head_rows)
    return [
        plain_target(tensor, tensor.new_name(name), (count * head_rows, *tensor.shape[1:]), pieces, steps)
        for name, count, pieces, steps in (
            (rule.query, heads, query, [permute]),
            (rule.key, groups * kv_heads, key, [permute]),
            (rule.value, groups * kv_heads, value, []),
        )
    ]


def _qkv_ranges(tensor: LocatedTensor, groups: int, heads: int, kv_heads: int = 1) -> list[list[SourceRange]]:
    """The ranges of all Q, of all K and of all V, from `groups` of several Q heads and `kv_heads` K and V."""
    queries = heads // groups if groups else 0
    in_group = queries + 2 * kv_heads
    if not queries or heads % groups or tensor.row_count % (groups * in_group):
        raise CannotConvert(
            f"{tensor.name} has {tensor.row_count} rows, which {heads} heads in {groups} groups cannot share"
        )
    head_rows = tensor.row_count // (groups * in_group)
    return _grouped_ranges(tensor, groups, (queries * head_rows, kv_heads * head_rows, kv_heads * head_rows))


def _grouped_ranges(tensor: LocatedTensor, groups: int, sizes: Sequence[int]) -> list[list[SourceRange]]:
    """For each part, its ranges in all `groups`. Each group has one part after the other, of `sizes` rows."""
    starts = [0, *accumulate(sizes)]
    return [
        [tensor.rows(base + start, base + start + rows) for base in range(0, groups * sum(sizes), sum(sizes))]
        for start, rows in zip(starts[:-1], sizes, strict=True)
    ]


def ungrouped(rule: Ungrouped, config: ModelConfig, tensor: MatchedTensor) -> Iterator[Target]:
    groups, sizes = rule.groups(config), [[size(config) for size in parts] for _, parts in rule.tensors]
    group_rows = sum(map(sum, sizes))
    if tensor.row_count != groups * group_rows:
        raise CannotConvert(f"{tensor.name} has {tensor.row_count} rows, not {groups} groups of {group_rows} rows")
    ranges = iter(_grouped_ranges(tensor, groups, [rows for parts in sizes for rows in parts]))
    for (name, _), parts in zip(rule.tensors, sizes, strict=True):
        shape = (groups * sum(parts), *tensor.shape[1:])
        pieces = [piece for part in islice(ranges, len(parts)) for piece in part]
        yield plain_target(tensor, tensor.new_name(name), shape, pieces)


def mla_kv_b(rule: MlaKvB, config: ModelConfig, tensor: MatchedTensor) -> list[Target]:
    heads, rank = config.heads, tensor.shape[-1]
    key_rows, value_rows = config.positive("qk_nope_head_dim"), config.positive("v_head_dim")
    head_rows = key_rows + value_rows
    if len(tensor.shape) != MATRIX or tensor.row_count != heads * head_rows:
        raise wrong_shape(tensor, f"not {heads} heads of {head_rows} rows")
    starts = range(0, heads * head_rows, head_rows)
    step = transpose(key_rows, rank, WIDTHS[tensor.dtype])
    keys = [tensor.rows(start, start + key_rows).then([step]) for start in starts]
    values = [tensor.rows(start + key_rows, start + head_rows) for start in starts]
    key_info = TensorInfo(tensor.new_name(rule.key), (key_rows, rank, heads), TYPES[tensor.dtype])
    value_info = TensorInfo(tensor.new_name(rule.value), (rank, value_rows, heads), TYPES[tensor.dtype])
    return [
        Target(info, tuple(pieces), in_source_order=heads == 1)
        for info, pieces in ((key_info, keys), (value_info, values))
    ]
