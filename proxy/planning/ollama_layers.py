"""The layers of a model beside its weights, as Ollama's create writes them (server/create.go, v0.24 to 0.40). Pure."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.config.sections import ModelSettings
from proxy.planning.plan import GgufSummary, Plan

CONFIG = "config"
PROJECTOR_FAMILY = "clip"
# Ollama renders and parses the conversations of these architectures itself and ignores their template. Its create
# writes renderer and parser into the config, and adds the stop texts (v0.20 and later).
RENDERERS_AND_PARSERS: Mapping[str, tuple[str, str]] = {
    "gemma4": ("gemma4", "gemma4"),
    "nemotron_h": ("nemotron-3-nano", "nemotron-3-nano"),
    "nemotron_h_moe": ("nemotron-3-nano", "nemotron-3-nano"),
    "nemotron_h_omni": ("nemotron-3-nano", "nemotron-3-nano"),
}
STOPS: Mapping[str, list[str]] = {"gemma4": ["<turn|>"]}
_BLOB = re.compile(r"^(FROM|ADAPTER) .*sha256-([0-9a-f]{64})\s*$", re.MULTILINE)
_RENDERER = re.compile(r"^RENDERER (\S+)$", re.MULTILINE)
_PARSER = re.compile(r"^PARSER (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class OllamaConfigFile:
    """The fields of a model's config that differ from model to model."""

    families: tuple[str, ...]
    size: str
    """The number of parameters as Ollama shows it, such as `8.0B`."""
    file_type: str
    renderer: str = ""
    parser: str = ""
    requires: str = ""


@dataclass(frozen=True, slots=True)
class HeldModel:
    """A model that Ollama already has."""

    description: OllamaConfigFile
    blobs: tuple[tuple[str, str], ...]
    """The layers of its weights: kind and digest."""
    settings: ModelSettings


def ollama_config(summary: GgufSummary, *, has_projector: bool = False) -> OllamaConfigFile:
    architecture = summary.architecture
    families = (architecture, PROJECTOR_FAMILY) if has_projector else (architecture,)
    renderer, parser = RENDERERS_AND_PARSERS.get(architecture, ("", ""))
    return OllamaConfigFile(families, human_number(summary.parameters), summary.file_type, renderer, parser)


def layers_of(plan: Plan, summary: GgufSummary) -> list[tuple[str, bytes]]:
    """Kind and content of each layer beside the weights; the first is the config."""
    has_projector = any(upload.kind == "projector" for upload in plan.uploads)
    return list(layers_beside(ollama_config(summary, has_projector=has_projector), plan.settings))


def layers_beside(description: OllamaConfigFile, settings: ModelSettings) -> Iterator[tuple[str, bytes]]:
    """Kind and content of each layer; the first is the config."""
    yield CONFIG, orjson.dumps(_config(description))
    if settings.template:
        yield "template", settings.template.encode()
    if settings.system:
        yield "system", settings.system.encode()
    for text in _texts(settings.license):
        yield "license", text.encode()
    parameters = dict(settings.parameters)
    if stops := STOPS.get(description.families[0]):
        parameters.setdefault("stop", stops)
    if parameters:
        yield "params", orjson.dumps(parameters)


def _config(description: OllamaConfigFile) -> dict[str, object]:
    """ConfigV2 (types/model/config.go). Versions after 0.40 refuse a field of the wrong type."""
    optional = {
        "renderer": description.renderer,
        "parser": description.parser,
        "requires": description.requires,
    }
    return {
        "model_format": "gguf",
        "model_family": description.families[0],
        "model_families": list(description.families),
        "model_type": description.size,
        "file_type": description.file_type,
        **{key: value for key, value in optional.items() if value},
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": []},
    }


def held_model(shown: Mapping[str, Any]) -> HeldModel | None:
    """From the answer of `/api/show`; None for a model whose weights are not in a blob."""
    modelfile = str(shown.get("modelfile"))
    blobs = [(command, f"sha256:{digest}") for command, digest in _BLOB.findall(modelfile)]
    if not blobs or blobs[0][0] != "FROM":
        return None
    # The first FROM is the model; the others are projectors (server/images.go, Model.String).
    kinds = ["model", *("adapter" if command == "ADAPTER" else "projector" for command, _ in blobs[1:])]
    details = shown.get("details") or {}
    family = str(details.get("family") or "")
    families = tuple(str(one) for one in details.get("families") or () if one) or (family,)
    renderer, parser = _RENDERER.search(modelfile), _PARSER.search(modelfile)
    description = OllamaConfigFile(
        families,
        str(details.get("parameter_size") or ""),
        str(details.get("quantization_level") or ""),
        renderer[1] if renderer else "",
        parser[1] if parser else "",
        str(shown.get("requires") or ""),
    )
    weights = tuple((kind, digest) for kind, (_, digest) in zip(kinds, blobs, strict=True))
    return HeldModel(description, weights, _settings(shown, modelfile))


def _settings(shown: Mapping[str, Any], modelfile: str) -> ModelSettings:
    # From 0.30 on /api/show may show the Jinja of the GGUF as the template; the Modelfile has only a Go template.
    template = str(shown.get("template") or "")
    return ModelSettings(
        template=template if template and template in modelfile else None,
        system=str(shown.get("system") or "") or None,
        license=str(shown.get("license") or "") or None,
        parameters=_parameters(str(shown.get("parameters") or "")),
    )


def _parameters(text: str) -> dict[str, Any]:
    parameters: dict[str, list[Any]] = {}
    for key, value in shown_parameters(text):
        parameters.setdefault(key, []).append(value)
    # A single stop text has to be a list too: with a bare text Ollama fails at every chat.
    return {key: values if len(values) > 1 or key == "stop" else values[0] for key, values in parameters.items()}


def shown_parameters(text: str) -> Iterator[tuple[str, Any]]:
    """`parameters` of `/api/show`: one value per line in Go's %#v (server/routes.go).

    Except for booleans these are also Python literals.
    """
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        value = {"true": "True", "false": "False"}.get(value.strip(), value.strip())
        try:
            yield key, ast.literal_eval(value)
        except (ValueError, SyntaxError):
            continue


def settings_over(base: ModelSettings, own: ModelSettings) -> ModelSettings:
    """The settings of an adapter on its base: `own` wins, parameters key by key; both licenses apply."""
    licenses = [*_texts(base.license), *_texts(own.license)]
    return ModelSettings(
        template=own.template or base.template,
        system=own.system or base.system,
        license=licenses or None,
        parameters={**base.parameters, **own.parameters},
    )


def _texts(licenses: str | list[str] | None) -> list[str]:
    texts = [licenses] if isinstance(licenses, str) else licenses or []
    return [text for text in texts if text]


def human_number(count: int) -> str:
    """As Ollama shows it (format/format.go)."""
    for unit, letter, decimals in ((10**9, "B", 1), (10**6, "M", 2)):
        if count >= unit:
            return f"{count // unit}{letter}" if count % unit == 0 else f"{count / unit:.{decimals}f}{letter}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)  # noqa: PLR2004
