"""Processes for tests that start many of them: each is forked from one that has the modules.

A new interpreter would need more processor time for its imports than for its work.
"""

import asyncio
import importlib
import multiprocessing
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from proxy.cli import main
from tests.kit.support import PATIENCE, url_from

PROXY = ("proxy.app", "uvloop", "huggingface_hub.hf_api")
"""What a proxy imports until the end of its first pull."""
WORKERS = ("proxy.tokenizing.comparison", "proxy.chat.describe", "proxy.planning.plan_worker")
"""What the workers import."""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([*PROXY, *WORKERS, __name__])


class ForkedProcess:
    """The part of `asyncio.subprocess.Process` that the tests and `proxy.workers` use."""

    def __init__(self, process: BaseProcess, *, stderr: asyncio.StreamReader | None = None) -> None:
        self._process = process
        self.stderr = stderr

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    async def wait(self) -> None:
        await asyncio.to_thread(self._process.join, PATIENCE)


class ForkedWorker(ForkedProcess):
    """Two sockets: the program closes a worker's input before it reads the output."""

    def __init__(self, process: BaseProcess, *streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        super().__init__(process)
        self._streams = streams
        (_, self.stdin), (self.stdout, _) = streams

    async def wait(self) -> None:
        await super().wait()
        for _, writer in self._streams:
            writer.close()


@asynccontextmanager
async def serving_forked(
    *arguments: str, verify: bool = False, changes: Mapping[str, Mapping[str, int]] | None = None
) -> AsyncIterator[tuple[ForkedProcess, str]]:
    """A `serve` process, and the URL from its first log line. `changes` has other values of modules' constants."""
    reader, writer = CONTEXT.Pipe(duplex=False)
    command = ["ollama-hf-proxy", "serve", "--listen", "127.0.0.1:0", *arguments]
    environment = {**os.environ, "OLLAMA_HF_PROXY_PULL_VERIFY": str(verify).lower()}
    process = CONTEXT.Process(target=_serve, args=(writer, command, environment, changes or {}))
    await asyncio.to_thread(process.start)
    writer.close()
    stderr = asyncio.StreamReader()
    # closefd=False because uvloop 0.23 closes the descriptor itself, and then the file. In between a thread may have
    # opened another one under the same number.
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stderr), os.fdopen(os.dup(reader.fileno()), "rb", 0, closefd=False)
    )
    forked = ForkedProcess(process, stderr=stderr)
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


async def forked_worker(module: str) -> ForkedWorker:
    """What `proxy.workers.processes.spawn` starts, without a new interpreter."""
    (stdin, their_stdin), (stdout, their_stdout) = socket.socketpair(), socket.socketpair()
    process = CONTEXT.Process(target=_work, args=(module, their_stdin, their_stdout))
    await asyncio.to_thread(process.start)
    their_stdin.close()
    their_stdout.close()
    return ForkedWorker(process, *[await asyncio.open_connection(sock=sock) for sock in (stdin, stdout)])


def _work(module: str, stdin: socket.socket, stdout: socket.socket) -> None:
    """Runs in the new process."""
    os.dup2(stdin.fileno(), 0)
    os.dup2(stdout.fileno(), 1)
    stdin.close()
    stdout.close()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115 - as long as the process
    os.environ.clear()
    importlib.import_module(module).main()
