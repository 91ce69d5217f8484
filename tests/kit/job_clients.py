"""Clients that attach to jobs and leave them, and readers of the stand-ins' logs."""

import asyncio
import re
from typing import Any

import orjson
import pytest

from proxy.app import App
from proxy.pull.jobs import Job
from proxy.standins.hub import StandInHub
from proxy.standins.listener import LoggedRequest
from proxy.standins.ollama import StandInOllama
from proxy.store.reclaim import TEMPORARY
from tests.kit.ollama_log import bodies, created
from tests.kit.support import PATIENCE, Client, eventually, fetched, making

NAME = "hf.co/acme/tiny:q4_K_M"
SAME_NAME = "HF.co/Acme/TINY:Q4_k_m"
GGUF_NAME = "hf.co/acme/tiny:q8_0"
SUCCESS = {"status": "success"}
WEIGHTS = re.compile(r"\.(safetensors|gguf)(\?|$)")
SLOW = 200_000
"""Bytes a second of `hub.line`: the transfer of a tiny model lasts 15 seconds, or until the line is opened."""


class Attached:
    """A client of a running pull. `lines` are the lines that it has read so far."""

    def __init__(self, client: Client, name: str) -> None:
        self.lines: list[dict[str, Any]] = []
        self._task = asyncio.create_task(self._read(client, name))

    async def _read(self, client: Client, name: str) -> list[dict[str, Any]]:
        async with client.session.post(f"{client.url}/api/pull", json={"model": name}) as response:
            assert response.status == 200
            async for line in response.content:
                self.lines.append(orjson.loads(line))
        return self.lines

    @property
    def statuses(self) -> list[str]:
        """The statuses of the lines without a digest."""
        return [line["status"] for line in self.lines if "status" in line and "digest" not in line]

    @property
    def waited(self) -> list[str]:
        return [status for status in self.statuses if status.startswith("waiting for ")]

    @property
    def completed(self) -> int:
        """The sum of the newest line of each bar."""
        return sum({line["digest"]: line.get("completed", 0) for line in self.lines if "digest" in line}.values())

    async def end(self) -> dict[str, Any]:
        """The last line."""
        async with asyncio.timeout(PATIENCE):
            return (await self._task)[-1]

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


UNREACHED = {"advertise_url": "http://127.0.0.1:9"}
"""Settings: Ollama cannot reach the proxy for a manifest, so that the proxy creates the models."""
WAYS = [pytest.param({}, id="manifest"), pytest.param(UNREACHED, id="create")]


def newest(app: App) -> Job:
    return app.jobs.all()[0]


def weights_fetched(hub: StandInHub, path: str = "") -> list[LoggedRequest]:
    return [request for request in fetched(hub, path) if WEIGHTS.search(request.path)]


def fetched_bytes(hub: StandInHub, path: str = "") -> int:
    """Bytes of weights that left the Hub."""
    return sum(request.body_bytes for request in weights_fetched(hub, path))


def named_models(ollama: StandInOllama) -> list[str]:
    """The final names of the installed models, in order."""
    creates = [body["model"] for body in created(ollama)]
    copies = [body["destination"] for body in bodies(ollama, "/api/copy")]
    return [name for name in (*creates, *copies) if not TEMPORARY.fullmatch(name)]


async def wait_for_make(ollama: StandInOllama, way: dict[str, str]) -> None:
    """Wait until Ollama makes a model, by a manifest or by a create."""
    await eventually(lambda: created(ollama) if way else making(ollama.requests))


async def remove(client: Client, **body: str) -> tuple[int, bytes]:
    async with client.session.delete(f"{client.url}/api/delete", json=body) as response:
        return response.status, await response.read()


async def start_transfer(app: App, client: Client, name: str = NAME) -> Attached:
    """Attach a client, and wait until some bytes of its pull have reached Ollama, but not most of them."""
    attached = Attached(client, name)
    await eventually(lambda: attached.completed)
    assert newest(app).state == "transferring"
    return attached
