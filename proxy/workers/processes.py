"""The parent's side: starts a worker, sends it questions through pipes, and kills it at its limits."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

from proxy.workers.process_limits import READY

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 30.0
_CHUNK = 256 * 1024
"""Larger writes are first copied into a buffer, which blocks the event loop."""


class LoopLock:
    """Lets one worker run at a time, because each may take hundreds of megabytes. Each event loop has its own lock."""

    def __init__(self) -> None:
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    def lock(self) -> asyncio.Lock:
        return self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())


class Worker:
    """A running worker process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise OSError("no pipes to the worker")
        self._stdin, self._stdout, self._process = process.stdin, process.stdout, process

    async def ready(self) -> None:
        """Wait until the worker accepts questions. Raises OSError if the process ends before."""
        if await self._stdout.readline() != READY:
            raise OSError("the worker did not start")

    async def send(self, parts: Iterable[bytes]) -> None:
        """Raises OSError if the worker has ended."""
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), _CHUNK):
                if self._stdin.is_closing():
                    # uvloop raises RuntimeError here.
                    raise BrokenPipeError("the worker has ended")
                self._stdin.write(view[start : start + _CHUNK])
                await self._stdin.drain()

    async def read(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises EOFError if the worker ends before."""
        return await self._stdout.readexactly(size)

    async def read_to_end(self, largest: int) -> bytes:
        """Close the worker's input, and read all its output, up to about `largest` bytes."""
        self._stdin.close()
        answer = b""
        while len(answer) <= largest and (chunk := await self._stdout.read(65536)):
            answer += chunk
        if len(answer) <= largest:
            # Without this the worker may be killed while it exits, and asyncio then warns about an unknown child.
            await self._process.wait()
        return answer


async def spawn(module: str) -> asyncio.subprocess.Process:
    """A new interpreter that runs `module`. Raises OSError if it does not start."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        cwd=_ROOT,
        # Code that escapes from a worker's sandbox finds no token. Windows starts no process without an environment.
        env={} if sys.platform != "win32" else None,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )


@asynccontextmanager
async def start_worker(module: str) -> AsyncIterator[Worker]:
    """A worker that runs `module` until the block ends. Raises OSError or TimeoutError if it does not start."""
    process = await spawn(module)
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
    """The answer of the worker `module`, up to about `largest` bytes; empty if the worker reached its own limits.

    `seconds` is wall-clock time after the start of the process. Raises TimeoutError after this time, and OSError if the
    process does not start.
    """
    async with start_worker(module) as worker, asyncio.timeout(seconds):
        await worker.send(question)
        return await worker.read_to_end(largest)
