"""What the stand-in Ollama finds when it pulls by itself: in the registries that a test tells, or at a local server."""

import hashlib
from collections.abc import Mapping
from typing import Any

import aiohttp
import orjson

from proxy.standins.blobs import BlobStore
from proxy.standins.gguf_facts import WeightFacts, gguf_facts
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
"""Of ConfigV2 (types/model/config.go)."""


def registry_layers(known: Mapping[str, int], name: ModelName) -> list[StoredLayer] | None:
    """Of a model that is `known` with the size of its weights."""
    for one, size in known.items():
        parsed = ModelName.parse(one)
        if parsed is not None and parsed.key == name.key:
            digests = [f"sha256:{hashlib.sha256(f'{name.key} {n}'.encode()).hexdigest()}" for n in range(2)]
            return [StoredLayer("model", digests[0], size), StoredLayer("config", digests[1], 487)]
    return None


async def offered_manifest(name: ModelName) -> bytes | None:
    """What another local server offers."""
    url = f"http://{name.host}/v2/{name.namespace}/{name.model}/manifests/{name.tag}"
    accepted = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(url, headers=accepted) as response:
                return await response.read() if response.status == 200 else None
        except aiohttp.ClientError as problem:
            raise ErrorAnswer(f'pull model manifest: Get "{url}": {problem}') from None


def layers_of(blobs: BlobStore, manifest: bytes) -> list[StoredLayer] | None:
    """The layers of a manifest and its config, with the sizes that it says, if all of them are here already."""
    said = orjson.loads(manifest)
    kinds = [*(layer["mediaType"].rpartition(".")[2] for layer in said["layers"]), "config"]
    layers = [
        _layer(blobs, kind, described["digest"], described["size"])
        for kind, described in zip(kinds, [*said["layers"], said["config"]], strict=True)
    ]
    return layers if all(layer.digest in blobs.sizes for layer in layers) else None


def _layer(blobs: BlobStore, kind: str, digest: str, size: int) -> StoredLayer:
    text = blobs.beginning(digest).decode(errors="replace") if kind in TEXTS else ""
    return StoredLayer(kind, digest, size, text)


def model_of_layers(
    blobs: BlobStore, name: ModelName, layers: list[StoredLayer], manifest: bytes | None, *, strict: bool
) -> StandInModel:
    """A model that was pulled. With `strict`, as after v0.40, its config has to be one."""
    config = _configuration(blobs, layers, strict=strict and manifest is not None)
    facts = next((_facts(blobs, layer) for layer in layers if layer.kind == "model"), None) or WeightFacts("", "", 0)
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
    """Empty where the bytes are no configuration."""
    content = next((blobs.beginning(layer.digest) for layer in layers if layer.kind == "config"), b"")
    try:
        config = orjson.loads(content)
    except orjson.JSONDecodeError as problem:
        if strict:
            raise ErrorAnswer(str(problem), 500) from None
        return {}
    known = config if isinstance(config, dict) else {"": config}
    for key, value in known.items():
        if strict and not isinstance(value, TYPES.get(key, object if key else ())):
            kind = type(value).__name__
            raise ErrorAnswer(f"json: cannot unmarshal {kind} into Go struct field ConfigV2.{key}", 500)
    return config if isinstance(config, dict) else {}
