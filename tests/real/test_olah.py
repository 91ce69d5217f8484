"""Pulls through a real olah: `$OLAH_BIN`, or `olah-cli` on the PATH. Skipped if there is none."""

import asyncio
import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from proxy.app import App
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.support import Client, digest_of, settings

BINARY = os.environ.get("OLAH_BIN") or shutil.which("olah-cli")
START_SECONDS = 60
FILES = tiny_llama(shards=2)
SUCCESS = {"status": "success"}

pytestmark = pytest.mark.skipif(
    BINARY is None, reason="no real olah here: put `olah-cli` on the PATH, or its path in OLAH_BIN (pip install olah)"
)


@asynccontextmanager
async def olah(home: Path, configuration: str) -> AsyncIterator[str]:
    """Runs the real program; gives its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = home / "olah.toml"
    file.write_text(f'[basic]\nhost = "127.0.0.1"\nport = {port}\nrepos-path = "{home}/cache"\n{configuration}')
    command = [str(BINARY), "--config", str(file), "--log-path", str(home / "logs")]
    # Arguments override the file, unless they are the defaults.
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with (home / "output").open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
        try:
            # olah asks its Hub when it starts; that Hub may run in this event loop.
            await asyncio.to_thread(_wait_for, port, server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _wait_for(port: int, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"{BINARY} did not answer within {START_SECONDS} s")


def commit(folder: Path, files: Mapping[str, bytes]) -> None:
    """Makes a git repository as `git lfs` would."""
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", str(folder)], check=True)
    for path, content in files.items():
        stored = content
        if path.endswith(".safetensors"):
            sha256 = hashlib.sha256(content).hexdigest()
            lfs = folder / ".git" / "lfs" / "objects" / sha256[:2] / sha256[2:4] / sha256
            lfs.parent.mkdir(parents=True, exist_ok=True)
            lfs.write_bytes(content)
            stored = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
        (folder / path).write_bytes(stored)
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message=all"], check=True)


def check_blobs(ollama: StandInOllama) -> None:
    for path, content in FILES.items():
        if path.endswith(".safetensors"):
            assert ollama.blobs[digest_of(content)] == len(content)


async def test_a_mirrored_repository_is_pulled(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    hub.token = "hf_friend"
    hub.add("acme/tiny", FILES)
    hub.add("acme/gated", FILES, gated=True)
    upstream = f'hf-scheme = "http"\nhf-netloc = "{hub.endpoint.removeprefix("http://")}"\n'
    async with olah(tmp_path, upstream) as url:
        async with App(settings(url, ollama.url)) as app:
            client = Client(app.address.url, session)
            assert (await client.pull("hf.co/acme/tiny:q4_K_M"))[-1] == SUCCESS
            assert "there is no repository acme/none" in (await client.pull("hf.co/acme/none"))[-1]["error"]
            assert "is gated; ask for access" in (await client.pull("hf.co/acme/gated"))[-1]["error"]
        check_blobs(ollama)
        async with App(settings(url, ollama.url, hub={"token": "hf_stranger"})) as app:
            error = (await Client(app.address.url, session).pull("hf.co/acme/gated"))[-1]["error"]
            assert "the proxy's token has no access to it" in error
        async with App(settings(url, ollama.url, hub={"token": "hf_friend"})) as app:
            assert (await Client(app.address.url, session).pull("hf.co/acme/gated"))[-1] == SUCCESS


@pytest.mark.skipif(shutil.which("git") is None, reason="git is missing; it makes olah's own repository")
async def test_olahs_own_repository_is_pulled(
    ollama: StandInOllama, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    commit(tmp_path / "mirrors" / "models" / "acme" / "tiny", FILES)
    own = f'mirrors-path = ["{tmp_path}/mirrors"]\n[accessibility]\noffline = true\n'
    async with olah(tmp_path, own) as url, App(settings(url, ollama.url)) as app:
        client = Client(app.address.url, session)
        assert (await client.pull("hf.co/acme/tiny:q4_K_M"))[-1] == SUCCESS
        assert "there is no repository acme/none" in (await client.pull("hf.co/acme/none"))[-1]["error"]
    check_blobs(ollama)
