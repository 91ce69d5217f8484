"""Administration under `/-/`, a path that Ollama does not use."""

import secrets
from http import HTTPStatus

from aiohttp import hdrs, web
from yarl import URL

from proxy import __version__
from proxy.answers import json_response
from proxy.errors import OllamaError
from proxy.ollama import Ollama

PREFIX = "/-/"
INSTANCE_HEADER = "X-Ollama-HF-Proxy"


class Admin:
    """Answers `/-/health`. Every answer carries `instance`, by which a proxy recognises itself."""

    def __init__(self, ollama: Ollama) -> None:
        self._ollama = ollama
        self.instance = secrets.token_hex(8)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if _is_foreign(request):
            return self._answer({"error": "other sites may not administer the proxy"}, HTTPStatus.FORBIDDEN)
        if request.path == "/-/health":
            return await self._health()
        return self._answer({"error": f"there is nothing at {request.path}"}, HTTPStatus.NOT_FOUND)

    async def _health(self) -> web.Response:
        version = None
        try:
            version = await self._ollama.version()
        except OllamaError as error:
            status = str(error)
        else:
            status = "ok"
        reachable = version is not None
        return self._answer(
            {
                "status": status,
                "version": __version__,
                "ollama": {"url": self._ollama.url, "version": version, "reachable": reachable},
            },
            HTTPStatus.OK if reachable else HTTPStatus.SERVICE_UNAVAILABLE,
        )

    def _answer(self, value: dict[str, object], status: HTTPStatus) -> web.Response:
        return json_response(value, status, {INSTANCE_HEADER: self.instance})


def _is_foreign(request: web.BaseRequest) -> bool:
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None:
        return False
    try:
        return URL(origin).authority != request.host
    except ValueError:
        return True
