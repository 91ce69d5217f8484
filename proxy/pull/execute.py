"""From a plan to a model in Ollama, and nothing beside it: transfer, install, reclaim."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rich.filesize import decimal

from proxy.config import ModelSettings, OllamaConfig
from proxy.errors import OllamaError, OllamaGone, ProxyError, Refusal, Rejected
from proxy.ollama.client import Ollama
from proxy.ollama.disk import free_disk
from proxy.ollama.registry import Blob, Layer, temporary_name
from proxy.planning.identity import weights_identity, with_known_digests
from proxy.planning.ollama_layers import (
    HeldModel,
    OllamaConfigFile,
    held_model,
    layers_beside,
    layers_of,
    settings_over,
)
from proxy.planning.plan import Base, Plan, Upload, small_file
from proxy.pull.create import create
from proxy.pull.install import Install, NotPulled
from proxy.pull.states import Enter, State
from proxy.pull.template_check import probe_model_files
from proxy.store.journal import Journal
from proxy.store.reclaim import NotReclaimed, Reclaim
from proxy.tasks import finish_then_cancel
from proxy.transfer.progress import Progress
from proxy.transfer.transfer import Transfer

log = logging.getLogger(__name__)


Remember = Callable[[], Awaitable[None]]
"""Notes that Ollama has what the plan makes."""

WRITING = "writing manifest"
REMOVING = "removing unused layers"


@dataclass(slots=True)
class ModelBuild:
    """One model to make. `temporary` is its name on the way. Its config and its other small layers are in `beside`, and
    in `kept` the digests of weights that Ollama has, with their kinds. `number` is that of its pull in the journal.
    """

    plan: Plan
    temporary: str
    beside: tuple[Upload, ...] = ()
    kept: tuple[tuple[str, str], ...] = ()
    number: int = 0

    @property
    def config(self) -> Blob:
        return _blob(self.beside[0])

    def layers(self, digests: Mapping[str, str]) -> list[Layer]:
        """`digests` are those of the plan's uploads, by path. Nobody knows the sizes of what is kept."""
        base = self.plan.base.name if self.plan.base is not None else ""
        kept = [Layer.of(kind, Blob(digest, 0), base) for kind, digest in self.kept]
        brought = [Layer.of(upload.kind, Blob(digests[upload.path], upload.size)) for upload in self.plan.uploads]
        return [*kept, *brought, *_layers(self.beside[1:])]

    def dress(self, description: OllamaConfigFile, settings: ModelSettings) -> None:
        self.beside = _small_files(layers_beside(description, settings))


