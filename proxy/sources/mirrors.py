"""Fails over between the Hub's endpoint and its mirrors, also in the middle of a file."""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import aiohttp

from proxy.errors import Interrupted, ProxyError, RangesIgnored, SourceError
from proxy.sources.base import RepositoryFile
from proxy.sources.http_file import HttpFile

log = logging.getLogger(__name__)

MAX_FAILURES = 3
"""In a row. A single failure is enough if an endpoint does not answer at all, or throttles."""
OPEN_SECONDS, MAX_OPEN_SECONDS = 60.0, 900.0
"""How long a circuit breaker stays open: the first time, and at most; it doubles each time."""
SLOW_RATE, SLOW_SECONDS = 32 * 1024, 15.0
"""A stream is slow below this many bytes a second, measured over this many seconds of waiting for the endpoint."""


class Endpoint:
    """The Hub's endpoint or a mirror, with a circuit breaker: while it is open, other endpoints are asked first."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._failures = 0
        self._times_opened = 0
        self._open_until = 0.0

    @property
    def is_open(self) -> bool:
        return time.monotonic() < self._open_until

    def record_failure(self, error: Interrupted) -> None:
        self._failures += 1
        opens_at_once = (
            isinstance(error.__cause__, aiohttp.ClientConnectorError | TimeoutError) or error.wait is not None
        )
        if self.is_open or (self._failures < MAX_FAILURES and not opens_at_once):
            return
        seconds = min(OPEN_SECONDS * 2**self._times_opened, MAX_OPEN_SECONDS)
        self._open_until = time.monotonic() + seconds
        self._times_opened += 1
        log.warning("%s is asked after the other endpoints for %.0f s: %s", self.url, seconds, error)

    def record_success(self) -> None:
        self._failures = self._times_opened = 0


class MirroredFile:
    """One file at the endpoint and at its mirrors.

    No bytes are trusted: the caller compares them with the digest in the listing, which came from `described_by`.
    """

    def __init__(
        self, label: str, file: RepositoryFile, files: Mapping[Endpoint, HttpFile], described_by: Endpoint
    ) -> None:
        """`files` begins with the Hub's endpoint."""
        self._label = label
        self._file = file
        self._files = files
        self._described_by = described_by
        self._hub = next(iter(files))
        self._refused: dict[Endpoint, SourceError] = {}
        self._used: set[Endpoint] = set()
        self._suspected: set[Endpoint] = set()
        if file.sha256 is None and file.git_sha1 is None:
            self.keep_to_source()

    @asynccontextmanager
    async def stream(self, start: int, stop: int | None) -> AsyncIterator[AsyncIterator[bytes]]:
        """As `Repository.stream`."""
        async with AsyncExitStack() as stack:
            endpoint, chunks = await self._open(stack, start, stop)
            self._used.add(endpoint)
            expected = (self._file.size if stop is None else stop) - start
            try:
                yield await stack.enter_async_context(aclosing(self._watched(chunks, endpoint, expected)))
            except Interrupted as error:
                endpoint.record_failure(error)
                raise
            endpoint.record_success()

    def report_damaged(self) -> str:
        """As `Mirrored.report_damaged`."""
        self._suspected |= self._used - {self._hub}
        for endpoint in self._used - {self._described_by}:
            self._refused[endpoint] = SourceError(f"{self._label}: it sent other bytes than the file has")
        return " and ".join(sorted(endpoint.url for endpoint in self._suspected))

    def keep_to_source(self) -> None:
        """As `Mirrored.keep_to_source`."""
        self._files = {self._described_by: self._files[self._described_by]}

    async def _open(self, stack: AsyncExitStack, start: int, stop: int | None) -> tuple[Endpoint, AsyncIterator[bytes]]:
        failures: dict[Endpoint, SourceError] = {}
        for endpoint in sorted(self._files, key=lambda endpoint: endpoint.is_open):
            refused = self._refused.get(endpoint)
            if refused is not None and (stop is not None or not isinstance(refused, RangesIgnored)):
                failures[endpoint] = refused
                continue
            try:
                return endpoint, await stack.enter_async_context(self._files[endpoint].stream(start, stop))
            except Interrupted as error:
                endpoint.record_failure(error)
                failures[endpoint] = error
                if not endpoint.is_open:
                    break
            except SourceError as error:
                if endpoint is self._described_by:
                    raise
                self._refused[endpoint] = failures[endpoint] = error
        raise self._failure(failures)

    async def _watched(
        self, chunks: AsyncIterator[bytes], endpoint: Endpoint, expected: int
    ) -> AsyncGenerator[bytes, None]:
        """The chunks. Raises Interrupted if the endpoint is slow and another one is usable, or if it ends early."""
        received, waited, began = 0, 0.0, time.monotonic()
        async for chunk in chunks:
            waited += time.monotonic() - began
            received += len(chunk)
            expected -= len(chunk)
            yield chunk
            if waited >= SLOW_SECONDS:
                rate = received / waited
                if expected > 0 and rate < SLOW_RATE and self._has_another(endpoint):
                    raise Interrupted(
                        f"{self._label}: {endpoint.url} sends {rate:.0f} bytes a second"
                    ) from TimeoutError()
                received, waited = 0, 0.0
            began = time.monotonic()
        if expected > 0:
            raise Interrupted(f"{self._label}: {endpoint.url} ended its answer {expected} bytes early")

    def _has_another(self, endpoint: Endpoint) -> bool:
        return any(not (other is endpoint or other.is_open or other in self._refused) for other in self._files)

    def _failure(self, failures: Mapping[Endpoint, SourceError]) -> SourceError:
        """One error for all endpoints, as `failure_of_all`."""
        in_order = [endpoint for endpoint in self._files if endpoint in failures]
        reasons = (f"{one.url}: {str(failures[one]).removeprefix(f'{self._label}: ')}" for one in in_order)
        text = f"{self._label}: {'; '.join(reasons)}"
        if any(isinstance(error, RangesIgnored) for error in failures.values()):
            return RangesIgnored(text)
        return failure_of_all(text, failures.values())


def failure_of_all(text: str, errors: Iterable[ProxyError]) -> SourceError:
    """One error for several endpoints: an Interrupted, with the shortest wait, if a retry of any of them may help."""
    interrupted = [error for error in errors if isinstance(error, Interrupted)]
    if not interrupted:
        return SourceError(text)
    return Interrupted(text, min((error.wait for error in interrupted if error.wait is not None), default=None))
