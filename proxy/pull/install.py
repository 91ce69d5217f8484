"""Makes a model of finished blobs: Ollama pulls their manifest as a temporary model, and copies that to its name."""

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


class ManifestRefused(OllamaError):
    """Ollama does not pull the manifest of its own blobs; the text says why."""


class Install:
    """Its callers hold `Reclaim.creating`: without that lock, other pulls remove the temporary models."""

    def __init__(self, ollama: Ollama, registry: Registry, *, verify: bool) -> None:
        """`verify`: Ollama loads each model once before the model gets its name."""
        self._ollama = ollama
        self._registry = registry
        self._verifies = verify
        self._interrupted: set[str] = set()
        """Temporary models during whose load Ollama went away."""

    async def pull_manifest(self, temporary: str, config: Blob, layers: Sequence[Layer]) -> str:
        """Have Ollama pull a manifest of its own blobs as a model; the model's name. Raises ManifestRefused.

        A size that is not known is 0. Ollama reports the true sizes during the pull. Then it pulls a second manifest
        with them, because it lists a model with the sizes of its manifest.
        """
        layers = list(layers)
        while True:
            with self._registry.offering(temporary, config, layers) as offer:
                try:
                    sizes = await self._ollama.pull(offer.name)
                except OllamaGone:
                    raise
                except OllamaError as error:
                    raise ManifestRefused(self._reason(error, asked_for=offer.requested)) from error
            sized_layers = [layer.with_size(sizes) for layer in layers]
            if sized_layers == layers:
                return offer.name
            layers = sized_layers

    def _reason(self, error: OllamaError, *, asked_for: bool) -> str:
        if asked_for:
            return f"Ollama does not pull it from the proxy ({error})"
        return f"Ollama does not reach the proxy at {self._registry.url} ({error}); set ollama.advertise_url"

    async def create(self, plan: Plan, temporary: str, call_create: Callable[[str], Coroutine[Any, Any, None]]) -> str:
        """Have `call_create` create the model; the name that the model has now."""
        name = temporary if self._verifies else plan.name
        await call_create(name)
        return name

    async def give_name(self, temporary: str, plan: Plan, progress: Progress) -> None:
        """Copy a temporary model to the plan's name. A retry after a failure is safe.

        The model that has this name now is copied to another temporary name first: after a plain copy over it, no model
        would name its blobs, and Ollama would never remove them. `Reclaim.sweep_temporary` removes both temporary
        models. A model that Ollama cannot load stays for the next pull.
        """
        if temporary == plan.name:
            return
        if self._verifies:
            await self._verify(temporary, plan, progress)
        await self._ollama.copy(plan.name, temporary_name())
        if not await self._ollama.copy(temporary, plan.name):
            raise OllamaError(f"{plan.name} was made, but Ollama has lost it; pull again")

    async def _verify(self, temporary: str, plan: Plan, progress: Progress) -> None:
        progress.status(VERIFYING)
        try:
            await self._ollama.load(temporary)
        except OllamaGone as error:
            # Before 0.30 some models end Ollama itself (two equal tokens, v0.24), and a service starts it again.
            lost = f"{plan.name} is made, but Ollama went away while it loaded the model"
            if temporary not in self._interrupted:
                self._interrupted.add(temporary)
                raise OllamaGone(f"{lost}; nothing was replaced: {error}") from error
            self._interrupted.discard(temporary)
            raise OllamaError(
                f"{lost}, twice; nothing was replaced. See Ollama's log; try another quantization, or "
                "pull.verify = false to keep it anyway"
            ) from error
        except OllamaError as error:
            if not LACK_OF_MEMORY.search(str(error)):
                raise OllamaError(
                    f"{plan.name} is made, but Ollama cannot load it: {error}; nothing was replaced. Try another "
                    "quantization, or pull.verify = false to keep it anyway"
                ) from error
            warning = f"{plan.name} was not loaded to verify it: there is too little memory now ({error})"
            log.warning("%s", warning)
            progress.warn([warning])
