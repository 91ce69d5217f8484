"""Where a pull is, and what of it must not be broken off."""

import asyncio
from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import Any, TypeVar

T = TypeVar("T")


class State(StrEnum):
    """The words of `/-/pulls`."""

    WAITING = "waiting"
    PLANNING = "planning"
    TRANSFERRING = "transferring"
    CREATING = "creating"
    RECLAIMING = "reclaiming"
    DONE = "done"
    FAILED = "failed"


Enter = Callable[[State], None]


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Do the work even where the pull is cancelled meanwhile, which it then is; a second cancellation leaves at once.

    A create that nobody reads blocks for ever in Ollama and leaks its files (v0.24, v0.33).
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise
