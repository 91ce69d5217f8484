"""Whether the weights make all tensors of a family's model, and none that llama.cpp does not load. Pure.

A shard that is missing, or another family's weights under this name, would make a file that cannot be loaded.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from proxy.gguf.config import CannotConvert, ModelConfig
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import output_names
from proxy.gguf.tensors import BLOCK, TensorName

_LAYER = f"{BLOCK}{{}}."
_ATTENTION = frozenset({"attn_q", "attn_k", "attn_v", "attn_output", "attn_q_norm", "attn_k_norm"})
_RECURRENT = ("ssm_", "shortconv.")
_LINEAR_ATTENTION = frozenset({"attn_qkv", "attn_gate"})
"""What belongs to a state space in models that have one."""
_DENSE = frozenset({"ffn_gate", "ffn_up", "ffn_down"})


def check_complete(family: Family, config: ModelConfig, names: Iterable[str]) -> None:
    """Raises CannotConvert for the first tensor of the GGUF that is missing, or too many."""
    made = {name for key, rule in family.tensors.items() for name in output_names(key, rule)}
    of_layer = {name.removeprefix(_LAYER) for name in made if name.startswith(_LAYER)}
    of_none = {name for name in made if not name.startswith(_LAYER)}
    blocks: dict[int, set[str]] = {number: set() for number in range(config.blocks)}
    others: set[str] = set()
    biases = family.required_biases | family.optional_biases
    for name in names:
        block, rest = named = TensorName.of(name)
        by_rule = of_none if block is None else of_layer
        if named.end == "bias" and named.stem not in biases and rest not in by_rule:
            raise CannotConvert(f"the weights have {name}, which llama.cpp does not load for this architecture")
        (others if block is None else blocks[block]).add(rest)
    _check_flags(family, config, set().union(*blocks.values()))
    of_all, of_each = _needed(family, of_none), _needed(family, of_layer)
    if config.tied:
        of_all -= {"output.weight"}
    if family.absent_tensors is not None:
        _check_told(family.absent_tensors(config, None), of_all, others, "")
        for number, found in blocks.items():
            _check_told(family.absent_tensors(config, number), of_each, found, f"{BLOCK}{number}.")
        return
    if missing := of_all - others:
        raise CannotConvert(f"the weights have nothing that becomes {', '.join(sorted(missing))}")
    _check_layers(of_each, blocks)


def _check_flags(family: Family, config: ModelConfig, found: AbstractSet[str]) -> None:
    """Tensors that a key of config.json leaves out, which transformers then ignores, and those that it demands."""
    for key, names in family.tensor_flags.items():
        has = config.find(key) is not None and config.flag(key, default=False)
        if not has and (ignored := names & found):
            raise CannotConvert(
                f"the weights have {min(ignored)} in a layer, which transformers leaves out: {key} of config.json is "
                "not true"
            )
        if has and (missing := {name for name in names - found if not name.endswith(".bias")}):
            raise CannotConvert(f"the weights have no {min(missing)} in any layer, and config.json has {key} = True")


def _check_told(absent: Mapping[str, bool], needed: AbstractSet[str], found: AbstractSet[str], where: str) -> None:
    """For a layer, or what is of none, where the config says what is absent."""
    if missing := {name for name in needed - found if TensorName.of(name).stem not in absent}:
        raise CannotConvert(f"the weights have nothing that becomes {where}{min(missing)}")
    if harmful := {name for name in found if absent.get(TensorName.of(name).stem) is False}:
        raise CannotConvert(f"the weights have {where}{min(harmful)}, which the model does not have by config.json")


def _needed(family: Family, names: AbstractSet[str]) -> set[str]:
    """Of those that the rules make, in or out of a layer, with the biases that have to be there."""
    stems = {name: TensorName.of(name).stem for name in names}
    biases = {f"{stem}.bias" for stem in stems.values() if stem in family.required_biases}
    return {name for name, stem in stems.items() if stem not in family.optional_tensors} | biases


def _check_layers(needed: set[str], blocks: dict[int, set[str]]) -> None:
    """In one model, layers differ by whether they have experts and something recurrent, and else all are alike."""
    kinds: dict[tuple[bool, bool], dict[int, set[str]]] = {}
    for number, found in blocks.items():
        experts, recurrent = any("_exp" in name for name in found), any(map(_is_recurrent, found))
        kinds.setdefault((experts, recurrent), {})[number] = found
    attends_beside = all(recurrent for _, recurrent in kinds)
    states = any(TensorName.of(name).stem.startswith("ssm_") for name in needed)
    for (experts, recurrent), alike in kinds.items():
        attends, linear = attends_beside or not recurrent, recurrent or not states
        wanted = {name for name in needed if _belongs(TensorName.of(name).stem, experts, recurrent, attends, linear)}
        wanted = wanted.union(*alike.values())
        for number, found in alike.items():
            if missing := wanted - found:
                raise CannotConvert(f"the weights have nothing that becomes {BLOCK}{number}.{min(missing)}")


def _belongs(stem: str, experts: bool, recurrent: bool, attends: bool, linear: bool) -> bool:
    if "exp" in stem or stem == "ffn_gate_inp":
        return experts
    if stem in _DENSE:
        return not experts
    if _is_recurrent(stem):
        return recurrent
    if stem in _LINEAR_ATTENTION:
        return linear
    return attends or stem not in _ATTENTION


def _is_recurrent(name: str) -> bool:
    """Whether it is of a state space or a short convolution."""
    return name.startswith(_RECURRENT)
