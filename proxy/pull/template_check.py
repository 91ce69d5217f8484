"""Whether Ollama takes a template that somebody else wrote: it looks only when it first shows the model."""

import orjson

from proxy.gguf.header import Field, write_header
from proxy.gguf.tensors import TensorInfo, TensorType
from proxy.planning.plan import Plan, Upload, small_file

WRITTEN_BY_OTHERS = ("config", "template")
"""Sources of templates: the proxy's configuration, and the repository's own file for Ollama."""
NUMBERS = 32


def probe_model_files(plan: Plan, name: str) -> tuple[Upload, ...]:
    """The config, the weights and the template of a model of next to nothing; none where there is nothing to try.

    No other model has one of them: they go with this one, also while another is being made.
    """
    template = plan.settings.template
    if template is None or plan.template_source not in WRITTEN_BY_OTHERS:
        return ()
    config = {"model_format": "gguf", "model_family": "llama", "model_families": ["llama"], "os": name}
    fields = {"general.architecture": Field.string("llama"), "general.name": Field.string(name)}
    weights = write_header(fields, [TensorInfo("output.weight", (NUMBERS,), TensorType.F32, 0)]) + bytes(4 * NUMBERS)
    return (
        small_file("config", orjson.dumps(config)),
        small_file("model", weights),
        small_file("template", f"{{{{/* {name} */}}}}{template}".encode()),
    )
