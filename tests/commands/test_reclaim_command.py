"""`reclaim` on the command line: in the running proxy, or without one."""

from pathlib import Path

import aiohttp
import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.conversions import converted
from tests.kit.forked import run_forked, serving_forked
from tests.kit.support import Client, digest_of, no_manifests

NAME = "hf.co/acme/tiny:q4_K_M"
OTHER = "hf.co/acme/tiny:q8_0"


def keeping(tmp_path: Path, *, keys: str = "") -> str:
    """A configuration that does not remove blobs by itself."""
    file = tmp_path / "proxy.toml"
    file.write_text(f"[server]\napi_keys = [{keys}]\n[ollama]\nreclaim = false\n")
    return str(file)


async def leave(url: str, ollama: StandInOllama) -> None:
    """Leave a model, and the blob of another one that Ollama refused to create."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        client = Client(url, session)
        assert (await client.pull(NAME))[-1] == {"status": "success"}
        ollama.around, ollama.fail_create = no_manifests, "unsupported architecture"
        assert "unsupported architecture" in (await client.pull(OTHER))[-1]["error"]
    ollama.around = ollama.fail_create = None


@pytest.fixture
def leftover(hub: StandInHub) -> str:
    """The digest of the blob that `leave` leaves."""
    files = tiny_llama()
    hub.add("acme/tiny", files)
    return digest_of(converted(files, quantization="Q8_0"))


@pytest.mark.parametrize("keys", ["", '"secret"'])
async def test_a_running_proxy_reclaims(
    hub: StandInHub, ollama: StandInOllama, leftover: str, tmp_path: Path, keys: str
) -> None:
    """Also with an API key, which the command reads from the configuration."""
    arguments = ("--ollama", ollama.url, "--hub", hub.endpoint, "--config", keeping(tmp_path, keys=keys))
    async with serving_forked(*arguments) as (_, url):
        await leave(f"{url}/-/key/secret" if keys else url, ollama)
        assert leftover in ollama.blobs
        status, preview, err = await run_forked("reclaim", "--dry-run", *arguments)
        assert (status, err) == (0, "")
        assert leftover in preview
        assert "would be removed" in preview
        assert leftover in ollama.blobs
        status, output, err = await run_forked("reclaim", *arguments)
        assert (status, err) == (0, "")
        assert output == preview.replace("would be removed", "removed")
    assert leftover not in ollama.blobs
    assert NAME in ollama.models
    assert not [name for name in ollama.models if "ollama-hf-proxy" in name]


async def test_without_a_running_proxy_the_command_reclaims(
    hub: StandInHub, ollama: StandInOllama, leftover: str, tmp_path: Path
) -> None:
    arguments = ("--ollama", ollama.url, "--hub", hub.endpoint, "--config", keeping(tmp_path))
    async with serving_forked(*arguments) as (_, url):
        await leave(url, ollama)
    assert leftover in (await run_forked("reclaim", "--dry-run", *arguments))[1]
    assert leftover in ollama.blobs
    status, output, _ = await run_forked("reclaim", *arguments)
    assert status == 0
    assert leftover in output
    assert leftover not in ollama.blobs
    assert (await run_forked("reclaim", *arguments))[1] == "0 blobs and 0 models removed, 0 bytes\n"


async def test_an_error_is_one_line_and_exit_1(hub: StandInHub, ollama: StandInOllama, tmp_path: Path) -> None:
    unreachable = "http://127.0.0.1:9"
    status, out, err = await run_forked("reclaim", "--ollama", unreachable, "--hub", hub.endpoint)
    assert (status, out) == (1, "")
    assert err.startswith(f"ollama-hf-proxy: Ollama at {unreachable} cannot be reached")
    assert err.count("\n") == 1


async def test_a_second_proxy_for_the_same_ollama_does_not_start(hub: StandInHub, ollama: StandInOllama) -> None:
    arguments = ("--ollama", ollama.url, "--hub", hub.endpoint)
    async with serving_forked(*arguments) as (_, url):
        status, _, err = await run_forked("serve", "--listen", "127.0.0.1:0", *arguments)
    assert status == 1
    assert f"another ollama-hf-proxy serves this Ollama, and listens at {url}" in err
