"""From a plan to a model in Ollama: transfer the blobs, create the model, remove what nobody needs any more."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rich.filesize import decimal

from proxy.config.sections import ModelSettings, OllamaConfig
from proxy.errors import OllamaError, OllamaGone, ProxyError, Refusal, Rejected
from proxy.ollama.client import Ollama
from proxy.ollama.disk import free_disk
from proxy.ollama.registry import Blob, Layer, temporary_name
from proxy.planning.identity import weights_identity
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
from proxy.pull.install import Install, ManifestRefused
from proxy.pull.states import Enter, State
from proxy.pull.template_check import probe_model_files
from proxy.store.reclaim import NotReclaimed, Reclaim
from proxy.tasks import finish_then_cancel
from proxy.transfer.progress import Progress
from proxy.transfer.transfer import Transfer

log = logging.getLogger(__name__)


Remember = Callable[[], Awaitable[None]]
"""Records in the journal that Ollama has what the plan makes."""

WRITING = "writing manifest"
REMOVING = "removing unused layers"


@dataclass(slots=True)
class ModelBuild:
    """One model to make, first under the name `temporary`.

    `small_files` are its config, which comes first, and its other small layers. `held_layers` are weights that Ollama
    already has: the kind and the digest of each. `lease` is the number of the lease that protects its blobs.
    """

    plan: Plan
    temporary: str
    small_files: tuple[Upload, ...] = ()
    held_layers: tuple[tuple[str, str], ...] = ()
    lease: int = 0

    @property
    def config(self) -> Blob:
        return _blob(self.small_files[0])

    def layers(self, digests: Mapping[str, str]) -> list[Layer]:
        """`digests` are those of the plan's uploads, by path. The sizes of held layers are not known yet, so 0."""
        base = self.plan.base.name if self.plan.base is not None else ""
        held = [Layer.of(kind, Blob(digest, 0), base) for kind, digest in self.held_layers]
        uploaded = [Layer.of(upload.kind, Blob(digests[upload.path], upload.size)) for upload in self.plan.uploads]
        return [*held, *uploaded, *_layers(self.small_files[1:])]

    def set_small_files(self, description: OllamaConfigFile, settings: ModelSettings) -> None:
        self.small_files = _small_files(layers_beside(description, settings))


