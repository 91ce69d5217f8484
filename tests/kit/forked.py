"""Processes for tests that start many of them: each is forked from one that has the modules.

A new interpreter would need more processor time for its imports than for its work.
"""

import asyncio
import importlib
import multiprocessing
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from proxy.cli import main
from tests.kit.support import MAX_LOG_BYTES, PATIENCE, url_from

PROXY = ("proxy.app", "uvloop", "huggingface_hub.hf_api", "proxy.commands.demo")
"""What a proxy imports until the end of its first pull, and what the commands import."""
WORKERS = ("proxy.tokenizing.comparison", "proxy.chat.describe", "proxy.planning.plan_worker")
"""What the workers import."""
STDIN, STDOUT, STDERR = range(3)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class ForkedProcess:
    """The part of `asyncio.subprocess.Process` that the tests use."""

    def __init__(self, process: BaseProcess, streams: Mapping[int, Streams]) -> None:
        self._process = process
        self._streams = streams

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    @property
    def stdin(self) -> asyncio.StreamWriter:
        return self._streams[STDIN][1]

    @property
    def stdout(self) -> asyncio.StreamReader:
        return self._streams[STDOUT][0]

    @property
    def stderr(self) -> asyncio.StreamReader:
        return self._streams[STDERR][0]

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()

    async def wait(self) -> int | None:
        await asyncio.to_thread(self._process.join, PATIENCE)
        return self.returncode

    def close(self) -> None:
        for _, writer in self._streams.values():
            writer.close()


class ForkedWorker(ForkedProcess):
    """Nobody reads from a worker after the wait for its end."""

    async def wait(self) -> int | None:
        try:
            return await super().wait()
        finally:
            self.close()


async def forked_worker(module: str) -> ForkedWorker:
    """What `proxy.workers.processes.spawn` starts."""
    return ForkedWorker(*await _start(_work, module, descriptors=(STDIN, STDOUT)))


@pytest.fixture(autouse=True)
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere, as in `tests/planning`, the tests start workers as the program does."""
    _warm()
    monkeypatch.setattr("proxy.workers.processes.spawn", forked_worker)


@asynccontextmanager
async def serving_forked(
    *arguments: str,
    verify: bool = False,
    environment: Mapping[str, str] = os.environ,
    changes: Mapping[str, Mapping[str, int]] | None = None,
) -> AsyncIterator[tuple[ForkedProcess, str]]:
    """A `serve` process, and the URL from its first log line. `changes` has other values of modules' constants."""
    command = ["serve", "--listen", "127.0.0.1:0", *arguments]
    variables = {**environment, "OLLAMA_HF_PROXY_PULL_VERIFY": str(verify).lower()}
    process = ForkedProcess(*await _start(_main, command, variables, changes or {}, descriptors=(STDERR,)))
    try:
        yield process, url_from(await process.stderr.readline())
    finally:
        process.kill()
        await process.wait()
        await process.stderr.read()
        process.close()


async def run_forked(*arguments: str, environment: Mapping[str, str] = os.environ) -> tuple[int | None, str, str]:
    """The exit status of a command, its output and its errors."""
    process = ForkedProcess(*await _start(_main, list(arguments), dict(environment), {}, descriptors=(STDOUT, STDERR)))
    out, errors = await asyncio.gather(process.stdout.read(), process.stderr.read())
    status = await process.wait()
    process.close()
    return status, out.decode(), errors.decode()


@cache
def _warm() -> ForkServerContext:
    """Returns when the process to fork from has its modules: nothing is open later that was not open before a test."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PROXY, *WORKERS, __name__])
    process = context.Process()
    process.start()
    process.join()
    return context


async def _start(
    run: Callable[..., None], *arguments: Any, descriptors: tuple[int, ...]
) -> tuple[BaseProcess, Mapping[int, Streams]]:
    """A process that calls `run`. The other ends of its `descriptors` are the streams."""
    context = await asyncio.to_thread(_warm)
    pairs = {number: socket.socketpair() for number in descriptors}
    theirs = {number: their for number, (_, their) in pairs.items()}
    process = context.Process(target=_enter, args=(theirs, run, arguments))
    process.start()
    for their in theirs.values():
        their.close()
    return process, {
        number: await asyncio.open_connection(sock=own, limit=MAX_LOG_BYTES) for number, (own, _) in pairs.items()
    }


# From here on everything runs in the new process.


def _enter(ends: Mapping[int, socket.socket], run: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    for number, end in ends.items():
        os.dup2(end.fileno(), number)
        end.close()
    if STDIN in ends:
        sys.stdin = open(STDIN, closefd=False)  # noqa: SIM115 - as long as the process
    if STDOUT in ends:
        sys.stdout = open(STDOUT, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    run(*arguments)


def _main(arguments: list[str], environment: Mapping[str, str], changes: Mapping[str, Mapping[str, int]]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for module, constants in changes.items():
        for name, value in constants.items():
            setattr(sys.modules[module], name, value)
    sys.argv = ["ollama-hf-proxy", *arguments]
    main()


def _work(module: str) -> None:
    os.environ.clear()
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR)
    importlib.import_module(module).main()
