"""Starts workers: processes of our own modules that are asked over their pipes, and ended at their limits."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

from proxy.workers.limits import READY

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 30.0
_CHUNK = 256 * 1024
"""More at once would be copied into a buffer first, and keep the loop busy."""


class LoopLock:
    """Lets one worker at a time run: each may take hundreds of megabytes. Every event loop has turns of its own."""

    def __init__(self) -> None:
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    def lock(self) -> asyncio.Lock:
        return self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())


class Worker:
    """A process that has started."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise OSError("no pipes to the worker")
        self._stdin, self._stdout, self._process = process.stdin, process.stdout, process

    async def ready(self) -> None:
        """Raises OSError where the process ends instead."""
        if await self._stdout.readline() != READY:
            raise OSError("the worker did not start")

    async def send(self, parts: Iterable[bytes]) -> None:
        """Raises OSError where the worker has ended."""
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), _CHUNK):
                if self._stdin.is_closing():
                    # uvloop would raise RuntimeError.
                    raise BrokenPipeError("the worker has ended")
                self._stdin.write(view[start : start + _CHUNK])
                await self._stdin.drain()

    async def read(self, size: int) -> bytes:
        """So many bytes. Raises EOFError where the worker ends before."""
        return await self._stdout.readexactly(size)

    async def last_answer(self, largest: int) -> bytes:
        """All that the worker still says, up to about `largest` bytes, knowing that nothing more is asked."""
        self._stdin.close()
        answer = b""
        while len(answer) <= largest and (some := await self._stdout.read(65536)):
            answer += some
        if len(answer) <= largest:
            # One that is killed while it ends by itself is a child that asyncio does not know any more.
            await self._process.wait()
        return answer


@asynccontextmanager
async def started(module: str) -> AsyncIterator[Worker]:
    """A worker that runs `module`; it is killed at the end. Raises OSError or TimeoutError where it does not start."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        cwd=_ROOT,
        # Whatever gets out of a worker's sandbox finds no token there; Windows starts nothing without an environment.
        env={} if sys.platform != "win32" else None,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        worker = Worker(process)
        async with asyncio.timeout(_START_SECONDS):
            await worker.ready()
        yield worker
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ask_worker(module: str, question: Sequence[bytes], *, seconds: float, largest: int) -> bytes:
    """What the worker `module` answers, up to about `largest` bytes; nothing where it ends itself at a limit.

    `seconds` counts by the clock, from when the process has started. Raises TimeoutError after them, and OSError where
    the process does not start.
    """
    async with started(module) as worker, asyncio.timeout(seconds):
        await worker.send(question)
        return await worker.last_answer(largest)
