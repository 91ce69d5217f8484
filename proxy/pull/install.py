"""A model that is made gets its name, checked before if the user wants that; a finished GGUF needs no create for it."""

import logging
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from proxy.errors import OllamaError, OllamaGone
from proxy.ollama import Ollama
from proxy.planning.plan import Plan
from proxy.pull.progress import Progress
from proxy.pull.reclaim import temporary_name
from proxy.registry import Blob, Layer, Registry

log = logging.getLogger(__name__)

LACK_OF_MEMORY = re.compile(
    r"system memory|out of memory|not enough memory|insufficient memory|allocate (?:memory|buffer|backend)"
    r"|unable to allocate|failed to allocate|cudaMalloc|mmap failed",
    re.IGNORECASE,
)


class Install:
    """For whoever holds `Reclaim.creating`: the temporary names are swept otherwise."""

    def __init__(self, ollama: Ollama, registry: Registry, *, verify: bool) -> None:
        """`verify`: load each model once before it gets its name."""
        self._ollama = ollama
        self._registry = registry
        self._verifies = verify

    async def pulled(
        self, plan: Plan, temporary: str, config: Blob, layers: Sequence[Layer], progress: Progress
    ) -> bool:
        """Have Ollama pull its own blobs as a model. False where it does not get their manifest from the proxy.

        Where the model cannot be loaded it stays under the temporary name, which keeps its blobs.
        """
        with self._registry.offering(temporary, config, layers) as offer:
            try:
                await self._ollama.pull(offer.name)
            except OllamaGone:
                raise
            except OllamaError as error:
                log.warning(
                    "%s is created, which takes longer, since Ollama does not reach the proxy at %s (%s); set "
                    "ollama.advertise_url",
                    plan.name,
                    self._registry.url,
                    error,
                )
                return False
        await self._hand_over(offer.name, plan, progress)
        return True

    async def created(
        self, plan: Plan, temporary: str, create: Callable[[str], Coroutine[Any, Any, None]], progress: Progress
    ) -> None:
        """`create` makes the model under the name that it is told. One that cannot be loaded stays, as above."""
        await create(temporary if self._verifies else plan.name)
        if self._verifies:
            await self._hand_over(temporary, plan, progress)

    async def _hand_over(self, made: str, plan: Plan, progress: Progress) -> None:
        if self._verifies:
            await self._verify(made, plan, progress)
        # A copy leaves the blobs of what it overwrites to nobody; with another name they go with that.
        replaced = temporary_name() if await self._ollama.has_model(plan.name) else None
        if replaced is not None:
            await self._ollama.copy(plan.name, replaced)
        await self._ollama.copy(made, plan.name)
        for name in filter(None, (replaced, made)):
            await self._ollama.delete(name)

    async def _verify(self, made: str, plan: Plan, progress: Progress) -> None:
        progress.status("verifying conversion")
        try:
            await self._ollama.load(made)
        except OllamaGone:
            raise
        except OllamaError as error:
            if not LACK_OF_MEMORY.search(str(error)):
                raise OllamaError(
                    f"{plan.name} is made, but Ollama cannot load it: {error}; nothing was replaced. Try another "
                    "quantization, or pull.verify = false to have it all the same"
                ) from error
            warning = f"there is not the memory to try {plan.name} now ({error})"
            log.warning("%s", warning)
            progress.warn([warning])
