"""From a plan to a model in Ollama, and nothing beside it: transfer, create, reclaim."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rich.filesize import decimal

from proxy.config import OllamaConfig
from proxy.disk import free_disk
from proxy.errors import OllamaError, ProxyError, Refusal, Rejected
from proxy.ollama import Ollama
from proxy.planning.identity import files_identity, weights_identity, with_known_digests
from proxy.planning.installation import files_beside
from proxy.planning.plan import Plan, Upload, small_file
from proxy.pull.create import convert, create, redress
from proxy.pull.install import Install
from proxy.pull.journal import Journal
from proxy.pull.progress import Progress
from proxy.pull.reclaim import NotReclaimed, Reclaim, temporary_name
from proxy.pull.states import Enter, State, to_its_end
from proxy.pull.transfer import Transfer
from proxy.pull.trial import try_template
from proxy.registry import Blob, Layer

log = logging.getLogger(__name__)


Remember = Callable[[], Awaitable[None]]
"""Notes that Ollama has what the plan makes."""

WRITING = "writing manifest"
REMOVING = "removing unused layers"


@dataclass(slots=True)
class Step:
    """One model to make. `temporary` is a name on the way, of its unquantized form where it is `converted_first`, which
    may be there already, `is_converted`; else of the model itself. A finished one has layers `beside` its weights.
    `number` is its pull's in the journal.
    """

    plan: Plan
    temporary: str
    converted_first: bool = False
    beside: tuple[Upload, ...] = ()
    number: int = 0
    is_converted: bool = False

    @property
    def layers(self) -> list[Layer]:
        return [Layer(upload.path, Blob(upload.digest or "", upload.size)) for upload in self.beside]


class Making:
    def __init__(
        self,
        config: OllamaConfig,
        ollama: Ollama,
        transfer: Transfer,
        journal: Journal,
        reclaim: Reclaim,
        install: Install,
    ) -> None:
        self._config = config
        self._ollama = ollama
        self._install = install
        self._transfer = transfer
        self._journal = journal
        self._reclaim = reclaim

    async def make(self, plan: Plan, progress: Progress, enter: Enter, remember: Remember) -> None:
        """Raises Refusal where the disk is too small, else as Transfer and `create` do.

        What was finished stays for the next pull, but for files that Ollama cannot make a model of.
        """
        plan = with_known_digests(plan, self._journal.digest_of)
        steps = [self._step(step) for step in plan.steps]
        removed = False
        try:
            for step in steps:
                await self._claim(step, progress)
                await self._try_template(step, progress)
            await self._check_disk(steps)
            converted = [step.plan for step in steps if step.is_converted]
            held = await self._transfer.announce(plan.steps, progress, converted)
            for step in steps:
                removed |= await self._make(step, held, progress, enter)
            await self.remember(plan, [step.number for step in steps], remember)
        except Rejected:
            await self._give_all_up(steps, progress, enter)
            raise
        except BaseException:
            for step in steps:
                self._reclaim.broke_off(step.number)
            raise
        if removed:
            progress.status(REMOVING)

    async def redress(
        self, plan: Plan, files: Mapping[str, str], progress: Progress, enter: Enter, remember: Remember
    ) -> None:
        """Make the model anew of its own blobs, with what is beside the weights of the plan."""

        def claim() -> Coroutine[Any, Any, int]:
            return self._reclaim.claim(plan.name.casefold(), None, ())

        number = await self._transfer.patiently(claim, plan.name, progress)
        try:
            async with self._creating(plan, progress, enter):
                await to_its_end(self._redress(plan, files, progress))
            await self.remember(plan, [number], remember)
        except BaseException:
            self._reclaim.broke_off(number)
            raise

    async def _redress(self, plan: Plan, files: Mapping[str, str], progress: Progress) -> None:
        def make(name: str) -> Coroutine[Any, Any, None]:
            return redress(self._ollama, plan, name, files, progress)

        await self._hand_over(await self._install.created(plan, temporary_name(), make), plan, progress)
        await self._drop_temporaries()

    async def remember(self, plan: Plan, numbers: Sequence[int], remember: Remember) -> None:
        """Only what is remembered is over: else the next pull looks at what Ollama has. `numbers` are the journal's."""
        try:
            await remember()
        except ProxyError as error:
            log.warning("%s is made, but not remembered: %s", plan.name, error)
            over = self._reclaim.broke_off
        else:
            over = self._reclaim.end
        for number in numbers:
            over(number)

    async def clean_up(self, model: str, progress: Progress, enter: Enter) -> None:
        """Remove what pulls that broke off have kept of a model that is there, and whatever else nobody needs."""
        enter(State.RECLAIMING)
        try:
            self._journal.release_kept_of(model)
            removed = await self._reclaim.sweep(blobs=self._reclaim.enabled)
            self._journal.end_kept_of(model)
        except ProxyError as error:
            log.warning("what is left stays for now: %s", error)
        else:
            if removed.blobs or removed.models:
                progress.status(REMOVING)

    def _step(self, plan: Plan) -> Step:
        beside: tuple[Upload, ...] = ()
        if plan.finished is not None:
            beside = tuple(small_file(kind, text) for kind, text in files_beside(plan.finished, plan.settings))
        converted_first = plan.in_two_creates and self._reclaim.enabled
        identity = files_identity(plan) if converted_first else weights_identity(plan)
        return Step(plan, temporary_name(identity), converted_first, beside)

    async def _claim(self, step: Step, progress: Progress) -> None:
        """From here on nobody removes what the step needs, so that what Ollama has is worth asking."""
        plan = step.plan
        digests = [upload.digest for upload in (*plan.uploads, *step.beside) if upload.digest]

        async def claim() -> None:
            if not step.number:
                step.number = await self._reclaim.claim(plan.name.casefold(), step.temporary, digests)
            step.is_converted = await self._is_converted(step)

        await self._transfer.patiently(claim, plan.name, progress)

    async def _try_template(self, step: Step, progress: Progress) -> None:
        def trial() -> Coroutine[Any, Any, None]:
            return try_template(self._ollama, self._journal, step.plan, step.number)

        await self._transfer.patiently(trial, step.plan.name, progress)

    async def _is_converted(self, step: Step) -> bool:
        return step.converted_first and await self._ollama.has_model(step.temporary)

    async def _make(self, step: Step, held: set[str], progress: Progress, enter: Enter) -> bool:
        """Whether something was removed behind the model."""
        digests: dict[str, str] = {}
        if not step.is_converted:
            enter(State.TRANSFERRING)
            need = partial(self._journal.need, step.number)
            digests = await self._transfer.run(step.plan, held, progress, lambda digest: need([digest]))
            await self._transfer.run(replace(step.plan, uploads=step.beside), (), progress)
        progress.status("verifying sha256 digest")
        async with self._creating(step.plan, progress, enter):
            if step.converted_first:
                return await self._make_of_temporary(step, digests, progress, enter)
            await to_its_end(self._put(step, digests, progress, enter))
            return await self._give_up(progress, enter)

    async def _put(self, step: Step, digests: Mapping[str, str], progress: Progress, enter: Enter) -> None:
        """Make the model of what was brought: as it is, where that is all, else by Ollama."""
        if step.plan.finished is None or not await self._install_finished(step, digests, progress):
            await self._create(step.plan, step.temporary, digests, progress)
        await self._settle(step, enter)

    async def _install_finished(self, step: Step, digests: Mapping[str, str], progress: Progress) -> bool:
        plan = step.plan
        (_, config), *others = step.layers
        [weights] = plan.uploads
        layers = [Layer("model", Blob(digests[weights.path], weights.size)), *others]

        def pull() -> Coroutine[Any, Any, str | None]:
            return self._install.pulled(plan, step.temporary, config, layers)

        made = await self._transfer.patiently(pull, plan.name, progress)
        if made is None:
            return False
        await self._hand_over(made, plan, progress)
        self._reclaim.belongs_to_a_model([config.digest, *(layer.blob.digest for layer in layers)])
        return True

    async def _create(
        self, plan: Plan, temporary: str, digests: Mapping[str, str], progress: Progress, source: str | None = None
    ) -> None:
        def make(name: str) -> Coroutine[Any, Any, None]:
            return create(self._ollama, plan, name, digests, progress, source)

        await self._hand_over(await self._install.created(plan, temporary, make), plan, progress)

    async def _hand_over(self, made: str, plan: Plan, progress: Progress) -> None:
        hand_over = partial(self._install.hand_over, made, plan, progress)
        await self._transfer.patiently(hand_over, plan.name, progress)
        progress.status(WRITING)

    async def _settle(self, step: Step, enter: Enter) -> bool:
        """The model is made: whether a model on the way to it is removed. That it fails is no failure of the pull."""
        self._reclaim.release(step.number)
        enter(State.RECLAIMING)
        return await self._drop_temporaries()

    async def _make_of_temporary(
        self, step: Step, digests: Mapping[str, str], progress: Progress, enter: Enter
    ) -> bool:
        """Convert, give the raw files up, and quantize, so that at no time all three are there."""
        temporary = step.temporary
        if not await self._is_converted(step):
            await to_its_end(convert(self._ollama, step.plan, digests, temporary, progress))
        self._journal.need_no_more(step.number)
        removed = await self._give_up(progress, enter)
        enter(State.CREATING)
        return removed | await to_its_end(self._quantize(step, digests, progress, enter))

    async def _quantize(self, step: Step, digests: Mapping[str, str], progress: Progress, enter: Enter) -> bool:
        await self._create(step.plan, temporary_name(), digests, progress, step.temporary)
        return await self._settle(step, enter)

    @asynccontextmanager
    async def _creating(self, plan: Plan, progress: Progress, enter: Enter) -> AsyncIterator[None]:
        if self._reclaim.creating.locked():
            progress.status("waiting for another model to be made")
        async with self._reclaim.creating:
            if (removal := self._reclaim.removals.get(plan.name.casefold())) is not None:
                await asyncio.wait([removal])
            enter(State.CREATING)
            yield

    async def _give_up(self, progress: Progress, enter: Enter) -> bool:
        """Remove what nobody needs any more. That it fails is no failure of the pull."""
        if not self._reclaim.enabled:
            return False
        enter(State.RECLAIMING)
        try:
            return bool((await self._reclaim.give_up()).blobs)
        except NotReclaimed as error:
            progress.warn([str(error)])
            log.warning("%s", error)
        except OllamaError as error:
            log.warning("raw files stay for now: %s", error)
        return False

    async def _drop_temporaries(self) -> bool:
        try:
            return bool(await self._reclaim.drop_temporaries())
        except OllamaError as error:
            log.warning("temporary models stay for now: %s", error)
            return False

    async def _give_all_up(self, steps: Sequence[Step], progress: Progress, enter: Enter) -> None:
        """The same files would fail the same way."""
        for step in steps:
            self._reclaim.end(step.number)
        async with self._reclaim.creating:
            await self._drop_temporaries()
        await self._give_up(progress, enter)

    async def _check_disk(self, steps: Sequence[Step]) -> None:
        """Raises Refusal where it is certain that the disk is too small."""
        free = await free_disk(self._config, self._ollama)
        if free is None or free > self._peak(steps, set()):
            return
        needed = self._peak(steps, await self._transfer.held(*(step.plan for step in steps)))
        if free < needed:
            raise Refusal(
                f"{steps[-1].plan.name} needs about {decimal(needed)} of disk until it is made, but Ollama has "
                f"{decimal(free)} left; remove models that you do not use (`ollama rm`)"
            )

    def _peak(self, steps: Sequence[Step], held: Collection[str]) -> int:
        """Bytes that are on the disk at once until all is made, beyond what is there."""
        left, peak = 0, 0
        for step in steps:
            plan, result = step.plan, step.plan.result_size or 0
            raw = sum(upload.size for upload in plan.uploads if upload.digest not in held)
            if step.is_converted:
                needed, stays = result, result
            elif step.converted_first:
                # The raw files go before Ollama quantizes.
                needed, stays = max(raw + plan.made_size - result, plan.made_size), result
            else:
                needed = raw + plan.made_size
                stays = max(plan.made_size, result) if self._reclaim.enabled else needed
            peak = max(peak, left + needed)
            left += stays
        return peak
