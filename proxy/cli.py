"""The commands: what they take, what they print and how they exit."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from proxy import __version__, config, logs
from proxy.errors import ProxyError

app = typer.Typer(
    help="A reverse proxy in front of Ollama that pulls any Hugging Face safetensors repository.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

T = TypeVar("T")
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="A TOML file with settings.")]
OllamaUrl = Annotated[str | None, typer.Option("--ollama", metavar="URL", help="Where Ollama listens.")]
HubUrl = Annotated[str | None, typer.Option("--hub", metavar="URL", help="The Hub, or a mirror of its shape.")]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"ollama-hf-proxy {__version__}")
        raise typer.Exit


@app.command()
def serve(
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where clients reach the proxy.")] = None,
    log_format: Annotated[logs.LogFormat, typer.Option(help="How logs are written.")] = logs.LogFormat.TEXT,
    config_file: ConfigFile = None,
    ollama: OllamaUrl = None,
    hub: HubUrl = None,
) -> None:
    """Run the proxy until SIGTERM or SIGINT."""
    from proxy.app import serve as serve_until

    logs.configure(log_format)
    settings = config.load(config_file, flags={"--listen": listen, "--ollama": ollama, "--hub": hub})

    async def until_signal() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            _on_signal(number, stop)
        await serve_until(settings, stop)

    _run(until_signal())


@app.command()
def inspect(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as hf.co/ORG/REPO:q4_K_M.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
    config_file: ConfigFile = None,
    ollama: OllamaUrl = None,
    hub: HubUrl = None,
) -> None:
    """Show what a pull would do, without doing it; exit 1 where it would be refused."""
    import orjson
    from rich.console import Console

    from proxy.inspection import inspect as find_out

    settings = config.load(config_file, flags={"--ollama": ollama, "--hub": hub})
    found = _run(find_out(settings, name))
    if as_json:
        typer.echo(orjson.dumps(found.to_json(), option=orjson.OPT_INDENT_2))
    else:
        found.print(Console())
    raise typer.Exit(1 if found.refusal is not None else 0)


@app.command()
def demo(config_file: ConfigFile = None, ollama: OllamaUrl = None) -> None:
    """Pull a small model that is made on the spot, on a machine that has nothing."""
    from proxy.demo.show import show

    _run(show(config.load(config_file, flags={"--ollama": ollama})))


def main() -> None:
    """Run the command line; a failure that a person can mend is one line on stderr and exit 1."""
    try:
        app()
    except ProxyError as error:
        sys.exit(f"ollama-hf-proxy: {error}")


def _run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(work)


def _loop_factory() -> Any:
    if sys.platform == "win32":
        return None  # uvloop does not exist there
    import uvloop

    return uvloop.new_event_loop


def _on_signal(number: signal.Signals, stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(number, stop.set)
    except NotImplementedError:  # Windows has no signal handlers in its loop
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
