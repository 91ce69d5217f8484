"""A repository, and an Ollama that holds blobs that an earlier proxy left."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from proxy.app import App
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.conversions import gguf_digest
from tests.kit.pauses import use_timings
from tests.kit.reclaiming import NAME, OTHER, REFUSED, SUCCESS, Gate, orphans, proxy
from tests.kit.support import no_manifests


@pytest.fixture(autouse=True)
def no_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sweep runs during a long test."""
    use_timings(monkeypatch, first_sweep=1000.0)


@pytest.fixture
def files(hub: StandInHub) -> dict[str, bytes]:
    files = tiny_llama()
    hub.add("acme/tiny", files)
    return files


@pytest.fixture
async def app(hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession) -> AsyncIterator[App]:
    async with proxy(hub, ollama, session) as (app, _):
        yield app


@pytest.fixture
def creates(ollama: StandInOllama) -> None:
    """Ollama pulls no manifests, so that the proxy creates the models."""
    ollama.around = no_manifests


@pytest.fixture
async def left_blobs(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: dict[str, bytes]
) -> dict[str, int]:
    """Digest → size of the blobs that an earlier proxy without reclaim left. Use it before `app`.

    Ollama has the model NAME. It rejected OTHER, and the blobs belong to that model.
    """
    async with proxy(hub, ollama, session, ollama={"reclaim": False}) as (_, client):
        assert (await client.pull(NAME))[-1] == SUCCESS
        ollama.around, ollama.fail_create = no_manifests, REFUSED
        assert REFUSED in (await client.pull(OTHER))[-1]["error"]
    ollama.around = ollama.fail_create = None
    assert list(ollama.models) == [NAME]
    assert gguf_digest(files, OTHER) in orphans(ollama)
    return {digest: ollama.blobs[digest] for digest in orphans(ollama)}


@pytest.fixture
def left_gguf(left_blobs: dict[str, int], files: dict[str, bytes]) -> str:
    """The digest of the GGUF among the left blobs."""
    return gguf_digest(files, OTHER)


@pytest.fixture
def pull_gate(app: App, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Holds the pull of the removal model by Ollama."""
    gate = Gate(app.backend.ollama.pull)
    monkeypatch.setattr(app.backend.ollama, "pull", gate)
    return gate
