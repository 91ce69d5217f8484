"""Uploads blobs to Ollama, also blobs whose digest is only known after the upload."""

import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from proxy.errors import DigestMismatch, OllamaError, OllamaGone
from proxy.network_errors import reason_of
from proxy.ollama.api import OllamaApi, error_text
from proxy.timings import DEFAULT, Timings

PROBE = b"ollama-hf-proxy: does a wrong digest keep the data?"
PROBE_DIGEST = f"sha256:{hashlib.sha256(PROBE).hexdigest()}"
MISMATCH = re.compile(r'digest mismatch.* got "?(sha256:[0-9a-f]{64})')

Write = Callable[[bytes], Awaitable[None]]
Produce = Callable[[Write], Awaitable[object]]


class BlobApi(OllamaApi):
    """`/api/blobs`."""

    def __init__(self, url: str, session: aiohttp.ClientSession, timings: Timings = DEFAULT) -> None:
        super().__init__(url, session, timings)
        self._keeps_unnamed: bool | None = None

    async def has_blob(self, digest: str) -> bool:
        with self._translated_errors():
            async with self._session.head(f"{self.url}/api/blobs/{digest}") as response:
                return response.status == HTTPStatus.OK

    async def push_blob(self, digest: str, size: int, produce: Produce) -> bool:
        """Upload `size` bytes that `produce` writes. Returns False if Ollama already has the blob and reads nothing.

        If `produce` raises, the connection is aborted, so that Ollama keeps nothing, and its error is raised here.
        Raises OllamaGone if the connection breaks, OllamaError if Ollama refuses the blob.
        """
        status, text = await self._upload(digest, size, produce)
        if status not in (HTTPStatus.OK, HTTPStatus.CREATED):
            error_class = DigestMismatch if MISMATCH.search(text) else OllamaError
            raise error_class(f"Ollama refused the blob: {text}")
        return status == HTTPStatus.CREATED

    async def push_unnamed_blob(self, size: int, produce: Produce) -> str:
        """Upload `size` bytes whose digest is not known yet. Returns the digest that Ollama computed.

        If the digest is wrong, Ollama responds 400 with the true one, and keeps the data under the true one
        (server/routes.go, v0.5.5 to v0.33). The caller compares it with its own digest and calls `has_blob`.
        """
        status, text = await self._upload(f"sha256:{secrets.token_hex(32)}", size, produce)
        if status != HTTPStatus.BAD_REQUEST or not (mismatch := MISMATCH.search(text)):
            raise OllamaError(f"Ollama refused the blob: {text}")
        return mismatch[1]

    async def keeps_unnamed_blobs(self) -> bool:
        """Whether this Ollama keeps data that was uploaded under a wrong digest. Tried once, with a few bytes."""
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
        """Status and error text of the response, which may arrive before the whole body is written."""
        body = _ProducedBody(size, produce)
        try:
            async with self._session.post(f"{self.url}/api/blobs/{digest}", data=body) as response:
                return response.status, error_text(await response.read())
        except aiohttp.ClientError as error:
            # A source raises ProxyError for its own failures. So a plain network error came from the connection to
            # Ollama.
            if body.failure is not None and not isinstance(body.failure, aiohttp.ClientError | ConnectionError):
                raise body.failure from None
            raise OllamaGone(
                f"Ollama at {self.url} broke off the upload ({reason_of(error)}); see its log, then "
                "pull again: finished files are kept"
            ) from error


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
