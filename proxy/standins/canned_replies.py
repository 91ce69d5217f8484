"""The answers of every model in the stand-in Ollama: always the same few words."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from proxy.standins.model_store import timestamp

Content = Callable[[str], dict[str, Any]]
"""Puts a text into the fields that an endpoint answers with."""
WORDS = ("The", " stand-in", " has", " heard", " you.")
STATISTICS = {
    "total_duration": 50_000_000,
    "load_duration": 10_000_000,
    "prompt_eval_count": 3,
    "prompt_eval_duration": 10_000_000,
    "eval_count": len(WORDS),
    "eval_duration": 30_000_000,
}


def generate_content(text: str) -> dict[str, Any]:
    return {"response": text}


def chat_content(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}}


def stream(model: str, content: Content) -> Iterator[dict[str, Any]]:
    for word in WORDS:
        yield _line(model, content(word), done=False)
    yield _line(model, content(""), done=True) | {"done_reason": "stop", **STATISTICS}


def whole(model: str, content: Content) -> dict[str, Any]:
    return _line(model, content("".join(WORDS)), done=True) | {"done_reason": "stop", **STATISTICS}


def empty(model: str, content: Content, reason: str) -> dict[str, Any]:
    """The answer to a request that only loads or unloads a model."""
    return _line(model, content(""), done=True) | {"done_reason": reason}


def openai_completion(model: str, text: str, *, chunk: bool) -> dict[str, Any]:
    """The answer of `/v1/chat/completions`, or with `chunk` one event of its stream."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": None if chunk else "stop", "delta" if chunk else "message": message}
    kind = "chat.completion.chunk" if chunk else "chat.completion"
    return {"id": "chatcmpl-1", "object": kind, "created": 0, "model": model, "choices": [choice]}


def embeddings(model: str, inputs: list[str]) -> dict[str, Any]:
    answer: dict[str, Any] = {"model": model, "embeddings": [[0.6, 0.8] for _ in inputs]}
    if inputs:
        answer |= {"total_duration": 1_000_000, "load_duration": 100_000, "prompt_eval_count": len(inputs)}
    return answer


def _line(model: str, fields: dict[str, Any], *, done: bool) -> dict[str, Any]:
    return {"model": model, "created_at": timestamp(datetime.now(UTC)), **fields, "done": done}
