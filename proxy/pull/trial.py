"""Whether Ollama takes a template that somebody else wrote: it looks only when all is converted and quantized."""

import hashlib

from proxy.gguf.header import Field, write_header
from proxy.gguf.tensors import TensorInfo, TensorType
from proxy.ollama import Ollama, Write
from proxy.planning.plan import Plan
from proxy.pull.journal import Journal
from proxy.pull.reclaim import temporary_name

WRITTEN_BY_OTHERS = ("config", "template")
"""Sources of templates: the proxy's configuration, and the repository's own file for Ollama."""
NUMBERS = 32
# From v0.30 on Ollama copies a GGUF through llama-quantize, which wants a whole model, but for one with such a tensor.
SMALLEST = write_header(
    {"general.architecture": Field.string("llama")}, [TensorInfo("v.x", (NUMBERS,), TensorType.F32, 0)]
) + bytes(4 * NUMBERS)
DIGEST = f"sha256:{hashlib.sha256(SMALLEST).hexdigest()}"


async def try_template(ollama: Ollama, journal: Journal, plan: Plan, pull: int) -> None:
    """Make a model of next to nothing with the template, and remove it. Raises Rejected with Ollama's reason."""
    template = plan.settings.template
    if template is None or plan.template_source not in WRITTEN_BY_OTHERS:
        return
    journal.need(pull, [DIGEST])
    if not await ollama.has_blob(DIGEST):
        journal.brings(DIGEST, len(SMALLEST))
        await ollama.push_blob(DIGEST, len(SMALLEST), _write)
    name = temporary_name()
    body = {
        "model": name,
        "files": {"trial.gguf": DIGEST},
        # Its blob must be no other model's, which may just be made.
        "template": f"{{{{/* {name} */}}}}{template}",
        "stream": False,
    }
    async for _ in ollama.create(body, plan.name):
        pass
    await ollama.delete(name)


async def _write(write: Write) -> None:
    await write(SMALLEST)
