"""A call for a model of the Hub that Ollama does not have: it is pulled first, and then the call goes on as it came."""

import asyncio
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

import orjson
from aiohttp import hdrs, web

from proxy.answers import json_response
from proxy.bodies import json_fields, read_body
from proxy.errors import OllamaError
from proxy.forward import Forward
from proxy.ollama import Ollama
from proxy.origins import Origins
from proxy.pull.jobs import Job, Jobs
from proxy.pull.pipeline import Pipeline
from proxy.pull.reference import ModelReference, parse

log = logging.getLogger(__name__)

NAMED_BY: Mapping[str, str] = {
    "/api/chat": "model",
    "/api/generate": "model",
    "/api/embed": "model",
    "/api/embeddings": "model",
    "/api/create": "from",
    "/v1/chat/completions": "model",
    "/v1/completions": "model",
    "/v1/embeddings": "model",
    "/v1/responses": "model",
    "/v1/messages": "model",
}
"""The field that names a model, by path. `ollama run` asks `/api/show` first, and pulls with bars of its own."""
SAYS: Mapping[str, str] = {"/api/chat": "messages", "/api/generate": "prompt"}
"""The field without which a call loads a model, or unloads it."""
NO_TIME = (0, "0", "0s", "0m", "0h")
ANTHROPIC = "/v1/messages"
MOST_BODY_BYTES = 64 * 1024 * 1024
"""What is held while a model is pulled; a longer body goes on at once."""
QUIET_SECONDS = 5.0
"""A refusal comes sooner, and has a status of its own then."""
COMMENT_SECONDS = 10.0


class OnDemand:
    def __init__(self, pipeline: Pipeline, jobs: Jobs, ollama: Ollama, forward: Forward, origins: Origins) -> None:
        self._pipeline = pipeline
        self._jobs = jobs
        self._ollama = ollama
        self._forward = forward
        self._origins = origins

    @staticmethod
    def handles(request: web.BaseRequest) -> bool:
        return request.method == hdrs.METH_POST and request.path in NAMED_BY

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await read_body(request, MOST_BODY_BYTES)
        fields = (json_fields(body) if request.content.at_eof() else None) or {}
        name = fields.get(NAMED_BY[request.path])
        reference = parse(name) if isinstance(name, str) and not _unloads(request.path, fields) else None
        if reference is None or not await self._is_missing(reference):
            return await self._forward(request, prefix=body)
        headers = await self._origins.headers(request)
        if headers is None:
            return await self._forward(request, prefix=body)
        log.info("%s %s asks for %s, which is pulled first", request.method, request.path, reference.name)
        pulling = asyncio.create_task(self._pull(reference))
        try:
            if request.path.startswith("/v1/") and fields.get("stream") is True:
                await asyncio.wait([pulling], timeout=QUIET_SECONDS)
                if not pulling.done():
                    return await self._stream(request, body, pulling, headers)
            error = await pulling
        finally:
            # It goes on for a while for whoever comes back, as any pull whose client leaves.
            pulling.cancel()
        if error is not None:
            return json_response(_told(request.path, error.text), error.status, headers)
        return await self._forward(request, body=body)

    async def _is_missing(self, reference: ModelReference) -> bool:
        try:
            return self._pipeline.claims(reference) and not await self._ollama.has_model(reference.name)
        except OllamaError:
            return False

    async def _pull(self, reference: ModelReference) -> "_Failure | None":
        with self._jobs.attach(reference) as (job, subscription):
            async for _ in subscription.batches():
                pass
        try:
            if job.native:
                async for _ in self._ollama.pull_lines(reference.name):
                    pass
        except OllamaError as error:
            return _Failure(str(error), HTTPStatus.BAD_GATEWAY)
        return _failure(job)

    async def _stream(
        self,
        request: web.BaseRequest,
        body: bytes,
        pulling: "asyncio.Task[_Failure | None]",
        headers: Mapping[str, str],
    ) -> web.StreamResponse:
        """Events, of which there are only comments until the model is there."""
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "text/event-stream", **headers})
        await response.prepare(request)
        while not pulling.done():
            await response.write(b": the model is being pulled\n\n")
            await asyncio.wait([pulling], timeout=COMMENT_SECONDS)
        error = pulling.result()
        try:
            if error is None:
                async for chunk in self._ollama.events(request.path, body):
                    await response.write(chunk)
        except OllamaError as problem:
            error = _Failure(str(problem), HTTPStatus.BAD_GATEWAY)
        if error is not None:
            event = b"event: error\n" if request.path == ANTHROPIC else b""
            await response.write(event + b"data: " + orjson.dumps(_told(request.path, error.text)) + b"\n\n")
        return response


def _unloads(path: str, fields: Mapping[str, Any]) -> bool:
    """Whether a call does no more than to end a model that is loaded (server/routes.go)."""
    return path in SAYS and not fields.get(SAYS[path]) and fields.get("keep_alive") in NO_TIME


class _Failure(NamedTuple):
    text: str
    status: HTTPStatus


def _failure(job: Job) -> _Failure | None:
    if job.error is None:
        return None
    return _Failure(job.error, HTTPStatus.NOT_FOUND if job.refused else HTTPStatus.BAD_GATEWAY)


def _told(path: str, text: str) -> dict[str, Any]:
    """An error as clients of this path know it."""
    if path == ANTHROPIC:
        return {"type": "error", "error": {"type": "api_error", "message": text}}
    if path.startswith("/v1/"):
        return {"error": {"message": text, "type": "api_error", "param": None, "code": None}}
    return {"error": text}
