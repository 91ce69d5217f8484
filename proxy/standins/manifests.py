"""The stand-in Ollama's own pulls: from a registry that a test fills, or from a server on this machine."""

import hashlib
from collections.abc import Mapping
from typing import Any

import aiohttp
import orjson

from proxy.standins.blobs import BlobStore
from proxy.standins.gguf_facts import NO_FACTS, WeightFacts, gguf_facts
from proxy.standins.model_store import StandInModel, StoredLayer
from proxy.standins.names import ModelName
from proxy.standins.responses import ErrorAnswer

TEXTS = ("template", "system", "params", "license")
TYPES: dict[str, type] = {
    **dict.fromkeys(("model_format", "model_family", "model_type", "file_type", "architecture", "os"), str),
    **dict.fromkeys(("renderer", "parser", "requires", "remote_host", "remote_model", "base_name"), str),
    **dict.fromkeys(("model_families", "capabilities"), list),
    **dict.fromkeys(("context_length", "embedding_length"), int),
    **dict.fromkeys(("draft", "rootfs"), dict),
}
"""The types of ConfigV2's fields (types/model/config.go)."""


def registry_layers(registry: Mapping[str, int], name: ModelName) -> list[StoredLayer] | None:
    """The layers of a model in a registry that maps names to sizes of weights."""
    for text, size in registry.items():
        entry = ModelName.parse(text)
        if entry is not None and entry.key == name.key:
            digests = [f"sha256:{hashlib.sha256(f'{name.key} {n}'.encode()).hexdigest()}" for n in range(2)]
            return [StoredLayer("model", digests[0], size), StoredLayer("config", digests[1], 487)]
    return None


async def offered_manifest(name: ModelName) -> bytes | None:
    """The manifest that another local server has for this name."""
    url = f"http://{name.host}/v2/{name.namespace}/{name.model}/manifests/{name.tag}"
    headers = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(url, headers=headers) as response:
                return await response.read() if response.status == 200 else None
        except aiohttp.ClientError as problem:
            raise ErrorAnswer(f'pull model manifest: Get "{url}": {problem}') from None


def layers_of(blobs: BlobStore, manifest: bytes) -> list[StoredLayer] | None:
    """A manifest's layers and config with the manifest's sizes. None if one of the blobs is missing."""
    content = orjson.loads(manifest)
    kinds = [*(layer["mediaType"].rpartition(".")[2] for layer in content["layers"]), "config"]
    layers = [
        _layer(blobs, kind, descriptor["digest"], descriptor["size"])
        for kind, descriptor in zip(kinds, [*content["layers"], content["config"]], strict=True)
    ]
    return layers if all(layer.digest in blobs.sizes for layer in layers) else None


def _layer(blobs: BlobStore, kind: str, digest: str, size: int) -> StoredLayer:
    text = blobs.beginning(digest).decode(errors="replace") if kind in TEXTS else ""
    return StoredLayer(kind, digest, size, text)


def model_of_layers(
    blobs: BlobStore, name: ModelName, layers: list[StoredLayer], manifest: bytes | None, *, strict: bool
) -> StandInModel:
    """The model that a pull installs. With `strict`, as from v0.34.1 on, an invalid config is an error."""
    config = _configuration(blobs, layers, strict=strict and manifest is not None)
    facts = next((_facts(blobs, layer) for layer in layers if layer.kind == "model"), None) or NO_FACTS
    return StandInModel(
        layers=tuple(layers),
        family=config.get("model_family", "llama"),
        parameter_size=config.get("model_type", ""),
        quantization_level=config.get("file_type", "Q4_K_M"),
        parameter_count=facts.parameters,
        size=sum(layer.size for layer in layers),
        digest=hashlib.sha256(manifest or name.key.encode()).hexdigest(),
        jinja=facts.chat_template,
        runner=orjson.loads(manifest).get("runner", "") if manifest else "",
    )


def _facts(blobs: BlobStore, layer: StoredLayer) -> WeightFacts | None:
    beginning = blobs.beginning(layer.digest)
    return blobs.facts.get(layer.digest) or (gguf_facts(beginning, layer.size) if beginning[:4] == b"GGUF" else None)


def _configuration(blobs: BlobStore, layers: list[StoredLayer], *, strict: bool) -> dict[str, Any]:
    """The config layer's JSON. Without `strict`, an invalid one is an empty configuration."""
    content = next((blobs.beginning(layer.digest) for layer in layers if layer.kind == "config"), b"")
    try:
        config = orjson.loads(content)
    except orjson.JSONDecodeError as problem:
        if strict:
            raise ErrorAnswer(str(problem), 500) from None
        return {}
    fields = config if isinstance(config, dict) else {"": config}
    for key, value in fields.items():
        if strict and not isinstance(value, TYPES.get(key, object if key else ())):
            json_type = type(value).__name__
            raise ErrorAnswer(f"json: cannot unmarshal {json_type} into Go struct field ConfigV2.{key}", 500)
    return config if isinstance(config, dict) else {}
