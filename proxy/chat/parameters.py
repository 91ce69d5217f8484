"""generation_config.json to the parameters that Ollama takes."""

from collections.abc import Mapping, Sequence
from typing import Any

from proxy.chat.facts import TokenizerFacts

_FRACTIONS = ("temperature", "top_p", "min_p")


def parameters(generation_config: Mapping[str, Any], facts: TokenizerFacts, stops: Sequence[str]) -> dict[str, Any]:
    """Lengths are never mapped: they are often 1e30, and a KV cache of that size is fatal."""
    found: dict[str, Any] = {}
    for name in _FRACTIONS:
        value = _number(generation_config.get(name))
        if value is not None and value >= 0:
            found[name] = value
    top_k = _number(generation_config.get("top_k"))
    if top_k is not None and top_k >= 0:
        # Ollama refuses a whole number that is written as a float.
        found["top_k"] = int(top_k)
    if generation_config.get("do_sample") is False:
        found["temperature"] = 0
    penalty = _number(generation_config.get("repetition_penalty"))
    # Ollama 0.24 penalises by 1.1 where nothing is said, transformers not at all.
    found["repeat_penalty"] = penalty if penalty is not None and penalty > 0 else 1.0
    # A bare string is taken at create and fails at chat.
    wanted = dict.fromkeys((*stops, *facts.eos))
    found["stop"] = [text for text in wanted if text and text != facts.bos]
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 1e6 else None  # noqa: PLR2004 - also false for NaN
