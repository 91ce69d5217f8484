"""The `general.*` texts of a GGUF, compared with those of llama.cpp's converter (b11434).

`descriptions.json` was computed once, from its names, parameter counts and cards. `computed` stands for a label that
is calculated from the tensors.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.gguf.description import MAX_ITEMS, MAX_TEXT, describe
from proxy.gguf.header import ValueType
from proxy.planning.card import read_card
from tests.gguf.writing import value_of

CASES = json.loads((Path(__file__).parent / "descriptions.json").read_text())


def described(name: str, card: Any, parameters: int = 0) -> dict[str, Any]:
    fields = describe(name, card, parameters, "computed")
    return {key: value_of(field.kind, field.raw, field.value) for key, field in fields.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_texts_match_llama_cpp(case: dict[str, Any]) -> None:
    card = read_card((case["card"] or "").encode())
    assert described(case["name"], card, case["parameters"]) == case["expected"]


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
FIELDS = ["name", "license", "license_name", "tags", "pipeline_tag", "language", "base_model", "datasets", "version"]


@given(st.text(), st.dictionaries(st.sampled_from(FIELDS), ODD), st.integers(0, 10**13))
def test_any_name_and_card_can_be_written(name: str, card: Any, parameters: int) -> None:
    fields = describe(name, card, parameters, "1B")
    assert "general.name" in fields
    assert {field.kind for field in fields.values()} <= {ValueType.STRING, ValueType.ARRAY, ValueType.UINT32}


def test_card_values_that_are_not_text_are_left_out() -> None:
    card = {"license": 1, "tags": ["a", None, {"b": "c"}, 2], "language": {"en": "fr"}, "base_model": [3, "a/b"]}
    general = described("x", card)
    assert general["general.tags"]["values"] == ["a"]
    assert general["general.base_model.count"]["value"] == 1
    assert not {"general.license", "general.languages"} & general.keys()


def test_texts_and_lists_are_bounded() -> None:
    card = {"license": "x" * (MAX_TEXT + 1), "license_name": "x" * MAX_TEXT, "tags": ["x"] * (MAX_ITEMS + 1)}
    general = described("x", card)
    assert "general.license" not in general
    assert general["general.license.name"]["value"] == "x" * MAX_TEXT
    assert general["general.tags"]["length"] == MAX_ITEMS
