"""Translates generation_config.json into Ollama's parameters."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from proxy.chat.facts import TokenizerFacts


class _Parameter(NamedTuple):
    keys: tuple[str, ...]
    """Of generation_config.json; the first with a valid number counts."""
    is_valid: Callable[[float], bool]
    kind: type[int] | type[float] = float
    """Ollama refuses an integer that is written as a float."""


def _is_not_negative(value: float) -> bool:
    return value >= 0


def _is_positive(value: float) -> bool:
    return value > 0


def _is_penalty(value: float) -> bool:
    return abs(value) <= 2  # noqa: PLR2004 - the range of OpenAI's API, which the two penalties come from


# transformers has only the first key of each, and no window and no other penalties. llama.cpp's converter (b11434) and
# Ollama's import for MLX (types/model/generation.go) read the other keys.
_SAMPLING: Mapping[str, _Parameter] = {
    "temperature": _Parameter(("temperature",), _is_not_negative),
    "top_k": _Parameter(("top_k",), _is_not_negative, int),
    "top_p": _Parameter(("top_p",), _is_not_negative),
    "min_p": _Parameter(("min_p",), _is_not_negative),
    # 1 changes nothing, and from about 0.40.1 on Ollama's create refuses the parameter.
    "typical_p": _Parameter(("typical_p",), lambda value: 0 < value < 1),
    "repeat_last_n": _Parameter(("repeat_last_n", "penalty_last_n"), lambda value: value >= -1, int),
    "repeat_penalty": _Parameter(("repetition_penalty", "repeat_penalty", "penalty_repeat"), _is_positive),
    "presence_penalty": _Parameter(("presence_penalty",), _is_penalty),
    "frequency_penalty": _Parameter(("frequency_penalty",), _is_penalty),
}
"""By the names of Ollama's parameters."""


def parameters(generation_config: Mapping[str, Any], facts: TokenizerFacts, stops: Sequence[str]) -> dict[str, Any]:
    """Lengths are left out: they are often 1e30, and Ollama would fail to allocate such a KV cache."""
    # Without a value, Ollama 0.24 uses a penalty of 1.1 and transformers none.
    values: dict[str, Any] = {"repeat_penalty": 1.0}
    for name, parameter in _SAMPLING.items():
        numbers = (_number(generation_config.get(key)) for key in parameter.keys)
        value = next((number for number in numbers if number is not None and parameter.is_valid(number)), None)
        if value is not None:
            values[name] = parameter.kind(value)
    if generation_config.get("do_sample") is False:
        values["temperature"] = 0
    # It must be a list: Ollama accepts a bare string at create and fails at chat.
    values["stop"] = [text for text in dict.fromkeys((*stops, *facts.eos)) if text and text != facts.bos]
    return values


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 1e6 else None  # noqa: PLR2004 - also false for NaN
