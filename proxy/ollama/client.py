"""The one module that knows Ollama's API: version, blobs, models, pull and create."""

import asyncio
import hashlib
import logging
import re
import secrets
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp import hdrs
from aiohttp.abc import AbstractStreamWriter

from proxy.errors import DigestMismatch, OllamaError, OllamaGone, Rejected
from proxy.network_errors import reason_of
from proxy.timings import DEFAULT, Timings

log = logging.getLogger(__name__)

COPY_TRIES = 5
LOAD_CONTEXT = 256
"""Tokens: little memory beside the weights."""
PROBE = b"ollama-hf-proxy: does a wrong digest keep the data?"
PROBE_DIGEST = f"sha256:{hashlib.sha256(PROBE).hexdigest()}"
MISMATCH = re.compile(r'digest mismatch.* got "?(sha256:[0-9a-f]{64})')

# What a create says of its machine, and not of the files that it was given. From v0.30 on a full disk is only an "exit
# status 1" of llama-quantize.
TROUBLE = re.compile(
    r"no space left|disk quota|input/output error|read-only file system|permission denied|too many open files"
    r"|out of memory|cannot allocate memory|signal: |no such file or directory|context canceled|llama-quantize failed",
    re.IGNORECASE,
)

Write = Callable[[bytes], Awaitable[None]]
Produce = Callable[[Write], Awaitable[object]]


def ollama_tls(url: str) -> ssl.SSLContext | None:
    """For an Ollama behind https: trusts what the system trusts. SSL_CERT_FILE is for the Hub's side."""
    if not url.startswith("https:"):
        return None
    paths = ssl.get_default_verify_paths()
    file, folder = Path(paths.openssl_cafile), Path(paths.openssl_capath)
    return ssl.create_default_context(
        cafile=file if file.exists() else None, capath=folder if folder.exists() else None
    )


