"""One pull from its name to `success`, a line a step."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from proxy.config import Config
from proxy.ollama import Ollama
from proxy.pull.create import create
from proxy.pull.plan import INDEX, Plan, check_readable, choose_files, choose_quantization, is_native, make_plan
from proxy.pull.progress import Progress
from proxy.pull.reference import ModelReference
from proxy.pull.transfer import Transfer
from proxy.sources.base import Repository, RepositoryFile, Source


class State(StrEnum):
    """Where a pull is, in the words of `/-/pulls`."""

    PLANNING = "planning"
    TRANSFERRING = "transferring"
    CREATING = "creating"
    DONE = "done"
    FAILED = "failed"


class NativePull(Exception):
    """Ollama can pull this name without us."""

    def __init__(self, repository: Repository) -> None:
        super().__init__(repository.id)
        self.repository = repository


class Pipeline:
    """Plans and runs pulls. It knows no HTTP server and no client."""

    def __init__(self, config: Config, sources: Mapping[str, Source], ollama: Ollama, transfer: Transfer) -> None:
        self._config = config
        self._sources = sources
        self._ollama = ollama
        self._transfer = transfer

    def claims(self, reference: ModelReference) -> bool:
        return reference.host.lower() in self._sources

    async def run(self, reference: ModelReference, progress: Progress, enter: Callable[[State], None]) -> None:
        """Raises NativePull before the first line, or a ProxyError that says what happened."""
        repository = await self.open(reference)
        progress.status("pulling manifest")
        plan = await self.plan(reference, repository, progress)
        enter(State.TRANSFERRING)
        await self._transfer.run(plan, progress)
        progress.status("verifying sha256 digest")
        enter(State.CREATING)
        await create(self._ollama, plan, progress)

    async def open(self, reference: ModelReference) -> Repository:
        """The repository at its commit. Raises NativePull where Ollama pulls it by itself."""
        revision = self._config.settings_for(reference.name).revision
        repository = await self._sources[reference.host.lower()].open(reference.repository, revision)
        if is_native(reference, repository.files):
            raise NativePull(repository)
        return repository

    async def plan(self, reference: ModelReference, repository: Repository, progress: Progress) -> Plan:
        quantization = choose_quantization(reference.tag, self._config.pull.default_quantization)
        files = {file.path: file for file in repository.files}
        index = (await self._read(repository, [files[INDEX]], progress))[INDEX] if INDEX in files else None
        selection = await asyncio.to_thread(choose_files, repository, index)
        contents = await self._read(repository, selection.to_read, progress)
        settings = self._config.settings_for(reference.name)
        return await asyncio.to_thread(make_plan, reference, repository, quantization, selection, contents, settings)

    async def _read(
        self, repository: Repository, files: Sequence[RepositoryFile], progress: Progress
    ) -> dict[str, bytes]:
        check_readable(repository.id, files)
        return await self._transfer.read(repository, files, progress)