class Executor:
    def __init__(
        self, config: OllamaConfig, ollama: Ollama, transfer: Transfer, reclaim: Reclaim, install: Install
    ) -> None:
        self._config = config
        self._ollama = ollama
        self._install = install
        self._transfer = transfer
        self._wait_for_ollama = transfer.wait_for_ollama
        self._reclaim = reclaim

    async def make(self, plan: Plan, progress: Progress, enter: Enter, remember: Remember) -> None:
        """Make the models of a plan. Raises Refusal if the disk is too small, and what Transfer and `create` raise.

        After a failure, finished blobs stay for the next pull, except blobs that Ollama cannot make a model of.
        """
        await self._run([_build_of(step) for step in plan.steps], plan, progress, enter, remember)

    async def recreate(self, plan: Plan, held: HeldModel, progress: Progress, enter: Enter, remember: Remember) -> None:
        """Make the model again from the weights that Ollama has, with the plan's template, parameters and so on."""
        without_uploads = replace(plan, uploads=(), quantization=None, is_converted=False)
        build = ModelBuild(without_uploads, temporary_name(), held_layers=held.blobs)
        build.set_small_files(held.description, plan.settings)
        await self._run([build], without_uploads, progress, enter, remember)

    async def _run(
        self, builds: Sequence[ModelBuild], plan: Plan, progress: Progress, enter: Enter, remember: Remember
    ) -> None:
        has_removed = False
        try:
            for build in builds:
                await self._acquire_lease(build, progress)
                await self._check_template(build, progress)
            await self._check_disk(builds)
            held = await self._transfer.announce([build.plan for build in builds], progress)
            for build in builds:
                has_removed |= await self._build(build, held, progress, enter)
            await self.record_result(plan, [build.lease for build in builds], remember)
        except Rejected:
            await self._discard(builds, progress, enter)
            raise
        except BaseException:
            for build in builds:
                self._reclaim.expire_later(build.lease)
            raise
        if has_removed:
            progress.status(REMOVING)

    async def record_result(self, plan: Plan, leases: Sequence[int], remember: Remember) -> None:
        """Record the finished model and end its leases.

        If it cannot be recorded, the pull counts as interrupted: the next one looks at the model that Ollama has.
        """
        try:
            await remember()
        except ProxyError as error:
            log.warning("%s is made, but the journal could not record it: %s", plan.name, error)
            end = self._reclaim.expire_later
        else:
            end = self._reclaim.release
        for lease in leases:
            end(lease)

    async def clean_up(self, model: str, progress: Progress, enter: Enter) -> None:
        """Remove what interrupted pulls left of a model that Ollama has finished by itself."""
        enter(State.RECLAIMING)
        try:
            removed = await self._reclaim.clean_up(model)
        except ProxyError as error:
            log.warning("unused files stay for now: %s", error)
        else:
            if removed.blobs or removed.models:
                progress.status(REMOVING)

    async def _acquire_lease(self, build: ModelBuild, progress: Progress) -> None:
        """Protect the blobs of the build before Ollama is asked which of them it has."""
        plan = build.plan
        digests = [upload.digest for upload in (*plan.uploads, *build.small_files) if upload.digest]

        async def acquire() -> None:
            if not build.lease:
                build.lease = await self._reclaim.acquire(plan.name.casefold(), build.temporary, digests)

        await self._wait_for_ollama.run(acquire, plan.name, progress)

    async def _check_template(self, build: ModelBuild, progress: Progress) -> None:
        """Have Ollama show a tiny model with the plan's template. Raises Refusal with Ollama's reason.

        If Ollama does not reach the proxy for the tiny model, the create of the real one reports a bad template.
        """
        name = temporary_name()
        files = probe_model_files(build.plan, name)
        if not files:
            return
        self._reclaim.add(build.lease, [file.digest for file in files if file.digest])
        await self._transfer.run(replace(build.plan, uploads=files), (), progress)
        pull = partial(self._install.pull_manifest, name, _blob(files[0]), _layers(files[1:]))
        # Another pull that creates a model would remove this temporary one.
        async with self._reclaim.creating:
            try:
                probe = await self._wait_for_ollama.run(pull, build.plan.name, progress)
            except ManifestRefused as error:
                log.warning("the template of %s is not checked, because %s", build.plan.name, error)
                return
            try:
                await self._wait_for_ollama.run(partial(self._ollama.check_shown, probe), build.plan.name, progress)
            except OllamaGone:
                raise
            except OllamaError as error:
                raise Refusal(f"Ollama cannot use the template of {build.plan.name}: {error}") from error
            finally:
                await self._ollama.delete(probe)

    async def _build(self, build: ModelBuild, held: set[str], progress: Progress, enter: Enter) -> bool:
        """Transfer the blobs and create the model; whether unused blobs were removed after that."""
        enter(State.TRANSFERRING)
        add = partial(self._reclaim.add, build.lease)
        digests = await self._transfer.run(build.plan, held, progress, lambda digest: add([digest]))
        if build.plan.base is not None:
            add_layers = partial(self._add_base_layers, build, build.plan.base)
            await self._wait_for_ollama.run(add_layers, build.plan.name, progress)
        await self._transfer.run(replace(build.plan, uploads=build.small_files), (), progress)
        progress.status("verifying sha256 digest")
        async with self._creating(build.plan, progress, enter) as was_deleted:
            if was_deleted:
                digests = await self._upload_missing(build, digests, progress)
            await finish_then_cancel(self._create_model(build, digests, progress, enter))
            return await self._collect(progress, enter)

    async def _upload_missing(
        self, build: ModelBuild, digests: Mapping[str, str], progress: Progress
    ) -> dict[str, str]:
        """Upload again the weights that Ollama deleted together with the old model of this name."""
        missing = [path for path, digest in digests.items() if not await self._ollama.has_blob(digest)]
        plan = replace(build.plan, uploads=tuple(upload for upload in build.plan.uploads if upload.path in missing))
        return {**digests, **await self._transfer.run(plan, (), progress)}

    async def _add_base_layers(self, build: ModelBuild, base: Base) -> None:
        """An adapter's model has all layers of its base: the weights, and what its own settings do not replace."""
        held = held_model(await self._ollama.show(base.name) or {})
        if held is None:
            raise OllamaError(
                f"{build.plan.name} cannot be made: Ollama has no GGUF of its base model {base.name}; remove the base "
                "model, and pull again"
            )
        build.held_layers = held.blobs
        build.set_small_files(held.description, settings_over(held.settings, build.plan.settings))
        digests = [digest for _, digest in held.blobs]
        self._reclaim.add(build.lease, [*digests, *(file.digest for file in build.small_files if file.digest)])

    async def _create_model(
        self, build: ModelBuild, digests: Mapping[str, str], progress: Progress, enter: Enter
    ) -> None:
        """Have Ollama pull the manifest; if it cannot, use its create."""
        try:
            await self._pull_manifest(build, digests, progress)
        except ManifestRefused as error:
            await self._create_by_api(build, digests, progress, error)
        self._reclaim.complete(build.lease)
        enter(State.RECLAIMING)
        await self._sweep_temporary()

    async def _pull_manifest(self, build: ModelBuild, digests: Mapping[str, str], progress: Progress) -> None:
        layers = build.layers(digests)
        pull = partial(self._install.pull_manifest, build.temporary, build.config, layers)
        temporary = await self._wait_for_ollama.run(pull, build.plan.name, progress)
        await self._give_name(temporary, build.plan, progress)
        self._reclaim.adopt([build.config.digest, *(layer.blob.digest for layer in layers)])

    async def _create_by_api(
        self, build: ModelBuild, digests: Mapping[str, str], progress: Progress, reason: ManifestRefused
    ) -> None:
        """Every Ollama creates a model from a GGUF, but from 0.34.2 on none with an adapter."""
        log.warning("%s is made by Ollama's create instead of a manifest, because %s", build.plan.name, reason)
        held_files = {f"model-{number}.gguf": digest for number, (_, digest) in enumerate(build.held_layers)}

        def call_create(name: str) -> Coroutine[Any, Any, None]:
            return create(self._ollama, build.plan, name, digests or held_files)

        try:
            name = await self._install.create(build.plan, build.temporary, call_create)
        except Rejected as error:
            raise Rejected(f"{error}; {reason}") from error
        await self._give_name(name, build.plan, progress)

    async def _give_name(self, temporary: str, plan: Plan, progress: Progress) -> None:
        give_name = partial(self._install.give_name, temporary, plan, progress)
        await self._wait_for_ollama.run(give_name, plan.name, progress)
        progress.status(WRITING)

    @asynccontextmanager
    async def _creating(self, plan: Plan, progress: Progress, enter: Enter) -> AsyncIterator[bool]:
        """Hold `Reclaim.creating`. Yields whether a client has just deleted a model of this name."""
        if self._reclaim.creating.locked():
            progress.status("waiting for another model to be made")
        async with self._reclaim.creating:
            if (deletion := self._reclaim.deletions.get(plan.name.casefold())) is not None:
                await asyncio.wait([deletion])
            enter(State.CREATING)
            yield deletion is not None

    async def _collect(self, progress: Progress, enter: Enter) -> bool:
        """Whether blobs were removed. The pull succeeds even if they cannot be removed."""
        if not self._reclaim.enabled:
            return False
        enter(State.RECLAIMING)
        try:
            return bool((await self._reclaim.collect()).blobs)
        except NotReclaimed as error:
            progress.warn([str(error)])
            log.warning("%s", error)
        except OllamaError as error:
            log.warning("blobs that no model needs stay for now: %s", error)
        return False

    async def _discard(self, builds: Sequence[ModelBuild], progress: Progress, enter: Enter) -> None:
        """Remove everything of builds that Ollama rejected: a retry would fail in the same way."""
        for build in builds:
            self._reclaim.release(build.lease)
        async with self._reclaim.creating:
            await self._sweep_temporary()
        await self._collect(progress, enter)

    async def _sweep_temporary(self) -> None:
        try:
            await self._reclaim.sweep_temporary()
        except OllamaError as error:
            log.warning("temporary models stay until the next sweep: %s", error)

    async def _check_disk(self, builds: Sequence[ModelBuild]) -> None:
        """Raises Refusal if the disk is certainly too small."""
        free = await free_disk(self._config, self._ollama)
        if free is None or free > _needed_bytes(builds, set()):
            return
        needed = _needed_bytes(builds, await self._transfer.held(*(build.plan for build in builds)))
        if free < needed:
            raise Refusal(
                f"{builds[-1].plan.name} needs about {decimal(needed)} of disk until it is made, but Ollama has "
                f"{decimal(free)} left; remove models that you do not use (`ollama rm`)"
            )


def _build_of(plan: Plan) -> ModelBuild:
    build = ModelBuild(plan, temporary_name(weights_identity(plan)))
    if plan.gguf_summary is not None:
        build.small_files = _small_files(layers_of(plan, plan.gguf_summary))
    return build


def _needed_bytes(builds: Sequence[ModelBuild], held: Collection[str]) -> int:
    """Bytes of all blobs that Ollama does not hold yet."""
    uploads = (upload for build in builds for upload in build.plan.uploads)
    return sum(upload.size for upload in uploads if upload.digest not in held)


def _small_files(files: Iterable[tuple[str, bytes]]) -> tuple[Upload, ...]:
    """The kind of its layer is each file's path."""
    return tuple(small_file(kind, content) for kind, content in files)


def _layers(files: Sequence[Upload]) -> list[Layer]:
    """The layers of small files."""
    return [Layer.of(file.path, _blob(file)) for file in files]


def _blob(file: Upload) -> Blob:
    """The blob of a small file, which always has a digest."""
    return Blob(file.digest or "", file.size)
