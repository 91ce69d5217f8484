"""An Ollama on a local port that answers as v0.24 does, or newer ones with GGUFs; a test scripts and reads it."""

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
from proxy.standins.creation import GGUF_ALONE, LLAMA_SERVER, Crash, CreateScript, Creation, EndedEarly, drop_layers
from proxy.standins.listener import LoggedRequest, LoggingServer, StandIn, reset
from proxy.standins.manifests import layers_of, model_of_layers, offered_manifest, registry_layers
from proxy.standins.model_store import ModelStore, StandInModel, timestamp
from proxy.standins.names import ModelName
from proxy.standins.responses import ErrorAnswer, Lines, answer, error, read_json

__all__ = ["LoggedRequest", "StandInModel", "StandInOllama"]

NOT_THERE = "pull model manifest: file does not exist"
INVALID_NAME = "invalid model name"
NATIVE_STEPS = 4

Around = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


class StandInOllama(StandIn, CreateScript):
    def __init__(self, *, port: int = 0, version: str = "0.24.0") -> None:
        self.version = version
        self.requests: list[LoggedRequest] = []
        self.models = ModelStore()
        self.native: dict[str, int] = {}  # what a native pull finds, with the size of its weights
        self.loaded: set[str] = set()
        self.abandoned_creates = 0
        self.fail_upload_after: int | None = None  # bytes, after which the connection breaks
        self.hold_upload: asyncio.Event | None = None  # reads no more of an upload until it is set
        self.fail_load: str | None = None  # why no model can be loaded
        self.lose_upload_answer = False  # by a break of the connection after the last byte
        self.garble_uploads: dict[str, int] = {}  # digest → how many uploads of it arrive as something else
        self.upload_status: int | None = None
        self.keeps_mismatched = True  # what was uploaded under another digest
        self.around: Around | None = None  # answers in the place of every handler, which it may call
        self.browsers = BrowserRules()
        self._store = BlobStore()
        self._unwatched: set[asyncio.Task[None]] = set()
        self._listener = LoggingServer(
            "ollama",
            self._routes(),
            self.requests,
            port=port,
            middlewares=[self.browsers.apply, self._speak_like_gin],
            on_prepare=[admit_origin],
        )
        super().__init__(self._listener)

    @property
    def url(self) -> str:
        return self._listener.url

    @property
    def blobs(self) -> dict[str, int]:
        """Digest → size; a test may take one away."""
        return self._store.sizes

    def beginning(self, digest: str) -> bytes:
        """Of a blob: its first megabyte."""
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
            web.get("/", self._greet),
            web.get("/api/version", self._tell_version),
            web.get("/api/tags", self._list),
            web.get("/api/ps", self._list_loaded, allow_head=False),
            web.post("/api/show", self._show),
            web.head("/api/blobs/{digest}", self._find_blob),
            web.post("/api/blobs/{digest}", self._take_blob, expect_handler=self._invite_blob),
            web.post("/api/create", self._create),
            web.delete("/api/delete", self._delete),
            web.post("/api/copy", self._copy),
            web.post("/api/pull", self._pull),
            web.post("/api/generate", self._generate),
            web.post("/api/chat", self._chat),
            web.post("/api/embed", self._embed),
            web.post("/v1/chat/completions", self._complete),
        ]

    @web.middleware
    async def _speak_like_gin(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await (handler(request) if self.around is None else self.around(request, handler))
        except ErrorAnswer as refusal:
            return error(refusal.text, refusal.status)
        except web.HTTPNotFound:
            return web.Response(status=404, body=b"404 page not found", content_type="text/plain")
        except web.HTTPMethodNotAllowed as refused:
            headers = {"Allow": refused.headers["Allow"], "Content-Type": "text/plain"}
            return web.Response(status=405, body=b"405 method not allowed", headers=headers)

    async def _greet(self, _: web.Request) -> web.Response:
        return web.Response(text="Ollama is running")

    async def _tell_version(self, _: web.Request) -> web.Response:
        return answer({"version": self.version})

    async def _list(self, _: web.Request) -> web.Response:
        newest = sorted(self.models.items(), key=lambda entry: entry[1].modified_at, reverse=True)
        return answer({"models": [model.listed(name) for name, model in newest]})

    async def _list_loaded(self, _: web.Request) -> web.Response:
        expiry = timestamp(datetime.now(UTC) + timedelta(minutes=5))
        running = []
        for name, model in self.models.items():
            if name in self.loaded:
                listed = model.listed(name) | {"expires_at": expiry, "size_vram": 0, "context_length": 2048}
                del listed["modified_at"]
                running.append(listed)
        return answer({"models": running})

    async def _show(self, request: web.Request) -> web.Response:
        body = await read_json(request, "ShowRequest")
        name = self._installed(_asked(body, "model is required"))
        template = self.models[name].template
        if template.count("{{") != template.count("}}"):
            raise ErrorAnswer("template: :1: unclosed action", 500)
        return answer(self.models[name].shown(name, reads_jinja=self._numbers >= LLAMA_SERVER))

    def _installed(self, asked: str) -> str:
        """The name under which a model is listed, or the refusal that v0.24 gives."""
        if asked and ModelName.parse(asked) is None:
            raise ErrorAnswer(INVALID_NAME, 400)
        if not asked or asked not in self.models:
            raise ErrorAnswer(f"model '{asked}' not found", 404)
        return self._recased(asked).shortest

    def _recased(self, asked: str) -> ModelName:
        name = ModelName.parse(asked)
        if name is None:
            raise ErrorAnswer(INVALID_NAME, 400)
        exact = [known for known in self.models.names() if known.key == name.key]
        return exact[0] if exact else name.as_known_to(self.models.names())

    async def _find_blob(self, request: web.Request) -> web.Response:
        digest = request.match_info["digest"]
        if not VALID_DIGEST.fullmatch(digest):
            return error("invalid digest format", 400)
        if digest.replace("-", ":") not in self.blobs:
            return error(f'blob "{digest}" not found', 404)
        return web.Response()

    async def _invite_blob(self, request: web.Request) -> None:
        """Say "100 Continue" only where the body will be read."""
        wanted = self.upload_status is None and request.match_info["digest"].replace("-", ":") not in self.blobs
        if wanted:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0

    async def _take_blob(self, request: web.Request) -> web.Response:
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
        creation = Creation(
            body,
            name,
            lines,
            shelf=self.models,
            blobs=self._store,
            script=self,
            pull=self._pull_natively,
            version=self._numbers,
        )
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
        """A create dies with its client: the real one stays at its next line for ever."""
        try:
            await creation.run()
        except (asyncio.CancelledError, ConnectionError):
            self.abandoned_creates += not creation.finished
            raise

    async def _run_unwatched(self, creation: Creation) -> None:
        """With `stream: false` nobody listens, so a create ends well even when its client has left."""
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
        asked = _asked(body, "model is required")
        if ModelName.parse(asked) is None:
            raise ErrorAnswer(f'name "{asked}" is invalid', 400)
        name = self._installed(asked)
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
        copied = replace(self.models[source], modified_at=datetime.now(UTC))
        self.models[self._recased(destination).shortest] = copied
        return web.Response()

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        body = await read_json(request, "PullRequest")
        asked = body.get("model") or body.get("name") or ""
        self._recased(asked)
        lines = Lines(request, streaming=body.get("stream") is not False)
        try:
            await self._pull_natively(asked, lines, insecure=body.get("insecure") is True)
        except ErrorAnswer as refusal:
            return await lines.fail(refusal)
        return lines.end()

    async def _pull_natively(self, asked: str, lines: Lines, *, insecure: bool = False) -> None:
        name = self._recased(asked)
        await lines.status("pulling manifest")
        layers, manifest = registry_layers(self.native, name), None
        if layers is None and insecure and name.host.startswith(("127.0.0.1:", "localhost:")):
            manifest = await offered_manifest(name)
            layers = layers_of(self._store, manifest) if manifest else None
        if layers is None:
            raise ErrorAnswer(NOT_THERE)
        if manifest is not None and self.hold_making is not None and any(layer.kind == "model" for layer in layers):
            await self.hold_making.wait()
        for layer in layers:
            # What is there has its own size, whatever the manifest says.
            size = self.blobs.get(layer.digest, layer.size)
            steps = [NATIVE_STEPS] if layer.digest in self.blobs else range(NATIVE_STEPS + 1)
            for step in steps:
                done = {"completed": size * step // NATIVE_STEPS} if step else {}
                status = f"pulling {layer.digest[7:19]}"
                await lines.say({"status": status, "digest": layer.digest, "total": size, **done})
            self._store.claim(layer.digest, size)
        await lines.status("verifying sha256 digest")
        await lines.status("writing manifest")
        strict = self._numbers >= GGUF_ALONE
        self.models[name.shortest] = model_of_layers(self._store, name, layers, manifest, strict=strict)
        await lines.status("success")

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await read_json(request, "GenerateRequest")
        return await self._talk(request, body, canned_replies.generated, said=bool(body.get("prompt")))

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await read_json(request, "ChatRequest")
        _asked(body, "model is required")
        return await self._talk(request, body, canned_replies.chatted, said=bool(body.get("messages")))

    async def _talk(
        self,
        request: web.Request,
        body: dict[str, Any],
        shape: Callable[[str], dict[str, Any]],
        *,
        said: bool,
    ) -> web.StreamResponse:
        asked = body.get("model") or ""
        name = self._installed(asked)
        if not said and body.get("keep_alive") in {0, "0", "0s"}:
            self.loaded.discard(name)
            return answer(canned_replies.silent(asked, shape, "unload"))
        if self.fail_load is not None:
            raise ErrorAnswer(self.fail_load, 500)
        self.loaded.add(name)
        if not said:
            return answer(canned_replies.silent(asked, shape, "load"))
        if body.get("stream") is False:
            return answer(canned_replies.whole(asked, shape))
        lines = Lines(request, streaming=True)
        with suppress(ConnectionError):
            for line in canned_replies.words(asked, shape):
                await lines.say(line)
        return lines.end()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await read_json(request, "ChatCompletionRequest")
        asked = body.get("model") or ""
        try:
            self.loaded.add(self._installed(asked))
        except ErrorAnswer as refusal:
            details = {"message": refusal.text, "type": "not_found_error", "param": None, "code": None}
            return web.json_response({"error": details}, status=refusal.status)
        if body.get("stream") is not True:
            return answer(canned_replies.completed(asked, "".join(canned_replies.WORDS), part=False))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for word in canned_replies.WORDS:
            await response.write(b"data: " + orjson.dumps(canned_replies.completed(asked, word, part=True)) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _embed(self, request: web.Request) -> web.Response:
        body = await read_json(request, "EmbedRequest")
        asked = body.get("model") or ""
        if ModelName.parse(asked) is not None and asked not in self.models:
            raise ErrorAnswer(f'model "{asked}" not found, try pulling it first', 404)
        self.loaded.add(self._installed(asked))
        given = body.get("input") or []
        return answer(canned_replies.embedded(asked, [given] if isinstance(given, str) else given))


def _asked(body: dict[str, Any], complaint: str) -> str:
    name = str(body.get("model") or body.get("name") or "")
    if not name:
        raise ErrorAnswer(complaint, 400)
    return name


def _valid_path(path: str) -> bool:
    """Go's fs.ValidPath: relative, and no element that is empty or dots."""
    return path == "." or all(part not in {"", ".", ".."} for part in path.split("/"))
