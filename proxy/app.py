"""The composition root: every object is built here once, and every request finds its door here."""

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
from proxy.config import Address, Config
from proxy.errors import ConfigError
from proxy.forward.cors import Cors
from proxy.forward.handler import Forward
from proxy.forward.relay import STATUS
from proxy.forward.upstream import Upstream
from proxy.gguf.engine import described
from proxy.metrics import Metrics
from proxy.ollama.registry import PREFIX as REGISTRY
from proxy.ollama.registry import Registry, reached_at
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
from proxy.transfer.threads import worker_count

log = logging.getLogger(__name__)

# Go's listeners queue as many as the system allows; beyond it a client waits a second for its next try.
BACKLOG = 4096
SELF_CHECK_SECONDS = 0.2
# aiohttp takes it twice: for requests to end, and for them to be cancelled.
FAREWELL_SECONDS = 1.5


BLOBS = "/api/blobs/"
CLIENT_LEFT = 499
"""As nginx counts it."""


class App:
    """The proxy: `async with App(config) as app` listens at `app.address` until the block ends."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.address = config.server.address

    async def __aenter__(self) -> "App":
        config, metrics = self._config, Metrics()
        file = state_file(config)
        self._metrics = metrics
        self._journal = journal = Journal(file)
        try:
            self.backend = backend = Backend(config, journal, metrics)
        except BaseException:
            journal.close()
            raise
        ollama = backend.ollama
        self._registry = Registry()
        self.reclaim = Reclaim(config, journal, ollama, self._registry, metrics.reclaimed.inc)
        install = Install(ollama, self._registry, verify=config.pull.verify)
        pipeline = Pipeline(config, backend.planner, ollama, backend.transfer, journal, self.reclaim, install)
        self.jobs = Jobs(pipeline, config.pull.linger_seconds, metrics)
        self._upstream = Upstream(ollama.url, self.backend.tls)
        self._origins = Cors(ollama)
        self._guard = Access(self._config.server, urlsplit(self._config.ollama.advertise_url).hostname or "")
        self._forward = Forward(ollama, self._upstream, self._origins)
        self._pull = PullHandler(pipeline, self.jobs, self._forward, self._origins)
        self._delete = DeleteHandler(ollama, self.reclaim, self.jobs, self._forward, self._origins)
        self._on_demand = OnDemand(pipeline, self.jobs, ollama, self._forward, self._origins)
        self.models = Models(ollama, backend.planner, journal)
        self._admin = Admin(config, backend, self.jobs, self.reclaim, self.models, metrics)
        self._sweeping: asyncio.Task[None] | None = None
        self._runner = web.ServerRunner(Server(self._dispatch), shutdown_timeout=FAREWELL_SECONDS)
        try:
            await self._listen()
            await self._refuse_to_serve_itself()
        except BaseException:
            await self.close()
            raise
        self._registry.url = reached_at(config.ollama, self.address)
        journal.publish_url(self.address.url_from_here)
        self._sweeping = asyncio.create_task(self.reclaim.watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self.jobs.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])
        await self._runner.cleanup()
        await self._upstream.close()
        await self.backend.close()
        self._journal.close()

    async def _dispatch(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.version not in (HttpVersion11, HttpVersion10):
            return refuse(request, "505 HTTP Version Not Supported")
        if request.path.startswith(REGISTRY) and (offered := self._registry.answer(request)) is not None:
            return offered
        refused = self._guard.refusal(request)
        if refused is not None:
            refused.headers[INSTANCE_HEADER] = self._admin.instance
            if refused.status == HTTPStatus.UNAUTHORIZED:
                refused.headers.update(await self._origins.headers(request) or {})
            return refused
        began = time.monotonic()
        door, answering = self._door(request)
        status = CLIENT_LEFT
        try:
            response = await answering
            status = response.status
        except web.RequestPayloadError as error:
            response = error_response(f"the request's body cannot be read: {error}", HTTPStatus.BAD_REQUEST)
            status = response.status
        finally:
            # What is relayed tells its status there.
            self._metrics.request(door, request.get(STATUS, status), began)
        return response

    def _door(self, request: web.BaseRequest) -> tuple[str, Awaitable[web.StreamResponse]]:
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
                f"{host}:{port} {reason}; end what listens there, or choose another address with --listen HOST:PORT"
            ) from error
        bound: tuple[str, int] = self._runner.addresses[0]
        self.address = Address(host, bound[1])

    async def _refuse_to_serve_itself(self) -> None:
        url = self._config.ollama.url
        limit = aiohttp.ClientTimeout(total=SELF_CHECK_SECONDS)
        try:
            async with self.backend.session.get(f"{url}{PREFIX}", timeout=limit) as response:
                found = response.headers.get(INSTANCE_HEADER)
        except (aiohttp.ClientError, TimeoutError):
            return
        if found == self._admin.instance:
            raise ConfigError(
                f"ollama.url is {url}, which is this proxy itself; set it to where Ollama listens (--ollama URL), "
                "usually http://127.0.0.1:11434"
            )


async def serve(config: Config, stop: asyncio.Event) -> None:
    """Serve until `stop` is set. Raises ConfigError when the address or the upstream cannot be used."""
    async with App(config) as app:
        log.info("listening on %s", app.address.url)
        threads = worker_count(config.pull.threads)
        log.info("quantizes with %s, %d threads", await asyncio.to_thread(described), threads)
        if config.server.open_to_a_network:
            log.warning(
                "whoever reaches %s can use this Ollama and pull with this proxy's token; set server.api_keys, or "
                "listen on 127.0.0.1",
                app.address.url,
            )
        await stop.wait()
        log.info("ending")
