"""Proxies for tests that kill many of them: each is a process of its own, forked from one that has the modules.

A new interpreter would need more processor time for its imports than for the pull.
"""

import asyncio
import multiprocessing
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from proxy.cli import main
from tests.kit.support import PATIENCE, url_from

MODULES = ["proxy.app", "uvloop", "huggingface_hub.hf_api", __name__]
"""What a proxy imports until the end of its first pull, and the function that it runs."""


class ForkedProcess:
    """The part of `asyncio.subprocess.Process` that these tests use."""

    def __init__(self, process: BaseProcess, stderr: asyncio.StreamReader) -> None:
        self._process = process
        self.stderr = stderr

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    async def wait(self) -> None:
        await asyncio.to_thread(self._process.join, PATIENCE)


@asynccontextmanager
async def serving_forked(
    *arguments: str, verify: bool = False, changes: Mapping[str, Mapping[str, int]] | None = None
) -> AsyncIterator[tuple[ForkedProcess, str]]:
    """A `serve` process, and the URL from its first log line. `changes` has other values of modules' constants."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)
    reader, writer = context.Pipe(duplex=False)
    command = ["ollama-hf-proxy", "serve", "--listen", "127.0.0.1:0", *arguments]
    environment = {**os.environ, "OLLAMA_HF_PROXY_PULL_VERIFY": str(verify).lower()}
    process = context.Process(target=_serve, args=(writer, command, environment, changes or {}))
    await asyncio.to_thread(process.start)
    writer.close()
    stderr = asyncio.StreamReader()
    # closefd=False because uvloop 0.23 closes the descriptor itself, and then the file. In between a thread may have
    # opened another one under the same number.
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stderr), os.fdopen(os.dup(reader.fileno()), "rb", 0, closefd=False)
    )
    forked = ForkedProcess(process, stderr)
    try:
        yield forked, url_from(await stderr.readline())
    finally:
        forked.kill()
        await forked.wait()
        await stderr.read()
        transport.close()
        reader.close()


def _serve(
    stderr: Connection, command: list[str], environment: Mapping[str, str], changes: Mapping[str, Mapping[str, int]]
) -> None:
    """Runs in the new process."""
    os.dup2(stderr.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    for module, constants in changes.items():
        for name, value in constants.items():
            setattr(sys.modules[module], name, value)
    sys.argv = command
    main()
