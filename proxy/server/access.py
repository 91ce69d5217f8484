"""Who may call: a Host header by Ollama's rules, and a key where keys are set."""

import hmac
import logging
import socket
from asyncio import AbstractEventLoop, Task
from functools import lru_cache
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import unquote

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler
from yarl import URL

from proxy.config import ServerConfig
from proxy.server.page import locked_page
from proxy.server.responses import error_response

log = logging.getLogger(__name__)

PAGE = "/-/"
KEY_PREFIX = "/-/key/"
ALWAYS_OPEN = "/-/health"
KEY_IN_PATH = web.RequestKey("key in path", str)
KEY_IN_HEADER = web.RequestKey("key in header", bool)

LOCAL_DOMAINS = (".localhost", ".local", ".internal")
# Go's netip.Addr.IsPrivate; Python's is_private holds for more.
PRIVATE = [ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")]


def make_request(
    loop: AbstractEventLoop,
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: RequestHandler,
    writer: AbstractStreamWriter,
    task: "Task[None]",
) -> web.BaseRequest:
    """Aiohttp's request, whose path has lost a key in front of it: nothing that looks at the path can tell the key."""
    key, message = _take_key(message)
    request = web.BaseRequest(message, payload, protocol, writer, task, loop)
    if key is not None:
        request[KEY_IN_PATH] = key
    return request


class Access:
    """Refuses what a web page elsewhere (DNS rebinding) or somebody without a key must not do."""

    def __init__(self, server: ServerConfig, advertised_host: str = "") -> None:
        self._keys = [key.encode() for key in server.api_keys]
        self._names = {socket.gethostname().lower(), advertised_host.lower()}
        self._names.update(name for name in server.allowed_hosts if not name.startswith("*"))
        self._domains = (*LOCAL_DOMAINS, *(name[1:] for name in server.allowed_hosts if name.startswith("*")))
        self._is_host = lru_cache(maxsize=1024)(self._judge_host)

    def refusal(self, request: web.BaseRequest) -> web.Response | None:
        """An answer of 403 or 401, or None where the request may pass."""
        # `host` tells of a target in absolute form, which outweighs the header (RFC 9112 §3.2.2) here and in Go.
        host = request.headers.get(hdrs.HOST, "") if request.raw_path.startswith("/") else request.host
        if not self._is_host(host, _own_address(request)):
            log.warning("%s %s from %s: refused for its Host %r", request.method, request.path, request.remote, host)
            return error_response(
                f"the Host {host!r} is not a name that this proxy knows as its own; if it is one, add it to "
                "server.allowed_hosts",
                HTTPStatus.FORBIDDEN,
            )
        if not self._keys or request.method == hdrs.METH_OPTIONS or request.path == ALWAYS_OPEN:
            return None
        if self._is_key(request.get(KEY_IN_PATH, "")):
            return None
        scheme, _, key = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() == "bearer" and self._is_key(key.strip()):
            request[KEY_IN_HEADER] = True
            return None
        # The ollama command asks HEAD / first, whose answer can't tell why; it sends its user to the log.
        log.warning("%s %s from %s: refused, it has no key", request.method, request.path, request.remote)
        refused = (
            locked_page()
            if _wants_page(request)
            else error_response(
                "this proxy needs a key: send 'Authorization: Bearer KEY', or, with the ollama command, set "
                f"OLLAMA_HOST=http://HOST:PORT{KEY_PREFIX}KEY",
                HTTPStatus.UNAUTHORIZED,
            )
        )
        refused.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
        return refused

    def _is_key(self, given: str) -> bool:
        found = False
        for key in self._keys:
            found |= hmac.compare_digest(key, given.encode(errors="replace"))
        return found

    def _judge_host(self, host: str, own_address: str) -> bool:
        """Ollama's rule (server/routes.go, allowedHost), and the names that only a local network resolves."""
        name = _hostname(host).lower()
        try:
            address = ip_address(name)
        except ValueError:
            return "." not in name or name in self._names or name.endswith(self._domains)
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return (
            address.is_loopback
            or address.is_unspecified
            or any(address in network for network in PRIVATE)
            or name in self._names
            or str(address) == own_address
        )


def _take_key(message: RawRequestMessage) -> tuple[str | None, RawRequestMessage]:
    # aiohttp 3.14 has None here for a CONNECT that names no target.
    if not message.path:
        return None, message._replace(path="", url=URL())
    if not message.path.startswith(KEY_PREFIX):
        return None, message
    key, slash, rest = message.path.removeprefix(KEY_PREFIX).partition("/")
    if not slash:
        key, mark, rest = key.partition("?")
        rest = mark + rest
    path = f"/{rest}"
    url = URL.build(path=path.partition("?")[0], query_string=path.partition("?")[2], encoded=True)
    return unquote(key), message._replace(path=path, url=url)


def _hostname(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() and ":" not in name else host


def _wants_page(request: web.BaseRequest) -> bool:
    return request.path == PAGE and "text/html" in request.headers.get(hdrs.ACCEPT, "")


def _own_address(request: web.BaseRequest) -> str:
    name = request.protocol.sockname
    return str(name[0]) if name else ""
