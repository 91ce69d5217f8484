"""The commands: what they take, what they print and how they exit."""

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from proxy import __version__, config, logs
from proxy.errors import ProxyError

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., object])

SWITCH_SECONDS = 0.0005

config_file = click.option(
    "--config", "file", metavar="FILE", type=click.Path(path_type=Path), help="A TOML file with settings."
)
ollama_url = click.option("--ollama", metavar="URL", help="Where Ollama listens.")
hub_url = click.option("--hub", metavar="URL", help="The Hub, or a mirror of its shape.")


def everywhere(command: Command) -> Command:
    """The options that every command takes."""
    return config_file(ollama_url(hub_url(command)))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ollama-hf-proxy", message="%(prog)s %(version)s")
def cli() -> None:
    """A reverse proxy in front of Ollama that pulls Hugging Face safetensors repositories."""


@cli.command()
@click.option("--listen", metavar="HOST:PORT", help="Where clients reach the proxy.")
@click.option("--log-format", type=click.Choice([form.value for form in logs.LogFormat]), default="text")
@everywhere
def serve(listen: str | None, log_format: str, file: Path | None, ollama: str | None, hub: str | None) -> None:
    """Run the proxy until SIGTERM or SIGINT."""
    from proxy import allocator
    from proxy.app import serve as serve_until

    logs.configure(logs.LogFormat(log_format))
    settings = config.load(file, flags={"--listen": listen, "--ollama": ollama, "--hub": hub})
    _allow_many_connections()
    # A thread that quantizes gives Python's lock up this soon: 20 streams beside 2 threads had a p99 of 11 ms, not 23.
    sys.setswitchinterval(SWITCH_SECONDS)
    allocator.tune()
    # A full collection would go through all that was imported too: 20 ms in which no call moves.
    gc.freeze()

    async def until_signal() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            _on_signal(number, stop)
        await serve_until(settings, stop)

    _run(until_signal())


@cli.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
@click.option("--template", is_flag=True, help="Print the Go template that is sent; exit 1 where none is.")
@everywhere
def inspect(name: str, as_json: bool, template: bool, file: Path | None, ollama: str | None, hub: str | None) -> None:
    """Show what a pull of NAME would do, without doing it; exit 1 where it would be refused."""
    import orjson
    from rich.console import Console

    from proxy.inspection import inspect as find_out

    if as_json and template:
        raise click.UsageError("--json and --template exclude each other")
    settings = config.load(file, flags={"--ollama": ollama, "--hub": hub})
    found = _run(find_out(settings, name))
    if template:
        if found.template is None:
            raise ProxyError(f"no template is sent for {found.name}: {found.why_no_template}")
        # What is written to a file is to be the template, for template_file.
        click.echo(found.template.encode(), nl=sys.stdout.isatty())
    elif as_json:
        click.echo(orjson.dumps(found.to_json(), option=orjson.OPT_INDENT_2))
    else:
        found.print(Console())
    sys.exit(1 if found.refusal is not None else 0)


@cli.command()
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed.")
@everywhere
def reclaim(dry_run: bool, file: Path | None, ollama: str | None, hub: str | None) -> None:
    """Remove from Ollama what pulls have left there and no model needs."""
    from rich.filesize import decimal

    from proxy.commands.reclaim import reclaim as reclaim_now

    settings = config.load(file, flags={"--ollama": ollama, "--hub": hub})
    removed = _run(reclaim_now(settings, dry_run=dry_run))
    for blob in removed["blobs"]:
        click.echo(f"{blob['digest']}  {decimal(blob['size'])}")
    for model in removed["models"]:
        click.echo(model)
    done = "would be removed" if dry_run else "removed"
    click.echo(f"{len(removed['blobs'])} blobs and {len(removed['models'])} models {done}, {decimal(removed['bytes'])}")


@cli.command()
@everywhere
def doctor(file: Path | None, ollama: str | None, hub: str | None) -> None:
    """Look whether all that a pull needs is there: a line each, with the mend; exit 1 where a pull would fail."""
    from proxy.commands.doctor import examine

    settings = config.load(file, flags={"--ollama": ollama, "--hub": hub})

    async def tell() -> bool:
        healthy = True
        async for finding in examine(settings):
            click.echo(f"{finding.verdict:<4}  {finding.text}")
            healthy &= finding.verdict != "fail"
        return healthy

    sys.exit(0 if _run(tell()) else 1)


@cli.command()
@everywhere
def demo(file: Path | None, ollama: str | None, hub: str | None) -> None:
    """Pull a small model that is made on the spot, on a machine that has nothing."""
    from proxy.commands.demo import show

    _run(show(config.load(file, flags={"--ollama": ollama, "--hub": hub})))


def main() -> None:
    """Run the command line; a failure that a person can mend is one line on stderr and exit 1."""
    try:
        cli()
    except ProxyError as error:
        sys.exit(f"ollama-hf-proxy: {error}")


def _run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(work)


def _allow_many_connections() -> None:
    """Take all the open files that the system grants, as Go programs such as Ollama do at start."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


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
