"""A model that is made gets its name, checked before if the user wants that; a finished GGUF needs no create for it."""

import logging
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from proxy.errors import OllamaError, OllamaGone
from proxy.ollama import Ollama
from proxy.planning.plan import Plan
from proxy.pull.create import VERIFYING
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

    async def pulled(self, plan: Plan, temporary: str, config: Blob, layers: Sequence[Layer]) -> str | None:
        """Have Ollama pull its own blobs as a model; its name, None where Ollama does not take their manifest."""
        with self._registry.offering(temporary, config, layers) as offer:
            try:
                await self._ollama.pull(offer.name)
            except OllamaGone:
                raise
            except OllamaError as error:
                why = "would not pull it" if offer.asked_for else f"does not reach the proxy at {self._registry.url}"
                hint = "" if offer.asked_for else "; set ollama.advertise_url"
                log.warning("%s is created, which takes longer, since Ollama %s (%s)%s", plan.name, why, error, hint)
                return None
        return offer.name

    async def created(self, plan: Plan, temporary: str, create: Callable[[str], Coroutine[Any, Any, None]]) -> str:
        """`create` makes the model under the name that it is told; that name."""
        name = temporary if self._verifies else plan.name
        await create(name)
        return name

    async def hand_over(self, made: str, plan: Plan, progress: Progress) -> None:
        """Give a model that was made the name that was asked for. It can be done again where it failed.

        The temporary names that are left are `Reclaim.drop_temporaries`' to remove: of what was made, and of what it
        replaces, whose blobs a copy would else leave to nobody. One that cannot be loaded stays, for the next pull.
        """
        if made == plan.name:
            return
        if self._verifies:
            await self._verify(made, plan, progress)
        await self._ollama.copy(plan.name, temporary_name())
        if not await self._ollama.copy(made, plan.name):
            raise OllamaError(f"{plan.name} was made, but Ollama has lost it; pull again")

    async def _verify(self, made: str, plan: Plan, progress: Progress) -> None:
        progress.status(VERIFYING)
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
