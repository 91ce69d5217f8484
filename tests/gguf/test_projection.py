"""Projectors equal those of llama.cpp's converter, bit by bit."""

import json
from fnmatch import fnmatchcase

import pytest

from proxy.gguf.header import read_header
from tests.gguf import differences
from tests.gguf.projecting import LEFT_OUT, ONLY_OURS, OTHER_VALUES, TOWERED, expected, projector, towered
from tests.gguf.tiny_repositories.sighted import SIGHTED
from tests.gguf.writing import figures, plan, write


@pytest.mark.parametrize("name", sorted(TOWERED))
def test_projector_equals_that_of_llama_cpp(name: str) -> None:
    content = projector(towered(name))
    ours, theirs = figures(read_header(content, size=len(content)), content), expected(name)
    assert ours["tensors"] == theirs["tensors"]
    changed = {**ONLY_OURS.get(name, {}), **OTHER_VALUES.get(name, {})}
    for key in changed:
        assert ours["metadata"].pop(key) != theirs["metadata"].pop(key, None)
    left = {key: one for key, one in theirs["metadata"].items() if not any(fnmatchcase(key, any_) for any_ in LEFT_OUT)}
    assert ours["metadata"] == left


@pytest.mark.parametrize("name", sorted(SIGHTED))
def test_text_part_equals_that_of_llama_cpp(name: str) -> None:
    """Of repositories that no other test converts."""
    files = towered(name)
    content = write(plan(files), files)
    ours = figures(read_header(content, size=len(content)), content)
    theirs = json.loads((differences.EXPECTED / f"{name}.json").read_bytes())
    assert ours["tensors"] == theirs["tensors"]
    if differences.ADD_EOS not in ours["metadata"] and ours["metadata"]["tokenizer.ggml.model"]["value"] == "gpt2":
        assert theirs["metadata"].pop(differences.ADD_EOS, {"value": False})["value"] is False
    left_out = (*LEFT_OUT, *differences.LEFT_OUT)
    kept = {key: one for key, one in theirs["metadata"].items() if not any(fnmatchcase(key, any_) for any_ in left_out)}
    if differences.ADD_EOS not in ours["metadata"]:
        assert kept.pop(differences.ADD_EOS, {"value": False})["value"] is False
    assert {key: one for key, one in ours["metadata"].items() if key != "general.name"} == {
        key: one for key, one in kept.items() if key != "general.name"
    }
