"""`reclaim` on the command line: through the proxy that runs, or by itself."""

import asyncio
import subprocess
from pathlib import Path

import aiohttp
import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.repository import tiny_llama
from tests.kit.conversions import converted
from tests.kit.support import COMMAND, Client, digest_of, no_manifests, serving

NAME = "hf.co/acme/tiny:q4_K_M"
OTHER = "hf.co/acme/tiny:q8_0"


def keeping(tmp_path: Path, *, keys: str = "") -> str:
    """A configuration that leaves blobs where they are."""
    file = tmp_path / "proxy.toml"
    file.write_text(f"[server]\napi_keys = [{keys}]\n[ollama]\nreclaim = false\n")
    return str(file)


async def reclaim(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "reclaim", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def leave(client: Client, ollama: StandInOllama) -> None:
    """A model, and beside it what Ollama has refused to make another one of."""
    assert (await client.pull(NAME))[-1] == {"status": "success"}
    ollama.around, ollama.fail_create = no_manifests, "unsupported architecture"
    assert "unsupported architecture" in (await client.pull(OTHER))[-1]["error"]
    ollama.around = ollama.fail_create = None


@pytest.fixture
def files(hub: StandInHub) -> dict[str, bytes]:
    files = tiny_llama()
    hub.add("acme/tiny", files)
    return files


@pytest.mark.parametrize("keys", ["", '"secret"'])
async def test_the_running_proxy_is_asked_wherever_it_listens(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    files: dict[str, bytes],
    tmp_path: Path,
    keys: str,
) -> None:
    left = digest_of(converted(files, quantization="Q8_0"))
    config = keeping(tmp_path, keys=keys)
    arguments = ("--ollama", ollama.url, "--hub", hub.endpoint, "--config", config)
    async with serving(*arguments) as (_, url):
        client = Client(f"{url}/-/key/secret" if keys else url, session)
        await leave(client, ollama)
        assert left in ollama.blobs
        status, shown, err = await reclaim("--dry-run", *arguments)
        assert (status, err) == (0, "")
        assert left in shown
        assert "would be removed" in shown
        assert left in ollama.blobs
        status, done, err = await reclaim(*arguments)
        assert (status, err) == (0, "")
        assert done == shown.replace("would be removed", "removed")
    assert left not in ollama.blobs
    assert NAME in ollama.models
    assert not [name for name in ollama.models if "ollama-hf-proxy" in name]


async def test_without_a_running_proxy_it_is_done_on_the_spot(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: dict[str, bytes], tmp_path: Path
) -> None:
    left = digest_of(converted(files, quantization="Q8_0"))
    arguments = ("--ollama", ollama.url, "--hub", hub.endpoint, "--config", keeping(tmp_path))
    async with serving(*arguments) as (_, url):
        await leave(Client(url, session), ollama)
    assert left in (await reclaim("--dry-run", *arguments))[1]
    assert left in ollama.blobs
    status, done, _ = await reclaim(*arguments)
    assert status == 0
    assert left in done
    assert left not in ollama.blobs
    assert (await reclaim(*arguments))[1] == "0 blobs and 0 models removed, 0 bytes\n"


async def test_what_fails_is_one_line_and_exit_1(hub: StandInHub, ollama: StandInOllama, tmp_path: Path) -> None:
    gone = "http://127.0.0.1:9"
    status, out, err = await reclaim("--ollama", gone, "--hub", hub.endpoint)
    assert (status, out) == (1, "")
    assert err.startswith(f"ollama-hf-proxy: Ollama at {gone} cannot be reached")
    assert err.count("\n") == 1


async def test_a_second_proxy_before_the_same_ollama_is_told_of_the_first(
    hub: StandInHub, ollama: StandInOllama
) -> None:
    arguments = ("--ollama", ollama.url, "--hub", hub.endpoint)
    async with serving(*arguments) as (_, url):
        second = subprocess.run(
            [*COMMAND, "serve", "--listen", "127.0.0.1:0", *arguments], capture_output=True, text=True, check=False
        )
    assert second.returncode == 1
    assert f"another ollama-hf-proxy serves this Ollama, and listens at {url}" in second.stderr
