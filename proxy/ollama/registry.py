"""A small registry: Ollama pulls manifests from the proxy and finds every layer in its own store.

In this way blobs get a model that names them: the model that a pull has built, or a temporary model of blobs to remove.
Ollama's API removes blobs only together with such a model (server/images.go, PullModel; manifest/manifest.go; v0.24 to
0.40).
"""

import hashlib
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import orjson
from aiohttp import web

from proxy.config.sections import OllamaConfig
from proxy.config.values import LOOPBACK_OF_WILDCARD, Address

NAMESPACE = "ollama-hf-proxy"
PREFIX = f"/v2/{NAMESPACE}/"

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
UNUSED = "application/vnd.ollama-hf-proxy.blob"
"""The media type of a blob to remove. Ollama ignores layers of an unknown type (v0.24 to 0.40)."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Blob(NamedTuple):
    """`size` in bytes."""

    digest: str
    size: int


def blob_of(content: bytes) -> Blob:
    return Blob(f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))


class Layer(NamedTuple):
    """A blob of a model and its role. `base` is the name of the model that the blob comes from, or empty."""

    media_type: str
    blob: Blob
    base: str = ""

    @classmethod
    def of(cls, role: str, blob: Blob, base: str = "") -> "Layer":
        """`role` is `model`, `projector`, `adapter`, `template`, `system`, `params` or `license`."""
        return cls(f"application/vnd.ollama.image.{role}", blob, base)

    def with_size(self, sizes: Mapping[str, int]) -> "Layer":
        """The layer with the size that `sizes` has for its digest, if there is one."""
        digest, size = self.blob
        return self._replace(blob=Blob(digest, sizes.get(digest, size)))

    def to_json(self) -> dict[str, str | int]:
        base = {"from": self.base} if self.base else {}
        return {"mediaType": self.media_type, **self.blob._asdict(), **base}


def manifest(config: Blob, layers: Sequence[Layer]) -> bytes:
    """The manifest that Ollama pulls and stores unchanged.

    From 0.40 on, Ollama may migrate a GGUF when it loads it for the first time if its manifest has no `runner` and
    `format`: it copies the GGUF in the background, and the copy stays when the model is removed.
    """
    return orjson.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, **config._asdict()},
            "layers": [layer.to_json() for layer in layers],
            "runner": "llamacpp",
            "format": "gguf",
        }
    )


def temporary_name(identity: str = "") -> str:
    """The same name for the same `identity` of a plan's weights; without an identity a unique name."""
    return f"{NAMESPACE}/{identity[:32] or secrets.token_hex(16)}:temporary"


class Offer:
    """A model that Ollama can pull. `requested` becomes true when Ollama requests its manifest."""

    def __init__(self, name: str, manifest: bytes) -> None:
        self.name = name
        self.manifest = manifest
        self.requested = False


class Registry:
    """Serves the manifests of models while they are offered. `url` is the proxy's URL as Ollama reaches it."""

    def __init__(self) -> None:
        self.url = ""
        self._offers: dict[str, Offer] = {}

    @contextmanager
    def offering(self, name: str, config: Blob, layers: Sequence[Layer]) -> Iterator[Offer]:
        """Offer a model until the block ends. `name` has no host.

        The content of `config` must be a JSON object with the fields of ConfigV2 (types/model/config.go). Otherwise
        Ollama up to 0.40 does not list the model, and newer versions refuse to pull it.
        """
        offer = Offer(f"{self.url}/{name}", manifest(config, layers))
        model, _, tag = name.partition(":")
        # Ollama may change the case of a name's parts to that of its other models.
        path = f"/v2/{model}/manifests/{tag}".lower()
        self._offers[path] = offer
        try:
            yield offer
        finally:
            del self._offers[path]

    def answer(self, request: web.BaseRequest) -> web.Response | None:
        """The manifest, or None if the model is not offered: such a request is forwarded to Ollama like any other."""
        offer = self._offers.get(request.path.lower())
        if offer is None or request.method not in ("GET", "HEAD"):
            return None
        offer.requested = True
        return web.Response(body=offer.manifest, content_type=MANIFEST)


def url_for_ollama(config: OllamaConfig, address: Address) -> str:
    """The proxy's URL as Ollama reaches it: `advertise_url`, else a guess, which is wrong behind a NAT."""
    if config.advertise_url:
        return config.advertise_url
    host = address.host
    if host in LOOPBACK_OF_WILDCARD:
        ollama_host = str(urlsplit(config.url).hostname)
        host = LOOPBACK_OF_WILDCARD[host] if ollama_host in LOOPBACK else _own_address_towards(ollama_host)
    # The URL is the first part of a model's name, where Ollama accepts no brackets.
    return f"http://{'localhost' if host == '::1' else host}:{address.port}"


def _own_address_towards(host: str) -> str:
    """The address of the interface that reaches `host`. A UDP socket finds it without a packet."""
    try:
        family, socket_type, protocol, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket_type, protocol) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"
