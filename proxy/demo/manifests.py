"""What the stand-in Ollama finds when it pulls by itself: in the registries that a test tells, or at a local server."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress

import aiohttp
import orjson

from proxy.demo.blobs import BlobStore
from proxy.demo.lines import Refusal
from proxy.demo.names import ModelName
from proxy.demo.shelf import Layer, StandInModel

TEXTS = ("template", "system", "params", "license")


def registry_layers(known: Mapping[str, int], name: ModelName) -> list[Layer] | None:
    """Of a model that is `known` with the size of its weights."""
    for one, size in known.items():
        parsed = ModelName.parse(one)
        if parsed is not None and parsed.key == name.key:
            digests = [f"sha256:{hashlib.sha256(f'{name.key} {n}'.encode()).hexdigest()}" for n in range(2)]
            return [Layer("model", digests[0], size), Layer("config", digests[1], 487)]
    return None


async def offered_layers(blobs: BlobStore, name: ModelName) -> list[Layer] | None:
    """The layers of a manifest that another local server offers, if all of them are here already."""
    url = f"http://{name.host}/v2/{name.namespace}/{name.model}/manifests/{name.tag}"
    accepted = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(url, headers=accepted) as response:
                if response.status != 200:
                    return None
                manifest = orjson.loads(await response.read())
        except aiohttp.ClientError as problem:
            raise Refusal(f'pull model manifest: Get "{url}": {problem}') from None
    kinds = [*(layer["mediaType"].rpartition(".")[2] for layer in manifest["layers"]), "config"]
    layers = [
        _layer(blobs, kind, described["digest"], described["size"])
        for kind, described in zip(kinds, [*manifest["layers"], manifest["config"]], strict=True)
    ]
    return layers if all(layer.digest in blobs.sizes for layer in layers) else None


def _layer(blobs: BlobStore, kind: str, digest: str, size: int) -> Layer:
    text = blobs.beginning(digest).decode(errors="replace") if kind in TEXTS else ""
    return Layer(kind, digest, size, text)


def model_of_layers(blobs: BlobStore, name: ModelName, layers: list[Layer]) -> StandInModel:
    config = _configuration(blobs, layers)
    identity = [name.key] if not config else [layer.digest for layer in layers]
    return StandInModel(
        layers=tuple(layers),
        family=config.get("model_family", "llama"),
        parameter_size=config.get("model_type", ""),
        quantization_level=config.get("file_type", "Q4_K_M"),
        size=sum(layer.size for layer in layers),
        digest=hashlib.sha256(orjson.dumps(identity)).hexdigest(),
    )


def _configuration(blobs: BlobStore, layers: list[Layer]) -> dict[str, str]:
    """Empty where the bytes are nobody's, or are no configuration."""
    for layer in layers:
        if layer.kind == "config":
            with suppress(orjson.JSONDecodeError):
                config = orjson.loads(blobs.beginning(layer.digest))
                return config if isinstance(config, dict) else {}
    return {}
