"""What Ollama is asked to create, and what of its answer a pull shows."""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from proxy.ollama import Ollama
from proxy.planning.capabilities import CONVERTED_TO
from proxy.planning.plan import Plan
from proxy.pull.progress import Progress

SHOWN = ("converting model", "verifying conversion", "writing manifest")


def create_steps(plan: Plan, digests: Mapping[str, str]) -> list[dict[str, Any]]:
    """The bodies to send to `/api/create`, in order; the last one makes the model that was asked for.

    `digests` has the blob of every path of the plan.
    """
    settings = plan.settings
    body: dict[str, Any] = {"model": plan.name}
    if plan.base is not None:
        body |= {"from": plan.base.name, "adapters": dict(digests)}
    else:
        body["files"] = dict(digests)
    chosen = {
        "quantize": plan.quantization,
        "template": settings.template,
        "system": settings.system,
        "parameters": dict(settings.parameters) or None,
        "license": settings.license,
    }
    return [body | {key: value for key, value in chosen.items() if value is not None}]


async def create(ollama: Ollama, plan: Plan, digests: Mapping[str, str], progress: Progress) -> None:
    """Run the steps to their end. Raises OllamaError, which names the model."""
    for body in create_steps(plan, digests):
        if "from" in body:
            body["from"] = await ollama.spelled(body["from"])
        await _run_step(ollama, plan, body, progress)


async def _run_step(ollama: Ollama, plan: Plan, body: dict[str, Any], progress: Progress) -> None:
    quantizing = False
    async with aclosing(ollama.create(body)) as lines:
        async for line in lines:
            status = str(line.get("status"))
            if status.startswith("quantizing "):
                quantizing = True
                progress.quantizing(status, line.get("total", 0), line.get("completed", 0))
            elif status in SHOWN:
                if (
                    status == "verifying conversion"
                    and not quantizing
                    and plan.quantization not in (None, CONVERTED_TO)
                ):
                    # From v0.30 on, some builds of llama-quantize print no progress that Ollama can read.
                    size = sum(upload.size for upload in plan.weights)
                    progress.quantizing(f"quantizing model to {plan.quantization}", size, size)
                progress.status(status)
