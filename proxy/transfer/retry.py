"""How often and after which pauses a request is repeated: limited, with jitter, counted and logged."""

import asyncio
import logging
import math
import random

from proxy.errors import Interrupted, ProxyError, SourceError
from proxy.transfer.fetch_limits import FetchLimits
from proxy.transfer.progress import ProgressListener

log = logging.getLogger(__name__)

MAX_TRIES = 10
MAX_SECONDS = 900.0
LONGEST_WAIT = 600.0
"""Twice the five minutes over which the Hub counts requests."""


class Retries:
    """The retries of one range, file or blob. When a source throttles, all streams wait, and the progress shows it."""

    def __init__(self, progress: ProgressListener, limits: FetchLimits) -> None:
        self._progress = progress
        self._streams = limits.streams
        self._timings = limits.timings
        self._began: float | None = None
        self._failures = 0
        self._was_refetched = False

    def reset(self) -> None:
        """Bytes arrived: the next failure counts as the first one."""
        self._failures = 0
        self._began = None

    def refetch_once(self, error: ProxyError) -> None:
        """Damaged bytes may be fetched once more. The second time, `error` is raised."""
        if self._was_refetched:
            raise error
        self._was_refetched = True
        self._progress.retried()
        log.warning("%s; refetching once", error)

    async def pause(self, error: Interrupted) -> None:
        """Pause before the next try. Raises SourceError when there are no tries left."""
        now = asyncio.get_running_loop().time()
        self._began = now if self._began is None else self._began
        self._failures += 1
        self._progress.retried()
        pause = self._backoff()
        if error.wait is not None:
            if error.wait > LONGEST_WAIT:
                raise SourceError(
                    f"{error} and asks to wait {error.wait:.0f} s; pull again then: finished files are kept"
                ) from error
            pause = error.wait + random.uniform(0, 1)  # noqa: S311
        if self._failures >= MAX_TRIES or now + pause - self._began > MAX_SECONDS:
            raise SourceError(
                f"{error}; given up after {self._failures} tries; pull again: finished files are kept"
            ) from error
        self._show(error, pause)
        log.warning("%s; try %d of %d in %.1f s", error, self._failures + 1, MAX_TRIES, pause)
        await asyncio.sleep(pause)

    def _backoff(self) -> float:
        doubled = self._timings.first_retry_pause * 2.0 ** (self._failures - 1)
        return random.uniform(0.5, 1) * min(self._timings.longest_retry_pause, doubled)  # noqa: S311

    def _show(self, error: Interrupted, pause: float) -> None:  # noqa: ARG002
        if error.wait is not None and self._streams.throttle(error.wait):
            self._progress.status(f"waiting {error.wait:.0f} s: {error}")


class OpeningRetries(Retries):
    """The retries of the opening of a repository. No stream waits: the Hub counts requests for metadata separately."""

    def _show(self, error: Interrupted, pause: float) -> None:
        """Every pause, because nothing else happens in this pull."""
        wait = pause if error.wait is None else error.wait
        self._progress.status(f"waiting {math.ceil(wait)} s: {error}")
