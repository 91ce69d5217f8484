"""Checks that the weights make all tensors of a family's model, and none that llama.cpp does not load. Pure.

Without the check, a missing shard or another family's weights would make a file that cannot be loaded.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from proxy.gguf.families.draft_layer import STEMS
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import output_names, stems_of
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import BLOCK, TensorName

_LAYER_PREFIX = f"{BLOCK}{{}}."
_ATTENTION = frozenset({"attn_q", "attn_k", "attn_v", "attn_output", "attn_q_norm", "attn_k_norm"})
_RECURRENT = ("ssm_", "shortconv.")
_LINEAR_ATTENTION = frozenset({"attn_qkv", "attn_gate"})
"""Parts of a state-space layer, in models with such layers."""
_DENSE = frozenset({"ffn_gate", "ffn_up", "ffn_down"})


def check_complete(family: Family, config: ModelConfig, names: Iterable[str]) -> None:
    """Raises CannotConvert for the first tensor of the GGUF that is missing or that llama.cpp would not load."""
    rule_names = {name for key, rule in family.tensors.items() for name in output_names(key, rule)}
    layer_names = {name.removeprefix(_LAYER_PREFIX) for name in rule_names if name.startswith(_LAYER_PREFIX)}
    outer_names = {name for name in rule_names if not name.startswith(_LAYER_PREFIX)}
    blocks: dict[int, set[str]] = {number: set() for number in range(config.blocks + family.draft_layers)}
    outer: set[str] = set()
    for name in map(TensorName.of, names):
        _check_bias(family, name, outer_names if name.block is None else layer_names)
        (outer if name.block is None else blocks[name.block]).add(name.rest)
    _check_flags(family, config, set().union(*blocks.values()))
    needed_outer, needed_in_layer = _needed(family, outer_names), _needed(family, layer_names)
    if config.tied:
        needed_outer -= {"output.weight"}
    if family.absent_tensors is not None:
        _check_layer(family.absent_tensors(config, None), needed_outer, outer, "")
        of_draft = dict.fromkeys(stems_of(family.draft.tensors) if family.draft else (), False)
        for number, present in blocks.items():
            absent = {**family.absent_tensors(config, number), **(of_draft if number < config.blocks else {})}
            _check_layer(absent, needed_in_layer, present, f"{BLOCK}{number}.")
        return
    if missing := needed_outer - outer:
        raise CannotConvert(f"the weights have nothing that becomes {', '.join(sorted(missing))}")
    _check_layers(needed_in_layer, blocks, config.blocks)


def _check_bias(family: Family, name: TensorName, rule_names: AbstractSet[str]) -> None:
    """A rule applies to a weight and its bias, but llama.cpp loads only the biases that the family lists."""
    listed = name.stem in family.required_biases or name.stem in family.optional_biases
    if name.end == "bias" and not listed and name.rest not in rule_names:
        raise CannotConvert(f"the weights have {name.full}, which llama.cpp does not load for this architecture")


def _check_flags(family: Family, config: ModelConfig, present: AbstractSet[str]) -> None:
    """Checks the tensors that depend on a key of config.json: if it is false, transformers ignores them."""
    for key, names in family.tensor_flags.items():
        is_set = config.find(key) is not None and config.flag(key, default=False)
        if not is_set and (ignored := names & present):
            raise CannotConvert(
                f"the weights have {min(ignored)} in a layer, which transformers ignores because {key} of config.json "
                "is not true"
            )
        if is_set and (missing := {name for name in names - present if not name.endswith(".bias")}):
            raise CannotConvert(f"the weights have no {min(missing)} in any layer, but config.json has {key} = True")


def _check_layer(absent: Mapping[str, bool], needed: AbstractSet[str], present: AbstractSet[str], prefix: str) -> None:
    """Checks one layer, or the tensors outside of the layers, where the config lists the absent tensors.

    The value in `absent` is whether llama.cpp ignores the tensor if it is there.
    """
    if missing := {name for name in needed - present if TensorName.of(name).stem not in absent}:
        raise CannotConvert(f"the weights have nothing that becomes {prefix}{min(missing)}")
    if harmful := {name for name in present if absent.get(TensorName.of(name).stem) is False}:
        raise CannotConvert(f"the weights have {prefix}{min(harmful)}, which the model does not have by config.json")


def _needed(family: Family, names: AbstractSet[str]) -> set[str]:
    """The names without the family's optional tensors, and with the biases that llama.cpp needs."""
    stems = {name: TensorName.of(name).stem for name in names}
    biases = {f"{stem}.bias" for stem in stems.values() if stem in family.required_biases}
    return {name for name, stem in stems.items() if stem not in family.optional_tensors} | biases


@dataclass(frozen=True, slots=True)
class _LayerParts:
    """Which parts a layer has."""

    experts: bool
    recurrent: bool
    attention: bool
    linear_attention: bool
    draft: bool

    def includes(self, stem: str) -> bool:
        """Whether a layer with these parts has the tensor."""
        if "exp" in stem or stem == "ffn_gate_inp":
            return self.experts
        if stem in _DENSE:
            return not self.experts
        if _is_recurrent(stem):
            return self.recurrent
        if stem.startswith(STEMS):
            return self.draft
        if stem in _LINEAR_ATTENTION:
            return self.linear_attention
        return self.attention or stem not in _ATTENTION


def _check_layers(needed: set[str], blocks: dict[int, set[str]], first_draft: int) -> None:
    """Checks layers without a list of absent tensors: layers with the same parts must have the same tensors.

    Parts are experts and recurrence, as the layer's own tensors show them. The layers from `first_draft` on draft
    tokens.
    """
    groups: dict[tuple[bool, bool, bool], dict[int, set[str]]] = {}
    for number, present in blocks.items():
        experts, recurrent = any("_exp" in name for name in present), any(map(_is_recurrent, present))
        if number < first_draft and (extra := {name for name in present if name.startswith(STEMS)}):
            raise CannotConvert(f"the weights have {BLOCK}{number}.{min(extra)}, which llama.cpp does not load there")
        groups.setdefault((experts, recurrent, number >= first_draft), {})[number] = present
    all_recurrent = all(recurrent for _, recurrent, _ in groups)
    has_state_space = any(TensorName.of(name).stem.startswith("ssm_") for name in needed)
    for (experts, recurrent, draft), layers in groups.items():
        attention, linear_attention = all_recurrent or not recurrent, recurrent or not has_state_space
        parts = _LayerParts(experts, recurrent, attention, linear_attention, draft)
        expected = {name for name in needed if parts.includes(TensorName.of(name).stem)}.union(*layers.values())
        for number, present in layers.items():
            if missing := expected - present:
                raise CannotConvert(f"the weights have nothing that becomes {BLOCK}{number}.{min(missing)}")


def _is_recurrent(name: str) -> bool:
    """Whether a tensor belongs to a state space or a short convolution."""
    return name.startswith(_RECURRENT)
