"""What Ollama keeps of a model beside its weights, as its create writes it (server/create.go, v0.24, v0.33). Pure."""

from collections.abc import Iterator

import orjson

from proxy.config import ModelSettings
from proxy.planning.plan import Finished

CONFIG = "config"


def files_beside(finished: Finished, settings: ModelSettings) -> Iterator[tuple[str, bytes]]:
    """Each with the kind of its layer; the first is the model's configuration."""
    yield CONFIG, orjson.dumps(_configuration(finished))
    if settings.template:
        yield "template", settings.template.encode()
    if settings.system:
        yield "system", settings.system.encode()
    licenses = settings.license or []
    for text in [licenses] if isinstance(licenses, str) else licenses:
        yield "license", text.encode()
    if settings.parameters:
        yield "params", orjson.dumps(settings.parameters)


def _configuration(finished: Finished) -> dict[str, object]:
    return {
        "model_format": "gguf",
        "model_family": finished.architecture,
        "model_families": [finished.architecture],
        "model_type": human_number(finished.parameters),
        "file_type": finished.file_type,
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": []},
    }


def human_number(count: int) -> str:
    """As Ollama shows it (format/format.go)."""
    for unit, letter, decimals in ((10**9, "B", 1), (10**6, "M", 2)):
        if count >= unit:
            return f"{count // unit}{letter}" if count % unit == 0 else f"{count / unit:.{decimals}f}{letter}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)  # noqa: PLR2004
