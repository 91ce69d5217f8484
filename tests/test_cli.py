"""The commands in a shell: their output and their exit status."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import aiohttp
import orjson
import pytest

from proxy import __version__
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.forked import run_forked, serving_forked
from tests.kit.support import COMMAND, PATIENCE, Client, eventually, serving


async def run(*arguments: str) -> tuple[int | None, str, str]:
    environment = {"COLUMNS": "200", "XDG_STATE_HOME": os.environ["XDG_STATE_HOME"]}
    return await run_forked(*arguments, environment=environment)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_serve_despite_hanging_requests(
    number: signal.Signals, hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    hub.add("acme/tiny", tiny_llama())
    hub.faults.append(Fault("model.safetensors", "hang", after=3_000_000))
    ollama.hold_making = asyncio.Event()
    async with serving_forked("--ollama", ollama.url, "--hub", hub.endpoint) as (process, url):
        client = Client(url, session)
        pulling = asyncio.create_task(client.pull("hf.co/acme/tiny"))
        await client.post("/api/blobs/sha256:" + "0" * 64, {})
        creating = asyncio.create_task(client.post("/api/create", {"model": "x", "from": "y"}))
        await eventually(lambda: any(request.origin == "cdn" and request.body_bytes for request in hub.requests))
        process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 0
        assert "the proxy is shutting down" in (await pulling)[-1]["error"]
        await asyncio.gather(creating, return_exceptions=True)


async def test_sigterm_ends_serve_despite_a_hanging_hub(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    """huggingface_hub waits in a thread, which must not keep the process alive."""
    hub.add("acme/tiny", tiny_llama())
    hub.faults.append(Fault("api", "hang"))
    async with serving_forked("--ollama", ollama.url, "--hub", hub.endpoint) as (process, url):
        pulling = asyncio.create_task(Client(url, session).pull("hf.co/acme/tiny"))
        await eventually(lambda: hub.requests)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 0
        assert "the proxy is shutting down" in (await pulling)[-1]["error"]


async def test_the_start_imports_no_heavy_packages() -> None:
    program = "import sys, proxy.app, proxy.cli; print([name for name in sys.modules if name in sys.argv[1:]])"
    heavy = ["huggingface_hub", "httpx2", "rich.progress", "jinja2", "numpy"]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, *heavy, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.decode().strip() == "[]"


async def test_serve_starts_without_ollama() -> None:
    async with serving("--ollama", "http://127.0.0.1:9") as (_, url):
        with pytest.raises(urllib.error.HTTPError) as error:
            await asyncio.to_thread(urllib.request.urlopen, f"{url}/-/health")
        assert error.value.code == 503
        error.value.close()


async def test_a_port_in_use_is_an_error(ollama: StandInOllama) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        status, _, err = await run("serve", "--listen", address, "--ollama", ollama.url)
    assert status == 1
    assert f"{address} is already in use" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("keys", [[], ["a-key"]])
async def test_a_proxy_that_is_its_own_upstream_does_not_start(tmp_path: Path, keys: list[str]) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"[server]\napi_keys = {keys}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for host in ("localhost", "127.0.0.1"):
        own = ["--listen", f"127.0.0.1:{port}", "--ollama", f"http://{host}:{port}", "--config", str(file)]
        status, _, err = await run("serve", *own)
        assert status == 1
        assert f"ollama.url is http://{host}:{port}, which is this proxy itself" in err
        assert "listening on" not in err


async def test_a_bad_configuration_names_the_key(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[pull]\nconections = 3\n")
    for command in (["serve"], ["inspect", "hf.co/a/b"], ["demo"]):
        status, _, err = await run(*command, "--config", str(file))
        assert status == 1
        assert "pull.conections: is not a key" in err
        assert "Traceback" not in err


async def test_logs_can_be_json(ollama: StandInOllama) -> None:
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--ollama", ollama.url),
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    line = json.loads(await process.stderr.readline())
    process.terminate()
    await process.communicate()
    assert line["message"].startswith("listening on http://127.0.0.1:")
    assert line["level"] == "info"


async def test_version() -> None:
    process = await asyncio.create_subprocess_exec(*COMMAND, "--version", stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    assert (process.returncode, out.decode()) == (0, f"ollama-hf-proxy {__version__}\n")


async def test_inspect_prints_text_or_json(hub: StandInHub, ollama: StandInOllama) -> None:
    hub.add("acme/tiny", tiny_llama())
    places = ("--hub", hub.endpoint, "--ollama", ollama.url)
    status, out, _ = await run("inspect", "hf.co/acme/tiny:q8_0", *places)
    assert status == 0
    assert "model.gguf" in out
    assert "the proxy converts LlamaForCausalLM" in out
    assert "Q8_0" in out
    status, out, _ = await run("inspect", "hf.co/acme/tiny:q8_0", "--json", *places)
    assert status == 0
    assert orjson.loads(out)["quantization"] == "Q8_0"


async def test_inspect_exits_1_with_the_reason(hub: StandInHub, ollama: StandInOllama) -> None:
    places = ("--hub", hub.endpoint, "--ollama", ollama.url)
    status, out, _ = await run("inspect", "hf.co/acme/none", *places)
    assert status == 1
    assert "there is no repository acme/none" in out
    status, out, _ = await run("inspect", "llama3.2", "--json", *places)
    assert status == 1
    assert "not a name of the form hf.co/ORG/REPO" in orjson.loads(out)["refusal"]


JINJA = "{% for m in messages %}<|{{ m.role }}|>é{{ m.content }}<|end|>{% endfor %}"


def with_chat_template() -> dict[str, bytes]:
    """A repository with a chat template that Ollama does not know."""
    return tiny_llama() | {"chat_template.jinja": JINJA.encode()}


async def test_inspect_template_prints_only_the_template(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    hub.add("acme/tiny", with_chat_template())
    status, out, err = await run(
        "inspect", "hf.co/acme/tiny", "--template", "--hub", hub.endpoint, "--ollama", ollama.url
    )
    assert (status, err) == (0, "")
    assert "<|user|>é{{ .Content }}<|end|>" in out
    async with serving_forked("--ollama", ollama.url, "--hub", hub.endpoint) as (_, url):
        assert (await Client(url, session).pull("hf.co/acme/tiny"))[-1] == {"status": "success"}
    [template] = [layer.text for layer in ollama.models["hf.co/acme/tiny:latest"].layers if layer.kind == "template"]
    assert out == template


@pytest.mark.parametrize(
    ("files", "version", "reason"),
    [
        (with_chat_template(), "0.33.0", "this Ollama renders the Jinja of chat_template.jinja by itself"),
        ({"config.json": b"{}", "pytorch_model.bin": b"x"}, "0.24.0", "refused: acme/tiny has no safetensors weights"),
    ],
    ids=["native", "refused"],
)
async def test_inspect_template_exits_1_with_the_reason(
    hub: StandInHub, ollama: StandInOllama, files: dict[str, bytes], version: str, reason: str
) -> None:
    ollama.version = version
    hub.add("acme/tiny", files)
    places = ("--hub", hub.endpoint, "--ollama", ollama.url)
    status, out, err = await run("inspect", "hf.co/acme/tiny", "--template", *places)
    assert (status, out) == (1, "")
    assert err.startswith(f"ollama-hf-proxy: no template is sent for hf.co/acme/tiny:latest: {reason}")


async def test_json_and_template_exclude_each_other() -> None:
    status, out, err = await run("inspect", "hf.co/acme/tiny", "--json", "--template")
    assert (status, out) == (2, "")
    assert "--json and --template exclude each other" in err


async def test_demo_creates_a_model_and_prints_the_next_steps() -> None:
    status, out, err = await run("demo", "--ollama", "http://127.0.0.1:9")
    assert (status, err) == (0, "")
    assert "a stand-in at" in out
    assert "success" in out
    assert "created hf.co/demo/tiny-llama:q4_K_M" in out
    assert "  ollama-hf-proxy serve\n  OLLAMA_HOST=127.0.0.1:11435 ollama pull hf.co/" in out


async def test_demo_uses_a_running_ollama(ollama: StandInOllama) -> None:
    status, out, _ = await run("demo", "--ollama", ollama.url)
    assert status == 0
    assert f"yours, 0.24.0 at {ollama.url}" in out
    assert "hf.co/demo/tiny-llama:q4_K_M" in ollama.models


async def test_demo_exits_1_if_the_pull_fails(ollama: StandInOllama) -> None:
    ollama.upload_status = 500
    status, _, err = await run("demo", "--ollama", ollama.url)
    assert status == 1
    assert "Ollama refused the blob" in err
