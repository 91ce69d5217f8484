"""Shared helpers: settings for the two stand-ins, a client, small servers, and functions that wait."""

import asyncio
import hashlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler as TypedHandler
from yarl import URL

from proxy.config.loading import check
from proxy.config.sections import Config
from proxy.standins.hub import StandInHub
from proxy.standins.listener import LoggedRequest
from proxy.standins.responses import ErrorAnswer
from proxy.store.reclaim import TEMPORARY

COMMAND = [sys.executable, "-m", "proxy"]

MAX_LOG_BYTES = 1 << 26
"""Bytes of a process's log that are buffered: a process that writes to a full pipe stops."""

MAKING = ("/api/create", "/api/pull")

MAX_HEAD_BYTES = 1 << 21
"""Bytes of a request's head that a small server reads."""

PATIENCE = 60.0
"""Seconds that a test waits for an event. It is long, so that a busy machine does not fail the test."""

GGUF_BYTES = 7000
"""Size of the first read of a GGUF in tests with small spans."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

PULL_STATUSES = ["pulling manifest", "verifying sha256 digest", "writing manifest", "success"]
"""The statuses of a pull without a digest, in the contract's order."""


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def own_entry_points() -> EntryPoints:
    """The entry points in this tree's pyproject.toml: an installed package may be older."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = project["entry-points"].items()
    return EntryPoints(EntryPoint(name, value, group) for group, entries in points for name, value in entries.items())


PLAIN = {"template": "{{ .Prompt }}", "parameters": {"repeat_penalty": 1.0, "stop": []}}
"""The template and parameters of a created model without a chat template."""
NO_TEMPLATE = "warning: it has no chat template: it continues texts; set template in [models] where it can chat"


def fetched(hub: StandInHub, path: str = "") -> list[LoggedRequest]:
    """Requests for the bytes of a weight file after its header."""
    return [
        request
        for request in hub.requests
        if request.origin == "cdn"
        and path in request.path
        and not re.match(rf"bytes=(0-7|8-\d+|0-{GGUF_BYTES - 1})$", request.headers.get(hdrs.RANGE, ""))
    ]


def making(requests: Iterable[LoggedRequest]) -> list[str]:
    """The names of the models that Ollama had to make, by a create or by a pull of a manifest."""
    bodies = [(request.path, orjson.loads(request.body or b"{}")) for request in requests if request.path in MAKING]
    names = [(path, str(body.get("model"))) for path, body in bodies]
    return [name for path, name in names if path == "/api/create" or TEMPORARY.fullmatch(name)]


async def no_manifests(request: web.Request, handler: TypedHandler) -> web.StreamResponse:
    """Set as `around`, it makes the stand-in refuse manifests of new models, so that the proxy creates them."""
    if request.path == "/api/pull" and TEMPORARY.fullmatch(orjson.loads(await request.read())["model"]):
        raise ErrorAnswer("the stand-in refuses manifests", 500)
    return await handler(request)


def settings(hub: str, ollama: str, /, **sections: dict[str, Any]) -> Config:
    """A configuration that connects only to these two URLs.

    Reclaiming is off, so that tests can inspect all blobs that Ollama has received.
    """
    return check(
        {
            "server": {"listen": "127.0.0.1:0"},
            "hub": {"endpoint": hub, **sections.pop("hub", {})},
            "ollama": {"url": ollama, "patience": "1s", "reclaim": False, **sections.pop("ollama", {})},
            **sections,
        }
    )


class Client:
    """Sends the requests of a user's client, to the proxy or to Ollama itself."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def pull(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        """The lines of a streamed pull."""
        async with self.session.post(f"{self.url}/api/pull", json={"model": name, **fields}) as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "application/x-ndjson"
            return [orjson.loads(line) for line in (await response.read()).splitlines()]

    async def pull_at_once(self, name: str) -> tuple[int, dict[str, Any]]:
        """Status and body of the answer with `stream: false`."""
        body = {"model": name, "stream": False}
        async with self.session.post(f"{self.url}/api/pull", json=body) as response:
            return response.status, orjson.loads(await response.read())

    async def get(self, path: str, **options: Any) -> tuple[int, bytes]:
        async with self.session.get(self.url + path, **options) as response:
            return response.status, await response.read()

    async def post(self, path: str, body: Any) -> tuple[int, bytes]:
        async with self.session.post(self.url + path, json=body) as response:
            return response.status, await response.read()


async def eventually(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until a condition is true. Fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def settled(value: Callable[[], int]) -> int:
    """Wait until a number has stayed the same for 25 pauses of the event loop, and return it."""
    async with asyncio.timeout(PATIENCE):
        last, unchanged = value(), 0
        while unchanged < 25:
            await asyncio.sleep(0.02)
            last, before = value(), last
            unchanged = unchanged + 1 if last == before else 0
    return last


@asynccontextmanager
async def serving(
    *arguments: str,
    verify: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A `serve` process, and the URL from its first log line."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("serve", "--listen", "127.0.0.1:0", *arguments),
        stderr=subprocess.PIPE,
        env={**environment, "OLLAMA_HF_PROXY_PULL_VERIFY": str(verify).lower()},
        limit=MAX_LOG_BYTES,
    )
    assert process.stderr is not None
    try:
        yield process, url_from(await process.stderr.readline())
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def url_from(line: bytes) -> str:
    """The URL in the first log line of `serve`."""
    text = line.decode()
    assert "listening on http://127.0.0.1:" in text, text
    return text.rpartition(" ")[2].strip()


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[str]:
    """The URL of a small server whose only handler answers all requests."""
    server = web.Server(handler, handler_cancellation=True, auto_decompress=False, max_field_size=64 * 1024)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


RawHandler = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening_raw(handler: RawHandler) -> AsyncIterator[str]:
    """The URL of a server that passes the head of each request, and its connection, to `handler`."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # uvloop raises RuntimeError for a write to a closed connection.
        with suppress(ConnectionError, asyncio.IncompleteReadError, RuntimeError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET /-/ "):  # at its start, the proxy checks whether it is its own upstream
                    writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    writer.close()
                else:
                    await handler(head, reader, writer)

    async def own(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(own(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(start, "127.0.0.1", 0, backlog=4096, limit=MAX_HEAD_BYTES)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        # A connection that outlives its test would fail the next test.
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def talk(url: str, *parts: bytes, pause: float = 0.02) -> bytes:
    """Send bytes with a pause after each part. Returns all bytes that the server sends until it closes."""
    address = URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        async with asyncio.timeout(PATIENCE):
            return await reader.read()
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()
