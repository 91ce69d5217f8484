"""What Ollama is asked to create where it does not reach the proxy for a manifest."""

from collections.abc import Mapping
from typing import Any

from proxy.ollama.client import Ollama
from proxy.planning.plan import Plan


def model_body(plan: Plan, name: str, digests: Mapping[str, str]) -> dict[str, Any]:
    """`digests` are those of a finished GGUF, or of an adapter, by path."""
    settings = plan.settings
    files = {"from": plan.base.name, "adapters": dict(digests)} if plan.base is not None else {"files": dict(digests)}
    chosen = {
        "template": settings.template,
        "system": settings.system,
        "parameters": dict(settings.parameters) or None,
        "license": settings.license,
    }
    return {"model": name, **files} | {key: value for key, value in chosen.items() if value is not None}


async def create(ollama: Ollama, plan: Plan, name: str, digests: Mapping[str, str]) -> None:
    """Make the model under a name. Raises OllamaError, which names the one that was asked for."""
    body = model_body(plan, name, digests)
    if "from" in body:
        body["from"] = await ollama.canonical_name(body["from"])
    await ollama.create(body, plan.name)
