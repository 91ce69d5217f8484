"""Ollama's models: list, show, create, pull, copy, load and delete them."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson
from aiohttp import hdrs

from proxy.errors import OllamaError, Rejected
from proxy.network_errors import reason_of
from proxy.ollama.api import OllamaApi, error_text, json_object

COPY_TRIES = 5
LOAD_CONTEXT = 256
"""Tokens. Such a context needs little memory beside the weights."""

# Error texts of a create that are about Ollama's machine, not about the files. From v0.30 on, a full disk only shows as
# "exit status 1" of llama-quantize.
MACHINE_TROUBLE = re.compile(
    r"no space left|disk quota|input/output error|read-only file system|permission denied|too many open files"
    r"|out of memory|cannot allocate memory|signal: |no such file or directory|context canceled|llama-quantize failed",
    re.IGNORECASE,
)


class ModelApi(OllamaApi):
    """`/api/tags`, `/api/show`, `/api/create`, `/api/pull`, `/api/copy`, `/api/delete`, and a model's first token."""

    async def has_model(self, name: str) -> bool:
        return await self.show(name) is not None

    async def show(self, name: str) -> dict[str, Any] | None:
        """The response of `/api/show`; None if there is no such model."""
        status, answer = await self._call(hdrs.METH_POST, "/api/show", {"model": name})
        return json_object(answer) if status == HTTPStatus.OK else None

    async def check_shown(self, name: str) -> None:
        """Raises OllamaError with Ollama's reason if it cannot show the model."""
        status, answer = await self._call(hdrs.METH_POST, "/api/show", {"model": name})
        if status != HTTPStatus.OK:
            raise OllamaError(error_text(answer))

    async def models(self) -> list[dict[str, Any]]:
        """The models of `/api/tags`; each has a `name` and a `digest`."""
        _, answer = await self._call(hdrs.METH_GET, "/api/tags")
        try:
            return [{**model, "name": str(model["name"])} for model in orjson.loads(answer)["models"]]
        except (orjson.JSONDecodeError, LookupError, TypeError) as error:
            raise OllamaError(f"{self.url} lists its models, but not as Ollama does; check ollama.url") from error

    async def canonical_name(self, name: str) -> str:
        """A model's name in the case that Ollama uses; `name` itself if there is no such model.

        A create changes the case of a name's parts to that of other models, for example `q4_k_m` to `Q4_K_M`. It then
        finds the model in `from` only in that case (v0.24, v0.33).
        """
        names = [model["name"] for model in await self.models() if model["name"].casefold() == name.casefold()]
        return name if name in names or not names else str(names[0])

    async def delete(self, name: str) -> bool:
        """Remove a model and the blobs that no other model has. Returns False if there was no such model."""
        status, answer = await self._call(hdrs.METH_DELETE, "/api/delete", {"model": name})
        if status not in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
            raise OllamaError(f"Ollama cannot remove {name}: {error_text(answer)}")
        return status == HTTPStatus.OK

    async def copy(self, source: str, destination: str) -> bool:
        """Give a model a second name. Returns False if there is no such model.

        If `destination` was another model, the blobs that only it had stay in Ollama, and no model has them.
        """
        body = {"source": source, "destination": destination}
        for _ in range(COPY_TRIES):
            status, answer = await self._call(hdrs.METH_POST, "/api/copy", body)
            if status in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
                return status == HTTPStatus.OK
            # Ollama reads the manifests of all models, and fails if another one is removed meanwhile (0.34.1).
            if "no such file or directory" not in error_text(answer):
                break
            await self._pause()
        raise OllamaError(f"Ollama cannot copy {source} to {destination}: {error_text(answer)}")

    async def load(self, name: str) -> None:
        """Load a model, generate one token or embed one, and unload it.

        Raises OllamaError with Ollama's reason, or if there is no response within `Timings.load` seconds.
        """
        try:
            async with asyncio.timeout(self._timings.load):
                await self._load(name)
        except TimeoutError as error:
            raise OllamaError(f"there is no response after {self._timings.load:g} s") from error

    async def _load(self, name: str) -> None:
        details = await self.show(name) or {}
        body = {"model": name, "keep_alive": 0, "stream": False, "options": {"num_predict": 1, "num_ctx": LOAD_CONTEXT}}
        if "embedding" in details.get("capabilities", ()):
            status, answer = await self._call(hdrs.METH_POST, "/api/embed", {**body, "input": "a"})
        else:
            status, answer = await self._call(hdrs.METH_POST, "/api/generate", {**body, "prompt": "a", "raw": True})
        if status != HTTPStatus.OK:
            raise OllamaError(error_text(answer))

    async def pull(self, name: str) -> dict[str, int]:
        """Make Ollama pull a model, also without TLS. Returns the size of each layer by its digest.

        For a blob that Ollama already has, this is the file's true size, not the manifest's (server/download.go, v0.24
        to 0.40). No other call of its API returns it.
        """
        sizes: dict[str, int] = {}
        async with aclosing(self.pull_lines(name, insecure=True)) as lines:
            async for line in lines:
                if line.get("digest") and line.get("total"):
                    sizes[str(line["digest"])] = int(line["total"])
        return sizes

    async def pull_lines(self, name: str, *, insecure: bool = False) -> AsyncGenerator[dict[str, Any], None]:
        """Make Ollama pull a model, and yield its lines up to `success`. Closing the generator stops the pull.

        Raises OllamaGone if the connection breaks, OllamaError if Ollama fails.
        """
        body = {"model": name, "insecure": True} if insecure else {"model": name}
        with self._translated_errors():
            async with self._session.post(f"{self.url}/api/pull", data=orjson.dumps(body)) as response:
                if response.status != HTTPStatus.OK:
                    raise OllamaError(error_text(await response.read()))
                async for line in _json_lines(response.content):
                    if "error" in line:
                        raise OllamaError(str(line["error"]))
                    yield line
                    if line.get("status") == "success":
                        return
        raise OllamaError(f"Ollama ended the pull of {name} without success; see its log")

    async def create(self, body: Mapping[str, Any], name: str) -> None:
        """Create a model. Error texts contain `name`.

        The create is not streamed: Ollama then ends it even if the proxy dies before it reads the response. A stream of
        lines that no client reads blocks Ollama for ever (v0.24, v0.33).

        Raises Rejected if Ollama cannot make a model from the files, OllamaError if it fails otherwise or ends without
        `success`.
        """
        data = orjson.dumps({**body, "stream": False})

        def broken(error: Exception) -> OllamaError:
            return OllamaError(
                f"Ollama at {self.url} broke off while it created {name} ({reason_of(error)}); "
                "it may have crashed: see its log"
            )

        with self._translated_errors(broken):
            async with self._session.post(f"{self.url}/api/create", data=data) as response:
                status, answer = response.status, await response.read()
        result = {"error": error_text(answer)} if status >= HTTPStatus.BAD_REQUEST else json_object(answer or b"{}")
        if "error" in result:
            raise _failed_create(name, str(result["error"]))
        if result.get("status") != "success":
            raise OllamaError(f"Ollama ended the creation of {name} without success; see its log")


async def _json_lines(content: aiohttp.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """The objects of an NDJSON stream. A line may be longer than aiohttp's own limit for lines."""
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in filter(bytes.strip, lines):
            yield json_object(line)
    if rest.strip():
        yield json_object(rest)


def _failed_create(name: str, text: str) -> OllamaError:
    error_class = OllamaError if MACHINE_TROUBLE.search(text) else Rejected
    return error_class(f"Ollama cannot create {name}: {text}")
