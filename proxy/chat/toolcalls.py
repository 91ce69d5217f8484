"""Whether Ollama's own parser can read the calls that a template teaches: its rules, as of 0.24 and 0.33, in Python."""

import json
from collections.abc import Mapping
from typing import Any


def tag(opener: str) -> str:
    """What Ollama waits for: the first text of the template's `.ToolCalls` block, up to its first brace."""
    return opener.split("{", maxsplit=1)[0].strip() or "{"


def read(text: str, opening: str, name: str) -> Mapping[str, Any] | None:
    """The arguments of the call to the tool `name` that Ollama finds in a model's answer."""
    start = text.find(opening)
    if start < 0 or (opening in ("{", "[") and text[:start].strip()):
        return None
    rest = text[start:]
    return _arguments(rest, name) if name in rest else None


def _arguments(text: str, name: str) -> Mapping[str, Any] | None:
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
                value = _object(text[start : at + 1])
                if value is not None:
                    found, arguments = _within(value, name)
                    return arguments if found else value
                start = -1
            depth = max(depth, 0)
    return None


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _within(value: Mapping[str, Any], name: str) -> tuple[bool, Mapping[str, Any] | None]:
    if "name" in value:
        return True, _mapping(value.get("arguments")) or _mapping(value.get("parameters"))
    direct = _mapping(value.get(name))
    if direct is not None:
        return True, direct
    for child in value.values():
        for inner in child if isinstance(child, list) else (child,):
            if isinstance(inner, dict):
                found, arguments = _within(inner, name)
                if found:
                    return True, arguments
    return False, None


def _mapping(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, str):
        return _object(value)
    return value if isinstance(value, dict) else None
