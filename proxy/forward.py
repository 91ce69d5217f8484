"""Door 1: every call that is not ours goes to Ollama as it came, and the answer comes back as Ollama gave it."""

import logging
from collections.abc import AsyncIterator
from http import HTTPStatus

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from proxy.answers import error_response
from proxy.ollama import Ollama

log = logging.getLogger(__name__)

# They speak of one connection, not of the message (RFC 9110 §7.6.1).
HOP_BY_HOP = frozenset(
    name.lower()
    for name in (
        hdrs.CONNECTION,
        "Keep-Alive",
        hdrs.PROXY_AUTHENTICATE,
        hdrs.PROXY_AUTHORIZATION,
        "Proxy-Connection",
        hdrs.TE,
        hdrs.TRAILER,
        hdrs.TRANSFER_ENCODING,
        hdrs.UPGRADE,
    )
)
# Ollama checks Host against its own name; `100 Continue` has been answered here.
NOT_FORWARDED = HOP_BY_HOP | {"host", "expect"}
ADDED_BY_AIOHTTP = (hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE, hdrs.USER_AGENT)


class Forward:
    """Sends a request on to Ollama. The client's leaving cancels it, and with it the upstream request."""

    def __init__(self, ollama: Ollama, session: aiohttp.ClientSession) -> None:
        self._ollama = ollama
        self._session = session

    async def __call__(
        self, request: web.BaseRequest, *, prefix: bytes = b"", body: bytes | None = None
    ) -> web.StreamResponse:
        """Forward with the client's body, of which `prefix` has been read, or with `body` in its place."""
        headers = _end_to_end(request.headers, NOT_FORWARDED)
        if body is not None:
            headers.popall(hdrs.CONTENT_LENGTH, None)
        if not request.raw_path.startswith("/"):
            # Behind a host name, anything else would change the host.
            return error_response("the request's target is not a path", HTTPStatus.BAD_REQUEST)
        url = URL(self._ollama.url + request.raw_path, encoded=True)
        try:
            async with self._session.request(
                request.method,
                url,
                headers=headers,
                data=_body(request, prefix) if body is None else body,
                skip_auto_headers=ADDED_BY_AIOHTTP,
                allow_redirects=False,
            ) as upstream:
                return await _relay(request, upstream)
        except aiohttp.ClientError as error:
            return error_response(str(self._ollama.unreachable(error)), HTTPStatus.BAD_GATEWAY)


async def _relay(request: web.BaseRequest, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(
        status=upstream.status, reason=upstream.reason, headers=_end_to_end(upstream.headers, HOP_BY_HOP)
    )
    await response.prepare(request)
    try:
        async for chunk in upstream.content.iter_any():
            await response.write(chunk)
    except aiohttp.ClientError as error:
        if request.transport is not None:
            log.warning("%s %s: Ollama broke off its answer: %s", request.method, request.path, error)
            # A clean end would tell the client that this was all.
            request.transport.abort()
    return response


def _body(request: web.BaseRequest, prefix: bytes) -> AsyncIterator[bytes] | bytes | None:
    if not request.body_exists:
        return None
    if request.content.at_eof():
        return prefix
    return _rest(request, prefix)


async def _rest(request: web.BaseRequest, prefix: bytes) -> AsyncIterator[bytes]:
    if prefix:
        yield prefix
    async for chunk in request.content.iter_any():
        yield chunk


def _end_to_end(headers: CIMultiDictProxy[str], dropped: frozenset[str]) -> CIMultiDict[str]:
    named = {name.strip().lower() for value in headers.getall(hdrs.CONNECTION, ()) for name in value.split(",")}
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped | named)
