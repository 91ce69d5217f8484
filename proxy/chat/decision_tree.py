"""Learns a decision tree: which text the template writes, depending on the features of its position."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Features = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Leaf:
    text: str


@dataclass(frozen=True, slots=True)
class Fork:
    """Tests `feature`: a branch has the values that lead to it, and `other` is for all other values."""

    feature: str
    branches: tuple[tuple[tuple[str, ...], "Tree"], ...]
    other: "Tree"


Tree = Leaf | Fork

# Of two features that divide the examples equally well, the first one here generalises better.
_PREFERRED = ("prev", "tools", "think", "calls", "position", "system", "first", "final")


class Contradiction(Exception):
    """Examples with equal features have different texts: the template depends on something else."""


@dataclass(frozen=True, slots=True)
class Example:
    features: Features
    text: str


def learn_tree(examples: Sequence[Example], *, lenient: bool = False) -> Tree:
    """If no feature divides two texts, raises Contradiction or, if `lenient`, takes the more frequent text."""
    if not examples:
        return Leaf("")
    texts = Counter(example.text for example in examples)
    if len(texts) == 1:
        return Leaf(examples[0].text)
    best = min(_PREFERRED, key=lambda name: (_count_errors(examples, name), _PREFERRED.index(name)))
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.features.get(best, ""), []).append(example)
    if len(groups) == 1:
        if lenient:
            return Leaf(texts.most_common(1)[0][0])
        raise Contradiction
    return _fork(best, {value: (learn_tree(group, lenient=lenient), len(group)) for value, group in groups.items()})


def _fork(feature: str, subtrees: Mapping[str, tuple[Tree, int]]) -> Tree:
    """`subtrees` has by value the tree and the number of its examples."""
    merged: dict[Tree, tuple[list[str], int]] = {}
    for value, (tree, count) in subtrees.items():
        values, sum_ = merged.setdefault(tree, ([], 0))
        merged[tree] = ([*values, value], sum_ + count)
    if len(merged) == 1:
        return next(iter(merged))

    def fitness_as_other(tree: Tree) -> tuple[bool, bool, int]:
        values, count = merged[tree]
        # "start" occurs once in a conversation, so an unseen value is more like all the others.
        return values != ["start"], _is_default(tree, values), count

    other = max(merged, key=fitness_as_other)
    branches = tuple((tuple(sorted(values)), tree) for tree, (values, _) in merged.items() if tree != other)
    return Fork(feature, branches, other)


def _is_default(tree: Tree, values: Iterable[str]) -> bool:
    """A request without tools or `think` is the default, however many examples have them."""
    return isinstance(tree, Leaf) and not {"", "no"}.isdisjoint(values)


def _count_errors(examples: Sequence[Example], feature: str) -> float:
    """How many examples differ from the majority of their group; infinite if the feature makes only one group."""
    groups: dict[str, Counter[str]] = {}
    for example in examples:
        groups.setdefault(example.features.get(feature, ""), Counter())[example.text] += 1
    if len(groups) == 1:
        return float("inf")
    return sum(group.total() - max(group.values()) for group in groups.values())


def leaves(tree: Tree) -> list[str]:
    if isinstance(tree, Leaf):
        return [tree.text]
    return [text for _, branch in tree.branches for text in leaves(branch)] + leaves(tree.other)


def strip_suffix(tree: Tree, suffix: str) -> Tree:
    """Removes a suffix that all leaves share, and every fork whose leaves are equal without it."""
    if isinstance(tree, Leaf):
        return Leaf(tree.text.removesuffix(suffix))
    branches = tuple((values, strip_suffix(branch, suffix)) for values, branch in tree.branches)
    other = strip_suffix(tree.other, suffix)
    different = tuple((values, branch) for values, branch in branches if branch != other)
    return Fork(tree.feature, different, other) if different else other
