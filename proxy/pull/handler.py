"""`POST /api/pull` and `DELETE /api/delete`: a name of a source is a job here; every other call goes to Ollama."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple

import orjson
from aiohttp import hdrs, web

from proxy.errors import OllamaError
from proxy.forward.cors import Cors
from proxy.forward.handler import Forward
from proxy.ollama.client import Ollama
from proxy.pull.jobs import Job, Jobs
from proxy.pull.pipeline import Pipeline
from proxy.pull.reference import ModelReference, parse
from proxy.server.connection import cancel_on_half_close
from proxy.server.request_body import json_fields, read_body
from proxy.server.responses import error_response, json_response
from proxy.store.reclaim import Reclaim
from proxy.transfer.progress import Subscription

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024
COMMAND_LINE = "ollama/"
"""How the User-Agent of Ollama's command line begins (api/client.go). Its Python and JavaScript clients have others."""


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What the body of a pull asks for. `fields` is the JSON object that the client sent."""

    reference: ModelReference
    stream: bool
    fields: Mapping[str, Any]

    def without_insecure(self) -> bytes:
        """The body for Ollama's own pull. Open WebUI always sends `insecure`, which breaks pulls from hf.co."""
        return orjson.dumps({key: value for key, value in self.fields.items() if key.lower() != "insecure"})


def read_request(body: bytes) -> PullRequest | None:
    """None if Ollama has to answer: for a body that it refuses, and for a name that is not HOST/ORG/REPO."""
    fields = _read_fields(body)
    reference = parse(fields.name) if fields else None
    return PullRequest(reference, fields.stream, fields.given) if fields and reference else None


class _Fields(NamedTuple):
    name: str
    stream: bool
    given: Mapping[str, Any]


def _read_fields(body: bytes) -> _Fields | None:
    if (fields := json_fields(body)) is None:
        return None
    # Go's decoder ignores the case of keys, treats null as absent, and refuses values of other types.
    given = {key.lower(): value for key, value in fields.items() if value is not None}
    texts = [given.get(key, "") for key in ("model", "name", "username", "password")]
    flags = [given.get("stream", True), given.get("insecure", False)]
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(flag, bool) for flag in flags):
        return None
    # Ollama's command line sends an empty `model` together with the `name`.
    return _Fields(texts[0] or texts[1], flags[0], fields)


class PullHandler:
    def __init__(self, pipeline: Pipeline, jobs: Jobs, forward: Forward, cors: Cors) -> None:
        self._pipeline = pipeline
        self._jobs = jobs
        self._forward = forward
        self._cors = cors

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        body, pull = await _read(request)
        refusal = "" if pull else self._refusal(body)
        is_ours = refusal or (pull and self._pipeline.claims(pull.reference))
        headers = await self._cors.headers(request) if is_ours else None
        if headers is None:
            return await self._forward(request, prefix=body)
        if pull is None:
            # Ollama answers such a name with the same status, but without the reason.
            return error_response(refusal, HTTPStatus.BAD_REQUEST, headers)
        cancel_on_half_close(request)
        with self._jobs.attach(pull.reference) as (job, subscription):
            response = await (
                _stream(request, subscription, headers) if pull.stream else _wait(job, subscription, headers)
            )
        return response or await self._forward(request, body=pull.without_insecure())

    def _refusal(self, body: bytes) -> str:
        """The answer to a name of a source that Ollama does not take; empty if Ollama has to answer."""
        fields = _read_fields(body)
        return self._pipeline.name_refusal(fields.name) if fields else ""


class DeleteHandler:
    """Deleting a model cancels its running pull.

    Open WebUI before v0.12 cancels a pull in this way: it disconnects, and deletes the model, which may not exist yet.
    """

    def __init__(self, ollama: Ollama, reclaim: Reclaim, jobs: Jobs, forward: Forward, cors: Cors) -> None:
        self._ollama = ollama
        self._deletions = reclaim.deletions
        self._jobs = jobs
        self._forward = forward
        self._cors = cors

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        body, delete = await _read(request)
        jobs = self._jobs.running(delete.reference) if delete else []
        headers = await self._cors.headers(request) if jobs else None
        if delete is None or headers is None:
            return await self._forward(request, prefix=body)
        log.info("a client removes %s: its pull is cancelled", delete.reference.name)
        key = delete.reference.key
        deletion = self._deletions[key] = asyncio.create_task(self._delete(delete.reference, jobs))
        deletion.add_done_callback(partial(self._deleted, key))
        try:
            # The deletion continues if its client disconnects.
            await asyncio.shield(deletion)
        except OllamaError as error:
            return error_response(str(error), HTTPStatus.BAD_GATEWAY, headers)
        return web.Response(headers=headers)

    async def _delete(self, reference: ModelReference, jobs: list[Job]) -> None:
        for job in jobs:
            job.cancel(f"{reference.name} was removed while it was pulled; finished files stay for the next pull")
        await asyncio.wait([job.task for job in jobs])
        await self._ollama.delete(reference.name)

    def _deleted(self, key: str, deletion: "asyncio.Task[None]") -> None:
        if self._deletions.get(key) is deletion:
            del self._deletions[key]
        if not deletion.cancelled() and (error := deletion.exception()) is not None:
            log.warning("a model was not removed: %s", error)  # its client may have disconnected


async def _read(request: web.BaseRequest) -> tuple[bytes, PullRequest | None]:
    """The body as far as it was read, and what it asks for; None for the latter if Ollama has to answer."""
    body = await read_body(request, MAX_BODY_BYTES)
    return body, read_request(body) if request.content.at_eof() else None


async def _stream(
    request: web.BaseRequest, subscription: Subscription, headers: Mapping[str, str]
) -> web.StreamResponse | None:
    """None if the pull ended without a line: Ollama answers then."""
    response: web.StreamResponse | None = None
    agent = request.headers.get(hdrs.USER_AGENT, "")
    async for lines in subscription.batches(in_rows=agent.startswith(COMMAND_LINE)):
        if response is None:
            response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", **headers})
            await response.prepare(request)
        await response.write(lines)
    return response


async def _wait(job: Job, subscription: Subscription, headers: Mapping[str, str]) -> web.StreamResponse | None:
    """The answer to `stream: false`; None as in `_stream`."""
    async for _ in subscription.batches():
        pass
    if job.native:
        return None
    if job.error is not None:
        return error_response(job.error, HTTPStatus.INTERNAL_SERVER_ERROR, headers)
    return json_response({"status": "success"}, headers=headers)
