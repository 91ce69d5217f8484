"""Plans the tensors of a GGUF, and the byte ranges for each, by a family's rules. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping
from math import prod

from proxy.gguf.apply_rules import apply, apply_mxfp4, apply_stacked
from proxy.gguf.completeness import check_complete
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Auxiliary, Copy, Mxfp4Experts, Numbers32, Rule, Stacked
from proxy.gguf.header import MAX_DIMENSIONS
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.single_numbers import names_of
from proxy.gguf.tensor_sources import TYPES, FixedBytes, LocatedTensor, MatchedTensor, ReadTensor, SourceTensor, Target
from proxy.gguf.tensors import TensorInfo, TensorName, TensorType, shown
from proxy.gguf.transforms import INTEGER_WIDTHS, WIDTHS

_MXFP4_TYPES = {"U8": TensorType.MXFP4}
_INTEGERS = {"I32": TensorType.I32, "I64": TensorType.I64}
_NOT_NEEDED = (".attention.masked_bias", ".attention.bias", ".attn.masked_bias", ".attn.bias", ".rotary_emb.inv_freq")
"""Masks and frequencies, which follow from config.json."""
_SUFFIXES = ("weight", "bias")
_NUMBERS = re.compile(r"(?<![^.])(0|[1-9][0-9]{0,4})(?![^.])")
"""Numbers between the dots of a name. No model needs more than five digits."""


def plan_targets(
    family: Family, config: ModelConfig, weights: Mapping[str, Mapping[str, SourceTensor]]
) -> list[Target]:
    stacks: dict[str, dict[int, LocatedTensor]] = {}
    stack_rules: dict[str, Stacked] = {}
    targets = [_calculated(name, content) for name, content in family.computed_tensors(config).items()]
    tensors, blocks = list(_needed_tensors(family, config, weights)), config.blocks + family.draft_layers
    by_name = {tensor.name: tensor for tensor in tensors}
    for located in tensors:
        rule, tensor = _match(family, located)
        numbers = tensor.numbers
        if numbers and numbers[0] >= blocks:
            layers = f"num_hidden_layers = {config.blocks}"
            raise CannotConvert(f"{tensor.name} is in layer {numbers[0]}, but config.json has {layers}")
        if isinstance(rule, Stacked):
            stack = tensor.new_name(rule.name)
            stack_rules[stack] = rule
            if stacks.setdefault(stack, {}).setdefault(numbers[-1], tensor) is not tensor:
                raise CannotConvert(f"two files have the tensor {tensor.name}")
        elif isinstance(rule, Mxfp4Experts):
            targets += apply_mxfp4(rule, tensor, by_name.get(rule.scales.format(*numbers)))
        else:
            made = apply(rule, config, tensor)
            targets += _required(family, made) if _is_zero_bias(tensor) else made
    targets += [apply_stacked(name, stack_rules[name], config, stack) for name, stack in stacks.items()]
    check_complete(family, config, [target.info.name for target in targets])
    return targets


def _needed_tensors(
    family: Family, config: ModelConfig, weights: Mapping[str, Mapping[str, SourceTensor]]
) -> Iterator[LocatedTensor]:
    """The tensors that the GGUF needs, under the names that the family's rules use."""
    blocks = config.blocks
    in_metadata = names_of(family, blocks)
    for path, tensors in weights.items():
        for source_name, source in tensors.items():
            name = family.name_in_rules(source_name)
            if name is None or name in in_metadata or name.endswith(_NOT_NEEDED):
                continue
            if config.tied and not family.keeps_output and name.startswith("lm_head."):
                continue
            if family.skips_extra_layers and layer_of(name) >= blocks:
                continue
            yield LocatedTensor(path, name, source)


def _match(family: Family, tensor: LocatedTensor) -> tuple[Rule, MatchedTensor]:
    """The family's rule for a tensor. Raises CannotConvert if there is none, or if the type or size is wrong."""
    texts = _NUMBERS.split(tensor.name)
    stem, _, end = "{}".join(texts[::2]).rpartition(".")
    rule = family.tensors.get(stem) if end in _SUFFIXES else None
    if rule is None and (rule := family.tensors.get(f"{stem}.{end}".removeprefix("."))) is not None:
        # transformers 5's experts and DeepSeek's router are bare parameters: their names end in no `weight` or `bias`.
        end = "bias" if end.endswith("bias") else "weight"
    _check_source(tensor, _types_for(rule))
    if rule is None or "{}" in tensor.name:
        raise CannotConvert(f"the tensor {shown(tensor.name)} is unknown for this architecture")
    matched = MatchedTensor(tensor.path, tensor.name, tensor.source, tuple(map(int, texts[1::2])), f".{end}")
    return Copy(rule) if isinstance(rule, str) else rule, matched


def _types_for(rule: Rule | str | None) -> Mapping[str, TensorType]:
    if isinstance(rule, Numbers32):
        return _INTEGERS
    return _MXFP4_TYPES if isinstance(rule, Mxfp4Experts | Auxiliary) else TYPES


def _check_source(tensor: LocatedTensor, types: Mapping[str, TensorType]) -> None:
    dtype, shape = tensor.dtype, tensor.shape
    if dtype not in types:
        raise CannotConvert(f"{shown(tensor.name)} is of the type {dtype}, not one of {', '.join(types)}")
    size = prod(shape) * {**WIDTHS, **INTEGER_WIDTHS}.get(dtype, 1)
    if not 0 < len(shape) <= MAX_DIMENSIONS or size == 0 or size != tensor.size:
        raise CannotConvert(f"{shown(tensor.name)} has the shape {shown(shape)}, unknown for this architecture")


def _is_zero_bias(tensor: MatchedTensor) -> bool:
    """Whether it is known to be zeros, as in auto-gptq's files: without it the model is the same."""
    return tensor.suffix == ".bias" and isinstance(tensor.source, ReadTensor) and not any(tensor.source.content)


def _required(family: Family, targets: Iterable[Target]) -> Iterator[Target]:
    return (target for target in targets if TensorName.of(target.info.name).stem in family.required_biases)


def layer_of(name: str) -> int:
    """The first number in a name; -1 if there is none."""
    number = _NUMBERS.search(name)
    return int(number[0]) if number else -1


def _calculated(name: str, content: bytes) -> Target:
    return Target(TensorInfo(name, (len(content) // 4,), TensorType.F32), (FixedBytes(content),))
