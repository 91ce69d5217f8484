"""A tiny model to check a Go template with: Ollama parses a template only when it first shows the model."""

import orjson

from proxy.gguf.header import Field, write_header
from proxy.gguf.tensors import TensorInfo, TensorType
from proxy.planning.plan import Plan, Upload, small_file

WRITTEN_BY_OTHERS = ("config", "template")
"""Sources of templates that the proxy did not write: its configuration, and the repository's own file for Ollama."""
VALUES = 32
"""Numbers in the one tensor of the model."""


def probe_model_files(plan: Plan, name: str) -> tuple[Upload, ...]:
    """The config, the weights and the template of a tiny model; nothing if the proxy wrote the template itself.

    Each file has `name` in it, so that no other model shares it: deleting this model deletes its blobs.
    """
    template = plan.settings.template
    if template is None or plan.template_source not in WRITTEN_BY_OTHERS:
        return ()
    config = {"model_format": "gguf", "model_family": "llama", "model_families": ["llama"], "os": name}
    fields = {"general.architecture": Field.string("llama"), "general.name": Field.string(name)}
    weights = write_header(fields, [TensorInfo("output.weight", (VALUES,), TensorType.F32, 0)]) + bytes(4 * VALUES)
    return (
        small_file("config", orjson.dumps(config)),
        small_file("model", weights),
        small_file("template", f"{{{{/* {name} */}}}}{template}".encode()),
    )
