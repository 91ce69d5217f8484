"""Whether the weights make all tensors of a family's model, and none that llama.cpp does not load. Pure.

A shard that is missing, or another family's weights under this name, would make a file that cannot be loaded.
"""

from collections.abc import Iterable

from proxy.gguf.config import CannotConvert, Config
from proxy.gguf.families.rules import Family, made_by

BLOCK = "blk."
_LAYER = f"{BLOCK}{{}}."
_ATTENTION = frozenset({"attn_q", "attn_k", "attn_v", "attn_output"})
_DENSE = frozenset({"ffn_gate", "ffn_up", "ffn_down"})


def check_complete(family: Family, config: Config, names: Iterable[str]) -> None:
    """Raises CannotConvert for the first tensor of the GGUF that is missing, or too many."""
    rules = {name for key, rule in family.tensors.items() for name in made_by(key, rule)}
    needed = {name for name in rules if _stem(name) not in family.optional}
    needed |= {f"{name.removesuffix('.weight')}.bias" for name in rules if _stem(name) in family.biases}
    blocks: dict[int, set[str]] = {number: set() for number in range(config.blocks)}
    ends = set()
    for name in names:
        if name.endswith(".bias") and not _may_be(name, family, rules):
            raise CannotConvert(f"the weights have {name}, which llama.cpp does not load for this architecture")
        if name.startswith(BLOCK):
            _, block, rest = name.split(".", 2)
            blocks[int(block)].add(rest)
        else:
            ends.add(name)
    missing = {name for name in needed if not name.startswith(BLOCK)} - ends
    if missing := missing - ({"output.weight"} if config.tied else set()):
        raise CannotConvert(f"the weights have nothing that becomes {', '.join(sorted(missing))}")
    _check_layers({name.removeprefix(_LAYER) for name in needed if name.startswith(BLOCK)}, blocks)


def _check_layers(needed: set[str], blocks: dict[int, set[str]]) -> None:
    """In one model, layers differ by whether they have experts and a state space, and else all are alike."""
    kinds: dict[tuple[bool, bool], dict[int, set[str]]] = {}
    for number, found in blocks.items():
        experts, recurrent = (any(part in name for name in found) for part in ("_exp", "ssm_"))
        kinds.setdefault((experts, recurrent), {})[number] = found
    attends_beside = all(recurrent for _, recurrent in kinds)
    for (experts, recurrent), alike in kinds.items():
        attends = attends_beside or not recurrent
        wanted = {name for name in needed if _belongs(_stem(name), experts, recurrent, attends)}
        wanted = wanted.union(*alike.values())
        for number, found in alike.items():
            if missing := wanted - found:
                raise CannotConvert(f"the weights have nothing that becomes {BLOCK}{number}.{min(missing)}")


def _belongs(stem: str, experts: bool, recurrent: bool, attends: bool) -> bool:
    if "exp" in stem or stem == "ffn_gate_inp":
        return experts
    if stem in _DENSE:
        return not experts
    if stem.startswith("ssm_"):
        return recurrent
    return attends or stem not in _ATTENTION


def _may_be(bias: str, family: Family, rules: set[str]) -> bool:
    stem = _stem(bias)
    named = _LAYER + bias.split(".", 2)[2] if bias.startswith(BLOCK) else bias
    return stem in family.biases or stem in family.optional_biases or named in rules


def _stem(name: str) -> str:
    """Without the layer's number and the end."""
    parts = name.split(".")
    return parts[2] if name.startswith(BLOCK) else parts[0]
