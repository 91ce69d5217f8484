"""The `general.*` texts of a GGUF, compared with those of llama.cpp's converter (b11434).

`descriptions.json` was computed once, from its names and parameter counts. `computed` stands for a label that is
calculated from the tensors.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.gguf.description import describe
from proxy.gguf.header import ValueType
from tests.gguf.writing import value_of

CASES = json.loads((Path(__file__).parent / "descriptions.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_texts_match_llama_cpp(case: dict[str, Any]) -> None:
    fields = describe(case["name"], case["parameters"], "computed")
    assert {key: value_of(field.kind, field.raw, field.value) for key, field in fields.items()} == case["expected"]


@given(st.text(), st.integers(0, 10**13))
def test_any_name_can_be_written(name: str, parameters: int) -> None:
    fields = describe(name, parameters, "1B")
    assert "general.name" in fields
    assert {field.kind for field in fields.values()} == {ValueType.STRING}