def upstream_session(tls: ssl.SSLContext | None = None) -> aiohttp.ClientSession:
    """A session for Ollama: no time limits (a create is silent for minutes), bodies left as they are, no proxies."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=tls or True),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        auto_decompress=False,
        max_line_size=128 * 1024,
        max_field_size=128 * 1024,
    )


class Ollama:
    """A client of one Ollama server at `url`, which has no trailing slash."""

    def __init__(self, url: str, session: aiohttp.ClientSession, timings: Timings = DEFAULT) -> None:
        self.url = url
        self._timings = timings
        self._session = session
        self._keeps_unnamed: bool | None = None

    async def version(self) -> str:
        """What `GET /api/version` says. Raises OllamaError when there is no answer within 5 seconds."""
        limit = aiohttp.ClientTimeout(total=self._timings.ollama_answer)
        try:
            async with self._session.get(f"{self.url}/api/version", timeout=limit) as response:
                answer = orjson.loads(await response.read())
                return str(answer["version"])
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self.unreachable(error) from error
        except (orjson.JSONDecodeError, LookupError, TypeError) as error:
            raise OllamaError(f"{self.url} answers, but not as Ollama does; check ollama.url") from error

    async def has_blob(self, digest: str) -> bool:
        try:
            async with self._session.head(f"{self.url}/api/blobs/{digest}") as response:
                return response.status == HTTPStatus.OK
        except aiohttp.ClientError as error:
            raise self.unreachable(error) from error

    async def has_model(self, name: str) -> bool:
        return await self.show(name) is not None

    async def show(self, name: str) -> dict[str, Any] | None:
        """What `/api/show` says of a model; None where there is none."""
        status, answer = await self._call(hdrs.METH_POST, "/api/show", {"model": name})
        return _json_object(answer) if status == HTTPStatus.OK else None

    async def check_shown(self, name: str) -> None:
        """Raises OllamaError with the reason where it cannot show a model."""
        status, answer = await self._call(hdrs.METH_POST, "/api/show", {"model": name})
        if status != HTTPStatus.OK:
            raise OllamaError(_error_text(answer))

    async def models(self) -> list[dict[str, Any]]:
        """What `/api/tags` says, which has a `name` and a `digest` for each."""
        _, answer = await self._call(hdrs.METH_GET, "/api/tags")
        try:
            return [{**model, "name": str(model["name"])} for model in orjson.loads(answer)["models"]]
        except (orjson.JSONDecodeError, LookupError, TypeError) as error:
            raise OllamaError(f"{self.url} lists its models, but not as Ollama does; check ollama.url") from error

    async def delete(self, name: str) -> bool:
        """Remove a model and the blobs that no other one has; whether it was there."""
        status, answer = await self._call(hdrs.METH_DELETE, "/api/delete", {"model": name})
        if status not in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
            raise OllamaError(f"Ollama cannot remove {name}: {_error_text(answer)}")
        return status == HTTPStatus.OK

    async def copy(self, source: str, destination: str) -> bool:
        """Give a model a second name; whether it was there.

        Blobs that only the model of that name had stay, and are nobody's.
        """
        body = {"source": source, "destination": destination}
        for _ in range(COPY_TRIES):
            status, answer = await self._call(hdrs.METH_POST, "/api/copy", body)
            if status in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
                return status == HTTPStatus.OK
            # It looks through the manifests of all models, and fails where another one goes meanwhile (0.34.1).
            if "no such file or directory" not in _error_text(answer):
                break
            await asyncio.sleep(self._timings.ollama_poll)
        raise OllamaError(f"Ollama cannot call {source} {destination}: {_error_text(answer)}")

    async def load(self, name: str) -> None:
        """Have a model say one token, or embed one, and leave memory again. Raises OllamaError with Ollama's reason."""
        shown = await self.show(name) or {}
        body = {"model": name, "keep_alive": 0, "stream": False, "options": {"num_predict": 1, "num_ctx": LOAD_CONTEXT}}
        if "embedding" in shown.get("capabilities", ()):
            status, answer = await self._call(hdrs.METH_POST, "/api/embed", {**body, "input": "a"})
        else:
            status, answer = await self._call(hdrs.METH_POST, "/api/generate", {**body, "prompt": "a", "raw": True})
        if status != HTTPStatus.OK:
            raise OllamaError(_error_text(answer))

    async def events(self, path: str, body: bytes) -> AsyncIterator[bytes]:
        """The answer to a call that streams. Raises OllamaError, for a refusal with Ollama's reason."""
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.post(f"{self.url}{path}", data=body, headers=headers) as response:
                if response.status >= HTTPStatus.BAD_REQUEST:
                    raise OllamaError(_error_text(await response.read()))
                async for chunk in response.content.iter_any():
                    yield chunk
        except aiohttp.ClientError as error:
            raise self.unreachable(error) from error

    async def pull(self, name: str) -> dict[str, int]:
        """Have Ollama pull by itself, also without TLS. The size of each layer by its digest.

        Of a blob that Ollama holds it is the file's true size, whatever the manifest says (server/download.go, v0.24 to
        0.40). Nothing else in its API tells that.
        """
        sizes: dict[str, int] = {}
        async with aclosing(self.pull_lines(name, insecure=True)) as lines:
            async for line in lines:
                if line.get("digest") and line.get("total"):
                    sizes[str(line["digest"])] = int(line["total"])
        return sizes

    async def pull_lines(self, name: str, *, insecure: bool = False) -> AsyncGenerator[dict[str, Any], None]:
        """Have Ollama pull by itself, and yield its lines up to `success`. The pull stops when nobody reads them.

        Raises OllamaGone where the connection breaks, OllamaError where Ollama fails.
        """
        body = {"model": name, "insecure": True} if insecure else {"model": name}
        try:
            async with self._session.post(f"{self.url}/api/pull", data=orjson.dumps(body)) as response:
                if response.status != HTTPStatus.OK:
                    raise OllamaError(_error_text(await response.read()))
                async for line in _json_lines(response.content):
                    if "error" in line:
                        raise OllamaError(str(line["error"]))
                    yield line
                    if line.get("status") == "success":
                        return
        except aiohttp.ClientError as error:
            raise self.unreachable(error) from error
        raise OllamaError(f"Ollama ended the pull of {name} without success; see its log")

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        data = orjson.dumps(body) if body is not None else None
        try:
            async with self._session.request(method, f"{self.url}{path}", data=data) as response:
                return response.status, await response.read()
        except aiohttp.ClientError as error:
            raise self.unreachable(error) from error

    async def canonical_name(self, name: str) -> str:
        """A model's name as Ollama has it; as given where there is none.

        A create spells the parts of a name as other models have them, say `Q4_K_M` for `q4_k_m`, and then finds what is
        in `from` in that case only (v0.24, v0.33).
        """
        alike = [model["name"] for model in await self.models() if model["name"].casefold() == name.casefold()]
        return name if name in alike or not alike else str(alike[0])

    async def back(self, gone: OllamaGone, patience: float) -> None:
        """Wait until Ollama answers. Raises what it is `gone` with after `patience` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while True:
                    with suppress(OllamaError):
                        await self.version()
                        return
                    await asyncio.sleep(self._timings.ollama_poll)
        raise gone

    async def cors_headers(self, host: str, origin: str) -> Mapping[str, str] | None:
        """The CORS headers of an answer to a page at `origin` that calls Ollama as `host`; None for a refusal."""
        headers = {hdrs.HOST: host, hdrs.ORIGIN: origin}
        limit = aiohttp.ClientTimeout(total=self._timings.ollama_answer)
        try:
            async with self._session.get(f"{self.url}/api/version", headers=headers, timeout=limit) as response:
                if response.status == HTTPStatus.FORBIDDEN:
                    return None
                found = response.headers
                return {name: found[name] for name in found if name == hdrs.VARY or name.startswith("Access-Control-")}
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self.unreachable(error) from error

    async def push_blob(self, digest: str, size: int, produce: Produce) -> bool:
        """Upload `size` bytes that `produce` writes; False where Ollama holds the blob and takes none.

        When `produce` raises, the connection is aborted, so that Ollama keeps nothing, and its error is raised
        here. Raises OllamaGone when the connection breaks, OllamaError when Ollama refuses.
        """
        status, text = await self._upload(digest, size, produce)
        if status not in (HTTPStatus.OK, HTTPStatus.CREATED):
            kind = DigestMismatch if MISMATCH.search(text) else OllamaError
            raise kind(f"Ollama refused the blob: {text}")
        return status == HTTPStatus.CREATED

    async def push_unnamed_blob(self, size: int, produce: Produce) -> str:
        """Upload `size` bytes whose digest nobody knows yet; the digest that Ollama computed.

        Ollama answers a digest that is not the data's with a 400 that names the true one, and keeps the data under it
        (server/routes.go, v0.5.5 to v0.33). The caller compares it with its own, and asks `has_blob`.
        """
        status, text = await self._upload(f"sha256:{secrets.token_hex(32)}", size, produce)
        if status != HTTPStatus.BAD_REQUEST or not (found := MISMATCH.search(text)):
            raise OllamaError(f"Ollama refused the blob: {text}")
        return found[1]

    async def keeps_unnamed_blobs(self) -> bool:
        """Whether this Ollama keeps what is uploaded under another digest; tried once, with a few bytes."""
        if self._keeps_unnamed is None:

            async def produce(write: Write) -> None:
                await write(PROBE)

            try:
                self._keeps_unnamed = await self.has_blob(await self.push_unnamed_blob(len(PROBE), produce))
            except OllamaGone:
                raise
            except OllamaError:
                self._keeps_unnamed = False
        return self._keeps_unnamed

    async def _upload(self, digest: str, size: int, produce: Produce) -> tuple[int, str]:
        """Status and error text of the answer, which may come before everything is written."""
        body = _ProducedBody(size, produce)
        try:
            async with self._session.post(f"{self.url}/api/blobs/{digest}", data=body) as response:
                return response.status, _error_text(await response.read())
        except aiohttp.ClientError as error:
            # A source tells its own troubles as ProxyError: a bare network error came from writing to Ollama.
            if body.failure is not None and not isinstance(body.failure, aiohttp.ClientError | ConnectionError):
                raise body.failure from None
            raise OllamaGone(
                f"Ollama at {self.url} broke off the upload ({reason_of(error)}); see its log, then pull again: "
                "finished files are kept"
            ) from error

    async def create(self, body: Mapping[str, Any], name: str) -> None:
        """Create a model; errors are about `name`.

        Ollama ends it by itself when the proxy does not live to read the answer, since there is no stream of lines: one
        that nobody reads blocks for ever (v0.24, v0.33). Raises Rejected where Ollama cannot make a model of that,
        OllamaError where it fails otherwise, or ends without `success`.
        """
        data = orjson.dumps({**body, "stream": False})
        try:
            async with self._session.post(f"{self.url}/api/create", data=data) as response:
                status, answer = response.status, await response.read()
        except aiohttp.ClientError as error:
            raise OllamaError(
                f"Ollama at {self.url} broke off while it created {name} ({reason_of(error)}); "
                "it may have crashed: see its log"
            ) from error
        said = {"error": _error_text(answer)} if status >= HTTPStatus.BAD_REQUEST else _json_object(answer or b"{}")
        if "error" in said:
            raise _failed_create(name, str(said["error"]))
        if said.get("status") != "success":
            raise OllamaError(f"Ollama ended the creation of {name} without success; see its log")

    def unreachable(self, error: Exception) -> OllamaGone:
        return OllamaGone(
            f"Ollama at {self.url} cannot be reached ({reason_of(error)}); is it running? "
            "The proxy looks for it at ollama.url (--ollama URL)"
        )


class _ProducedBody(aiohttp.Payload):
    """A request body that a coroutine writes, so that an aborted upload ends that coroutine at once."""

    def __init__(self, size: int, produce: Produce) -> None:
        super().__init__(b"", content_type="application/octet-stream")
        self._size = size
        self._produce = produce
        self.failure: Exception | None = None

    async def write(self, writer: AbstractStreamWriter) -> None:
        try:
            await self._produce(writer.write)
        except Exception as error:
            self.failure = error
            raise

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002 - aiohttp's signature
        raise TypeError("a streamed body has no text")


async def _json_lines(content: aiohttp.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """The objects of an NDJSON stream; a line may be longer than aiohttp's own line limit."""
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in filter(bytes.strip, lines):
            yield _json_object(line)
    if rest.strip():
        yield _json_object(rest)


def _failed_create(name: str, text: str) -> OllamaError:
    kind = OllamaError if TROUBLE.search(text) else Rejected
    return kind(f"Ollama cannot create {name}: {text}")


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise OllamaError(f"Ollama said something that is not JSON: {line[:200].decode(errors='replace')}")
    return value


def _error_text(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return body[:500].decode(errors="replace") or "no reason given"
