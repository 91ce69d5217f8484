"""One pull from its name to `success`, a line a step."""

from collections.abc import Callable
from enum import StrEnum

from rich.filesize import decimal

from proxy.config import OllamaConfig
from proxy.disk import free_disk
from proxy.errors import Refusal
from proxy.ollama import Ollama
from proxy.planning.plan import Plan
from proxy.pull.create import create
from proxy.pull.planner import Planner
from proxy.pull.progress import Progress
from proxy.pull.reference import ModelReference
from proxy.pull.transfer import Transfer


class State(StrEnum):
    """Where a pull is, in the words of `/-/pulls`."""

    PLANNING = "planning"
    TRANSFERRING = "transferring"
    CREATING = "creating"
    DONE = "done"
    FAILED = "failed"


class Pipeline:
    """Runs pulls. It knows no HTTP server and no client."""

    def __init__(self, planner: Planner, ollama: Ollama, transfer: Transfer, config: OllamaConfig) -> None:
        self._config = config
        self._planner = planner
        self._ollama = ollama
        self._transfer = transfer

    def claims(self, reference: ModelReference) -> bool:
        return self._planner.claims(reference)

    async def run(self, reference: ModelReference, progress: Progress, enter: Callable[[State], None]) -> None:
        """Raises NativePull before the first line, or a ProxyError that says what happened."""
        repository = await self._planner.open(reference)
        progress.status("pulling manifest")
        capabilities = await self._planner.capabilities(progress)
        plan = await self._planner.plan(reference, repository, capabilities, progress)
        progress.warn(plan.warnings)
        await self._check_disk(plan)
        held = await self._transfer.announce(plan.steps, progress)
        for step in plan.steps:
            await self._make(step, held, progress, enter)

    async def _make(self, plan: Plan, held: set[str], progress: Progress, enter: Callable[[State], None]) -> None:
        enter(State.TRANSFERRING)
        digests = await self._transfer.run(plan, held, progress)
        progress.status("verifying sha256 digest")
        enter(State.CREATING)
        await create(self._ollama, plan, digests, progress)

    async def _check_disk(self, plan: Plan) -> None:
        """Raises Refusal where it is certain that the disk is too small."""
        free = await free_disk(self._config, self._ollama)
        uploads = [upload for step in plan.steps for upload in step.uploads]
        made = sum(step.made_size for step in plan.steps)
        if free is None or free > sum(upload.size for upload in uploads) + made:
            return
        held = await self._transfer.held(*plan.steps)
        needed = sum(upload.size for upload in uploads if upload.digest not in held) + made
        if free < needed:
            raise Refusal(
                f"{plan.name} needs about {decimal(needed)} of disk until it is made, but Ollama has {decimal(free)} "
                "left; remove models that you do not use (`ollama rm`)"
            )
