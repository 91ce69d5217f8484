"""The stand-in Ollama. It answers like v0.24; for newer versions, only what they do with GGUFs differs."""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.standins import canned_replies
from proxy.standins.blobs import VALID_DIGEST, BlobStore
from proxy.standins.cors import BrowserRules, admit_origin
from proxy.standins.creation import (
    GGUF_ALONE,
    LLAMA_SERVER,
    Crash,
    CreateContext,
    CreateScript,
    Creation,
    EndedEarly,
    drop_layers,
)
from proxy.standins.listener import LoggedRequest, LoggingServer, StandIn, reset
from proxy.standins.manifests import layers_of, model_of_layers, offered_manifest, registry_layers
from proxy.standins.model_store import ModelStore, StandInModel, timestamp
from proxy.standins.names import ModelName
from proxy.standins.responses import ErrorAnswer, Lines, answer, error, read_json

__all__ = ["LoggedRequest", "StandInModel", "StandInOllama"]

NO_MANIFEST = "pull model manifest: file does not exist"
INVALID_NAME = "invalid model name"
MODEL_REQUIRED = "model is required"
NATIVE_STEPS = 4
"""Progress lines with `completed` for each layer of a native pull."""

Around = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


class StandInOllama(StandIn, CreateScript):
    def __init__(self, *, port: int = 0, version: str = "0.24.0") -> None:
        self.version = version
        self.requests: list[LoggedRequest] = []
        self.models = ModelStore()
        self.native: dict[str, int] = {}  # models that a native pull finds → size of their weights
        self.loaded: set[str] = set()
        self.abandoned_creates = 0  # creates that ended because their client disconnected
        self.fail_upload_after: int | None = None  # the connection breaks after this number of bytes
        self.hold_upload: asyncio.Event | None = None  # uploads wait until it is set
        self.fail_load: str | None = None  # the error when a model is loaded
        self.lose_upload_answer = False  # the connection breaks after the last byte of an upload
        self.garble_uploads: dict[str, int] = {}  # digest → number of uploads of it that arrive damaged
        self.upload_status: int | None = None  # the error status of every upload
        self.keeps_mismatched = True  # stores an upload under its true digest if the client named another one
        self.around: Around | None = None  # called instead of every handler; it may call the handler
        self.browsers = BrowserRules()
        self._store = BlobStore()
        self._unwatched: set[asyncio.Task[None]] = set()
        self._listener = LoggingServer("ollama", self._routes(), self.requests, port=port, configure=self._configure)
        super().__init__(self._listener)

    def _configure(self, app: web.Application) -> None:
        app.middlewares.extend([self.browsers.apply, self._answer_like_gin])
        app.on_response_prepare.append(admit_origin)

    @property
    def url(self) -> str:
        return self._listener.url

    @property
    def blobs(self) -> dict[str, int]:
        """Digest → size. A test may remove entries."""
        return self._store.sizes

    def beginning(self, digest: str) -> bytes:
        """The first megabyte of a blob."""
        return self._store.beginning(digest)

    @property
    def _numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])

    async def close(self) -> None:
        for task in self._unwatched:
            task.cancel()
        await asyncio.gather(*self._unwatched, return_exceptions=True)
        await super().close()

    def _routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self._root),
            web.get("/api/version", self._version),
            web.get("/api/tags", self._list),
            web.get("/api/ps", self._list_loaded, allow_head=False),
            web.post("/api/show", self._show),
            web.head("/api/blobs/{digest}", self._find_blob),
            web.post("/api/blobs/{digest}", self._receive_blob, expect_handler=self._continue_upload),
            web.post("/api/create", self._create),
            web.delete("/api/delete", self._delete),
            web.post("/api/copy", self._copy),
            web.post("/api/pull", self._pull),
            web.post("/api/generate", self._generate),
            web.post("/api/chat", self._chat),
            web.post("/api/embed", self._embed),
            web.post("/v1/chat/completions", self._openai_chat),
        ]

    @web.middleware
    async def _answer_like_gin(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await (handler(request) if self.around is None else self.around(request, handler))
        except ErrorAnswer as refusal:
            return error(refusal.text, refusal.status)
        except web.HTTPNotFound:
            return web.Response(status=404, body=b"404 page not found", content_type="text/plain")
        except web.HTTPMethodNotAllowed as refused:
            headers = {"Allow": refused.headers["Allow"], "Content-Type": "text/plain"}
            return web.Response(status=405, body=b"405 method not allowed", headers=headers)

    async def _root(self, _: web.Request) -> web.Response:
        return web.Response(text="Ollama is running")

    async def _version(self, _: web.Request) -> web.Response:
        return answer({"version": self.version})

    async def _list(self, _: web.Request) -> web.Response:
        newest = sorted(self.models.items(), key=lambda entry: entry[1].modified_at, reverse=True)
        return answer({"models": [model.listed(name) for name, model in newest]})

    async def _list_loaded(self, _: web.Request) -> web.Response:
        expiry = timestamp(datetime.now(UTC) + timedelta(minutes=5))
        entries = []
        for name, model in self.models.items():
            if name in self.loaded:
                entry = model.listed(name) | {"expires_at": expiry, "size_vram": 0, "context_length": 2048}
                del entry["modified_at"]
                entries.append(entry)
        return answer({"models": entries})

    async def _show(self, request: web.Request) -> web.Response:
        body = await read_json(request, "ShowRequest")
        name = self._installed_name(_required_model(body))
        template = self.models[name].template
        if template.count("{{") != template.count("}}"):
            raise ErrorAnswer("template: :1: unclosed action", 500)
        return answer(self.models[name].shown(name, reads_jinja=self._numbers >= LLAMA_SERVER))

    def _installed_name(self, text: str) -> str:
        """The name under which a model is listed. If there is none, the error is v0.24's."""
        if text and ModelName.parse(text) is None:
            raise ErrorAnswer(INVALID_NAME, 400)
        if not text or text not in self.models:
            raise ErrorAnswer(f"model '{text}' not found", 404)
        return self._recased(text).shortest

    def _recased(self, text: str) -> ModelName:
        """The name in the case of an installed model: of this model, else of any model that shares a part."""
        name = ModelName.parse(text)
        if name is None:
            raise ErrorAnswer(INVALID_NAME, 400)
        same = [installed for installed in self.models.names() if installed.key == name.key]
        return same[0] if same else name.as_known_to(self.models.names())

    async def _find_blob(self, request: web.Request) -> web.Response:
        digest = request.match_info["digest"]
        if not VALID_DIGEST.fullmatch(digest):
            return error("invalid digest format", 400)
        if digest.replace("-", ":") not in self.blobs:
            return error(f'blob "{digest}" not found', 404)
        return web.Response()

    async def _continue_upload(self, request: web.Request) -> None:
        """Send "100 Continue" only if the body will be read."""
        is_new = request.match_info["digest"].replace("-", ":") not in self.blobs
        if self.upload_status is None and is_new:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0

    async def _receive_blob(self, request: web.Request) -> web.Response:
        expected = request.match_info["digest"]
        if self.upload_status is not None:
            return error("the stand-in was told to refuse uploads", self.upload_status)
        if not VALID_DIGEST.fullmatch(expected):
            return error("invalid digest format", 400)
        if expected.replace("-", ":") in self.blobs:
            return web.Response()
        digest = await self._store.receive(request, break_at=self.fail_upload_after, hold=self.hold_upload)
        if self.garble_uploads.get(expected, 0):
            self.garble_uploads[expected] -= 1
            self._store.forget(expected)
            digest = f"sha256:{hashlib.sha256(expected.encode()).hexdigest()}"
        if digest is not None and digest != expected:
            if not self.keeps_mismatched:
                self._store.forget(digest)
            return error(f'digest mismatch, expected "{expected}", got "{digest}"', 400)
        if self.lose_upload_answer:
            reset(request)
        return web.Response(status=201)

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await read_json(request, "CreateRequest")
        for path, digest in (body.get("files") or {}).items():
            if not _valid_path(path):
                raise ErrorAnswer("file path must be relative", 400)
            if not digest:
                raise ErrorAnswer("invalid digest format", 400)
        if not all((body.get("adapters") or {}).values()):
            raise ErrorAnswer("invalid digest format", 400)
        name = self._recased(body.get("model") or body.get("name") or "")
        streaming = body.get("stream") is not False
        lines = Lines(request, streaming=streaming)
        context = CreateContext(self.models, self._store, self, self._pull_natively, self._numbers)
        creation = Creation(body, name, lines, context)
        try:
            await (self._run_watched(creation) if streaming else self._run_unwatched(creation))
        except ErrorAnswer as refusal:
            return await lines.fail(refusal)
        except Crash:
            reset(request)
        except EndedEarly:
            pass
        return lines.end()

    async def _run_watched(self, creation: Creation) -> None:
        """A create ends when its client disconnects. (The real one blocks forever at its next line.)"""
        try:
            await creation.run()
        except (asyncio.CancelledError, ConnectionError):
            self.abandoned_creates += not creation.finished
            raise

    async def _run_unwatched(self, creation: Creation) -> None:
        """With `stream: false`, a create completes even if its client disconnects."""
        task = asyncio.create_task(creation.run())
        self._unwatched.add(task)
        task.add_done_callback(self._unwatched.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    async def _delete(self, request: web.Request) -> web.Response:
        body = await read_json(request, "DeleteRequest")
        model = _required_model(body)
        if ModelName.parse(model) is None:
            raise ErrorAnswer(f'name "{model}" is invalid', 400)
        name = self._installed_name(model)
        self.loaded.discard(name)
        drop_layers(self.models.pop(name), self.models, self._store)
        return web.Response()

    async def _copy(self, request: web.Request) -> web.Response:
        body = await read_json(request, "CopyRequest")
        source, destination = (str(body.get(field) or "") for field in ("source", "destination"))
        for field, value in (("source", source), ("destination", destination)):
            if ModelName.parse(value) is None:
                raise ErrorAnswer(f'{field} "{value}" is invalid', 400)
        if source not in self.models:
            raise ErrorAnswer(f'model "{source}" not found', 404)
        copy = replace(self.models[source], modified_at=datetime.now(UTC))
        self.models[self._recased(destination).shortest] = copy
        return web.Response()

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        body = await read_json(request, "PullRequest")
        model = body.get("model") or body.get("name") or ""
        self._recased(model)  # an invalid name is refused before the stream begins
        lines = Lines(request, streaming=body.get("stream") is not False)
        try:
            await self._pull_natively(model, lines, insecure=body.get("insecure") is True)
        except ErrorAnswer as refusal:
            return await lines.fail(refusal)
        return lines.end()

    async def _pull_natively(self, model: str, lines: Lines, *, insecure: bool = False) -> None:
        name = self._recased(model)
        await lines.status("pulling manifest")
        layers, manifest = registry_layers(self.native, name), None
        if layers is None and insecure and name.host.startswith(("127.0.0.1:", "localhost:")):
            manifest = await offered_manifest(name)
            layers = layers_of(self._store, manifest) if manifest else None
        if layers is None:
            raise ErrorAnswer(NO_MANIFEST)
        if manifest is not None and self.hold_making is not None and any(layer.kind == "model" for layer in layers):
            await self.hold_making.wait()
        for layer in layers:
            # A blob that exists has its own size; the manifest's may differ.
            size = self.blobs.get(layer.digest, layer.size)
            steps = [NATIVE_STEPS] if layer.digest in self.blobs else range(NATIVE_STEPS + 1)
            for step in steps:
                completed = {"completed": size * step // NATIVE_STEPS} if step else {}
                status = f"pulling {layer.digest[7:19]}"
                await lines.send({"status": status, "digest": layer.digest, "total": size, **completed})
            self._store.pretend(layer.digest, size)
        await lines.status("verifying sha256 digest")
        await lines.status("writing manifest")
        strict = self._numbers >= GGUF_ALONE
        self.models[name.shortest] = model_of_layers(self._store, name, layers, manifest, strict=strict)
        await lines.status("success")

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await read_json(request, "GenerateRequest")
        return await self._reply(request, body, canned_replies.generate_content, has_prompt=bool(body.get("prompt")))

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await read_json(request, "ChatRequest")
        _required_model(body)
        return await self._reply(request, body, canned_replies.chat_content, has_prompt=bool(body.get("messages")))

    async def _reply(
        self, request: web.Request, body: dict[str, Any], content: canned_replies.Content, *, has_prompt: bool
    ) -> web.StreamResponse:
        model = body.get("model") or ""
        name = self._installed_name(model)
        if not has_prompt and body.get("keep_alive") in {0, "0", "0s"}:
            self.loaded.discard(name)
            return answer(canned_replies.empty(model, content, "unload"))
        if self.fail_load is not None:
            raise ErrorAnswer(self.fail_load, 500)
        self.loaded.add(name)
        if not has_prompt:
            return answer(canned_replies.empty(model, content, "load"))
        if body.get("stream") is False:
            return answer(canned_replies.whole(model, content))
        lines = Lines(request, streaming=True)
        with suppress(ConnectionError):
            for line in canned_replies.stream(model, content):
                await lines.send(line)
        return lines.end()

    async def _openai_chat(self, request: web.Request) -> web.StreamResponse:
        body = await read_json(request, "ChatCompletionRequest")
        model = body.get("model") or ""
        try:
            self.loaded.add(self._installed_name(model))
        except ErrorAnswer as refusal:
            details = {"message": refusal.text, "type": "not_found_error", "param": None, "code": None}
            return web.json_response({"error": details}, status=refusal.status)
        if body.get("stream") is not True:
            return answer(canned_replies.openai_completion(model, "".join(canned_replies.WORDS), chunk=False))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for word in canned_replies.WORDS:
            event = orjson.dumps(canned_replies.openai_completion(model, word, chunk=True))
            await response.write(b"data: " + event + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _embed(self, request: web.Request) -> web.Response:
        body = await read_json(request, "EmbedRequest")
        model = body.get("model") or ""
        if ModelName.parse(model) is not None and model not in self.models:
            raise ErrorAnswer(f'model "{model}" not found, try pulling it first', 404)
        self.loaded.add(self._installed_name(model))
        texts = body.get("input") or []
        return answer(canned_replies.embeddings(model, [texts] if isinstance(texts, str) else texts))


def _required_model(body: dict[str, Any]) -> str:
    model = str(body.get("model") or body.get("name") or "")
    if not model:
        raise ErrorAnswer(MODEL_REQUIRED, 400)
    return model


def _valid_path(path: str) -> bool:
    """Go's fs.ValidPath: relative, and no element is empty, `.` or `..`."""
    return path == "." or all(part not in {"", ".", ".."} for part in path.split("/"))
