"""A browser's Origin, judged as Ollama would judge it if the browser spoke to Ollama itself."""

from collections.abc import Mapping

from aiohttp import hdrs, web
from yarl import URL

from proxy.errors import OllamaError
from proxy.ollama.client import Ollama

NOTHING: Mapping[str, str] = {}


class Cors:
    """Ollama exempts an Origin that equals the Host (gin-contrib/cors, applyCors), and Host is rewritten here."""

    def __init__(self, ollama: Ollama) -> None:
        self._ollama = ollama
        url = URL(ollama.url)
        self._authority = url.host_port_subcomponent or ""
        self._own_origin = f"{url.scheme}://{self._authority}"
        spelled_out = f"{url.host_subcomponent}:{url.port}"
        self._other_spelling = url.host_subcomponent or "" if self._authority == spelled_out else spelled_out

    def translate(self, request: web.BaseRequest) -> tuple[str, str | None]:
        """The Host and the Origin for Ollama: equal there where they are equal here, and only there."""
        origin = request.headers.get(hdrs.ORIGIN)
        if not origin:
            return self._authority, origin
        if _is_at(origin, request.headers.get(hdrs.HOST, "")):
            return self._authority, self._own_origin
        if _is_at(origin, self._authority):
            return self._other_spelling, origin
        return self._authority, origin

    async def headers(self, request: web.BaseRequest) -> Mapping[str, str] | None:
        """The CORS headers that Ollama would send with an answer to `request`; None where it would refuse it."""
        host, origin = self.translate(request)
        if not origin:
            return NOTHING
        if not origin.isascii():
            return None  # no browser sends it, and no list of Ollama's has it
        try:
            return await self._ollama.cors_headers(host, origin)
        except OllamaError:
            return NOTHING


def _is_at(origin: str, host: str) -> bool:
    return origin in (f"http://{host}", f"https://{host}")
