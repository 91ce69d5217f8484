"""The few words that a model of the stand-in Ollama says."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from proxy.standins.model_store import timestamp

WORDS = ("The", " stand-in", " has", " heard", " you.")
TALLY = {
    "total_duration": 50_000_000,
    "load_duration": 10_000_000,
    "prompt_eval_count": 3,
    "prompt_eval_duration": 10_000_000,
    "eval_count": len(WORDS),
    "eval_duration": 30_000_000,
}


def generated(text: str) -> dict[str, Any]:
    return {"response": text}


def chatted(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}}


def words(model: str, shape: Callable[[str], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for word in WORDS:
        yield _line(model, shape(word), done=False)
    yield _line(model, shape(""), done=True) | {"done_reason": "stop", **TALLY}


def whole(model: str, shape: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return _line(model, shape("".join(WORDS)), done=True) | {"done_reason": "stop", **TALLY}


def silent(model: str, shape: Callable[[str], dict[str, Any]], reason: str) -> dict[str, Any]:
    """The answer to a request that only loads or unloads a model."""
    return _line(model, shape(""), done=True) | {"done_reason": reason}


def completed(model: str, content: str, *, part: bool) -> dict[str, Any]:
    """As OpenAI says it: the whole, or a part of a stream."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": None if part else "stop", "delta" if part else "message": message}
    kind = "chat.completion.chunk" if part else "chat.completion"
    return {"id": "chatcmpl-1", "object": kind, "created": 0, "model": model, "choices": [choice]}


def embedded(model: str, inputs: list[str]) -> dict[str, Any]:
    answer: dict[str, Any] = {"model": model, "embeddings": [[0.6, 0.8] for _ in inputs]}
    if inputs:
        answer |= {"total_duration": 1_000_000, "load_duration": 100_000, "prompt_eval_count": len(inputs)}
    return answer


def _line(model: str, content: dict[str, Any], *, done: bool) -> dict[str, Any]:
    return {"model": model, "created_at": timestamp(datetime.now(UTC)), **content, "done": done}
