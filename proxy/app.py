"""The composition root: it creates every object once, and gives each request to its handler."""

import asyncio
import errno
import logging
import time
from collections.abc import Awaitable
from http import HTTPStatus
from urllib.parse import urlsplit

import aiohttp
from aiohttp import HttpVersion10, HttpVersion11, web

from proxy.admin.handler import INSTANCE_HEADER, PREFIX, Admin
from proxy.admin.models import Models
from proxy.backend import Backend
from proxy.config.sections import Config
from proxy.config.values import Address
from proxy.errors import ConfigError
from proxy.forward.cors import Cors
from proxy.forward.handler import Forward
from proxy.forward.relay import STATUS
from proxy.forward.upstream import Upstream
from proxy.gguf.engine import engine_names
from proxy.metrics import Metrics
from proxy.ollama.registry import PREFIX as REGISTRY
from proxy.ollama.registry import Registry, url_for_ollama
from proxy.on_demand import OnDemand
from proxy.pull.handler import DeleteHandler, PullHandler
from proxy.pull.install import Install
from proxy.pull.jobs import Jobs
from proxy.pull.pipeline import Pipeline
from proxy.server.access import Access
from proxy.server.connection import Server, refuse
from proxy.server.responses import error_response
from proxy.store.journal import Journal, state_file
from proxy.store.reclaim import Reclaim
from proxy.timings import DEFAULT, Timings
from proxy.transfer.threads import worker_count

log = logging.getLogger(__name__)

# Go's listeners use the system's maximum (net.core.somaxconn). A client that does not fit in waits a second to retry.
BACKLOG = 4096
SELF_CHECK_SECONDS = 0.2
# aiohttp waits this long twice: for handlers to finish, then for their cancellation.
SHUTDOWN_SECONDS = 1.5

BLOBS = "/api/blobs/"
CLIENT_LEFT = 499
"""nginx's status for a client that disconnected."""