class Executor:
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
        self._wait_for_ollama = transfer.wait_for_ollama
        self._journal = journal
        self._reclaim = reclaim

    async def make(self, plan: Plan, progress: Progress, enter: Enter, remember: Remember) -> None:
        """Raises Refusal where the disk is too small, else as Transfer and `create` do.

        What was finished stays for the next pull, but for files that Ollama cannot make a model of.
        """
        plan = with_known_digests(plan, self._journal.digest_of)
        await self._run([self._step(step) for step in plan.steps], plan, progress, enter, remember)

    async def recreate(self, plan: Plan, held: HeldModel, progress: Progress, enter: Enter, remember: Remember) -> None:
        """Make the model again of the weights that Ollama has, with the plan's template, parameters and the like."""
        bare = replace(plan, uploads=(), quantization=None, is_converted=False)
        step = ModelBuild(bare, temporary_name(), kept=held.blobs)
        step.dress(held.description, plan.settings)
        await self._run([step], bare, progress, enter, remember)

    async def _run(
        self, steps: Sequence[ModelBuild], plan: Plan, progress: Progress, enter: Enter, remember: Remember
    ) -> None:
        removed = False
        try:
            for step in steps:
                await self._claim(step, progress)
                await self._try_template(step, progress)
            await self._check_disk(steps)
            held = await self._transfer.announce([step.plan for step in steps], progress)
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

    def _step(self, plan: Plan) -> ModelBuild:
        step = ModelBuild(plan, temporary_name(weights_identity(plan)))
        if plan.gguf_summary is not None:
            step.beside = _small_files(layers_of(plan, plan.gguf_summary))
        return step

    async def _claim(self, step: ModelBuild, progress: Progress) -> None:
        """From here on nobody removes what the step needs, so that what Ollama has is worth asking."""
        plan = step.plan
        digests = [upload.digest for upload in (*plan.uploads, *step.beside) if upload.digest]

        async def claim() -> None:
            if not step.number:
                step.number = await self._reclaim.claim(plan.name.casefold(), step.temporary, digests)

        await self._wait_for_ollama.run(claim, plan.name, progress)

    async def _try_template(self, step: ModelBuild, progress: Progress) -> None:
        """Raises Refusal with Ollama's reason. Where it does not reach the proxy, its create will say so."""
        name = temporary_name()
        files = probe_model_files(step.plan, name)
        if not files:
            return
        self._journal.need(step.number, [file.digest for file in files if file.digest])
        await self._transfer.run(replace(step.plan, uploads=files), (), progress)
        pull = partial(self._install.pulled, name, _blob(files[0]), _layers(files[1:]))
        # Who makes another model meanwhile would remove this one.
        async with self._reclaim.creating:
            try:
                made = await self._wait_for_ollama.run(pull, step.plan.name, progress)
            except NotPulled as error:
                log.warning("the template of %s is not tried, since %s", step.plan.name, error)
                return
            try:
                await self._wait_for_ollama.run(partial(self._ollama.check_shown, made), step.plan.name, progress)
            except OllamaGone:
                raise
            except OllamaError as error:
                raise Refusal(f"Ollama cannot use the template of {step.plan.name}: {error}") from error
            finally:
                await self._ollama.delete(made)

    async def _make(self, step: ModelBuild, held: set[str], progress: Progress, enter: Enter) -> bool:
        """Whether something was removed behind the model."""
        enter(State.TRANSFERRING)
        need = partial(self._journal.need, step.number)
        digests = await self._transfer.run(step.plan, held, progress, lambda digest: need([digest]))
        if step.plan.base is not None:
            await self._wait_for_ollama.run(partial(self._take_base, step, step.plan.base), step.plan.name, progress)
        await self._transfer.run(replace(step.plan, uploads=step.beside), (), progress)
        progress.status("verifying sha256 digest")
        async with self._creating(step.plan, progress, enter) as was_removed:
            if was_removed:
                digests = await self._bring_back(step, digests, progress)
            await finish_then_cancel(self._put(step, digests, progress, enter))
            return await self._give_up(progress, enter)

    async def _bring_back(self, step: ModelBuild, digests: Mapping[str, str], progress: Progress) -> dict[str, str]:
        """A model that Ollama created and removed meanwhile may have taken the weights with it."""
        gone = [path for path, digest in digests.items() if not await self._ollama.has_blob(digest)]
        plan = replace(step.plan, uploads=tuple(upload for upload in step.plan.uploads if upload.path in gone))
        return {**digests, **await self._transfer.run(plan, (), progress)}

    async def _take_base(self, step: ModelBuild, base: Base) -> None:
        """An adapter's model has all of its base's layers: its weights, and what the settings do not replace."""
        held = held_model(await self._ollama.show(base.name) or {})
        if held is None:
            raise OllamaError(
                f"{step.plan.name} cannot be made: Ollama has no GGUF of its base model {base.name}; remove that, and "
                "pull again"
            )
        step.kept = held.blobs
        step.dress(held.description, settings_over(held.settings, step.plan.settings))
        digests = [digest for _, digest in held.blobs]
        self._journal.need(step.number, [*digests, *(upload.digest for upload in step.beside if upload.digest)])

    async def _put(self, step: ModelBuild, digests: Mapping[str, str], progress: Progress, enter: Enter) -> None:
        """Make the model of what was brought. That nothing can be removed behind it is no failure of the pull."""
        try:
            await self._install_layers(step, digests, progress)
        except NotPulled as error:
            await self._create_instead(step, digests, progress, error)
        self._reclaim.release(step.number)
        enter(State.RECLAIMING)
        await self._drop_temporaries()

    async def _install_layers(self, step: ModelBuild, digests: Mapping[str, str], progress: Progress) -> None:
        layers = step.layers(digests)
        pull = partial(self._install.pulled, step.temporary, step.config, layers)
        made = await self._wait_for_ollama.run(pull, step.plan.name, progress)
        await self._hand_over(made, step.plan, progress)
        self._reclaim.belongs_to_a_model([step.config.digest, *(layer.blob.digest for layer in layers)])

    async def _create_instead(
        self, step: ModelBuild, digests: Mapping[str, str], progress: Progress, why: NotPulled
    ) -> None:
        """Of a GGUF every Ollama still makes a model, but from 0.34.2 on none with an adapter."""
        log.warning("%s is made by Ollama's create instead of a manifest, since %s", step.plan.name, why)
        files = {f"model-{number}.gguf": digest for number, (_, digest) in enumerate(step.kept)}

        def make(name: str) -> Coroutine[Any, Any, None]:
            return create(self._ollama, step.plan, name, digests or files)

        try:
            made = await self._install.created(step.plan, step.temporary, make)
        except Rejected as error:
            raise Rejected(f"{error}; {why}") from error
        await self._hand_over(made, step.plan, progress)

    async def _hand_over(self, made: str, plan: Plan, progress: Progress) -> None:
        hand_over = partial(self._install.hand_over, made, plan, progress)
        await self._wait_for_ollama.run(hand_over, plan.name, progress)
        progress.status(WRITING)

    @asynccontextmanager
    async def _creating(self, plan: Plan, progress: Progress, enter: Enter) -> AsyncIterator[bool]:
        """Whether a model of this name was removed just before."""
        if self._reclaim.creating.locked():
            progress.status("waiting for another model to be made")
        async with self._reclaim.creating:
            if (removal := self._reclaim.removals.get(plan.name.casefold())) is not None:
                await asyncio.wait([removal])
            enter(State.CREATING)
            yield removal is not None

    async def _give_up(self, progress: Progress, enter: Enter) -> bool:
        """Remove what nobody needs any more. That it fails is no failure of the pull."""
        if not self._reclaim.enabled:
            return False
        enter(State.RECLAIMING)
        try:
            return bool((await self._reclaim.collect()).blobs)
        except NotReclaimed as error:
            progress.warn([str(error)])
            log.warning("%s", error)
        except OllamaError as error:
            log.warning("what no model needs stays for now: %s", error)
        return False

    async def _drop_temporaries(self) -> None:
        try:
            await self._reclaim.sweep_temporary()
        except OllamaError as error:
            log.warning("temporary models stay for now: %s", error)

    async def _give_all_up(self, steps: Sequence[ModelBuild], progress: Progress, enter: Enter) -> None:
        """The same files would fail the same way."""
        for step in steps:
            self._reclaim.end(step.number)
        async with self._reclaim.creating:
            await self._drop_temporaries()
        await self._give_up(progress, enter)

    async def _check_disk(self, steps: Sequence[ModelBuild]) -> None:
        """Raises Refusal where it is certain that the disk is too small."""
        free = await free_disk(self._config, self._ollama)
        if free is None or free > self._needed(steps, set()):
            return
        needed = self._needed(steps, await self._transfer.held(*(step.plan for step in steps)))
        if free < needed:
            raise Refusal(
                f"{steps[-1].plan.name} needs about {decimal(needed)} of disk until it is made, but Ollama has "
                f"{decimal(free)} left; remove models that you do not use (`ollama rm`)"
            )

    def _needed(self, steps: Sequence[ModelBuild], held: Collection[str]) -> int:
        """Bytes that come to the disk until all is made, beyond what is there."""
        uploads = (upload for step in steps for upload in step.plan.uploads)
        return sum(upload.size for upload in uploads if upload.digest not in held)


def _small_files(files: Iterable[tuple[str, bytes]]) -> tuple[Upload, ...]:
    """Each with its kind as its path."""
    return tuple(small_file(kind, content) for kind, content in files)


def _layers(files: Sequence[Upload]) -> list[Layer]:
    """Of small files, whose paths are their kinds."""
    return [Layer.of(file.path, _blob(file)) for file in files]


def _blob(upload: Upload) -> Blob:
    """Of a small file, whose digest is known."""
    return Blob(upload.digest or "", upload.size)
