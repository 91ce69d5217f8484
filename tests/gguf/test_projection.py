"""Projectors equal those of llama.cpp's converter, bit by bit."""

from fnmatch import fnmatchcase

import pytest

from proxy.gguf.header import read_header
from tests.gguf.projecting import LEFT_OUT, ONLY_OURS, OTHER_VALUES, TOWERED, expected, projector
from tests.gguf.writing import figures


@pytest.mark.parametrize("name", sorted(TOWERED))
def test_projector_equals_that_of_llama_cpp(name: str) -> None:
    content = projector(TOWERED[name].files())
    ours, theirs = figures(read_header(content, size=len(content)), content), expected(name)
    assert ours["tensors"] == theirs["tensors"]
    changed = {**ONLY_OURS.get(name, {}), **OTHER_VALUES.get(name, {})}
    for key in changed:
        assert ours["metadata"].pop(key) != theirs["metadata"].pop(key, None)
    left = {key: one for key, one in theirs["metadata"].items() if not any(fnmatchcase(key, any_) for any_ in LEFT_OUT)}
    assert ours["metadata"] == left
