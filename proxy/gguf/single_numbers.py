"""Numbers that the weights have as tensors of one number, and that a GGUF has as metadata. Pure."""

import math
import struct
from collections.abc import Iterator, Mapping

from proxy.gguf.families.family import Family
from proxy.gguf.header import Field, ValueType
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensor_sources import LocatedTensor, ReadTensor, SourceTensor
from proxy.gguf.transforms import WIDTHS, widen

Weights = Mapping[str, Mapping[str, SourceTensor]]

_NO_MORE_THAN = 4
"""Bytes of one number."""


def names_of(family: Family, blocks: int) -> frozenset[str]:
    """The names of these tensors, as the family's rules have them."""
    return frozenset(name for pattern in family.single_numbers for name in _names(pattern, blocks))


def numbers_to_read(family: Family, config: ModelConfig, weights: Weights) -> list[LocatedTensor]:
    """The tensors whose bytes a conversion needs: it wants a ReadTensor for each."""
    if not family.single_numbers:
        return []
    names, found = names_of(family, config.blocks), _located(family, weights)
    return [tensor for name, tensor in found.items() if name in names and tensor.size <= _NO_MORE_THAN]


def write_numbers(family: Family, config: ModelConfig, weights: Weights) -> Iterator[tuple[str, Field]]:
    """The keys of a GGUF. Raises CannotConvert for a tensor that is missing, or that is not one number."""
    found = _located(family, weights) if family.single_numbers else {}
    for pattern, key in family.single_numbers.items():
        values = [_value(name, found.get(name)) for name in _names(pattern, config.blocks)]
        yield key, Field.array(ValueType.FLOAT32, values) if "{}" in pattern else Field.float32(values[0])


def _names(pattern: str, blocks: int) -> list[str]:
    return [pattern.format(block) for block in range(blocks)] if "{}" in pattern else [pattern]


def _located(family: Family, weights: Weights) -> dict[str, LocatedTensor]:
    return {
        in_rules: LocatedTensor(path, name, tensor)
        for path, tensors in weights.items()
        for name, tensor in tensors.items()
        if (in_rules := family.name_in_rules(name)) is not None
    }


def _value(name: str, tensor: LocatedTensor | None) -> float:
    if tensor is None:
        raise CannotConvert(f"the weights have no {name}")
    source = tensor.source
    if not isinstance(source, ReadTensor) or len(source.content) != WIDTHS.get(source.dtype):
        shape = list(tensor.shape)
        raise CannotConvert(f"{tensor.name} is of the type {tensor.dtype} and the shape {shape}: not one number")
    value = float(struct.unpack("<f", widen(source.dtype, source.content))[0])
    if not math.isfinite(value):
        raise CannotConvert(f"{tensor.name} is {value}")
    return value