class App:
    """The proxy: `async with App(config) as app` listens at `app.address` until the block ends."""

    def __init__(self, config: Config, *, timings: Timings = DEFAULT) -> None:
        self._config = config
        self._timings = timings
        self.address = config.server.address
        self._sweep_task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "App":
        config = self._config
        self._metrics = Metrics()
        self._journal = Journal(state_file(config))
        try:
            self.backend = Backend(config, self._journal, self._metrics, timings=self._timings)
        except BaseException:
            self._journal.close()
            raise
        self._build(self.backend, self._journal, self._metrics)
        try:
            await self._listen()
            await self._refuse_to_serve_itself()
        except BaseException:
            await self.close()
            raise
        self._registry.url = url_for_ollama(config.ollama, self.address)
        self._journal.publish_url(self.address.local_url)
        self._sweep_task = asyncio.create_task(self.reclaim.watch(self._timings))
        return self

    def _build(self, backend: Backend, journal: Journal, metrics: Metrics) -> None:
        config, ollama = self._config, backend.ollama
        self._registry = Registry()
        remove_spools = backend.checkpoints.remove_old
        self.reclaim = Reclaim(config, journal, ollama, self._registry, metrics.reclaimed.inc, remove_spools)
        install = Install(ollama, self._registry, verify=config.pull.verify)
        pipeline = Pipeline(config, backend.planner, ollama, backend.transfer, journal, self.reclaim, install)
        self.jobs = Jobs(pipeline, config.pull.linger_seconds, metrics, self._timings.keep_alive)
        self._upstream = Upstream(ollama.url, backend.tls)
        self._cors = Cors(ollama)
        self._access = Access(config.server, urlsplit(config.ollama.advertise_url).hostname or "")
        self._forward = Forward(ollama, self._upstream, self._cors)
        self._pull = PullHandler(pipeline, self.jobs, self._forward, self._cors)
        self._delete = DeleteHandler(ollama, self.reclaim, self.jobs, self._forward, self._cors)
        self._on_demand = OnDemand(pipeline, self.jobs, ollama, self._forward, self._cors)
        self.models = Models(ollama, backend.planner, journal)
        self._admin = Admin(config, backend, self.jobs, self.reclaim, self.models, metrics)
        self._runner = web.ServerRunner(Server(self._dispatch), shutdown_timeout=SHUTDOWN_SECONDS)

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self.jobs.close()
        if self._sweep_task is not None:
            self._sweep_task.cancel()
            await asyncio.wait([self._sweep_task])
        await self._runner.cleanup()
        await self._upstream.close()
        await self.backend.close()
        self._journal.close()

    async def _dispatch(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.version not in (HttpVersion11, HttpVersion10):
            return refuse(request, "505 HTTP Version Not Supported")
        if request.path.startswith(REGISTRY) and (manifest := self._registry.answer(request)) is not None:
            return manifest
        refusal = self._access.refusal(request)
        if refusal is not None:
            refusal.headers[INSTANCE_HEADER] = self._admin.instance
            if refusal.status == HTTPStatus.UNAUTHORIZED:
                refusal.headers.update(await self._cors.headers(request) or {})
            return refusal
        start = time.monotonic()
        door, handling = self._door(request)
        status = CLIENT_LEFT
        try:
            response = await handling
            status = response.status
        except web.RequestPayloadError as error:
            response = error_response(f"the request's body cannot be read: {error}", HTTPStatus.BAD_REQUEST)
            status = response.status
        finally:
            # A forwarded response has its status in the request, because it does not pass through aiohttp.
            self._metrics.request(door, request.get(STATUS, status), start)
        return response

    def _door(self, request: web.BaseRequest) -> tuple[str, Awaitable[web.StreamResponse]]:
        """The label for the metrics, and the handler's coroutine."""
        match request.method, request.path:
            case _, path if path.startswith(PREFIX):
                return "admin", self._admin(request)
            case "POST", "/api/pull":
                return "pull", self._pull(request)
            case "DELETE", "/api/delete":
                return "forward", self._delete(request)
            case _, path if path.startswith(BLOBS):
                return "forward", self._forward_blob(request, path.removeprefix(BLOBS))
            case _ if self._config.pull.on_demand and self._on_demand.handles(request):
                return "forward", self._on_demand(request)
            case _:
                return "forward", self._forward(request)

    async def _forward_blob(self, request: web.BaseRequest, digest: str) -> web.StreamResponse:
        await self.reclaim.touch(digest.replace("-", ":", 1).lower())
        return await self._forward(request)

    async def _listen(self) -> None:
        host, port = self._config.server.address
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, backlog=BACKLOG)
        try:
            await site.start()
        except OSError as error:
            reason = "is already in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
            raise ConfigError(
                f"{host}:{port} {reason}; stop the program that listens there, or choose another address with "
                "--listen HOST:PORT"
            ) from error
        bound: tuple[str, int] = self._runner.addresses[0]
        self.address = Address(host, bound[1])

    async def _refuse_to_serve_itself(self) -> None:
        url = self._config.ollama.url
        limit = aiohttp.ClientTimeout(total=SELF_CHECK_SECONDS)
        try:
            async with self.backend.session.get(f"{url}{PREFIX}", timeout=limit) as response:
                instance = response.headers.get(INSTANCE_HEADER)
        except (aiohttp.ClientError, TimeoutError):
            return
        if instance == self._admin.instance:
            raise ConfigError(
                f"ollama.url is {url}, which is this proxy itself; set it to Ollama's own address (--ollama URL), "
                "usually http://127.0.0.1:11434"
            )


async def serve(config: Config, stop: asyncio.Event) -> None:
    """Serve until `stop` is set. Raises ConfigError if the address or the upstream cannot be used."""
    async with App(config) as app:
        log.info("listening on %s", app.address.url)
        threads = worker_count(config.pull.threads)
        log.info("quantizing with %s, %d threads", await asyncio.to_thread(engine_names), threads)
        if config.server.is_open_to_network:
            log.warning(
                "every client that reaches %s can use this Ollama and pull with this proxy's token; set "
                "server.api_keys, or listen on 127.0.0.1",
                app.address.url,
            )
        await stop.wait()
        log.info("shutting down")
