"""A finished model gets its name: Ollama pulls a manifest of its own blobs, and copies it from a temporary name."""

import logging
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from proxy.errors import OllamaError, OllamaGone
from proxy.ollama.client import Ollama
from proxy.ollama.registry import Blob, Layer, Registry, temporary_name
from proxy.planning.plan import Plan
from proxy.transfer.progress import Progress

log = logging.getLogger(__name__)

VERIFYING = "verifying conversion"

LACK_OF_MEMORY = re.compile(
    r"system memory|out of memory|not enough memory|insufficient memory|allocate (?:memory|buffer|backend)"
    r"|unable to allocate|failed to allocate|cudaMalloc|mmap failed",
    re.IGNORECASE,
)


class NotPulled(OllamaError):
    """Ollama does not take the manifest of its own blobs; the text says why."""


class Install:
    """Its callers hold `Reclaim.creating`: without it the temporary names are removed."""

    def __init__(self, ollama: Ollama, registry: Registry, *, verify: bool) -> None:
        """`verify`: load each model once before it gets its name."""
        self._ollama = ollama
        self._registry = registry
        self._verifies = verify

    async def pulled(self, temporary: str, config: Blob, layers: Sequence[Layer]) -> str:
        """Have Ollama pull its own blobs as a model; the model's name. Raises NotPulled.

        An unknown size is 0. Ollama says the true sizes while it pulls, and then pulls a manifest that has them: it
        lists a model with the sizes in its manifest.
        """
        offered = list(layers)
        while True:
            with self._registry.offering(temporary, config, offered) as offer:
                try:
                    sizes = await self._ollama.pull(offer.name)
                except OllamaGone:
                    raise
                except OllamaError as error:
                    raise NotPulled(self._why(error, asked_for=offer.requested)) from error
            true = [layer.with_size(sizes) for layer in offered]
            if true == offered:
                return offer.name
            offered = true

    def _why(self, error: OllamaError, *, asked_for: bool) -> str:
        if asked_for:
            return f"Ollama does not pull it from the proxy ({error})"
        return f"Ollama does not reach the proxy at {self._registry.url} ({error}); set ollama.advertise_url"

    async def created(self, plan: Plan, temporary: str, create: Callable[[str], Coroutine[Any, Any, None]]) -> str:
        """`create` makes the model under the name that it gets; that name."""
        name = temporary if self._verifies else plan.name
        await create(name)
        return name

    async def hand_over(self, made: str, plan: Plan, progress: Progress) -> None:
        """Give the model the name that was asked for. This can be repeated where it failed.

        `Reclaim.drop_temporaries` removes the temporary names later. One is of what was made, one of what it replaces:
        after a copy over it nothing names the blobs of that. A model that cannot be loaded stays for the next pull.
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
                    "quantization, or pull.verify = false to keep it anyway"
                ) from error
            warning = f"there is not the memory to try {plan.name} now ({error})"
            log.warning("%s", warning)
            progress.warn([warning])
