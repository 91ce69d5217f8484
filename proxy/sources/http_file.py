"""One file of a repository over HTTP: redirects to signed URLs, ranges, and what each HTTP status means."""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp import hdrs
from yarl import URL

from proxy.errors import Interrupted, RangesIgnored, SourceError
from proxy.network_errors import reason_of, translate_failures
from proxy.sources.base import RepositoryFile

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
READ_BUFFER = 512 * 1024
MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
THROTTLED = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
CHECK_TOKEN = "check that the proxy's token (HF_TOKEN) may read this repository"  # noqa: S105 - a text
SHA256 = re.compile(r"[0-9a-f]{64}")
RESET_SECONDS = re.compile(r";\s*r=0\s*;\s*t=(\d+)")
"""The Hub sends the header RateLimit with every answer. It explains a refusal only if no requests remain (r=0)."""


def source_session(receive_buffer: int | None = None) -> aiohttp.ClientSession:
    """A session for file downloads. `receive_buffer`: bytes per connection that the kernel may buffer."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0, socket_factory=_socket_factory(receive_buffer) if receive_buffer else None
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS),
        # Otherwise the Hub compresses text files and sends no Content-Length.
        headers={hdrs.ACCEPT_ENCODING: "identity"},
        read_bufsize=min(receive_buffer or READ_BUFFER, READ_BUFFER),
    )


async def responses(
    session: aiohttp.ClientSession, method: str, url: URL, origin: URL, credentials: Mapping[str, str]
) -> AsyncGenerator[aiohttp.ClientResponse, None]:
    """Yields the response and the response behind each redirect. The headers `credentials` go to `origin` only."""
    for _ in range(MAX_REDIRECTS):
        headers = credentials if url.origin() == origin else {}
        async with session.request(
            method, url, headers=headers, allow_redirects=False, proxy=proxy_for(url)
        ) as response:
            yield response
        location = response.headers.get(hdrs.LOCATION)
        if response.status not in REDIRECTS or not location:
            return
        url = url.join(URL(location, encoded=True))


def bearer(token: str | None) -> dict[str, str]:
    return {hdrs.AUTHORIZATION: f"Bearer {token}"} if token else {}


@dataclass(frozen=True, slots=True)
class Location:
    """Where a file is, and how to ask for it."""

    url: URL
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers that go to the origin of `url` only."""
    commit: str = ""
    """The commit that redirects have to name, if they name one."""
    if_denied: str = CHECK_TOKEN
    """What the user can do if the file may not be read."""


