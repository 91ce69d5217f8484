"""A call for a model of the Hub that Ollama does not have: it is pulled first, and then the call goes on as it came."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
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
from proxy.server.request_body import json_fields, read_body
from proxy.server.responses import json_response

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
KEEP_ALIVE_SECONDS = 10.0
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
CREATE = "/api/create"
STREAMS: Mapping[str, tuple[bool, str]] = {
    **dict.fromkeys(("/api/chat", "/api/generate", CREATE), (True, LINES)),
    **{path: (False, EVENTS) for path in NAMED_BY if path.startswith("/v1/") and path != "/v1/embeddings"},
}
"""The calls that may stream: whether they do where `stream` is not said, and what."""


class OnDemand:
    def __init__(self, pipeline: Pipeline, jobs: Jobs, ollama: Ollama, forward: Forward, origins: Cors) -> None:
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
            if _streams(request.path, fields):
                await asyncio.wait([pulling], timeout=QUIET_SECONDS)
                if not pulling.done():
                    return await self._stream(request, body, reference, pulling, headers)
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
        reference: ModelReference,
        pulling: "asyncio.Task[_Failure | None]",
        headers: Mapping[str, str],
    ) -> web.StreamResponse:
        """The answer begins before there is one, since clients give up on a silent one: Node after 300 seconds."""
        path = request.path
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: STREAMS[path][1], **headers})
        await response.prepare(request)
        if path == CREATE:
            await self._show(reference, response)
        while not (await asyncio.wait([pulling], timeout=KEEP_ALIVE_SECONDS))[0]:
            await response.write(_sign_of_life(path, reference.name))
        error = pulling.result()
        try:
            if error is None:
                async for chunk in self._ollama.stream(path, body):
                    await response.write(chunk)
        except OllamaError as problem:
            error = _Failure(str(problem), HTTPStatus.BAD_GATEWAY)
        if error is not None:
            await response.write(_last_words(path, error.text))
        return response

    async def _show(self, reference: ModelReference, response: web.StreamResponse) -> None:
        """The pull's bars, which are in the format of a create; how it ended is for the create to say."""
        with self._jobs.attach(reference) as (_, subscription):
            async for batch in subscription.batches(in_rows=True):
                lines = batch.splitlines(keepends=True)
                await response.write(b"".join(line for line in lines if not _ends(line)))


def _streams(path: str, fields: Mapping[str, Any]) -> bool:
    return path in STREAMS and fields.get("stream", STREAMS[path][0]) is True


def _sign_of_life(path: str, name: str) -> bytes:
    """It says nothing, in the format of the call."""
    if STREAMS[path][1] == EVENTS:
        return b": the model is being pulled\n\n"
    if path == CREATE:
        return orjson.dumps({"status": f"pulling {name}"}) + b"\n"
    said = {"message": {"role": "assistant", "content": ""}} if path == "/api/chat" else {"response": ""}
    return orjson.dumps({"model": name, "created_at": datetime.now(UTC), **said, "done": False}) + b"\n"


def _last_words(path: str, text: str) -> bytes:
    told = orjson.dumps(_told(path, text))
    if STREAMS[path][1] == LINES:
        return told + b"\n"
    return (b"event: error\n" if path == ANTHROPIC else b"") + b"data: " + told + b"\n\n"


def _ends(line: bytes) -> bool:
    said = orjson.loads(line)
    return "error" in said or said["status"] == "success"


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
