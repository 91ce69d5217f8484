"""Reads tool calls as Ollama's parser does (0.24 and 0.33): can it find the calls that a template teaches?"""

import json
from collections.abc import Mapping
from typing import Any


def opening_tag(opener: str) -> str:
    """The text for which Ollama waits: the template's first text in `.ToolCalls`, up to its first brace."""
    return opener.split("{", maxsplit=1)[0].strip() or "{"


def parse_arguments(text: str, tag: str, name: str) -> Mapping[str, Any] | None:
    """The arguments that Ollama finds in a model's answer for the tool `name`; None if it finds no call."""
    start = text.find(tag)
    if start < 0 or (tag in ("{", "[") and text[:start].strip()):
        return None
    rest = text[start:]
    return _first_arguments(rest, name) if name in rest else None


def _first_arguments(text: str, name: str) -> Mapping[str, Any] | None:
    start, depth, quoted, escaped = -1, 0, False, False
    for at, letter in enumerate(text):
        if escaped:
            escaped = False
        elif letter == "\\":
            escaped = True
        elif letter == '"':
            quoted = not quoted
        elif quoted:
            pass
        elif letter == "{":
            start = at if depth == 0 else start
            depth += 1
        elif letter == "}":
            depth = max(depth - 1, -1)
            if depth == 0 and start >= 0:
                value = _parse_object(text[start : at + 1])
                if value is not None:
                    is_call, arguments = _find_call(value, name)
                    return arguments if is_call else value
                start = -1
            depth = max(depth, 0)
    return None


def _parse_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _find_call(value: Mapping[str, Any], name: str) -> tuple[bool, Mapping[str, Any] | None]:
    """Whether the object contains a call, and its arguments."""
    if "name" in value:
        return True, _as_object(value.get("arguments")) or _as_object(value.get("parameters"))
    direct = _as_object(value.get(name))
    if direct is not None:
        return True, direct
    for child in value.values():
        for inner in child if isinstance(child, list) else (child,):
            if isinstance(inner, dict):
                is_call, arguments = _find_call(inner, name)
                if is_call:
                    return True, arguments
    return False, None


def _as_object(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, str):
        return _parse_object(value)
    return value if isinstance(value, dict) else None
