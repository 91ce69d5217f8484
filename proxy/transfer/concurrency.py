"""Finds how many streams are worth having, by hill climbing."""

import logging
from typing import NamedTuple

from proxy.timings import Timings

log = logging.getLogger(__name__)

BASELINE_SECONDS, TRIAL_SECONDS = 0.2, 1.0
GAIN, CLEAR_GAIN = 1.1, 1.5


class Trial(NamedTuple):
    """What a larger number of streams has to beat. The rate is in bytes a second."""

    limit_before: int
    rate_before: float


class ConcurrencyControl:
    """Hill climbing: doubles the number of streams while each doubling raises the rate, at least by `GAIN`.

    A doubling that does not is undone, and none is tried for a while. A source that throttles halves the number.
    """

    def __init__(self, first: int, most: int, timings: Timings) -> None:
        self.limit = first
        self._most = most
        self._timings = timings
        self._received = 0
        """Bytes since the measurement began, or since one could begin."""
        self._measured_since: float | None = None
        self._trial: Trial | None = None
        self._held_until = 0.0
        self._is_short = False

    def arrived(self, size: int) -> None:
        self._received += size

    def needs_more(self) -> None:
        """A file waits for a connection, and for nothing else."""
        self._is_short = True

    def halve(self) -> None:
        self._set_limit(max(1, self.limit // 2))

    def hold(self, until: float) -> None:
        """Try no larger number before that time."""
        self._held_until = until

    def end_trial(self) -> None:
        """Undo a doubling that nothing has measured yet."""
        self._set_limit(self.limit if self._trial is None else self._trial.limit_before)

    def adapt(self, now: float) -> None:
        """Judge the present number of streams by the rate since it was set, and perhaps try a larger one."""
        # If no file waited just for a connection, Ollama or the memory is the limit.
        is_short, self._is_short = self._is_short, False
        if not is_short:
            self._restart_measurement()
            return
        if self._measured_since is None:
            if self._received:
                self._restart_measurement(now)
            return
        seconds = now - self._measured_since
        rate = self._received / seconds
        if self._trial is not None:
            self._judge(self._trial, now, seconds, rate)
        if self._may_try_more(now):
            trial = Trial(self.limit, rate)
            self._set_limit(min(2 * self.limit, self._most))
            self._trial = trial

    def _judge(self, trial: Trial, now: float, seconds: float, rate: float) -> None:
        is_over = seconds >= TRIAL_SECONDS
        if rate >= CLEAR_GAIN * trial.rate_before or (is_over and rate >= GAIN * trial.rate_before):
            self._trial = None
        elif is_over:
            self.hold(now + self._timings.concurrency_hold)
            self._set_limit(trial.limit_before)
            log.debug("more than %d streams are not faster", trial.limit_before)

    def _may_try_more(self, now: float) -> bool:
        is_measured = (
            self._measured_since is not None and now - self._measured_since >= BASELINE_SECONDS and self._received > 0
        )
        return self._trial is None and is_measured and now >= self._held_until and self.limit < self._most

    def _set_limit(self, limit: int) -> None:
        self.limit = limit
        self._trial = None
        self._restart_measurement()

    def _restart_measurement(self, now: float | None = None) -> None:
        self._measured_since = now
        self._received = 0
