"""Parameters are translated from generation_config.json."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.chat.facts import TokenizerFacts
from proxy.chat.parameters import parameters

FACTS = TokenizerFacts(bos="<s>", eos=("</s>",))


def test_sampling_parameters_are_translated() -> None:
    config = {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20.0,
        "min_p": 0.1,
        "typical_p": 0.9,
        "repetition_penalty": 1.05,
        "repeat_last_n": 128.0,
        "presence_penalty": 1.5,
        "frequency_penalty": -0.5,
        "do_sample": True,
    }
    values = parameters(config, FACTS, ("<|im_end|>",))
    assert values == {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "min_p": 0.1,
        "typical_p": 0.9,
        "repeat_penalty": 1.05,
        "repeat_last_n": 128,
        "presence_penalty": 1.5,
        "frequency_penalty": -0.5,
        "stop": ["<|im_end|>", "</s>"],
    }
    assert {type(values[key]) for key in ("top_k", "repeat_last_n")} == {int}


def test_other_names_of_a_value_are_read() -> None:
    """As llama.cpp's converter and Ollama's import for MLX do; transformers' own name wins."""
    values = parameters({"penalty_repeat": 1.2, "penalty_last_n": -1}, FACTS, ())
    assert (values["repeat_penalty"], values["repeat_last_n"]) == (1.2, -1)
    assert parameters({"repetition_penalty": 1.1, "repeat_penalty": 1.2}, FACTS, ())["repeat_penalty"] == 1.1


@pytest.mark.parametrize(
    ("key", "value"), [("typical_p", 1.0), ("typical_p", 0), ("repetition_penalty", 0), ("presence_penalty", 3)]
)
def test_values_without_effect_or_out_of_range_are_left_out(key: str, value: float) -> None:
    """typical_p is 1 in many older files, and newer Ollamas create no model with the parameter."""
    assert parameters({key: value}, FACTS, ()) == parameters({}, FACTS, ())


def test_an_empty_config_has_defaults() -> None:
    assert parameters({}, TokenizerFacts(), ()) == {"repeat_penalty": 1.0, "stop": []}


def test_greedy_is_a_temperature_of_zero() -> None:
    assert parameters({"do_sample": False, "temperature": 0.7}, FACTS, ())["temperature"] == 0


def test_lengths_are_left_out() -> None:
    values = parameters({"max_length": 20, "max_new_tokens": 10**30, "model_max_length": 1e30}, FACTS, ())
    assert set(values) == {"repeat_penalty", "stop"}


def test_stops_have_no_bos_and_no_duplicates() -> None:
    assert parameters({}, FACTS, ("<s>", "</s>", "", "### User:"))["stop"] == ["</s>", "### User:"]


@pytest.mark.parametrize("value", [None, "1", True, [1], math.nan, math.inf, -1, 1e30])
def test_values_that_are_not_numbers_are_left_out(value: object) -> None:
    values = parameters({"temperature": value, "top_k": value, "repetition_penalty": value}, FACTS, ())
    assert values == {"repeat_penalty": 1.0, "stop": ["</s>"]}


@given(
    st.dictionaries(
        st.sampled_from(["temperature", "top_k", "repetition_penalty", "repeat_last_n", "do_sample"]),
        st.from_type(object),
    )
)
def test_any_config_gives_parameters(config: dict[str, Any]) -> None:
    assert isinstance(parameters(config, FACTS, ())["stop"], list)
