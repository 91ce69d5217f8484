"""Pulls as tasks of their own: clients attach to a job and read its progress, they do not own it."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Any

from proxy.errors import Cancelled, ProxyError, Refusal
from proxy.logs import PULL_ID
from proxy.metrics import Metrics
from proxy.pull.pipeline import Pipeline
from proxy.pull.planner import NativePull
from proxy.pull.reference import ModelReference
from proxy.pull.states import State
from proxy.transfer.progress import Progress, Subscription, printable

log = logging.getLogger(__name__)

MOST_ENDED = 100
"""Jobs that are over and still shown."""
CREATE_SECONDS = 0.5
"""How long a model that is being made is still waited for when the proxy ends."""
CLOSING = "the proxy is shutting down; pull again when it is back: finished files are kept"


FORSAKEN = "its clients left, and nobody came back; what was finished stays for the next pull"


class Job:
    """One pull. `error` is what its clients are told, `refused` that no byte moved; `native` says that Ollama has to
    answer them.
    """

    def __init__(self, number: int, reference: ModelReference, pipeline: Pipeline, keep_alive: float) -> None:
        self.id = str(number)
        self.reference = reference
        self.progress = Progress(keep_alive)
        self.state = State.PLANNING
        self.error: str | None = None
        self.refused = False
        self.native = False
        self.clients = 0
        self.cancelled = False
        self.started = datetime.now(UTC)
        self.ended: datetime | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._is_forsaken = False
        self._is_kept = False
        self._reason_to_end = ""
        self.task = asyncio.create_task(self._run(pipeline), name=f"pull {self.id}")

    def view(self) -> dict[str, Any]:
        """As `/-/pulls` shows it: bytes, bytes a second, seconds."""
        progress = self.progress
        rate = progress.rate if self.state is State.TRANSFERRING else 0.0
        left = progress.total - progress.completed
        return {
            "id": self.id,
            "name": self.reference.name,
            "state": self.state,
            "total": progress.total,
            "completed": progress.completed,
            "rate": round(rate),
            "eta": round(left / rate) if rate else None,
            "clients": self.clients,
            "retries": progress.retries,
            "error": self.error,
            "started": self.started.isoformat(),
            "ended": self.ended.isoformat() if self.ended else None,
        }

    def details(self) -> dict[str, Any]:
        """`view`, and what only a person wants to see."""
        progress = self.progress
        return {
            **self.view(),
            "cancelled": self.cancelled,
            "status": progress.latest_status,
            "files": {
                "count": len(progress.files),
                "done": sum(file.completed == file.total for file in progress.files),
                "moving": [asdict(file) for file in progress.files if 0 < file.completed < file.total],
            },
        }

    def cancel(self, reason: str) -> None:
        """Tell its clients at once. A create that has begun is read to its end, and nothing is begun after it."""
        if not self.cancelled and self.ended is None:
            self.cancelled = True
            self._reason_to_end = reason
            self.error = reason
            self.progress.fail(reason)
            self.task.cancel()

    @property
    def is_over(self) -> bool:
        """Whether it has nothing more to tell."""
        return self.cancelled or self.ended is not None

    def close(self) -> None:
        """For one that was cancelled before its first step, too."""
        if self.ended is None:
            self.state = State.FAILED
            self.ended = datetime.now(UTC)

    def keep(self) -> None:
        """It needs no client from now on."""
        self._is_kept = True
        self._stay()

    def attached(self) -> None:
        self.clients += 1
        self._stay()

    def _stay(self) -> None:
        self._is_forsaken = False
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    def detached(self, linger: float) -> None:
        self.clients -= 1
        if self.clients == 0 and self.ended is None and not self._is_kept:
            self._linger = asyncio.get_running_loop().call_later(linger, self._end_lingering)

    def _end_lingering(self) -> None:
        """A model that is being made is made: what it costs is nearly spent."""
        self._is_forsaken = True
        if self.state not in (State.CREATING, State.RECLAIMING):
            self.cancel(FORSAKEN)

    def _enter(self, state: State) -> None:
        if state is State.TRANSFERRING and self._is_forsaken:
            self.cancel(FORSAKEN)
        if state is not self.state:
            self.state = state
            log.info("%s %s", state, self.reference.name)

    async def _run(self, pipeline: Pipeline) -> None:
        PULL_ID.set(self.id)
        log.info("%s %s", self.state, self.reference.name)
        try:
            await self._run_to_the_end(pipeline)
        except NativePull:
            self.native = True
            self._enter(State.DONE)
            self.progress.end_silently()
        except ProxyError as error:
            self.error = printable(str(error))
            self.refused = isinstance(error, Refusal)
            self.state = State.FAILED
            log.warning("failed %s: %s", self.reference.name, self.error)
            self.progress.fail(self.error)
        else:
            self._enter(State.DONE)
            self.progress.success()
        finally:
            self.ended = datetime.now(UTC)

    async def _run_to_the_end(self, pipeline: Pipeline) -> None:
        try:
            await self._run_or_have_run(pipeline)
        except asyncio.CancelledError:
            raise Cancelled(self._reason_to_end) from None
        except (ProxyError, NativePull):
            raise
        except Exception as error:
            log.exception("a fault of the proxy")
            raise ProxyError(
                f"a fault in ollama-hf-proxy ended the pull of {self.reference.name} ({type(error).__name__}); "
                "its log has the details: please report them"
            ) from error

    async def _run_or_have_run(self, pipeline: Pipeline) -> None:
        try:
            await pipeline.run(self.reference, self.progress, self._enter)
        except NativePull as native:
            if not self._is_kept:
                raise
            await pipeline.run_native(self.reference, native.plan, self.progress, self._enter)


class Jobs:
    """The pulls that are running, and those that were. A name has one job at a time."""

    def __init__(self, pipeline: Pipeline, linger: float, metrics: Metrics, keep_alive: float) -> None:
        self._pipeline = pipeline
        self._keep_alive = keep_alive
        self._linger = linger
        self._metrics = metrics
        metrics.show_jobs(lambda: Counter(str(job.state) for job in self._alive))
        self._numbers = count(1)
        self._running: dict[str, Job] = {}
        self._alive: list[Job] = []
        self._ended: deque[Job] = deque(maxlen=MOST_ENDED)
        self.closing = False

    @contextmanager
    def attach(self, reference: ModelReference) -> Iterator[tuple[Job, Subscription]]:
        """Read the progress of a name's job, which is begun where none runs.

        When the last client leaves, it goes on for the time to linger.
        """
        job = self._job(reference)
        subscription = job.progress.subscribe()
        job.attached()
        try:
            yield job, subscription
        finally:
            job.progress.unsubscribe(subscription)
            job.detached(self._linger)

    def start(self, reference: ModelReference) -> Job:
        """A name's job, which then is the proxy's own: it goes on without a client."""
        job = self._job(reference)
        job.keep()
        return job

    def running(self, reference: ModelReference) -> list[Job]:
        """A cancelled one may still be in its create when the next has begun."""
        return [job for job in self._alive if job.reference.key == reference.key]

    def all(self) -> list[Job]:
        """The newest first."""
        return sorted([*self._alive, *self._ended], key=lambda job: int(job.id), reverse=True)

    async def close(self) -> None:
        """End every pull; its clients are told so."""
        self.closing = True
        running = list(self._alive)
        for job in running:
            job.cancel(CLOSING)
        if running:
            await asyncio.wait([job.task for job in running], timeout=CREATE_SECONDS)
        for job in running:
            job.task.cancel()
        await asyncio.gather(*(job.task for job in running), return_exceptions=True)

    def _job(self, reference: ModelReference) -> Job:
        job = self._running.get(reference.key)
        if job is None or job.is_over:
            job = self._running[reference.key] = Job(next(self._numbers), reference, self._pipeline, self._keep_alive)
            self._alive.append(job)
            job.task.add_done_callback(partial(self._end, job))
            if self.closing:
                job.cancel(CLOSING)
        return job

    def _end(self, job: Job, _: "asyncio.Task[None]") -> None:
        self._alive.remove(job)
        job.close()
        if self._running.get(job.reference.key) is job:
            del self._running[job.reference.key]
        self._metrics.retries.inc(job.progress.retries)
        if job.native:
            return
        self._ended.append(job)
        result = "cancelled" if job.cancelled else str(job.state)
        self._metrics.pulls.labels(result).inc()
        self._metrics.pull_seconds.labels(result).observe((datetime.now(UTC) - job.started).total_seconds())
