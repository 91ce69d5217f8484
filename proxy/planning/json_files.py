"""Reads the JSON files of a repository, and refuses broken ones. Pure."""

import json
from collections.abc import Iterable
from typing import Any

from proxy.errors import Refusal

MAX_DEPTH = 100
"""Levels of nesting. Python's own recursion limit is not much higher."""
UPLOAD_AGAIN = "ask the repository's owner to upload it again"


def json_object(where: str, content: bytes) -> dict[str, Any]:
    """`where` names the file in the Refusal for anything but a JSON object."""
    return as_object(where, json_value(where, content))


def as_object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refusal(f"{where} is not a JSON object; {UPLOAD_AGAIN}")
    return value


def json_value(where: str, content: bytes) -> Any:
    """`where` names the file in the Refusal for what `parse_json` does not accept."""
    try:
        return parse_json(content)
    except ValueError as error:
        raise Refusal(f"{where} is {error}; {UPLOAD_AGAIN}") from error


def parse_json(content: bytes) -> Any:
    """Raises ValueError for invalid JSON, and for JSON that could not be copied or sent to a client later."""
    if not content:
        raise ValueError("empty")
    try:
        # Not orjson: it would round a `model_max_length` of 10**30, which many repositories have.
        value = json.loads(content.decode("utf-8-sig"))
        if b"\\ud" in content.lower():
            # A lone surrogate has no UTF-8 bytes: an error line that quotes it could not be sent.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if _is_deeper_than(MAX_DEPTH, value):
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    return value


def _is_deeper_than(depth: int, value: Any) -> bool:
    level = [value]
    for _ in range(depth):
        level = [child for parent in level for child in _children(parent) if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
