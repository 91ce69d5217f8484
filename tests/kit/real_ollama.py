"""Runs a real Ollama, from `$OLLAMA_BIN` or the PATH, with a temporary store."""

import asyncio
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

BLOB = re.compile(r"sha256-[0-9a-f]{64}")
BINARY = os.environ.get("OLLAMA_BIN") or shutil.which("ollama")
START_SECONDS = 60


@dataclass(frozen=True)
class RealOllama:
    """A running server, and its command line, which can talk to any host."""

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
        """End the server like a crash."""
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
            env=self.environment(host),
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    def environment(self, host: str) -> dict[str, str]:
        """The environment in which the command line talks to `host`."""
        return {"OLLAMA_HOST": host, "HOME": str(self.home), "PATH": os.environ["PATH"]}

    @property
    def version_text(self) -> str:
        with urllib.request.urlopen(f"{self.url}/api/version", timeout=5) as answer:
            return str(json.load(answer)["version"])

    @property
    def version(self) -> tuple[int, int]:
        major, minor = self.version_text.split(".")[:2]
        return int(major), int(minor)

    @property
    def rewrites_created_ggufs(self) -> bool:
        """Since v0.30, a create writes a new GGUF, whose bytes may differ."""
        return self.version >= (0, 30)

    @property
    def blobs(self) -> dict[str, int]:
        """Digest → size of the finished blobs."""
        return {
            name.replace("-", ":", 1): size for name, size in self._stored().items() if BLOB.fullmatch(name) is not None
        }

    @property
    def partial_blobs(self) -> list[Path]:
        """Unfinished blobs. Ollama removes them at its start when they are older than an hour."""
        return [self.home / "models" / "blobs" / name for name in self._stored() if not BLOB.fullmatch(name)]

    def _stored(self) -> dict[str, int]:
        sizes = {}
        for path in (self.home / "models" / "blobs").glob("*"):
            try:
                sizes[path.name] = path.stat().st_size
            except FileNotFoundError:  # Ollama has removed it since
                continue
        return sizes

    @property
    def used_digests(self) -> set[str]:
        """The digests in all manifests. Since v0.40, manifests are blobs too, and their digests count."""
        digests: set[str] = set()
        for folder in ("manifests", "manifests-v2"):
            for path in (self.home / "models" / folder).rglob("*"):
                if not path.is_file():
                    continue
                if BLOB.fullmatch(path.resolve().name):
                    digests.add(path.resolve().name.replace("-", ":", 1))
                manifest = json.loads(path.read_bytes())
                digests |= {layer["digest"] for layer in (*manifest["layers"], manifest["config"])}
        return digests

    @property
    def orphans(self) -> dict[str, int]:
        """Digest → size of the blobs that no model uses."""
        used = self.used_digests
        return {digest: size for digest, size in self.blobs.items() if digest not in used}

    def requests_since(self, position: int) -> list[tuple[str, str]]:
        """Method and path of the requests in the log after `position`, an earlier `log_size`."""
        with (self.home / "log").open("rb") as log:
            log.seek(position)
            text = log.read().decode(errors="replace")
        return re.findall(r'\| +(GET|HEAD|POST|DELETE) +"([^"]+)"', text)

    @property
    def log_size(self) -> int:
        return (self.home / "log").stat().st_size

    async def gguf_of(self, name: str) -> bytes:
        """The content of a model's GGUF."""
        return (await self.gguf_file(name)).read_bytes()

    async def gguf_file(self, name: str) -> Path:
        _, modelfile = await self.cli(self.url, "show", "--modelfile", name)
        [path] = [line.removeprefix("FROM ") for line in modelfile.splitlines() if line.startswith("FROM /")]
        return Path(path)


def wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"{server.args!r} did not answer within {START_SECONDS} s")


@contextmanager
def running(home: Path) -> Iterator[RealOllama]:
    """Run a server that keeps all its files in `home`. Skips the test if Ollama is not installed."""
    if BINARY is None:
        pytest.skip("no real Ollama: put `ollama` on the PATH, or set OLLAMA_BIN to its path")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    home.mkdir(exist_ok=True)
    ollama = RealOllama(BINARY, f"http://{host}", home, [])
    try:
        ollama.start()
        yield ollama
    finally:
        for server in ollama.servers:
            server.terminate()
            server.wait()


@contextmanager
def measured_usage(folder: Path) -> Iterator[list[int]]:
    """Measure the disk usage of a folder every 20 ms."""
    sizes, ended = [disk_usage(folder)], threading.Event()

    def measure() -> None:
        while not ended.wait(0.02):
            sizes.append(disk_usage(folder))

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        yield sizes
    finally:
        ended.set()
        thread.join()


def disk_usage(folder: Path) -> int:
    """The disk usage of a folder. Hard links count once."""
    sizes = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # Ollama has removed it since
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                sizes[status.st_ino] = status.st_blocks * 512
    return sum(sizes.values())
