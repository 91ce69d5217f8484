"""Asks a worker: a process of its own that answers one question over its pipes, and is ended at its limits."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from proxy.limits import READY

_ROOT = Path(__file__).parents[1]
_START_SECONDS = 30.0
_CHUNK = 256 * 1024
"""More at once would be copied into a buffer first, and keep the loop busy."""


async def ask_worker(module: str, question: Sequence[bytes], *, seconds: float, largest: int) -> bytes:
    """What the worker `module` answers, up to about `largest` bytes; nothing where it ends itself at a limit.

    `seconds` counts by the clock, from when the process has started. Raises TimeoutError after them, and OSError where
    the process does not start.
    """
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
        return await _talk(process, question, seconds, largest)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _talk(process: asyncio.subprocess.Process, question: Sequence[bytes], seconds: float, largest: int) -> bytes:
    stdin, stdout = process.stdin, process.stdout
    if stdin is None or stdout is None:
        raise OSError("no pipes to the worker")
    if await asyncio.wait_for(stdout.readline(), _START_SECONDS) != READY:
        raise OSError("the worker did not start")
    async with asyncio.timeout(seconds):
        for part in question:
            view = memoryview(part)
            for start in range(0, len(view), _CHUNK):
                stdin.write(view[start : start + _CHUNK])
                await stdin.drain()
        stdin.close()
        answer = b""
        while len(answer) <= largest and (some := await stdout.read(65536)):
            answer += some
        if len(answer) <= largest:
            # One that is killed while it ends by itself is a child that asyncio does not know any more.
            await process.wait()
        return answer
