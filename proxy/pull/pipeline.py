"""One pull from its name to `success`, a line a step."""

from collections.abc import Iterable
from contextlib import aclosing
from functools import partial

from proxy.config import Config
from proxy.ollama.client import Ollama
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
    """Runs pulls. It knows no HTTP server and no client."""

    def __init__(
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
        self._installed = Freshness(config, journal, ollama)
        self._turns = Queue(config.pull.jobs)
        self._making = Executor(config.ollama, ollama, transfer, journal, reclaim, install)

    def claims(self, reference: ModelReference) -> bool:
        return self._planner.claims(reference)

    async def run(self, reference: ModelReference, progress: Progress, enter: Enter) -> None:
        """Raises NativePull before the first line, or a ProxyError that says what happened."""
        try:
            repository = await self._planner.open(reference)
        except NativePull as native:
            # Ollama may find them in its store, where they are perhaps about to be removed.
            for digest in filter(None, (upload.digest for upload in native.plan.uploads)):
                await self._reclaim.wanted(digest)
            raise
        progress.status("pulling manifest")
        installed = self._installed
        wait_for_ollama = partial(self._wait_for_ollama.run, what=reference.name, progress=progress)
        if record := await wait_for_ollama(lambda: installed.unchanged(reference, repository)):
            return await self._answer_held(reference, record.bars, progress, enter)
        capabilities = await self._planner.capabilities(progress)
        plan = await self._planner.plan(reference, repository, capabilities, progress)
        if await wait_for_ollama(lambda: installed.same(reference, plan)):
            return await self._answer_held(reference, plan.bars, progress, enter)
        for step in plan.steps:
            progress.name_files(_paths(step.repository))
        remember = partial(installed.remember, reference, plan)
        progress.warn(plan.warnings)
        enter(State.WAITING)
        async with self._turns.slot(progress):
            if held := await wait_for_ollama(lambda: installed.same_weights(reference, plan)):
                progress.announce((*bar, True) for bar in plan.bars)
                await self._making.recreate(plan, held, progress, enter, remember)
            else:
                await self._making.make(plan, progress, enter, remember)
        return None

    async def run_native(self, reference: ModelReference, plan: Plan, progress: Progress, enter: Enter) -> None:
        """Have Ollama pull what it can by itself, and tell of it as it does."""
        progress.name_files(_paths(plan.repository))
        enter(State.WAITING)
        async with self._turns.slot(progress):
            enter(State.TRANSFERRING)
            reached: dict[str, int] = {}
            follow = partial(self._follow, reference.name, progress, reached)
            await self._wait_for_ollama.run(follow, reference.name, progress)
            await self._making.remember(plan, (), partial(self._installed.remember, reference, plan))

    async def _follow(self, name: str, progress: Progress, reached: dict[str, int]) -> None:
        """`reached` is how many bytes of each layer Ollama had when it spoke of it last."""
        async with aclosing(self._ollama.pull_lines(name)) as lines:
            async for line in lines:
                digest, total, completed = line.get("digest"), line.get("total"), line.get("completed", 0)
                if not digest or not total:
                    progress.status(str(line.get("status", "")))
                    continue
                if digest in reached:
                    progress.sent(max(0, completed - reached[digest]))
                progress.announce([(digest, total, False)])
                progress.moved(digest, completed - reached.get(digest, 0))
                reached[digest] = completed

    async def _answer_held(
        self, reference: ModelReference, bars: Iterable[tuple[str, int]], progress: Progress, enter: Enter
    ) -> None:
        """What Ollama says of a model that is there."""
        progress.announce((digest, size, True) for digest, size in bars)
        progress.status("verifying sha256 digest")
        progress.status(WRITING)
        # Ollama may have ended by itself what an earlier proxy had begun.
        if self._journal.kept_since(reference.key) is not None:
            await self._making.clean_up(reference.key, progress, enter)


def _paths(repository: Repository) -> dict[str, str]:
    return {bar_digest(repository, file): file.path for file in repository.files}
