"""Learns from examples which text stands where: the smallest tree of questions that tells them apart."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Features = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Leaf:
    text: str


@dataclass(frozen=True, slots=True)
class Fork:
    """The branch of the value that `feature` has, or else `other`."""

    feature: str
    branches: tuple[tuple[tuple[str, ...], "Tree"], ...]
    other: "Tree"


Tree = Leaf | Fork

# Where two questions tell the same apart, the one that generalises better is asked.
_PREFERRED = ("prev", "tools", "think", "calls", "position", "system", "first", "final")


class Contradiction(Exception):
    """The same situation gave two texts: something unseen decides."""


@dataclass(frozen=True, slots=True)
class Example:
    features: Features
    text: str


def learn(examples: Sequence[Example], *, lenient: bool = False) -> Tree:
    """Where nothing tells two texts apart: a contradiction, or the more frequent one if `lenient`."""
    if not examples:
        return Leaf("")
    texts = Counter(example.text for example in examples)
    if len(texts) == 1:
        return Leaf(examples[0].text)
    best = min(_PREFERRED, key=lambda name: (_disorder(examples, name), _PREFERRED.index(name)))
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.features.get(best, ""), []).append(example)
    if len(groups) == 1:
        if lenient:
            return Leaf(texts.most_common(1)[0][0])
        raise Contradiction
    return _fork(best, {value: (learn(group, lenient=lenient), len(group)) for value, group in groups.items()})


def _fork(feature: str, learned: Mapping[str, tuple[Tree, int]]) -> Tree:
    merged: dict[Tree, tuple[list[str], int]] = {}
    for value, (tree, count) in learned.items():
        values, sum_ = merged.setdefault(tree, ([], 0))
        merged[tree] = ([*values, value], sum_ + count)
    if len(merged) == 1:
        return next(iter(merged))
    # "start" happens once in a conversation, so whatever was not seen is more like anything else.
    other = max(merged, key=lambda tree: (merged[tree][0] != ["start"], _plain(tree, merged[tree][0]), merged[tree][1]))
    branches = tuple((tuple(sorted(values)), tree) for tree, (values, _) in merged.items() if tree != other)
    return Fork(feature, branches, other)


def _plain(tree: Tree, values: Iterable[str]) -> bool:
    """A request without tools or `think` is the default, whatever was probed more often."""
    return isinstance(tree, Leaf) and not {"", "no"}.isdisjoint(values)


def _disorder(examples: Sequence[Example], name: str) -> float:
    """How many examples a majority would still get wrong after this question; infinite where it divides nothing."""
    groups: dict[str, Counter[str]] = {}
    for example in examples:
        groups.setdefault(example.features.get(name, ""), Counter())[example.text] += 1
    if len(groups) == 1:
        return float("inf")
    return sum(group.total() - max(group.values()) for group in groups.values())


def choose(tree: Tree, features: Features) -> str:
    while isinstance(tree, Fork):
        value = features.get(tree.feature, "")
        tree = next((branch for values, branch in tree.branches if value in values), tree.other)
    return tree.text


def leaves(tree: Tree) -> list[str]:
    if isinstance(tree, Leaf):
        return [tree.text]
    return [text for _, branch in tree.branches for text in leaves(branch)] + leaves(tree.other)


def shortened(tree: Tree, suffix: str) -> Tree:
    """Without this common suffix of its leaves; choices that it had made are gone."""
    if isinstance(tree, Leaf):
        return Leaf(tree.text.removesuffix(suffix))
    branches = tuple((values, shortened(branch, suffix)) for values, branch in tree.branches)
    other = shortened(tree.other, suffix)
    rest = tuple((values, branch) for values, branch in branches if branch != other)
    return Fork(tree.feature, rest, other) if rest else other


def asked(tree: Tree) -> set[tuple[str, str]]:
    """Every (feature, value) that the tree asks about."""
    if isinstance(tree, Leaf):
        return set()
    found = asked(tree.other)
    for values, branch in tree.branches:
        found |= asked(branch) | {(tree.feature, value) for value in values}
    return found
