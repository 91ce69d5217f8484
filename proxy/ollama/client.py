"""The client of one Ollama server. No other package knows Ollama's API."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

import aiohttp
import orjson
from aiohttp import hdrs

from proxy.errors import OllamaError, OllamaGone
from proxy.ollama.api import error_text
from proxy.ollama.blobs import BlobApi
from proxy.ollama.disk import blob_file
from proxy.ollama.models import ModelApi
from proxy.timings import DEFAULT, Timings


def ollama_tls(url: str) -> ssl.SSLContext | None:
    """The TLS settings for an Ollama behind https: it uses the system's certificates. SSL_CERT_FILE is for the Hub."""
    if not url.startswith("https:"):
        return None
    paths = ssl.get_default_verify_paths()
    file, folder = Path(paths.openssl_cafile), Path(paths.openssl_capath)
    return ssl.create_default_context(
        cafile=file if file.exists() else None, capath=folder if folder.exists() else None
    )


def upstream_session(tls: ssl.SSLContext | None = None) -> aiohttp.ClientSession:
    """A session for Ollama: no total time limit (a create is silent for minutes), no decompression, no HTTP proxy."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=tls or True),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        auto_decompress=False,
        max_line_size=128 * 1024,
        max_field_size=128 * 1024,
    )


class Ollama(BlobApi, ModelApi):
    """All calls of Ollama's API that the proxy makes."""

    def __init__(self, url: str, session: aiohttp.ClientSession, timings: Timings = DEFAULT, models: str = "") -> None:
        """`models` is Ollama's folder of models on this machine; empty means the usual folders."""
        super().__init__(url, session, timings)
        self._models = models

    def blob_file(self, digest: str) -> Path | None:
        """As `disk.blob_file`."""
        return blob_file(self._models, digest)

    async def version(self) -> str:
        """The version of `GET /api/version`. Raises OllamaError if there is no response within 5 seconds."""
        limit = aiohttp.ClientTimeout(total=self._timings.ollama_answer)
        with self._translated_errors():
            async with self._session.get(f"{self.url}/api/version", timeout=limit) as response:
                answer = await response.read()
        try:
            return str(orjson.loads(answer)["version"])
        except (orjson.JSONDecodeError, LookupError, TypeError) as error:
            raise OllamaError(f"{self.url} answers, but not as Ollama does; check ollama.url") from error

    async def wait_until_back(self, error: OllamaGone, seconds: float) -> None:
        """Wait until Ollama answers. Raises `error` after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    with suppress(OllamaError):
                        await self.version()
                        return
                    await self._pause()
        raise error

    async def cors_headers(self, host: str, origin: str) -> Mapping[str, str] | None:
        """The CORS headers of a response to a page at `origin` that calls Ollama as `host`; None if it is refused."""
        headers = {hdrs.HOST: host, hdrs.ORIGIN: origin}
        limit = aiohttp.ClientTimeout(total=self._timings.ollama_answer)
        with self._translated_errors():
            async with self._session.get(f"{self.url}/api/version", headers=headers, timeout=limit) as response:
                if response.status == HTTPStatus.FORBIDDEN:
                    return None
                all_headers = response.headers
        return {
            name: value
            for name, value in all_headers.items()
            if name == hdrs.VARY or name.startswith("Access-Control-")
        }

    async def stream(self, path: str, body: bytes) -> AsyncIterator[bytes]:
        """The chunks of a streamed response. Raises OllamaError, with Ollama's reason if it refuses the call."""
        headers = {"Content-Type": "application/json"}
        with self._translated_errors():
            async with self._session.post(f"{self.url}{path}", data=body, headers=headers) as response:
                if response.status >= HTTPStatus.BAD_REQUEST:
                    raise OllamaError(error_text(await response.read()))
                async for chunk in response.content.iter_any():
                    yield chunk
