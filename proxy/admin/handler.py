"""Answers the requests under `/-/`."""

import secrets
from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web
from yarl import URL

from proxy import __version__
from proxy.admin.events import stream_pulls
from proxy.admin.models import Models
from proxy.backend import Backend
from proxy.config.sections import Config
from proxy.errors import OllamaError, ProxyError, Refusal
from proxy.metrics import CONTENT_TYPE, Metrics
from proxy.pull.jobs import Jobs
from proxy.server.page import page
from proxy.server.request_body import json_fields
from proxy.server.responses import json_response
from proxy.store.reclaim import Reclaim

PREFIX = "/-/"
PULLS = "/-/pulls/"
INSTANCE_HEADER = "X-Ollama-HF-Proxy"


class Admin:
    """Every answer has `instance` in a header, so that a proxy recognises itself as its upstream."""

    def __init__(  # noqa: PLR0913
        self, config: Config, backend: Backend, jobs: Jobs, reclaim: Reclaim, models: Models, metrics: Metrics
    ) -> None:
        """It has more than five arguments because each path needs another service, which `App` makes once."""
        self._config = config
        self._backend = backend
        self._ollama = backend.ollama
        self._jobs = jobs
        self._reclaim = reclaim
        self._pulled_models = models
        self._metrics = metrics
        self.instance = secrets.token_hex(8)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:  # noqa: C901, PLR0911, PLR0912 - a table of paths
        if _is_foreign(request):
            return self._answer({"error": "other sites may not administer the proxy"}, HTTPStatus.FORBIDDEN)
        changes = request.method not in (hdrs.METH_GET, hdrs.METH_HEAD)
        if changes and request.content_type != "application/json":
            return self._answer(
                {"error": "a change needs the header Content-Type: application/json"},
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            )
        match request.method if changes else "GET", request.path:
            case "GET", "/-/":
                response = page()
                response.headers[INSTANCE_HEADER] = self.instance
                return response
            case "GET", "/-/health":
                return await self._health()
            case "GET", "/-/pulls":
                return self._answer([job.view() for job in self._jobs.all()])
            case "GET", "/-/events":
                return await stream_pulls(request, self._jobs, {INSTANCE_HEADER: self.instance})
            case "GET", "/-/inspect":
                return await self._inspect(request.query.get("name", ""))
            case "GET", "/-/models":
                return await self._models(ask=request.query.get("ask") != "no")
            case "POST", "/-/pulls":
                return await self._start(request)
            case "DELETE", path if path.startswith(PULLS):
                return self._cancel(path.removeprefix(PULLS))
            case "POST", "/-/reclaim":
                return await self._sweep(request)
            case "GET", "/-/metrics":
                headers = {INSTANCE_HEADER: self.instance, hdrs.CONTENT_TYPE: CONTENT_TYPE}
                return web.Response(body=self._metrics.text(), headers=headers)
            case method, path:
                return self._answer({"error": f"there is nothing to {method} at {path}"}, HTTPStatus.NOT_FOUND)

    async def _inspect(self, name: str) -> web.Response:
        from proxy.inspection import look

        return self._answer((await look(self._config, self._backend, name.strip())).to_json())

    async def _models(self, *, ask: bool) -> web.Response:
        try:
            return self._answer(await self._pulled_models.all(ask=ask))
        except OllamaError as error:
            return self._answer({"error": str(error)}, HTTPStatus.BAD_GATEWAY)

    async def _start(self, request: web.BaseRequest) -> web.Response:
        """Start a pull that needs no client."""
        try:
            name = (await _read_object(request)).get("name")
            reference = self._backend.planner.reference(name.strip() if isinstance(name, str) else "")
        except ProxyError as error:
            return self._answer({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        return self._answer(self._jobs.start(reference).view(), HTTPStatus.ACCEPTED)

    def _cancel(self, number: str) -> web.Response:
        job = next((job for job in self._jobs.all() if job.id == number), None)
        if job is None:
            return self._answer({"error": f"there is no pull {number}"}, HTTPStatus.NOT_FOUND)
        job.cancel(f"the pull of {job.reference.name} was cancelled; finished files stay for the next pull")
        return self._answer(job.view())

    async def _sweep(self, request: web.BaseRequest) -> web.Response:
        """`{"dry_run": true}` only lists what would be removed; `{"probe": true}` checks whether removals work."""
        try:
            fields = await _read_object(request)
            dry_run, probe = (fields.get(key, False) is True for key in ("dry_run", "probe"))
        except Refusal as refusal:
            return self._answer({"error": str(refusal)}, HTTPStatus.BAD_REQUEST)
        try:
            if probe:
                await self._reclaim.check_reached()
                return self._answer({"probe": True})
            removed = await self._reclaim.sweep(dry_run=dry_run)
        except ProxyError as error:
            return self._answer({"error": str(error)}, HTTPStatus.BAD_GATEWAY)
        return self._answer({"dry_run": dry_run, **removed.to_json()})

    async def _health(self) -> web.Response:
        version = None
        try:
            version = await self._ollama.version()
        except OllamaError as error:
            status = str(error)
        else:
            status = "ok"
        reachable = version is not None
        return self._answer(
            {
                "status": status,
                "version": __version__,
                "ollama": {"url": self._ollama.url, "version": version, "reachable": reachable},
            },
            HTTPStatus.OK if reachable else HTTPStatus.SERVICE_UNAVAILABLE,
        )

    def _answer(self, value: dict[str, Any] | list[dict[str, Any]], status: HTTPStatus = HTTPStatus.OK) -> web.Response:
        return json_response(value, status, {INSTANCE_HEADER: self.instance})


async def _read_object(request: web.BaseRequest) -> dict[str, Any]:
    if (fields := json_fields(await request.read() or b"{}")) is None:
        raise Refusal("the body is not a JSON object")
    return fields


def _is_foreign(request: web.BaseRequest) -> bool:
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None:
        return False
    try:
        return URL(origin).authority != request.host
    except ValueError:
        return True
