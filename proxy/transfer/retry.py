"""How often and how long something that was interrupted is tried again: bounded, with jitter, counted and logged."""

import asyncio
import logging
import random

from proxy.errors import Interrupted, ProxyError, SourceError
from proxy.transfer.limits import FetchLimits
from proxy.transfer.progress import ProgressListener

log = logging.getLogger(__name__)

MOST_TRIES = 10
MOST_SECONDS = 900.0
LONGEST_WAIT = 600.0
"""The Hub counts its limits over five minutes."""


class Retries:
    """The tries of one thing. A source that asks to wait is waited for by all streams, and the progress says so."""

    def __init__(self, progress: ProgressListener, limits: FetchLimits) -> None:
        self._progress = progress
        self._streams = limits.streams
        self._timings = limits.timings
        self._began: float | None = None
        self._failed = 0
        self._damaged = False

    def reset(self) -> None:
        """Something came: the next failure is a first one."""
        self._failed = 0
        self._began = None

    def refetch_once(self, error: ProxyError) -> None:
        """What came damaged is fetched once more; raises `error` when it comes damaged again."""
        if self._damaged:
            raise error
        self._damaged = True
        self._progress.retried()
        log.warning("%s; it is fetched once more", error)

    async def pause(self, error: Interrupted) -> None:
        """Pause before the next try. Raises SourceError when there should be none."""
        now = asyncio.get_running_loop().time()
        self._began = now if self._began is None else self._began
        self._failed += 1
        self._progress.retried()
        longest, doubled = self._timings.longest_retry_pause, self._timings.first_retry_pause * 2 ** (self._failed - 1)
        pause = random.uniform(0.5, 1) * min(longest, doubled)  # noqa: S311
        if error.wait is not None:
            if error.wait > LONGEST_WAIT:
                raise SourceError(
                    f"{error} and asks to wait {error.wait:.0f} s; pull again then: finished files are kept"
                ) from error
            pause = error.wait + random.uniform(0, 1)  # noqa: S311
            if self._streams.throttle(error.wait):
                self._progress.status(f"waiting {error.wait:.0f} s: {error}")
        if self._failed >= MOST_TRIES or now + pause - self._began > MOST_SECONDS:
            raise SourceError(
                f"{error}; given up after {self._failed} tries; pull again: finished files are kept"
            ) from error
        log.warning("%s; try %d of %d in %.1f s", error, self._failed + 1, MOST_TRIES, pause)
        await asyncio.sleep(pause)
