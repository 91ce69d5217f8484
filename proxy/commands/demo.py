"""`ollama-hf-proxy demo`: the main job on a machine that has nothing."""

import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TaskID, TextColumn

from proxy.app import App
from proxy.config import Config, HubConfig, OllamaConfig, ServerConfig
from proxy.errors import OllamaError, ProxyError
from proxy.ollama.client import Ollama, upstream_session
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.repository import tiny_llama

REPOSITORY = "demo/tiny-llama"
NAME = f"hf.co/{REPOSITORY}:q4_K_M"
WORTH_A_TRY = "hf.co/deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B:q4_K_M"


async def show(config: Config) -> None:
    """Pull a repository that is made on the spot, as a client would. Raises ProxyError unless it ends well."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(StandInHub())
        hub.add(REPOSITORY, tiny_llama())
        console.print(f"Hub: a stand-in at {hub.endpoint} with {REPOSITORY}, a few MB of random weights")
        url = await _find_ollama(config.ollama.url, stack, console)
        settings = Config(
            server=ServerConfig(listen="127.0.0.1:0"),
            ollama=OllamaConfig(url=url),
            hub=HubConfig(endpoint=hub.endpoint),
        )
        app = await stack.enter_async_context(App(settings))
        client = await stack.enter_async_context(
            aiohttp.ClientSession(app.address.url, timeout=aiohttp.ClientTimeout())
        )
        console.print(f"\n$ OLLAMA_HOST={app.address.host}:{app.address.port} ollama pull {NAME}")
        await _pull(client, console)
        await _print_model(client, console)
    command = sys.argv[0] if Path(sys.argv[0]).stem == "ollama-hf-proxy" else "ollama-hf-proxy"
    console.print("\nNext, with Ollama running:\n")
    console.print(f"  {command} serve")
    console.print(f"  OLLAMA_HOST=127.0.0.1:11435 ollama pull {WORTH_A_TRY}")


async def _find_ollama(url: str, stack: AsyncExitStack, console: Console) -> str:
    async with upstream_session() as session:
        try:
            version = await Ollama(url, session).version()
        except OllamaError:
            stand_in = await stack.enter_async_context(StandInOllama())
            console.print(f"Ollama: none answers at {url}, so a stand-in at {stand_in.url} takes its place")
            return stand_in.url
    console.print(f"Ollama: yours, {version} at {url}")
    return url


async def _pull(client: aiohttp.ClientSession, console: Console) -> None:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console) as bars:
        shown: dict[str, TaskID] = {}
        async with client.post("/api/pull", json={"model": NAME}) as response:
            async for text in response.content:
                line = orjson.loads(text)
                if "error" in line:
                    raise ProxyError(line["error"])
                _show_line(line, bars, shown)
                if line["status"] == "success":
                    return
    raise ProxyError("the stream ended without success")


def _show_line(line: dict[str, Any], bars: Progress, shown: dict[str, TaskID]) -> None:
    digest = line.get("digest")
    if digest is None:
        bars.console.print(line["status"])
        return
    if digest not in shown:
        shown[digest] = bars.add_task(line["status"], total=line["total"])
    bars.update(shown[digest], completed=line.get("completed", 0))


async def _print_model(client: aiohttp.ClientSession, console: Console) -> None:
    async with client.get("/api/tags") as response:
        models = orjson.loads(await response.read())["models"]
    for model in models:
        if model["name"] == NAME:
            quantization = model["details"]["quantization_level"]
            console.print(f"created {NAME}: {decimal(model['size'])}, {quantization}")
            return
    raise ProxyError(f"Ollama said success, but does not list {NAME}")
