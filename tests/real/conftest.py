"""A real Ollama of our own: `$OLLAMA_BIN`, or `ollama` on the PATH, with a store that goes when the tests end."""

import asyncio
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from proxy.app import App
from proxy.demo.hub import StandInHub
from tests.support import Client, settings

BINARY = os.environ.get("OLLAMA_BIN") or shutil.which("ollama")
START_SECONDS = 60


@dataclass(frozen=True)
class RealOllama:
    """A running server, and its command line pointed where a test wants it."""

    binary: str
    url: str
    home: Path

    @property
    def store(self) -> Path:
        return self.home / "models"

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


@pytest.fixture(scope="session")
def real_ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealOllama]:
    if BINARY is None:
        pytest.skip("no real Ollama here: put `ollama` on the PATH, or its path in OLLAMA_BIN")
    home = tmp_path_factory.mktemp("ollama")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"OLLAMA_HOST": host, "OLLAMA_MODELS": str(home / "models"), "HOME": str(home)}
    with (home / "log").open("wb") as log:
        server = subprocess.Popen([BINARY, "serve"], env=environment, stdout=log, stderr=log)
    try:
        wait_for(f"http://{host}/api/version", server)
        yield RealOllama(BINARY, f"http://{host}", home)
    finally:
        server.terminate()
        server.wait()


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


@pytest.fixture
async def real_app(real_ollama: RealOllama, hub: StandInHub) -> AsyncIterator[App]:
    async with App(settings(hub.endpoint, real_ollama.url)) as app:
        yield app


@pytest.fixture
def real_client(real_app: App, session: aiohttp.ClientSession) -> Client:
    return Client(real_app.address.url, session)
