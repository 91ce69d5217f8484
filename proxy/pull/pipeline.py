"""One pull from its name to `success`, one line for each step."""

from collections.abc import Iterable
from contextlib import aclosing
from functools import partial

from proxy.config.sections import Config
from proxy.ollama.client import Ollama
from proxy.planning.identity import with_known_digests
from proxy.planning.plan import Plan, bar_digest
from proxy.pull.execute import WRITING, Executor
from proxy.pull.freshness import Freshness
from proxy.pull.install import Install
from proxy.pull.planner import NativePull, Planner
from proxy.pull.queue import Queue
from proxy.pull.reference import ModelReference
from proxy.pull.states import Enter, State
from proxy.sources.base import Repository
from proxy.store.journal import Journal
from proxy.store.reclaim import Reclaim
from proxy.transfer.progress import Progress
from proxy.transfer.transfer import Transfer


class Pipeline:
    """Runs pulls. It does not know the HTTP server or the clients.

    It has more than five arguments because each one is a service that `App` makes once.
    """

    def __init__(  # noqa: PLR0913
        self,
        config: Config,
        planner: Planner,
        ollama: Ollama,
        transfer: Transfer,
        journal: Journal,
        reclaim: Reclaim,
        install: Install,
    ) -> None:
        self._planner = planner
        self._ollama = ollama
        self._journal = journal
        self._reclaim = reclaim
        self._wait_for_ollama = transfer.wait_for_ollama
        self._freshness = Freshness(config, journal, ollama)
        self._queue = Queue(config.pull.jobs)
        self._executor = Executor(config.ollama, ollama, transfer, reclaim, install)

    def claims(self, reference: ModelReference) -> bool:
        return self._planner.claims(reference)

    def name_refusal(self, name: str) -> str:
        return self._planner.name_refusal(name)

    async def run(self, reference: ModelReference, progress: Progress, enter: Enter) -> None:
        """Raises NativePull, or ProxyError. Before a NativePull, there are lines only if the source made it wait."""
        try:
            repository = await self._planner.open(reference, progress)
        except NativePull as native:
            # Ollama may have these blobs already, and the proxy may be about to remove them.
            for digest in filter(None, (upload.digest for upload in native.plan.uploads)):
                await self._reclaim.touch(digest)
            raise
        progress.begin()
        freshness = self._freshness
        wait_for_ollama = partial(self._wait_for_ollama.run, what=reference.name, progress=progress)
        if record := await wait_for_ollama(lambda: freshness.unchanged_record(reference, repository)):
            return await self._answer_held(reference, record.bars, progress, enter)
        capabilities = await self._planner.capabilities(progress)
        plan = await self._planner.plan(reference, repository, capabilities, progress)
        if await wait_for_ollama(lambda: freshness.is_up_to_date(reference, plan)):
            return await self._answer_held(reference, plan.bars, progress, enter)
        for step in plan.steps:
            progress.name_files(_paths(step.repository))
        remember = partial(freshness.remember, reference, plan)
        progress.warn(plan.warnings)
        enter(State.WAITING)
        async with self._queue.slot(progress):
            if held := await wait_for_ollama(lambda: freshness.reusable_weights(reference, plan)):
                progress.announce((*bar, bar.size) for bar in plan.bars)
                await self._executor.recreate(plan, held, progress, enter, remember)
            else:
                known = with_known_digests(plan, self._journal.digest_of)
                await self._executor.make(known, progress, enter, remember)
        return None

    async def run_native(self, reference: ModelReference, plan: Plan, progress: Progress, enter: Enter) -> None:
        """Have Ollama pull by itself what it can, and show the progress as that of a pull of the proxy."""
        progress.name_files(_paths(plan.repository))
        enter(State.WAITING)
        async with self._queue.slot(progress):
            enter(State.TRANSFERRING)
            completed: dict[str, int] = {}
            follow = partial(self._follow, reference.name, progress, completed)
            await self._wait_for_ollama.run(follow, reference.name, progress)
            await self._executor.record_result(plan, (), partial(self._freshness.remember, reference, plan))

    async def _follow(self, name: str, progress: Progress, completed: dict[str, int]) -> None:
        """`completed` keeps the bytes of each layer across retries, as Ollama reported them last."""
        async with aclosing(self._ollama.pull_lines(name)) as lines:
            async for line in lines:
                digest, total, now = line.get("digest"), line.get("total"), line.get("completed", 0)
                status = str(line.get("status", ""))
                if status == "success":  # the job sends its own at its end
                    continue
                if not digest or not total:
                    progress.status(status)
                    continue
                if digest in completed:
                    progress.sent(max(0, now - completed[digest]))
                progress.announce([(digest, total, 0)])
                progress.moved(digest, now - completed.get(digest, 0))
                completed[digest] = now

    async def _answer_held(
        self, reference: ModelReference, bars: Iterable[tuple[str, int]], progress: Progress, enter: Enter
    ) -> None:
        """The lines that Ollama sends for a model that it has already."""
        progress.announce((digest, size, size) for digest, size in bars)
        progress.status("verifying sha256 digest")
        progress.status(WRITING)
        # Ollama may have finished a create by itself after the proxy was killed; that pull left files behind.
        if self._journal.interrupted_since(reference.key) is not None:
            await self._executor.clean_up(reference.key, progress, enter)


def _paths(repository: Repository) -> dict[str, str]:
    return {bar_digest(repository, file): file.path for file in repository.files}
