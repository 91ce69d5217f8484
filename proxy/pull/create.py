"""What Ollama is asked to create, and what of its answer a pull shows."""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from proxy.ollama import Ollama
from proxy.planning.capabilities import CONVERTED_TO
from proxy.planning.plan import Converter, Plan
from proxy.pull.progress import Progress

CONVERTING = "converting model"
VERIFYING = "verifying conversion"


def temporary_body(name: str, files: Mapping[str, str]) -> dict[str, Any]:
    """Converts and does no more. Without `quantize` Ollama would make Q8_0 of FP8 (server/create.go, v0.24)."""
    return {"model": name, "files": dict(files), "quantize": CONVERTED_TO, "stream": False}


def model_body(plan: Plan, name: str, digests: Mapping[str, str], temporary: str | None = None) -> dict[str, Any]:
    """Makes the model that was asked for: from a temporary one, or from the blobs of the plan's paths.

    Of a GGUF that is finished, and of an adapter, only where Ollama does not reach the proxy for a manifest.
    """
    settings = plan.settings
    body: dict[str, Any] = {"model": name}
    if temporary is not None:
        body["from"] = temporary
    elif plan.base is not None:
        body |= {"from": plan.base.name, "adapters": dict(digests)}
    else:
        body["files"] = dict(digests)
    if not plan.is_quantized:
        # Ollama ends such a create by itself when the proxy does not live to read its answer.
        body["stream"] = False
    chosen = {
        "quantize": plan.quantization if plan.finished is None else None,
        "template": settings.template,
        "system": settings.system,
        "parameters": dict(settings.parameters) or None,
        "license": settings.license,
    }
    return body | {key: value for key, value in chosen.items() if value is not None}


async def convert(ollama: Ollama, plan: Plan, digests: Mapping[str, str], temporary: str, progress: Progress) -> None:
    """Make the temporary model. Raises OllamaError, which names the one that was asked for."""
    progress.status(CONVERTING)
    await _finish(ollama, temporary_body(temporary, digests), plan, progress)


async def create(
    ollama: Ollama,
    plan: Plan,
    name: str,
    digests: Mapping[str, str],
    progress: Progress,
    temporary: str | None = None,
) -> None:
    """Make the model under a name. Raises OllamaError, which names the one that was asked for."""
    body = model_body(plan, name, digests, temporary)
    if "from" in body:
        body["from"] = await ollama.spelled(body["from"])
    elif plan.converter is Converter.OLLAMA:
        progress.status(CONVERTING)
    await _finish(ollama, body, plan, progress)


async def _finish(ollama: Ollama, body: Mapping[str, Any], plan: Plan, progress: Progress) -> None:
    quantizing = False
    async with aclosing(ollama.create(body, plan.name)) as lines:
        async for line in lines:
            status = str(line.get("status"))
            if status.startswith("quantizing "):
                quantizing = True
                progress.quantizing(status, line.get("total", 0), line.get("completed", 0))
            elif status == VERIFYING:
                if not quantizing and plan.is_quantized:
                    # From v0.30 on, some builds of llama-quantize print no progress that Ollama can read.
                    size = sum(upload.size for upload in plan.weights)
                    progress.quantizing(f"quantizing model to {plan.quantization}", size, size)
                progress.status(status)
