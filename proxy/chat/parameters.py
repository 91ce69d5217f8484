"""Translates generation_config.json into Ollama's parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

from proxy.chat.facts import TokenizerFacts

_FRACTIONS = ("temperature", "top_p", "min_p")


def parameters(generation_config: Mapping[str, Any], facts: TokenizerFacts, stops: Sequence[str]) -> dict[str, Any]:
    """Lengths are left out: they are often 1e30, and Ollama would fail to allocate such a KV cache."""
    values: dict[str, Any] = {}
    for name in _FRACTIONS:
        value = _number(generation_config.get(name))
        if value is not None and value >= 0:
            values[name] = value
    top_k = _number(generation_config.get("top_k"))
    if top_k is not None and top_k >= 0:
        # Ollama refuses an integer that is written as a float.
        values["top_k"] = int(top_k)
    if generation_config.get("do_sample") is False:
        values["temperature"] = 0
    penalty = _number(generation_config.get("repetition_penalty"))
    # Without a value, Ollama 0.24 uses a penalty of 1.1 and transformers none.
    values["repeat_penalty"] = penalty if penalty is not None and penalty > 0 else 1.0
    # It must be a list: Ollama accepts a bare string at create and fails at chat.
    values["stop"] = [text for text in dict.fromkeys((*stops, *facts.eos)) if text and text != facts.bos]
    return values


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 1e6 else None  # noqa: PLR2004 - also false for NaN
