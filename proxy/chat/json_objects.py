"""Finds JSON objects inside a text."""

import json
from typing import Any

_DECODER = json.JSONDecoder()


def next_object(text: str, at: int) -> tuple[int, int, Any] | None:
    """Start, end and value of the first object that begins at `at` or later; None if there is none."""
    start = text.find("{", at)
    while start >= 0:
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
        else:
            return start, end, value
    return None
