"""Decision trees are small and agree with their examples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.chat.affixes import common_prefix, common_suffix
from proxy.chat.decision_tree import (
    Contradiction,
    Example,
    Features,
    Fork,
    Leaf,
    Tree,
    learn_tree,
    leaves,
    strip_suffix,
)


def decide(tree: Tree, features: Features) -> str:
    while isinstance(tree, Fork):
        value = features.get(tree.feature, "")
        tree = next((branch for values, branch in tree.branches if value in values), tree.other)
    return tree.text


def test_the_tree_tests_the_fewest_features() -> None:
    examples = [
        Example({"prev": "start", "position": "last", "tools": "no"}, "a"),
        Example({"prev": "start", "position": "before", "tools": "no"}, "a"),
        Example({"prev": "assistant", "position": "last", "tools": "no"}, "b"),
        Example({"prev": "assistant", "position": "before", "tools": "yes"}, "b"),
    ]
    tree = learn_tree(examples)
    assert tree == Fork("prev", ((("start",), Leaf("a")),), Leaf("b"))
    assert decide(tree, {"prev": "system"}) == "b"
    assert leaves(tree) == ["a", "b"]


def test_a_contradiction_is_an_error_or_a_majority() -> None:
    examples = [Example({"prev": "user"}, text) for text in ("a", "b", "b")]
    with pytest.raises(Contradiction):
        learn_tree(examples)
    assert learn_tree(examples, lenient=True) == Leaf("b")


def test_stripping_a_suffix_removes_needless_forks() -> None:
    tree = Fork("tools", ((("yes",), Leaf("ab")),), Leaf("b"))
    assert strip_suffix(tree, "b") == Fork("tools", ((("yes",), Leaf("a")),), Leaf(""))
    assert strip_suffix(Fork("tools", ((("yes",), Leaf("b")),), Leaf("b")), "b") == Leaf("")


@given(
    st.lists(
        st.tuples(st.sampled_from(["start", "user"]), st.sampled_from(["yes", "no"]), st.sampled_from("ab")),
        min_size=1,
        max_size=8,
    )
)
def test_a_tree_agrees_with_its_examples(observed: list[tuple[str, str, str]]) -> None:
    examples = [Example({"prev": prev, "tools": tools}, text) for prev, tools, text in observed]
    try:
        tree = learn_tree(examples)
    except Contradiction:
        assert len({example.text for example in examples}) > 1
        return
    for example in examples:
        assert decide(tree, example.features) == example.text


@given(st.lists(st.text("ab", max_size=4), min_size=1, max_size=4))
def test_common_affixes_are_the_longest(texts: list[str]) -> None:
    prefix, suffix = common_prefix(texts), common_suffix(texts)
    assert all(text.startswith(prefix) and text.endswith(suffix) for text in texts)
    assert len({text[len(prefix) : len(prefix) + 1] for text in texts}) > 1 or prefix in texts
    assert len({text[: len(text) - len(suffix)][-1:] for text in texts}) > 1 or suffix in texts
