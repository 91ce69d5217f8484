"""Creates a model through Ollama's `/api/create`, for an Ollama that cannot pull a manifest from the proxy."""

from collections.abc import Mapping
from typing import Any

from proxy.ollama.client import Ollama
from proxy.planning.plan import Plan


def model_body(plan: Plan, name: str, digests: Mapping[str, str]) -> dict[str, Any]:
    """The body of the call. `digests` are those of a finished GGUF or of an adapter, by path."""
    settings = plan.settings
    files = {"from": plan.base.name, "adapters": dict(digests)} if plan.base is not None else {"files": dict(digests)}
    optional = {
        "template": settings.template,
        "system": settings.system,
        "parameters": dict(settings.parameters) or None,
        "license": settings.license,
    }
    return {"model": name, **files} | {key: value for key, value in optional.items() if value is not None}


async def create(ollama: Ollama, plan: Plan, name: str, digests: Mapping[str, str]) -> None:
    """Create the model as `name`. Raises OllamaError, whose text has the plan's name."""
    body = model_body(plan, name, digests)
    if "from" in body:
        body["from"] = await ollama.canonical_name(body["from"])
    await ollama.create(body, plan.name)