class HttpFile:
    """One file at one location. `label` (ORG/REPO/PATH) names it in errors."""

    def __init__(self, session: aiohttp.ClientSession, label: str, file: RepositoryFile, location: Location) -> None:
        self._session = session
        self._label = label
        self._file = file
        self._location = location
        self._url = location.url
        self._signed: URL | None = None
        self._proxies: dict[URL, str | None] = {}
        self._renewing = asyncio.Lock()

    @asynccontextmanager
    async def stream(self, start: int, stop: int | None) -> AsyncIterator[AsyncIterator[bytes]]:
        """As `Repository.stream`."""
        with translate_failures(self._failure):
            response = await self._request(start, stop)
        async with response:
            self._check(response, start, stop)
            async with aclosing(self._chunks(response)) as chunks:
                yield chunks

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        with translate_failures(self._failure):
            async for chunk, _ in response.content.iter_chunks():
                yield chunk

    async def _request(self, start: int, stop: int | None) -> aiohttp.ClientResponse:
        """One signed URL serves all ranges of a file. An expired one is renewed."""
        signed = self._signed
        response = await self._get(signed or self._url, start, stop)
        if response.status != HTTPStatus.FORBIDDEN or signed is None:
            return response
        response.close()
        async with self._renewing:
            if self._signed == signed:
                log.info("%s: renewing its signed URL, which has expired", self._label)
                return await self._get(self._url, start, stop)
        return await self._get(self._signed or self._url, start, stop)

    async def _get(self, url: URL, start: int, stop: int | None) -> aiohttp.ClientResponse:
        for _ in range(MAX_REDIRECTS):
            headers = {} if stop is None else {str(hdrs.RANGE): f"bytes={start}-{stop - 1}"}
            if url.origin() == self._url.origin():
                headers |= self._location.credentials
            response = await self._session.get(url, headers=headers, allow_redirects=False, proxy=self._proxy_for(url))
            if response.status not in REDIRECTS:
                return response
            response.release()
            self._check_identity(response.headers)
            # A signature covers the URL exactly as it was sent: do not re-encode it.
            url = url.join(URL(response.headers.get(hdrs.LOCATION, ""), encoded=True))
            self._signed = url
        raise SourceError(f"{self._label} cannot be read: {self._url.host} redirects without an end; pull again later")

    def _proxy_for(self, url: URL) -> str | None:
        origin = url.origin()
        if origin not in self._proxies:
            self._proxies[origin] = proxy_for(url)
        return self._proxies[origin]

    def _check_identity(self, headers: Mapping[str, str]) -> None:
        """Raises SourceError if a redirect describes another file than the plan does."""
        etag = headers.get("X-Linked-Etag", "").removeprefix("W/").strip('"')
        checks = {
            "commit": (headers.get("X-Repo-Commit"), self._location.commit),
            "size": (headers.get("X-Linked-Size"), str(self._file.size)),
            "SHA-256": (etag if SHA256.fullmatch(etag) else None, self._file.sha256),
        }
        for name, (actual, expected) in checks.items():
            if actual and expected and actual != expected:
                raise self._changed(name, actual, expected)

    def _check(self, response: aiohttp.ClientResponse, start: int, stop: int | None) -> None:
        host, status = response.url.host, response.status
        content_range = response.headers.get(hdrs.CONTENT_RANGE, "")
        expected = f"bytes {start}-{(stop or 0) - 1}/{self._file.size}"
        if status == HTTPStatus.PARTIAL_CONTENT and stop is not None:
            if content_range != expected:
                self._check_size(content_range.rpartition("/")[2])
                sent = content_range or "no Content-Range"
                raise Interrupted(f"{self._label}: {host} sent {sent} when asked for {expected}")
        elif status == HTTPStatus.OK and stop is not None:
            # ModelScope answers 200 although it sends the requested range (modelscope_hub #50).
            if content_range != expected:
                raise RangesIgnored(f"{self._label}: {host} sends no ranges")
        elif status == HTTPStatus.OK:
            if hdrs.CONTENT_ENCODING not in response.headers:
                self._check_size(response.headers.get(hdrs.CONTENT_LENGTH, ""))
        else:
            self._refuse(response)

    def _check_size(self, size: str) -> None:
        if size.isdecimal() and int(size) != self._file.size:
            raise self._changed("size", f"{size} bytes", str(self._file.size))

    def _changed(self, name: str, actual: str, expected: str) -> SourceError:
        return SourceError(
            f"{self._label} has changed at the source: its {name} is now {actual}, not {expected}; pull again"
        )

    def _refuse(self, response: aiohttp.ClientResponse) -> None:
        host, status = response.url.host, response.status
        answered = f"{self._label}: {host} answered {status} {response.reason}"
        if interruption := interruption_of(answered, status, response.headers):
            raise interruption
        match status:
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                raise SourceError(f"{answered}; {self._location.if_denied}")
            case HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise SourceError(f"{answered}: the file has changed at the source; pull again")
            case HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
                raise SourceError(f"{answered}; put user and password into HTTPS_PROXY")
            case _:
                raise SourceError(f"{answered}; the file cannot be read: check the repository at the source")

    def _failure(self, error: Exception) -> SourceError:
        host = (self._signed or self._url).host
        text = f"{self._label}: the connection to {host} failed ({reason_of(error)})"
        match error:
            case aiohttp.ClientConnectorCertificateError():
                return SourceError(f"{text}; set SSL_CERT_FILE to the certificates to trust")
            case aiohttp.ClientHttpProxyError():
                return SourceError(f"{text}; check HTTPS_PROXY and NO_PROXY")
            case aiohttp.InvalidURL():
                return SourceError(f"{self._label}: {self._url.host} redirects to an invalid URL; pull again later")
            case _:
                return Interrupted(text)


def interruption_of(text: str, status: int, headers: Mapping[str, str]) -> Interrupted | None:
    """The error, with the wait that the server requests, for a status after which the same request may succeed later.

    None for every other status.
    """
    if status in THROTTLED:
        return Interrupted(text, _requested_wait(headers))
    is_temporary = status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED
    return Interrupted(text) if is_temporary or status == HTTPStatus.REQUEST_TIMEOUT else None


def _socket_factory(receive_buffer: int) -> Callable[[aiohttp.AddrInfoType], socket.socket]:
    def create(address: aiohttp.AddrInfoType) -> socket.socket:
        connection = socket.socket(*address[:3])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        return connection

    return create


def _requested_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds, from the Hub's RateLimit (`"resolvers";r=0;t=55`) or from Retry-After (seconds or a date)."""
    if reset := RESET_SECONDS.search(headers.get("RateLimit", "")):
        return float(reset[1])
    retry_after = headers.get(hdrs.RETRY_AFTER, "").strip()
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (until.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def proxy_for(url: URL) -> str | None:
    # Not aiohttp's trust_env: it would also send the credentials in ~/.netrc.
    if not url.host or proxy_bypass(f"{url.host}:{url.port}"):
        return None
    proxies = getproxies()
    return proxies.get(url.scheme) or proxies.get("all")
