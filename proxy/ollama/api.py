"""Sends HTTP requests to Ollama. Network errors become OllamaGone here, and only here."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import aiohttp
import orjson

from proxy.errors import OllamaError, OllamaGone
from proxy.network_errors import reason_of, translate_failures
from proxy.timings import DEFAULT, Timings


class OllamaApi:
    """The part that all calls share. `url` has no trailing slash."""

    def __init__(self, url: str, session: aiohttp.ClientSession, timings: Timings = DEFAULT) -> None:
        self.url = url
        self._timings = timings
        self._session = session

    def unreachable(self, error: Exception) -> OllamaGone:
        return OllamaGone(
            f"Ollama at {self.url} cannot be reached ({reason_of(error)}); is it running? "
            "The proxy looks for it at ollama.url (--ollama URL)"
        )

    def _translated_errors(
        self, translate: Callable[[Exception], OllamaError] | None = None
    ) -> AbstractContextManager[None]:
        """Raises what `translate` makes of a network error in the block, by default OllamaGone."""
        return translate_failures(translate or self.unreachable, (aiohttp.ClientError, TimeoutError))

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        """Status and body of the response."""
        data = orjson.dumps(body) if body is not None else None
        with self._translated_errors():
            async with self._session.request(method, f"{self.url}{path}", data=data) as response:
                return response.status, await response.read()

    async def _pause(self) -> None:
        await asyncio.sleep(self._timings.ollama_poll)


def json_object(text: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise OllamaError(f"Ollama's response is not JSON: {text[:200].decode(errors='replace')}; check ollama.url")
    return value


def error_text(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return body[:500].decode(errors="replace") or "no reason given"
