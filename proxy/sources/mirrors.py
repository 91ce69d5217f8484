"""One file in several places: where one fails, its bytes come from the next, in mid-file too."""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import aiohttp

from proxy.errors import Interrupted, RangesIgnored, SourceError
from proxy.sources.base import RepositoryFile
from proxy.sources.http_file import HttpFile

log = logging.getLogger(__name__)

MOST_FAILURES = 3
"""In a row; one that does not answer at all, or asks to be left alone, is left at once."""
LEFT_SECONDS, LONGEST_LEFT = 60.0, 900.0
SLOW_RATE, SLOW_SECONDS = 32 * 1024, 15.0
"""Bytes a second of one stream, over so many seconds in which nothing else is waited for."""


class Endpoint:
    """The endpoint or a mirror. One that fails or crawls is asked after the others for a while, longer each time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._failures = 0
        self._leaves = 0
        self._left_until = 0.0

    @property
    def is_open(self) -> bool:
        return time.monotonic() < self._left_until

    def record_failure(self, error: Interrupted) -> None:
        self._failures += 1
        silent = isinstance(error.__cause__, aiohttp.ClientConnectorError | TimeoutError) or error.wait is not None
        if self.is_open or (self._failures < MOST_FAILURES and not silent):
            return
        seconds = min(LEFT_SECONDS * 2**self._leaves, LONGEST_LEFT)
        self._left_until = time.monotonic() + seconds
        self._leaves += 1
        log.warning("%s is asked after the others for %.0f s: %s", self.url, seconds, error)

    def record_success(self) -> None:
        self._failures = self._leaves = 0


class MirroredFile:
    """`file`, which the place `described_by` has announced, at each place, the endpoint first.

    Nothing that comes is trusted: who reads it compares the digest that was announced.
    """

    def __init__(
        self, what: str, file: RepositoryFile, places: Mapping[Endpoint, HttpFile], described_by: Endpoint
    ) -> None:
        self._what = what
        self._file = file
        self._places = places
        self._described_by = described_by
        self._endpoint = next(iter(places))
        self._refused: dict[Endpoint, SourceError] = {}
        self._used: set[Endpoint] = set()
        self._suspected: set[Endpoint] = set()
        if file.sha256 is None and file.git_sha1 is None:
            self.keep_to_source()

    @asynccontextmanager
    async def stream(self, start: int, stop: int | None) -> AsyncIterator[AsyncIterator[bytes]]:
        """What `Repository.stream` promises."""
        async with AsyncExitStack() as stack:
            place, chunks = await self._open(stack, start, stop)
            self._used.add(place)
            expected = (self._file.size if stop is None else stop) - start
            try:
                yield await stack.enter_async_context(aclosing(self._all_of(chunks, place, expected)))
            except Interrupted as error:
                place.record_failure(error)
                raise
            place.record_success()

    def damaged(self) -> str:
        """What `Mirrored.damaged` promises."""
        self._suspected |= self._used - {self._endpoint}
        for place in self._used - {self._described_by}:
            self._refused[place] = SourceError(f"{self._what}: what it sent was not the file")
        return " and ".join(sorted(place.url for place in self._suspected))

    def keep_to_source(self) -> None:
        """What `Mirrored.keep_to_source` promises."""
        self._places = {self._described_by: self._places[self._described_by]}

    async def _open(self, stack: AsyncExitStack, start: int, stop: int | None) -> tuple[Endpoint, AsyncIterator[bytes]]:
        failures: dict[Endpoint, SourceError] = {}
        for place in sorted(self._places, key=lambda place: place.is_open):
            refused = self._refused.get(place)
            if refused is not None and (stop is not None or not isinstance(refused, RangesIgnored)):
                failures[place] = refused
                continue
            try:
                return place, await stack.enter_async_context(self._places[place].stream(start, stop))
            except Interrupted as error:
                place.record_failure(error)
                failures[place] = error
                if not place.is_open:
                    break
            except SourceError as error:
                if place is self._described_by:
                    raise
                self._refused[place] = failures[place] = error
        raise self._failure(failures)

    async def _all_of(self, chunks: AsyncIterator[bytes], place: Endpoint, left: int) -> AsyncGenerator[bytes, None]:
        came, waited, began = 0, 0.0, time.monotonic()
        async for chunk in chunks:
            waited += time.monotonic() - began
            came += len(chunk)
            left -= len(chunk)
            yield chunk
            if waited >= SLOW_SECONDS:
                rate = came / waited
                if left > 0 and rate < SLOW_RATE and self._has_another(place):
                    raise Interrupted(f"{self._what}: {place.url} sends {rate:.0f} bytes a second") from TimeoutError()
                came, waited = 0, 0.0
            began = time.monotonic()
        if left > 0:
            raise Interrupted(f"{self._what}: {place.url} ended its answer {left} bytes early")

    def _has_another(self, place: Endpoint) -> bool:
        return any(not (other is place or other.is_open or other in self._refused) for other in self._places)

    def _failure(self, failures: Mapping[Endpoint, SourceError]) -> SourceError:
        errors = list(failures.values())
        asked = [place for place in self._places if place in failures]
        told = (f"{place.url}: {str(failures[place]).removeprefix(f'{self._what}: ')}" for place in asked)
        text = f"{self._what}: {'; '.join(told)}"
        if any(isinstance(error, RangesIgnored) for error in errors):
            return RangesIgnored(text)
        interrupted = [error for error in errors if isinstance(error, Interrupted)]
        if not interrupted:
            return SourceError(text)
        return Interrupted(text, min((error.wait for error in interrupted if error.wait is not None), default=None))
