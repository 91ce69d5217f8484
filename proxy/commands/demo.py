"""`demo`: a complete pull of a small random model, on a machine that has nothing installed."""

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
from proxy.config.sections import Config, HubConfig, OllamaConfig, ServerConfig
from proxy.errors import OllamaError, ProxyError
from proxy.ollama.client import Ollama, upstream_session
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama

REPOSITORY = "demo/tiny-llama"
NAME = f"hf.co/{REPOSITORY}:q4_K_M"
REAL_MODEL = "hf.co/deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B:q4_K_M"


async def show(config: Config) -> None:
    """Pull a generated repository as a client does. Raises ProxyError if the pull fails."""
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
    console.print(f"  OLLAMA_HOST=127.0.0.1:11435 ollama pull {REAL_MODEL}")


async def _find_ollama(url: str, stack: AsyncExitStack, console: Console) -> str:
    async with upstream_session() as session:
        try:
            version = await Ollama(url, session).version()
        except OllamaError:
            stand_in = await stack.enter_async_context(StandInOllama())
            console.print(f"Ollama: no answer at {url}, so the demo uses a stand-in at {stand_in.url}")
            return stand_in.url
    console.print(f"Ollama: yours, {version} at {url}")
    return url


async def _pull(client: aiohttp.ClientSession, console: Console) -> None:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console) as bars:
        task_ids: dict[str, TaskID] = {}
        async with client.post("/api/pull", json={"model": NAME}) as response:
            async for text in response.content:
                line = orjson.loads(text)
                if "error" in line:
                    raise ProxyError(line["error"])
                _show_line(line, bars, task_ids)
                if line["status"] == "success":
                    return
    raise ProxyError("the pull ended without success; see the lines above")


def _show_line(line: dict[str, Any], bars: Progress, task_ids: dict[str, TaskID]) -> None:
    digest = line.get("digest")
    if digest is None:
        bars.console.print(line["status"])
        return
    if digest not in task_ids:
        task_ids[digest] = bars.add_task(line["status"], total=line["total"])
    bars.update(task_ids[digest], completed=line.get("completed", 0))


async def _print_model(client: aiohttp.ClientSession, console: Console) -> None:
    async with client.get("/api/tags") as response:
        models = orjson.loads(await response.read())["models"]
    for model in models:
        if model["name"] == NAME:
            quantization = model["details"]["quantization_level"]
            console.print(f"created {NAME}: {decimal(model['size'])}, {quantization}")
            return
    raise ProxyError(f"the pull ended with success, but Ollama does not list {NAME}; see its log")
