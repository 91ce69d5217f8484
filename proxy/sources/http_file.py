"""One file of a repository over HTTP: redirects to signed addresses, ranges, and what each refusal means."""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp import hdrs
from yarl import URL

from proxy.errors import Interrupted, RangesIgnored, SourceError
from proxy.network_errors import reason_of
from proxy.sources.base import RepositoryFile

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
READ_BUFFER = 512 * 1024
MOST_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
CHECK_TOKEN = "check that the proxy's token (HF_TOKEN) may read this repository"  # noqa: S105 - a text
SHA256 = re.compile(r"[0-9a-f]{64}")
RESET_SECONDS = re.compile(r";\s*t=(\d+)")


def source_session(receive_buffer: int | None = None) -> aiohttp.ClientSession:
    """A session for files: proxies are chosen call by call. `receive_buffer` is the kernel's, in bytes."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, socket_factory=_buffering(receive_buffer) if receive_buffer else None),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS),
        # The Hub gzips text otherwise, and then gives no length.
        headers={hdrs.ACCEPT_ENCODING: "identity"},
        read_bufsize=min(receive_buffer or READ_BUFFER, READ_BUFFER),
    )


async def answers(
    session: aiohttp.ClientSession, method: str, url: URL, origin: URL, credentials: Mapping[str, str]
) -> AsyncGenerator[aiohttp.ClientResponse, None]:
    """The answer, and what each redirect leads to. The headers `credentials` go to `origin` only."""
    for _ in range(MOST_REDIRECTS):
        headers = credentials if url.origin() == origin else {}
        async with session.request(method, url, headers=headers, allow_redirects=False, proxy=proxy_for(url)) as answer:
            yield answer
        location = answer.headers.get(hdrs.LOCATION)
        if answer.status not in REDIRECTS or not location:
            return
        url = url.join(URL(location, encoded=True))


def bearer(token: str | None) -> dict[str, str]:
    return {hdrs.AUTHORIZATION: f"Bearer {token}"} if token else {}


class HttpFile:
    """`file` at `url`.

    The headers `credentials` go to the origin of `url` only; `commit` is what the server has to say it serves, if it
    says one; `denied` is what to do where it may not be read.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: URL,
        file: RepositoryFile,
        *,
        credentials: Mapping[str, str],
        commit: str,
        what: str,
        denied: str = CHECK_TOKEN,
    ) -> None:
        self._session = session
        self._url = url
        self._file = file
        self._credentials = credentials
        self._commit = commit
        self._what = what
        self._denied = denied
        self._signed: URL | None = None
        self._proxies: dict[URL, str | None] = {}
        self._renewing = asyncio.Lock()

    @asynccontextmanager
    async def stream(self, start: int, stop: int | None) -> AsyncIterator[AsyncIterator[bytes]]:
        """What `Repository.stream` promises."""
        try:
            response = await self._ask(start, stop)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failure(error) from error
        async with response:
            self._check(response, start, stop)
            async with aclosing(self._chunks(response)) as chunks:
                yield chunks

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        try:
            async for chunk, _ in response.content.iter_chunks():
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failure(error) from error

    async def _ask(self, start: int, stop: int | None) -> aiohttp.ClientResponse:
        """One signed address serves all ranges of a file; a new one is asked for when it has expired."""
        used = self._signed
        response = await self._get(used or self._url, start, stop)
        if response.status != HTTPStatus.FORBIDDEN or used is None:
            return response
        response.close()
        async with self._renewing:
            if self._signed == used:
                log.info("%s: its signed address has expired; a new one is asked for", self._what)
                return await self._get(self._url, start, stop)
        return await self._get(self._signed or self._url, start, stop)

    async def _get(self, url: URL, start: int, stop: int | None) -> aiohttp.ClientResponse:
        for _ in range(MOST_REDIRECTS):
            headers = {} if stop is None else {str(hdrs.RANGE): f"bytes={start}-{stop - 1}"}
            if url.origin() == self._url.origin():
                headers |= self._credentials
            response = await self._session.get(url, headers=headers, allow_redirects=False, proxy=self._proxy_for(url))
            if response.status not in REDIRECTS:
                return response
            response.release()
            self._check_identity(response.headers)
            # A signed address holds only as it was written.
            url = url.join(URL(response.headers.get(hdrs.LOCATION, ""), encoded=True))
            self._signed = url
        raise SourceError(f"{self._what} cannot be read: {self._url.host} redirects without an end")

    def _proxy_for(self, url: URL) -> str | None:
        origin = url.origin()
        if origin not in self._proxies:
            self._proxies[origin] = proxy_for(url)
        return self._proxies[origin]

    def _check_identity(self, headers: Mapping[str, str]) -> None:
        """Raises SourceError where a redirect leads to another file than the one that was planned."""
        etag = headers.get("X-Linked-Etag", "").removeprefix("W/").strip('"')
        found = {
            "commit": (headers.get("X-Repo-Commit"), self._commit),
            "size": (headers.get("X-Linked-Size"), str(self._file.size)),
            "SHA-256": (etag if SHA256.fullmatch(etag) else None, self._file.sha256),
        }
        for name, (said, expected) in found.items():
            if said and expected and said != expected:
                raise self._changed(name, said, expected)

    def _check(self, response: aiohttp.ClientResponse, start: int, stop: int | None) -> None:
        host, status = response.url.host, response.status
        found = response.headers.get(hdrs.CONTENT_RANGE, "")
        expected = f"bytes {start}-{(stop or 0) - 1}/{self._file.size}"
        if status == HTTPStatus.PARTIAL_CONTENT and stop is not None:
            if found != expected:
                self._check_size(found.rpartition("/")[2])
                raise Interrupted(f"{self._what}: {host} sent {found or 'no Content-Range'} when asked for {expected}")
        elif status == HTTPStatus.OK and stop is not None:
            # ModelScope says 200 to a range that it keeps (modelscope_hub #50).
            if found != expected:
                raise RangesIgnored(f"{self._what}: {host} sends no ranges")
        elif status == HTTPStatus.OK:
            if hdrs.CONTENT_ENCODING not in response.headers:
                self._check_size(response.headers.get(hdrs.CONTENT_LENGTH, ""))
        else:
            self._refuse(response)

    def _check_size(self, said: str) -> None:
        if said.isdecimal() and int(said) != self._file.size:
            raise self._changed("size", f"{said} bytes", str(self._file.size))

    def _changed(self, name: str, said: str, expected: str) -> SourceError:
        return SourceError(
            f"{self._what} has changed at the source: its {name} is now {said}, not {expected}; pull again"
        )

    def _refuse(self, response: aiohttp.ClientResponse) -> None:
        host, status = response.url.host, response.status
        answered = f"{self._what}: {host} answered {status} {response.reason}"
        wait = _asked_wait(response.headers) if status in BUSY else None
        if wait is not None or status in BUSY or status == HTTPStatus.REQUEST_TIMEOUT or status >= 500:  # noqa: PLR2004
            raise Interrupted(answered, wait)
        match status:
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                raise SourceError(f"{answered}; {self._denied}")
            case HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise SourceError(f"{answered}: the file has changed at the source; pull again")
            case HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
                raise SourceError(f"{answered}; put user and password into HTTPS_PROXY")
            case _:
                raise SourceError(f"{answered}; it cannot be read")

    def _failure(self, error: Exception) -> SourceError:
        host = (self._signed or self._url).host
        text = f"{self._what}: the connection to {host} failed ({reason_of(error)})"
        match error:
            case aiohttp.ClientConnectorCertificateError():
                return SourceError(f"{text}; SSL_CERT_FILE names the certificates to trust")
            case aiohttp.ClientHttpProxyError():
                return SourceError(f"{text}; check HTTPS_PROXY and NO_PROXY")
            case aiohttp.InvalidURL():
                return SourceError(f"{self._what}: {self._url.host} redirects to what is no address")
            case _:
                return Interrupted(text)


def _buffering(size: int) -> Callable[[aiohttp.AddrInfoType], socket.socket]:
    """Makes sockets for which the kernel holds so many bytes."""

    def make(address: aiohttp.AddrInfoType) -> socket.socket:
        made = socket.socket(*address[:3])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        return made

    return make


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds, from the Hub's RateLimit (`"resolvers";r=0;t=55`) or from Retry-After in either form."""
    if reset := RESET_SECONDS.search(headers.get("RateLimit", "")):
        return float(reset[1])
    said = headers.get(hdrs.RETRY_AFTER, "").strip()
    if said.isdecimal():
        return float(said)
    try:
        until = parsedate_to_datetime(said)
    except ValueError:
        return None
    return max(0.0, (until.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def proxy_for(url: URL) -> str | None:
    # Not aiohttp's own trust_env: it would send what ~/.netrc holds along.
    if not url.host or proxy_bypass(f"{url.host}:{url.port}"):
        return None
    proxies = getproxies()
    return proxies.get(url.scheme) or proxies.get("all")
