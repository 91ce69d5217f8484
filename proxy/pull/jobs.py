"""Pulls as tasks of their own: clients attach to a job and read its progress, they do not own it."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from proxy.errors import Cancelled, ProxyError
from proxy.pull.pipeline import Pipeline, State
from proxy.pull.planner import NativePull
from proxy.pull.progress import Progress, Subscription
from proxy.pull.reference import ModelReference

log = logging.getLogger(__name__)


class Job:
    """One pull. `error` is what its clients are told; `native` says that Ollama has to answer them."""

    def __init__(self, number: int, reference: ModelReference, pipeline: Pipeline) -> None:
        self.id = str(number)
        self.reference = reference
        self.progress = Progress()
        self.state = State.PLANNING
        self.error: str | None = None
        self.native = False
        self.clients = 0
        self._reason_to_end = "the pull was cancelled"
        self.task = asyncio.create_task(self._run(pipeline), name=f"pull {self.id}")

    def enter(self, state: State) -> None:
        self.state = state
        log.info("pull %s: %s %s", self.id, state, self.reference.name)

    def cancel(self, reason: str) -> None:
        self._reason_to_end = reason
        self.task.cancel()

    async def _run(self, pipeline: Pipeline) -> None:
        self.enter(State.PLANNING)
        try:
            await self._run_to_the_end(pipeline)
        except NativePull:
            self.native = True
            self.enter(State.DONE)
            self.progress.pass_on()
        except ProxyError as error:
            self.error = str(error)
            self.state = State.FAILED
            log.warning("pull %s: failed %s: %s", self.id, self.reference.name, error)
            self.progress.fail(self.error)
        else:
            self.enter(State.DONE)
            self.progress.success()

    async def _run_to_the_end(self, pipeline: Pipeline) -> None:
        try:
            await pipeline.run(self.reference, self.progress, self.enter)
        except asyncio.CancelledError:
            raise Cancelled(self._reason_to_end) from None
        except (ProxyError, NativePull):
            raise
        except Exception as error:
            log.exception("pull %s: a fault of the proxy", self.id)
            raise ProxyError(
                f"a fault in ollama-hf-proxy ended the pull of {self.reference.name} ({type(error).__name__}); "
                "its log has the details: please report them"
            ) from error


class Jobs:
    """The pulls that are running."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._numbers = count(1)
        self._running: set[Job] = set()

    def start(self, reference: ModelReference) -> Job:
        job = Job(next(self._numbers), reference, self._pipeline)
        self._running.add(job)
        job.task.add_done_callback(lambda _: self._running.discard(job))
        return job

    @contextmanager
    def attach(self, job: Job) -> Iterator[Subscription]:
        """Read a job's progress. The last client to leave ends the transfer, but never a create."""
        subscription = job.progress.subscribe()
        job.clients += 1
        try:
            yield subscription
        finally:
            job.progress.unsubscribe(subscription)
            job.clients -= 1
            # A create that nobody reads blocks for ever in Ollama and leaks its files (v0.24).
            if job.clients == 0 and job.state is not State.CREATING:
                job.cancel("the client left; what was finished stays")

    async def close(self) -> None:
        """End every pull; its clients are told so."""
        running = list(self._running)
        for job in running:
            job.cancel("the proxy is shutting down; pull again when it is back: finished files are kept")
        await asyncio.gather(*(job.task for job in running))
