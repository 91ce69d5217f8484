"""Ollama's checks of Origin (gin-contrib/cors 1.7.2) and then of Host, as Ollama does them on a loopback address."""

import re
from ipaddress import ip_address

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

ALLOWED_HEADERS = "Authorization,Content-Type,User-Agent,Accept,X-Requested-With"
ALLOWED_METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
LOCAL_ORIGIN = re.compile(
    r"https?://(localhost|127\.0\.0\.1|0\.0\.0\.0)(:.*)?|(app|file|tauri|vscode-webview|vscode-file)://.*"
)
CORS_HEADERS = web.RequestKey("CORS headers", dict[str, str])
PREFLIGHT = {
    hdrs.ACCESS_CONTROL_ALLOW_HEADERS: ALLOWED_HEADERS,
    hdrs.ACCESS_CONTROL_ALLOW_METHODS: ALLOWED_METHODS,
    hdrs.ACCESS_CONTROL_MAX_AGE: "43200",
    hdrs.VARY: "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
}


class BrowserRules:
    def __init__(self) -> None:
        self.origins: set[str] = set()  # as in OLLAMA_ORIGINS
        self.checks_host = True  # False: as if Ollama listened on an address that is not loopback

    @web.middleware
    async def apply(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get(hdrs.ORIGIN, "")
        if origin and origin not in (f"http://{request.host}", f"https://{request.host}"):
            if origin not in self.origins and not LOCAL_ORIGIN.fullmatch(origin):
                return web.Response(status=403)
            allowed: dict[str, str] = {hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin}
            if request.method == hdrs.METH_OPTIONS:
                return web.Response(status=204, headers=allowed | PREFLIGHT)
            request[CORS_HEADERS] = allowed | {hdrs.VARY: "Origin"}
        if self.checks_host and not _is_local(request.headers.get(hdrs.HOST, "")):
            return web.Response(status=403)
        return await handler(request)


async def admit_origin(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Add the CORS headers to every response, errors too. aiohttp calls this before it sends a response."""
    response.headers.update(request.get(CORS_HEADERS, {}))


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0] or host
    try:
        address = ip_address(name)
    except ValueError:
        return name in ("", "localhost") or name.lower().endswith((".localhost", ".local", ".internal"))
    return address.is_loopback or address.is_private or address.is_unspecified
