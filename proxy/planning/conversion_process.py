"""Plans conversions away from the event loop: small ones in a thread, large ones in a separate process.

Python parses a tokenizer.json of 11 MB in one step of 0.3 s. During that step all other threads of the process wait.
"""

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from io import BytesIO
from typing import Any, TypeVar

from proxy.errors import Refusal
from proxy.gguf.conversion import Conversion
from proxy.gguf.keeping import Fallback
from proxy.gguf.projection import Projection
from proxy.planning.conversion_plan import FilePart, convert_material, parts_to_read, read_tokens
from proxy.planning.material import Material
from proxy.planning.plan_worker import SIZE_BYTES
from proxy.planning.projector_plan import project_material
from proxy.planning.recipe import Literal, Range, Recipe
from proxy.workers.processes import LoopLock, Worker, start_worker

T = TypeVar("T")

THREAD_BYTES = 256 * 1024
"""Files of up to this size in total are parsed in milliseconds, so a thread is enough."""
_PARTS_PER_PICKLE = 1000
"""One pickle of this many parts is loaded in milliseconds."""
# The worker ends itself after two minutes of processor time. This limit is for a worker that waits for the processor.
_SECONDS = 300.0

_ONE_WORKER = LoopLock()


class Converter:
    """Runs the functions of conversion_plan in `worker`, or in a thread if that is None."""

    def __init__(self, worker: Worker | None) -> None:
        self._worker = worker

    async def read_tokens(
        self, repository: str, config: Mapping[str, Any], contents: Mapping[str, bytes]
    ) -> tuple[dict[int, str], bool]:
        """As `conversion_plan.read_tokens`."""
        return await self._call(read_tokens, repository, config, contents)

    async def parts_to_read(self, material: Material) -> list[FilePart]:
        """As `conversion_plan.parts_to_read`."""
        return await self._call(parts_to_read, material) if material.may_need_parts else []

    async def convert(self, material: Material, quantization: str | Fallback) -> tuple[Conversion, Recipe]:
        """As `conversion_plan.convert_material`."""
        if self._worker is None:
            return await asyncio.to_thread(convert_material, material, quantization)
        conversion, pickles = await self._call(_convert_in_parts, material, quantization)
        return conversion, Recipe(await asyncio.to_thread(_join, pickles))

    async def project(self, material: Material, file_type: str) -> tuple[Projection, Recipe] | str:
        """As `projector_plan.project_material`."""
        return await self._call(project_material, material, file_type)

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Raises what the function raises, and Refusal if it needs too much time or memory."""
        if self._worker is None:
            return await asyncio.to_thread(function, *arguments)
        call = await asyncio.to_thread(pickle.dumps, (function, arguments), pickle.HIGHEST_PROTOCOL)
        try:
            async with asyncio.timeout(_SECONDS):
                await self._worker.send([call])
                size = int.from_bytes(await self._worker.read(SIZE_BYTES), "little")
                answer = await self._worker.read(size)
        except (EOFError, OSError) as error:
            raise Refusal(
                "the process that plans conversions has ended: the repository's small files need too much time or "
                "memory, or the proxy was updated since its start: restart it, and pull again"
            ) from error
        outcome: T | Exception = await asyncio.to_thread(pickle.loads, answer)
        if isinstance(outcome, MemoryError):
            raise Refusal("the repository's small files need too much memory; pull a GGUF of the model") from outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@asynccontextmanager
async def converter(sizes: Iterable[int]) -> AsyncIterator[Converter]:
    """`sizes`: bytes of each file to parse. Raises Refusal if the process does not start."""
    if sum(sizes) <= THREAD_BYTES:
        yield Converter(None)
        return
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_ONE_WORKER.lock())
        try:
            worker = await stack.enter_async_context(start_worker("proxy.planning.plan_worker"))
        except OSError as error:
            raise Refusal(
                f"the process that plans conversions does not start ({error}); free memory on the proxy's machine, and "
                "pull again"
            ) from error
        yield Converter(worker)


def _convert_in_parts(material: Material, quantization: str | Fallback) -> tuple[Conversion, bytes]:
    conversion, recipe = convert_material(material, quantization)
    return conversion, _split(recipe.parts)


def _split(parts: Sequence[Literal | Range]) -> bytes:
    """Pickles that share their files and transforms."""
    pickles = BytesIO()
    pickler = pickle.Pickler(pickles, pickle.HIGHEST_PROTOCOL)
    for start in range(0, len(parts), _PARTS_PER_PICKLE):
        pickler.dump(parts[start : start + _PARTS_PER_PICKLE])
    return pickles.getvalue()


def _join(pickles: bytes) -> tuple[Literal | Range, ...]:
    content, parts = BytesIO(pickles), list[Literal | Range]()
    unpickler = pickle.Unpickler(content)  # noqa: S301
    while content.tell() < len(pickles):
        parts += unpickler.load()
    return tuple(parts)
