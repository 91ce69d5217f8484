"""The tensors of a GGUF and the byte ranges that each is made of, by a family's rules. Pure."""

import re
from collections.abc import Iterator, Mapping
from math import prod

from proxy.gguf.apply_rules import apply, apply_packed, apply_stacked
from proxy.gguf.completeness import check_complete
from proxy.gguf.config import CannotConvert, ModelConfig
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Auxiliary, Copy, Mxfp4Experts, Rule, Stacked
from proxy.gguf.header import MOST_DIMENSIONS
from proxy.gguf.sources import TYPES, FixedBytes, LocatedTensor, SourceTensor, Target
from proxy.gguf.tensors import TensorInfo, TensorType, shown
from proxy.gguf.transforms import WIDTHS

_BYTES = {"U8": TensorType.MXFP4}
_NOT_NEEDED = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")
_SUFFIXES = ("weight", "bias")
_NUMBERS = re.compile(r"(?<![^.])(?:0|[1-9][0-9]{0,4})(?![^.])")
"""Between the dots of a name. No model has more than five digits of anything."""


def plan_targets(
    family: Family, config: ModelConfig, weights: Mapping[str, Mapping[str, SourceTensor]]
) -> list[Target]:
    stacks: dict[str, dict[int, LocatedTensor]] = {}
    rules: dict[str, Stacked] = {}
    targets = [_made(name, content) for name, content in family.computed_tensors(config).items()]
    places, blocks = list(_places(family, config, weights)), config.blocks
    by_name = {place.name: place for place in places}
    for place in places:
        rule, numbers, suffix = _rule(family, place)
        if numbers and numbers[0] >= blocks:
            raise CannotConvert(f"{place.name} is of a layer that num_hidden_layers = {blocks} does not count")
        if isinstance(rule, Stacked):
            whole = rule.name.format(*numbers) + suffix
            rules[whole] = rule
            if stacks.setdefault(whole, {}).setdefault(numbers[-1], place) is not place:
                raise CannotConvert(f"two files have the tensor {place.name}")
        elif isinstance(rule, Mxfp4Experts):
            targets += apply_packed(rule, place, by_name.get(rule.scales.format(*numbers)), numbers, suffix)
        else:
            targets += apply(rule, config, place, numbers, suffix)
    targets += [apply_stacked(name, rules[name].count(config), places) for name, places in stacks.items()]
    check_complete(family, config, [target.info.name for target in targets])
    return targets


def _places(
    family: Family, config: ModelConfig, weights: Mapping[str, Mapping[str, SourceTensor]]
) -> Iterator[LocatedTensor]:
    """Of the tensors that something is made of."""
    for path, tensors in weights.items():
        for written, source in tensors.items():
            name = family.name_in_rules(written)
            if name is None or name.endswith(_NOT_NEEDED):
                continue
            if config.tied and not family.keeps_output and name.startswith("lm_head."):
                continue
            if family.skips_extra_layers and _layer(name) >= config.blocks:
                continue
            yield LocatedTensor(path, name, source)


def _rule(family: Family, place: LocatedTensor) -> tuple[Rule, list[int], str]:
    """The family's rule for a tensor, the numbers in its name, and the end that its new name has."""
    numbers = [int(number) for number in _NUMBERS.findall(place.name)]
    stem, _, end = _NUMBERS.sub("{}", place.name).rpartition(".")
    rule = family.tensors.get(stem) if end in _SUFFIXES else None
    if rule is None and (rule := family.tensors.get(f"{stem}.{end}")) is not None:
        # transformers 5's experts and DeepSeek's router have parameters that are of no layer.
        end = "bias" if end.endswith("bias") else "weight"
    _check_source(place, _BYTES if isinstance(rule, Mxfp4Experts | Auxiliary) else TYPES)
    if rule is None or "{}" in place.name:
        raise CannotConvert(f"the tensor {shown(place.name)} is unknown for this architecture")
    return Copy(rule) if isinstance(rule, str) else rule, numbers, f".{end}"


def _check_source(place: LocatedTensor, types: Mapping[str, TensorType]) -> None:
    source = place.source
    if source.dtype not in types:
        raise CannotConvert(f"{shown(place.name)} is of the type {source.dtype}, not one of {', '.join(types)}")
    size = prod(source.shape) * WIDTHS.get(source.dtype, 1)
    if not 0 < len(source.shape) <= MOST_DIMENSIONS or size == 0 or size != source.stop - source.start:
        raise CannotConvert(f"{shown(place.name)} has the shape {shown(source.shape)}, unknown for this architecture")


def _layer(name: str) -> int:
    """The first number in a name; -1 for none."""
    number = _NUMBERS.search(name)
    return int(number[0]) if number else -1


def _made(name: str, content: bytes) -> Target:
    return Target(TensorInfo(name, (len(content) // 4,), TensorType.F32), (FixedBytes(content),))
