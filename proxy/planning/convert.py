"""Plans conversions beside the server: small ones in a thread, large ones in a process of their own.

Python parses a tokenizer.json of 11 MB in one step of 0.3 s, in which no other thread of a process does anything.
"""

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from proxy.errors import Refusal
from proxy.gguf.conversion import Conversion
from proxy.planning.conversion_plan import Material, convert_material, read_tokens
from proxy.planning.recipe import Literal, Range, Recipe
from proxy.planning.worker import SIZE_BYTES
from proxy.workers.processes import LoopLock, Worker, start_worker

T = TypeVar("T")

LARGE_BYTES = 256 * 1024
"""Files of this size together are parsed in milliseconds."""
_PARTS = 1000
"""What is unpickled at once, in milliseconds too."""
# The worker ends itself after two minutes of processor time; this is for one that waits, or shares its processor.
_SECONDS = 300.0

_TURNS = LoopLock()


class Converter:
    """`worker` is None for conversions that are planned in a thread."""

    def __init__(self, worker: Worker | None) -> None:
        self._worker = worker

    async def read_tokens(
        self, repository: str, config: Mapping[str, Any], contents: Mapping[str, bytes]
    ) -> tuple[dict[int, str], bool]:
        """As `conversion_plan.read_tokens`."""
        return await self._call(read_tokens, repository, config, contents)

    async def convert(self, material: Material, quantization: str) -> tuple[Conversion, Recipe]:
        """As `conversion_plan.convert_material`."""
        if self._worker is None:
            return await asyncio.to_thread(convert_material, material, quantization)
        conversion, parts = await self._call(_convert_in_parts, material, quantization)
        return conversion, Recipe(await asyncio.to_thread(_joined, parts))

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Raises what the function raises, and Refusal for what takes too much time or memory."""
        if self._worker is None:
            return await asyncio.to_thread(function, *arguments)
        question = await asyncio.to_thread(pickle.dumps, (function, arguments), pickle.HIGHEST_PROTOCOL)
        try:
            async with asyncio.timeout(_SECONDS):
                await self._worker.send([question])
                size = int.from_bytes(await self._worker.read(SIZE_BYTES), "little")
                answer = await self._worker.read(size)
        except (EOFError, OSError) as error:
            raise Refusal(
                "the process that plans conversions has ended: the repository's small files take too much time or "
                "memory, or the proxy was updated since its start and needs to be restarted"
            ) from error
        outcome: T | Exception = await asyncio.to_thread(pickle.loads, answer)
        if isinstance(outcome, MemoryError):
            raise Refusal("the repository's small files take too much memory to convert") from outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@asynccontextmanager
async def converter(sizes: Iterable[int]) -> AsyncIterator[Converter]:
    """`sizes` are those of the files that are parsed, in bytes. Raises Refusal where the process does not start."""
    if sum(sizes) <= LARGE_BYTES:
        yield Converter(None)
        return
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_TURNS.lock())
        try:
            worker = await stack.enter_async_context(start_worker("proxy.planning.worker"))
        except OSError as error:
            raise Refusal(f"the process that plans conversions does not start ({error})") from error
        yield Converter(worker)


def _convert_in_parts(material: Material, quantization: str) -> tuple[Conversion, list[bytes]]:
    conversion, recipe = convert_material(material, quantization)
    return conversion, list(_split(recipe.parts))


def _split(parts: Sequence[Literal | Range]) -> Iterator[bytes]:
    for at in range(0, len(parts), _PARTS):
        yield pickle.dumps(parts[at : at + _PARTS], pickle.HIGHEST_PROTOCOL)


def _joined(some: Iterable[bytes]) -> tuple[Literal | Range, ...]:
    return tuple(part for content in some for part in pickle.loads(content))  # noqa: S301
