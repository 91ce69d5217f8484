"""A registry of one model at a time: Ollama pulls its manifest from the proxy, and finds every layer in its own store.

That puts blobs under a name: a model that needs no create, or what is to be removed, since Ollama's API removes no blob
but by a model's name (server/images.go, PullModel; manifest/manifest.go, RemoveLayers; v0.24 and v0.33).
"""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import orjson
from aiohttp import web

from proxy.config import ANYWHERE, Address, OllamaConfig

NAMESPACE = "ollama-hf-proxy"
PREFIX = f"/v2/{NAMESPACE}/"

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Blob(NamedTuple):
    """`size` in bytes."""

    digest: str
    size: int


class Layer(NamedTuple):
    """`kind` is the last word of its media type."""

    kind: str
    blob: Blob

    def described(self) -> dict[str, str | int]:
        return {"mediaType": f"application/vnd.ollama.image.{self.kind}", **self.blob._asdict()}


class Offer:
    """A model that is there for Ollama to pull. `asked_for` tells whether it came for it."""

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
        """`name` is without a host. `config` should be small: Ollama reads it whenever it lists its models."""
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, **config._asdict()},
            "layers": [layer.described() for layer in layers],
        }
        offer = Offer(f"{self.url}/{name}", orjson.dumps(manifest))
        model, _, tag = name.partition(":")
        # Ollama spells each part of a name as its other models have it.
        path = f"/v2/{model}/manifests/{tag}".lower()
        self._offers[path] = offer
        try:
            yield offer
        finally:
            del self._offers[path]

    def answer(self, request: web.BaseRequest) -> web.Response | None:
        """None for what is not offered, which is Ollama's to answer as everything else."""
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
    if host in ANYWHERE:
        is_local = ollama.hostname in LOOPBACK
        host = ANYWHERE[host] if is_local else _own_address_towards(str(ollama.hostname))
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
