"""A real Ollama of our own: `$OLLAMA_BIN`, or `ollama` on the PATH, with a store that goes when the tests end."""

import asyncio
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

BINARY = os.environ.get("OLLAMA_BIN") or shutil.which("ollama")
START_SECONDS = 60


@dataclass(frozen=True)
class RealOllama:
    """A running server, and its command line pointed where a test wants it."""

    binary: str
    url: str
    home: Path
    servers: "list[subprocess.Popen[bytes]]"

    def start(self) -> None:
        host = self.url.removeprefix("http://")
        environment = os.environ | {"OLLAMA_HOST": host, "OLLAMA_MODELS": str(self.home / "models")}
        with (self.home / "log").open("ab") as log:
            command = [self.binary, "serve"]
            server = subprocess.Popen(command, env=environment | {"HOME": str(self.home)}, stdout=log, stderr=log)
        self.servers.append(server)
        wait_for(f"{self.url}/api/version", server)

    def kill(self) -> None:
        """End it as a crash does."""
        self.servers[-1].kill()
        self.servers[-1].wait()

    async def cli(self, host: str, *arguments: str) -> tuple[int, str]:
        """Exit status and all output of one `ollama` command."""
        process = await asyncio.create_subprocess_exec(
            self.binary,
            *arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"OLLAMA_HOST": host, "HOME": str(self.home), "PATH": os.environ["PATH"]},
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    async def gguf_of(self, name: str) -> bytes:
        """What a model's weights are made of."""
        _, modelfile = await self.cli(self.url, "show", "--modelfile", name)
        [path] = [line.removeprefix("FROM ") for line in modelfile.splitlines() if line.startswith("FROM /")]
        return Path(path).read_bytes()


def wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"{BINARY} serve did not answer within {START_SECONDS} s")


@contextmanager
def running(home: Path) -> Iterator[RealOllama]:
    """A server of the real program with `home` for its own; the tests that want it are skipped where there is none."""
    if BINARY is None:
        pytest.skip("no real Ollama here: put `ollama` on the PATH, or its path in OLLAMA_BIN")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    ollama = RealOllama(BINARY, f"http://{host}", home, [])
    try:
        ollama.start()
        yield ollama
    finally:
        for server in ollama.servers:
            server.terminate()
            server.wait()
