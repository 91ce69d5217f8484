"""Whether the weights make all tensors of a family's model, and none that llama.cpp does not load. Pure.

A shard that is missing, or another family's weights under this name, would make a file that cannot be loaded.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from proxy.gguf.config import CannotConvert, Config
from proxy.gguf.families.rules import Family, made_by
from proxy.gguf.tensors import BLOCK, TensorName

_LAYER = f"{BLOCK}{{}}."
_ATTENTION = frozenset({"attn_q", "attn_k", "attn_v", "attn_output", "attn_q_norm", "attn_k_norm"})
_LINEAR_ATTENTION = frozenset({"attn_qkv", "attn_gate"})
"""What belongs to a state space in models that have one."""
_DENSE = frozenset({"ffn_gate", "ffn_up", "ffn_down"})


def check_complete(family: Family, config: Config, names: Iterable[str]) -> None:
    """Raises CannotConvert for the first tensor of the GGUF that is missing, or too many."""
    made = {name for key, rule in family.tensors.items() for name in made_by(key, rule)}
    of_layer = {name.removeprefix(_LAYER) for name in made if name.startswith(_LAYER)}
    of_none = {name for name in made if not name.startswith(_LAYER)}
    blocks: dict[int, set[str]] = {number: set() for number in range(config.blocks)}
    others: set[str] = set()
    biases = family.biases | family.optional_biases
    for name in names:
        block, rest = named = TensorName.of(name)
        by_rule = of_none if block is None else of_layer
        if named.end == "bias" and named.stem not in biases and rest not in by_rule:
            raise CannotConvert(f"the weights have {name}, which llama.cpp does not load for this architecture")
        (others if block is None else blocks[block]).add(rest)
    missing = _needed(family, of_none) - others
    if missing := missing - ({"output.weight"} if config.tied else set()):
        raise CannotConvert(f"the weights have nothing that becomes {', '.join(sorted(missing))}")
    _check_layers(_needed(family, of_layer), blocks)


def _needed(family: Family, names: AbstractSet[str]) -> set[str]:
    """Of those that the rules make, in or out of a layer, with the biases that have to be there."""
    stems = {name: TensorName.of(name).stem for name in names}
    biases = {f"{stem}.bias" for stem in stems.values() if stem in family.biases}
    return {name for name, stem in stems.items() if stem not in family.optional} | biases


def _check_layers(needed: set[str], blocks: dict[int, set[str]]) -> None:
    """In one model, layers differ by whether they have experts and a state space, and else all are alike."""
    kinds: dict[tuple[bool, bool], dict[int, set[str]]] = {}
    for number, found in blocks.items():
        experts, recurrent = (any(part in name for name in found) for part in ("_exp", "ssm_"))
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
    if stem.startswith("ssm_"):
        return recurrent
    if stem in _LINEAR_ATTENTION:
        return linear
    return attends or stem not in _ATTENTION
