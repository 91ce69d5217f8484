"""Helpers for tests of repeated pulls: the requests and lines of a second pull."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from proxy.standins.hub import StandInHub
from proxy.standins.listener import LoggedRequest
from proxy.standins.ollama import StandInOllama
from tests.kit.ollama_log import Lines
from tests.kit.support import digest_of, fetched

NAME = "hf.co/acme/tiny:q4_K_M"
WEIGHTS = "model.safetensors"
Pull = Callable[..., Awaitable[Lines]]


def lines_of_held(bars: Iterable[bytes]) -> Lines:
    """The lines that Ollama itself sends for a model that it already has."""
    return [
        {"status": "pulling manifest"},
        *(
            {
                "status": f"pulling {digest_of(content)[7:19]}",
                "digest": digest_of(content),
                "total": len(content),
                "completed": len(content),
            }
            for content in bars
        ),
        {"status": "verifying sha256 digest"},
        {"status": "writing manifest"},
        {"status": "success"},
    ]


def clear(hub: StandInHub, ollama: StandInOllama) -> None:
    hub.requests.clear()
    ollama.requests.clear()


def paths(requests: Iterable[LoggedRequest]) -> set[str]:
    return {request.path.partition("?")[0] for request in requests}


def assert_nothing_but_metadata(hub: StandInHub, ollama: StandInOllama, repository: str = "acme/tiny") -> None:
    assert hub.requests
    assert all(path.startswith(f"/api/models/{repository}") for path in paths(hub.requests))
    assert {(request.method, request.path) for request in ollama.requests} <= {("GET", "/api/tags"), ("GET", "/-/")}


def assert_only_looked(hub: StandInHub, ollama: StandInOllama) -> None:
    """The pull read only metadata, small files and headers of weights, and changed nothing in Ollama."""
    assert not fetched(hub)
    assert {request.method for request in ollama.requests if request.path != "/api/show"} <= {"GET", "HEAD"}


SETTINGS: dict[str, Any] = {
    "template": "{{ .System }}{{ .Prompt }}",
    "system": "Be terse.",
    "parameters": {"temperature": 0.7, "num_ctx": 4096, "stop": ["</s>", 'a "quoted" one']},
    "license": ["MIT", "BSD"],
}


def with_settings(**changes: Any) -> dict[str, Any]:
    """A configuration with SETTINGS and these changes. None removes a setting."""
    settings = {key: value for key, value in {**SETTINGS, **changes}.items() if value is not None}
    return {"models": {"hf.co/acme/tiny": settings}}
