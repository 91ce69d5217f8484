"""A registry of one model at a time: Ollama pulls its manifest from the proxy, and finds every layer in its own store.

That gives blobs a name: the model that a pull has made, or blobs to remove, since Ollama's API removes blobs only with
the model that names them (server/images.go, PullModel; manifest/manifest.go; v0.24 to 0.40).
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

from proxy.config import LOOPBACK_OF_WILDCARD, Address, OllamaConfig

NAMESPACE = "ollama-hf-proxy"
PREFIX = f"/v2/{NAMESPACE}/"

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
UNUSED = "application/vnd.ollama-hf-proxy.blob"
"""The media type of a blob to remove. Ollama reads no layer whose type it does not know (v0.24 to 0.40)."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Blob(NamedTuple):
    """`size` in bytes."""

    digest: str
    size: int


def blob_of(content: bytes) -> Blob:
    return Blob(f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))


class Layer(NamedTuple):
    """A blob of a model, and what Ollama takes it for. `base` is the model that it comes from, where there is one."""

    media_type: str
    blob: Blob
    base: str = ""

    @classmethod
    def of(cls, kind: str, blob: Blob, base: str = "") -> "Layer":
        """One of Ollama's own kinds: `model`, `projector`, `adapter`, `template`, `system`, `params`, `license`."""
        return cls(f"application/vnd.ollama.image.{kind}", blob, base)

    def sized(self, sizes: Mapping[str, int]) -> "Layer":
        """The layer with the size that `sizes` has for its digest."""
        digest, size = self.blob
        return self._replace(blob=Blob(digest, sizes.get(digest, size)))

    def described(self) -> dict[str, str | int]:
        parent = {"from": self.base} if self.base else {}
        return {"mediaType": self.media_type, **self.blob._asdict(), **parent}


def manifest(config: Blob, layers: Sequence[Layer]) -> bytes:
    """What Ollama pulls, and stores as it is.

    `runner` and `format` are of the manifest itself. From 0.40 on a GGUF without them may be migrated when it is first
    loaded: Ollama copies it in the background, and the copy outlives the model.
    """
    return orjson.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, **config._asdict()},
            "layers": [layer.described() for layer in layers],
            "runner": "llamacpp",
            "format": "gguf",
        }
    )


def temporary_name(identity: str = "") -> str:
    """Of a model of a plan's weights, the same in every pull of them; else one that nothing else has."""
    return f"{NAMESPACE}/{identity[:32] or secrets.token_hex(16)}:temporary"


class Offer:
    """A model that Ollama can pull. `asked_for` says whether Ollama came for it."""

    def __init__(self, name: str, manifest: bytes) -> None:
        self.name = name
        self.manifest = manifest
        self.asked_for = False


class Registry:
    """Answers for models while they are offered. `url` is where Ollama reaches the proxy."""

    def __init__(self) -> None:
        self.url = ""
        self._offers: dict[str, Offer] = {}

    @contextmanager
    def offering(self, name: str, config: Blob, layers: Sequence[Layer]) -> Iterator[Offer]:
        """`name` has no host.

        `config` must be a JSON object with fields as in ConfigV2 (types/model/config.go): up to 0.40 Ollama never lists
        a model with another one, and newer versions refuse to pull it.
        """
        offer = Offer(f"{self.url}/{name}", manifest(config, layers))
        model, _, tag = name.partition(":")
        # Ollama spells each part of a name as its other models have it.
        path = f"/v2/{model}/manifests/{tag}".lower()
        self._offers[path] = offer
        try:
            yield offer
        finally:
            del self._offers[path]

    def answer(self, request: web.BaseRequest) -> web.Response | None:
        """None for what is not offered: that request goes to Ollama, like all others."""
        offer = self._offers.get(request.path.lower())
        if offer is None or request.method not in ("GET", "HEAD"):
            return None
        offer.asked_for = True
        return web.Response(body=offer.manifest, content_type=MANIFEST)


def reached_at(config: OllamaConfig, address: Address) -> str:
    """The URL of the proxy as Ollama sees it: what was configured, else a guess, which a NAT between them foils."""
    if config.advertise_url:
        return config.advertise_url
    host = address.host
    ollama = urlsplit(config.url)
    if host in LOOPBACK_OF_WILDCARD:
        is_local = ollama.hostname in LOOPBACK
        host = LOOPBACK_OF_WILDCARD[host] if is_local else _own_address_towards(str(ollama.hostname))
    # A model's name, of which this is the first part, has no room for brackets.
    return f"http://{'localhost' if host == '::1' else host}:{address.port}"


def _own_address_towards(host: str) -> str:
    """Of the interface by which a host is reached; nothing is sent."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"
