"""generation_config.json to Ollama's parameters."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.chat.facts import TokenizerFacts
from proxy.chat.parameters import parameters

FACTS = TokenizerFacts(bos="<s>", eos=("</s>",))


def test_what_is_mapped() -> None:
    config = {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20.0,
        "min_p": 0.1,
        "repetition_penalty": 1.05,
        "do_sample": True,
    }
    found = parameters(config, FACTS, ("<|im_end|>",))
    assert found == {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "min_p": 0.1,
        "repeat_penalty": 1.05,
        "stop": ["<|im_end|>", "</s>"],
    }
    assert isinstance(found["top_k"], int)


def test_what_is_said_even_of_nothing() -> None:
    assert parameters({}, TokenizerFacts(), ()) == {"repeat_penalty": 1.0, "stop": []}


def test_greedy_is_a_temperature_of_zero() -> None:
    assert parameters({"do_sample": False, "temperature": 0.7}, FACTS, ())["temperature"] == 0


def test_lengths_are_never_mapped() -> None:
    found = parameters({"max_length": 20, "max_new_tokens": 10**30, "model_max_length": 1e30}, FACTS, ())
    assert set(found) == {"repeat_penalty", "stop"}


def test_stops_are_a_list_without_bos_and_without_repetition() -> None:
    assert parameters({}, FACTS, ("<s>", "</s>", "", "### User:"))["stop"] == ["</s>", "### User:"]


@pytest.mark.parametrize("value", [None, "1", True, [1], math.nan, math.inf, -1, 1e30])
def test_what_is_no_number_is_left_out(value: object) -> None:
    found = parameters({"temperature": value, "top_k": value, "repetition_penalty": value}, FACTS, ())
    assert found == {"repeat_penalty": 1.0, "stop": ["</s>"]}


@given(st.dictionaries(st.sampled_from(["temperature", "top_k", "top_p", "min_p", "do_sample"]), st.from_type(object)))
def test_any_config_gives_parameters(config: dict[str, Any]) -> None:
    assert isinstance(parameters(config, FACTS, ())["stop"], list)
