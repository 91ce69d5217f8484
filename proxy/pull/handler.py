"""`POST /api/pull` and `DELETE /api/delete`: names that a source claims are jobs, all else goes on as it came."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import hdrs, web

from proxy.errors import OllamaError
from proxy.forward.cors import Cors
from proxy.forward.handler import Forward
from proxy.ollama.client import Ollama
from proxy.pull.jobs import Job, Jobs
from proxy.pull.pipeline import Pipeline
from proxy.pull.reference import ModelReference, parse
from proxy.server.request_body import json_fields, read_body
from proxy.server.responses import error_response, json_response
from proxy.store.reclaim import Reclaim
from proxy.transfer.progress import Subscription

log = logging.getLogger(__name__)

MOST_BODY_BYTES = 1024 * 1024
COMMAND_LINE = "ollama/"
"""How Ollama's command line calls itself (api/client.go); its Python and JavaScript clients are called otherwise."""


@dataclass(frozen=True, slots=True)
class PullRequest:
    """A pull's body, as far as it matters here. `fields` is what the client sent."""

    reference: ModelReference
    stream: bool
    fields: Mapping[str, Any]

    def without_insecure(self) -> bytes:
        """The body for Ollama's own pull: Open WebUI always says `insecure`, which breaks hf.co there."""
        return orjson.dumps({key: value for key, value in self.fields.items() if key.lower() != "insecure"})


def read_request(body: bytes) -> PullRequest | None:
    """None where Ollama has to answer: what it would refuse, and names that are not HOST/ORG/REPO."""
    if (fields := json_fields(body)) is None:
        return None
    # Go's decoder matches keys in any case, takes null for absent, and refuses other types.
    given = {key.lower(): value for key, value in fields.items() if value is not None}
    texts = [given.get(key, "") for key in ("model", "name", "username", "password")]
    flags = [given.get("stream", True), given.get("insecure", False)]
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(flag, bool) for flag in flags):
        return None
    # The CLI sends an empty `model` beside the `name`.
    reference = parse(texts[0] or texts[1])
    return PullRequest(reference, flags[0], fields) if reference else None


class PullHandler:
    def __init__(self, pipeline: Pipeline, jobs: Jobs, forward: Forward, origins: Cors) -> None:
        self._pipeline = pipeline
        self._jobs = jobs
        self._forward = forward
        self._origins = origins

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        body, wanted = await _read(request)
        if wanted is None or not self._pipeline.claims(wanted.reference):
            return await self._forward(request, prefix=body)
        headers = await self._origins.headers(request)
        if headers is None:
            return await self._forward(request, prefix=body)
        with self._jobs.attach(wanted.reference) as (job, subscription):
            response = await (
                _stream(request, subscription, headers) if wanted.stream else _wait(job, subscription, headers)
            )
        return response or await self._forward(request, body=wanted.without_insecure())


class DeleteHandler:
    """Open WebUI before v0.12 cancels a pull by leaving it and removing the model, which may not be there yet."""

    def __init__(self, ollama: Ollama, reclaim: Reclaim, jobs: Jobs, forward: Forward, origins: Cors) -> None:
        self._ollama = ollama
        self._removals = reclaim.removals
        self._jobs = jobs
        self._forward = forward
        self._origins = origins

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        body, wanted = await _read(request)
        running = self._jobs.running(wanted.reference) if wanted else []
        headers = await self._origins.headers(request) if running else None
        if wanted is None or headers is None:
            return await self._forward(request, prefix=body)
        log.info("%s is removed: its pull is cancelled", wanted.reference.name)
        key = wanted.reference.key
        removal = self._removals[key] = asyncio.create_task(self._remove(wanted.reference, running))
        removal.add_done_callback(partial(self._removed, key))
        try:
            # It goes on although its client leaves.
            await asyncio.shield(removal)
        except OllamaError as error:
            return error_response(str(error), HTTPStatus.BAD_GATEWAY, headers)
        return web.Response(headers=headers)

    async def _remove(self, reference: ModelReference, running: list[Job]) -> None:
        for job in running:
            job.cancel(f"{reference.name} was removed while it was pulled; what was finished stays for the next pull")
        await asyncio.wait([job.task for job in running])
        await self._ollama.delete(reference.name)

    def _removed(self, key: str, removal: "asyncio.Task[None]") -> None:
        if self._removals.get(key) is removal:
            del self._removals[key]
        if not removal.cancelled() and (error := removal.exception()) is not None:
            log.warning("nothing was removed: %s", error)  # its client may have left


async def _read(request: web.BaseRequest) -> tuple[bytes, PullRequest | None]:
    """The body as far as it was read, and what it asks for; None where Ollama has to answer."""
    body = await read_body(request, MOST_BODY_BYTES)
    return body, read_request(body) if request.content.at_eof() else None


async def _stream(
    request: web.BaseRequest, subscription: Subscription, headers: Mapping[str, str]
) -> web.StreamResponse | None:
    """None when the pull ended without a line: Ollama answers."""
    response: web.StreamResponse | None = None
    agent = request.headers.get(hdrs.USER_AGENT, "")
    async for lines in subscription.batches(in_rows=agent.startswith(COMMAND_LINE)):
        if response is None:
            response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", **headers})
            await response.prepare(request)
        await response.write(lines)
    return response


async def _wait(job: Job, subscription: Subscription, headers: Mapping[str, str]) -> web.StreamResponse | None:
    """The answer to `stream: false`, with the same None."""
    async for _ in subscription.batches():
        pass
    if job.native:
        return None
    if job.error is not None:
        return error_response(job.error, HTTPStatus.INTERNAL_SERVER_ERROR, headers)
    return json_response({"status": "success"}, headers=headers)
