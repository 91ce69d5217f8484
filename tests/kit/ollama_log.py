"""Reads the request log of a stand-in Ollama, and the bars in the lines of a pull."""

from typing import Any

import orjson

from proxy.standins.ollama import StandInOllama

Lines = list[dict[str, Any]]


def bodies(ollama: StandInOllama, path: str) -> list[dict[str, Any]]:
    """The bodies of all calls of a path."""
    return [orjson.loads(request.body or b"{}") for request in ollama.requests if request.path == path]


def created(ollama: StandInOllama) -> list[dict[str, Any]]:
    """The bodies of all creates."""
    return bodies(ollama, "/api/create")


def uploads(ollama: StandInOllama, *, least: int = 0) -> list[str]:
    """The paths of all uploads of at least `least` bytes."""
    blobs = [request for request in ollama.requests if request.method == "POST" and "/api/blobs/" in request.path]
    return [request.path for request in blobs if request.received >= least]


def weight_uploads(ollama: StandInOllama) -> list[str]:
    """The paths of all uploads of weights, including unfinished ones. Other layers are smaller than 1000 bytes."""
    return uploads(ollama, least=1000)


def last_bars(lines: Lines) -> dict[str, tuple[int, int]]:
    """The last total and completed of each bar. Checks what the contract promises for every line of a bar."""
    bars: dict[str, tuple[int, int]] = {}
    for line in lines:
        if (digest := line.get("digest")) and line["status"].startswith("pulling "):
            total, completed = line["total"], line.get("completed", 0)
            assert line["status"] == f"pulling {digest[7:19]}"
            assert bars.get(digest, (total,))[0] == total
            assert 0 <= completed <= total
            bars[digest] = total, completed
    return bars
