"""`pull.on_demand`: a call for a model that Ollama does not have pulls the model first; then Ollama gets the call."""

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
from proxy.server.connection import cancel_on_half_close
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
"""The field with the model's name, by path. `ollama run` calls `/api/show` first, and pulls with its own bars."""
INPUTS: Mapping[str, str] = {"/api/chat": "messages", "/api/generate": "prompt"}
"""The field of the input. A call without it only loads the model, or unloads it."""
NO_TIME = (0, "0", "0s", "0m", "0h")
ANTHROPIC = "/v1/messages"
MAX_BODY_BYTES = 64 * 1024 * 1024
"""The longest body that waits in memory during a pull. A longer one goes to Ollama at once."""
QUIET_SECONDS = 5.0
"""How long a stream waits before its first byte: a refusal within this time can have its own HTTP status."""
KEEP_ALIVE_SECONDS = 10.0
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
CREATE = "/api/create"
STREAMS: Mapping[str, tuple[bool, str]] = {
    **dict.fromkeys(("/api/chat", "/api/generate", CREATE), (True, LINES)),
    **{path: (False, EVENTS) for path in NAMED_BY if path.startswith("/v1/") and path != "/v1/embeddings"},
}
"""The calls that may stream: whether they do by default, and their content type."""


class OnDemand:
    def __init__(self, pipeline: Pipeline, jobs: Jobs, ollama: Ollama, forward: Forward, cors: Cors) -> None:
        self._pipeline = pipeline
        self._jobs = jobs
        self._ollama = ollama
        self._forward = forward
        self._cors = cors

    @staticmethod
    def handles(request: web.BaseRequest) -> bool:
        return request.method == hdrs.METH_POST and request.path in NAMED_BY

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await read_body(request, MAX_BODY_BYTES)
        fields = (json_fields(body) if request.content.at_eof() else None) or {}
        name = fields.get(NAMED_BY[request.path])
        reference = parse(name) if isinstance(name, str) and not _unloads(request.path, fields) else None
        if reference is None or not await self._is_missing(reference):
            return await self._forward(request, prefix=body)
        headers = await self._cors.headers(request)
        if headers is None:
            return await self._forward(request, prefix=body)
        log.info("%s %s asks for %s, which is pulled first", request.method, request.path, reference.name)
        cancel_on_half_close(request)
        pulling = asyncio.create_task(self._pull(reference))
        try:
            if _streams(request.path, fields):
                await asyncio.wait([pulling], timeout=QUIET_SECONDS)
                if not pulling.done():
                    return await self._stream(request, body, reference, pulling, headers)
            error = await pulling
        finally:
            # The job itself lingers, as after any client that leaves.
            pulling.cancel()
        if error is not None:
            return json_response(_error_body(request.path, error.text), error.status, headers)
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
        """Begin the response during the pull, because clients give up on a silent call: Node after 300 seconds."""
        path = request.path
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: STREAMS[path][1], **headers})
        await response.prepare(request)
        if path == CREATE:
            await self._stream_bars(reference, response)
        while not (await asyncio.wait([pulling], timeout=KEEP_ALIVE_SECONDS))[0]:
            await response.write(_keep_alive(path, reference.name))
        error = pulling.result()
        try:
            if error is None:
                async for chunk in self._ollama.stream(path, body):
                    await response.write(chunk)
        except OllamaError as problem:
            error = _Failure(str(problem), HTTPStatus.BAD_GATEWAY)
        if error is not None:
            await response.write(_error_line(path, error.text))
        return response

    async def _stream_bars(self, reference: ModelReference, response: web.StreamResponse) -> None:
        """Send the lines of the pull except the last one, which the create sends. Both have the same format."""
        with self._jobs.attach(reference) as (_, subscription):
            async for batch in subscription.batches(in_rows=True):
                lines = batch.splitlines(keepends=True)
                await response.write(b"".join(line for line in lines if not _is_last(line)))


def _streams(path: str, fields: Mapping[str, Any]) -> bool:
    return path in STREAMS and fields.get("stream", STREAMS[path][0]) is True


def _keep_alive(path: str, name: str) -> bytes:
    """An empty piece of an answer, in the format of the call."""
    if STREAMS[path][1] == EVENTS:
        return b": the model is being pulled\n\n"
    if path == CREATE:
        return orjson.dumps({"status": f"pulling {name}"}) + b"\n"
    empty = {"message": {"role": "assistant", "content": ""}} if path == "/api/chat" else {"response": ""}
    return orjson.dumps({"model": name, "created_at": datetime.now(UTC), **empty, "done": False}) + b"\n"


def _error_line(path: str, text: str) -> bytes:
    body = orjson.dumps(_error_body(path, text))
    if STREAMS[path][1] == LINES:
        return body + b"\n"
    return (b"event: error\n" if path == ANTHROPIC else b"") + b"data: " + body + b"\n\n"


def _is_last(line: bytes) -> bool:
    fields = orjson.loads(line)
    return "error" in fields or fields["status"] == "success"


def _unloads(path: str, fields: Mapping[str, Any]) -> bool:
    """Whether a call only unloads the model (server/routes.go)."""
    return path in INPUTS and not fields.get(INPUTS[path]) and fields.get("keep_alive") in NO_TIME


class _Failure(NamedTuple):
    text: str
    status: HTTPStatus


def _failure(job: Job) -> _Failure | None:
    if job.error is None:
        return None
    return _Failure(job.error, HTTPStatus.NOT_FOUND if job.refused else HTTPStatus.BAD_GATEWAY)


def _error_body(path: str, text: str) -> dict[str, Any]:
    """An error in the format that clients of this path expect."""
    if path == ANTHROPIC:
        return {"type": "error", "error": {"type": "api_error", "message": text}}
    if path.startswith("/v1/"):
        return {"error": {"message": text, "type": "api_error", "param": None, "code": None}}
    return {"error": text}
