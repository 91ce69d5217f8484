"""Access control: the Host header by Ollama's rules, and a key if keys are configured."""

import hmac
import logging
import socket
from functools import lru_cache
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import quote, unquote

from aiohttp import hdrs, web

from proxy.config.sections import ServerConfig
from proxy.server.page import locked_page
from proxy.server.responses import error_response

log = logging.getLogger(__name__)

PAGE = "/-/"
KEY_PREFIX = "/-/key/"
OPEN_PATH = "/-/health"
KEY_IN_PATH = web.RequestKey("key in path", str)
KEY_IN_HEADER = web.RequestKey("key in header", bool)

LOCAL_DOMAINS = (".localhost", ".local", ".internal")
# The networks of Go's netip.Addr.IsPrivate; Python's is_private includes more.
PRIVATE_NETWORKS = [ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")]


def split_key(target: str) -> tuple[str | None, str]:
    """The key at the beginning of a request target, or None, and the target without it."""
    if not target.startswith(KEY_PREFIX):
        return None, target
    key, slash, rest = target.removeprefix(KEY_PREFIX).partition("/")
    if not slash:
        key, mark, rest = key.partition("?")
        rest = mark + rest
    return unquote(key), f"/{rest}"


def key_prefix(request: web.BaseRequest) -> str:
    """What a path of Ollama needs in front of it, so that it leads the client of `request` back through the proxy."""
    key = request.get(KEY_IN_PATH)
    return "" if key is None else KEY_PREFIX + quote(key, safe="")


class Access:
    """Refuses requests of foreign web pages (DNS rebinding) and, if keys are configured, requests without a key."""

    def __init__(self, server: ServerConfig, advertised_host: str = "") -> None:
        self._keys = [key.encode() for key in server.api_keys]
        self._names = {socket.gethostname().lower(), advertised_host.lower()}
        self._names.update(name for name in server.allowed_hosts if not name.startswith("*"))
        self._domains = (*LOCAL_DOMAINS, *(name[1:] for name in server.allowed_hosts if name.startswith("*")))
        self._is_allowed_host = lru_cache(maxsize=1024)(self._check_host)

    def refusal(self, request: web.BaseRequest) -> web.Response | None:
        """A response with status 403 or 401, or None if the request may pass."""
        # A target in absolute form overrides the Host header (RFC 9112 §3.2.2), here and in Go. `request.host` has it.
        host = request.headers.get(hdrs.HOST, "") if request.raw_path.startswith("/") else request.host
        if not self._is_allowed_host(host, _own_address(request)):
            log.warning("%s %s from %s: refused because of Host %r", request.method, request.path, request.remote, host)
            return error_response(
                f"the Host {host!r} is not a name that this proxy knows as its own; if it is one, add it to "
                "server.allowed_hosts",
                HTTPStatus.FORBIDDEN,
            )
        if not self._keys or request.method == hdrs.METH_OPTIONS or request.path == OPEN_PATH:
            return None
        if self._has_key(request):
            return None
        # The ollama command sends HEAD / first. Its response has no body for the reason, so the log has to have it.
        log.warning("%s %s from %s: refused because it has no valid key", request.method, request.path, request.remote)
        return _key_refusal(request)

    def _has_key(self, request: web.BaseRequest) -> bool:
        if self._is_key(request.get(KEY_IN_PATH, "")):
            return True
        scheme, _, key = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() != "bearer" or not self._is_key(key.strip()):
            return False
        request[KEY_IN_HEADER] = True
        return True

    def _is_key(self, candidate: str) -> bool:
        """Compares with every key, so that the duration does not depend on the match."""
        is_known = False
        for key in self._keys:
            is_known |= hmac.compare_digest(key, candidate.encode(errors="replace"))
        return is_known

    def _check_host(self, host: str, own_address: str) -> bool:
        """Ollama's rule (server/routes.go, allowedHost). Names without a dot resolve only in the local network."""
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
            or any(address in network for network in PRIVATE_NETWORKS)
            or name in self._names
            or str(address) == own_address
        )


def _hostname(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() and ":" not in name else host


def _key_refusal(request: web.BaseRequest) -> web.Response:
    if request.path == PAGE and "text/html" in request.headers.get(hdrs.ACCEPT, ""):
        response = locked_page()
    else:
        response = error_response(
            "this proxy needs a key: send 'Authorization: Bearer KEY', or set "
            f"OLLAMA_HOST=http://HOST:PORT{KEY_PREFIX}KEY for the ollama command",
            HTTPStatus.UNAUTHORIZED,
        )
    response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    return response


def _own_address(request: web.BaseRequest) -> str:
    name = request.protocol.sockname
    return str(name[0]) if name else ""
