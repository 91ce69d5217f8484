"""CORS: Ollama decides about a browser's Origin, as if the browser called Ollama directly."""

from collections.abc import Mapping

from aiohttp import hdrs, web
from yarl import URL

from proxy.errors import OllamaError
from proxy.ollama.client import Ollama

NO_HEADERS: Mapping[str, str] = {}


class Cors:
    """Rewrites Host and Origin together: Ollama allows an Origin that equals the Host (gin-contrib/cors, applyCors)."""

    def __init__(self, ollama: Ollama) -> None:
        self._ollama = ollama
        url = URL(ollama.url)
        self._authority = url.host_port_subcomponent or ""
        self._own_origin = f"{url.scheme}://{self._authority}"
        with_port = f"{url.host_subcomponent}:{url.port}"
        self._other_authority = url.host_subcomponent or "" if self._authority == with_port else with_port

    def translate(self, request: web.BaseRequest) -> tuple[str, str | None]:
        """The Host and the Origin for Ollama. They are equal exactly if the client's Host and Origin are equal."""
        origin = request.headers.get(hdrs.ORIGIN)
        if not origin:
            return self._authority, origin
        if _is_at(origin, request.headers.get(hdrs.HOST, "")):
            return self._authority, self._own_origin
        if _is_at(origin, self._authority):
            return self._other_authority, origin
        return self._authority, origin

    async def headers(self, request: web.BaseRequest) -> Mapping[str, str] | None:
        """The CORS headers that Ollama would add to a response to `request`; None if it would refuse the request."""
        host, origin = self.translate(request)
        if not origin:
            return NO_HEADERS
        if not origin.isascii():
            return None  # browsers do not send such an Origin, and Ollama cannot allow it
        try:
            return await self._ollama.cors_headers(host, origin)
        except OllamaError:
            return NO_HEADERS


def _is_at(origin: str, host: str) -> bool:
    return origin in (f"http://{host}", f"https://{host}")
