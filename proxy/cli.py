"""The command line: the options of each command, its output and its exit status."""

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from proxy import __version__, logs
from proxy.config.loading import load
from proxy.config.sections import Config
from proxy.errors import ProxyError

T = TypeVar("T")

SWITCH_SECONDS = 0.0005
"""Python's lock changes hands this soon: 20 streams beside 2 quantizing threads had a p99 of 11 ms instead of 23."""


@dataclass(frozen=True, slots=True)
class CommonOptions:
    """The options that every command has."""

    file: Path | None
    ollama: str | None
    hub: str | None

    def load(self, listen: str | None = None) -> Config:
        """Raises ConfigError."""
        return load(self.file, flags={"--listen": listen, "--ollama": self.ollama, "--hub": self.hub})


def common_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the common options to a command, which gets them as its first argument."""

    @click.option("--config", "file", metavar="FILE", type=click.Path(path_type=Path), help="A TOML file of settings.")
    @click.option("--ollama", metavar="URL", help="Where Ollama listens.")
    @click.option("--hub", metavar="URL", help="The Hub, or a mirror with the same API.")
    @wraps(command)
    def with_options(*, file: Path | None, ollama: str | None, hub: str | None, **others: Any) -> None:
        command(CommonOptions(file, ollama, hub), **others)

    return with_options


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ollama-hf-proxy", message="%(prog)s %(version)s")
def cli() -> None:
    """A reverse proxy in front of Ollama that pulls Hugging Face safetensors repositories."""


@cli.command()
@click.option("--listen", metavar="HOST:PORT", help="Where clients reach the proxy.")
@click.option("--log-format", type=click.Choice([form.value for form in logs.LogFormat]), default="text")
@common_options
def serve(options: CommonOptions, listen: str | None, log_format: str) -> None:
    """Run the proxy until SIGTERM or SIGINT."""
    from proxy import allocator
    from proxy.app import serve as serve_until

    logs.configure(logs.LogFormat(log_format))
    settings = options.load(listen)
    _allow_many_connections()
    sys.setswitchinterval(SWITCH_SECONDS)
    allocator.tune()
    # Excludes the imported modules from garbage collections: a full one would stop all requests for 20 ms.
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
@click.option("--template", is_flag=True, help="Print the Go template for Ollama; exit 1 if there is none.")
@common_options
def inspect(options: CommonOptions, name: str, as_json: bool, template: bool) -> None:
    """Show what a pull of NAME would do, without doing it; exit 1 if it would be refused."""
    import orjson
    from rich.console import Console

    from proxy.inspection import inspect as inspect_name

    if as_json and template:
        raise click.UsageError("--json and --template exclude each other")
    inspection = _run(inspect_name(options.load(), name))
    if template:
        if inspection.template is None:
            raise ProxyError(f"no template is sent for {inspection.name}: {inspection.why_no_template}")
        # A file gets no extra newline, so that it can be used as template_file.
        click.echo(inspection.template.encode(), nl=sys.stdout.isatty())
    elif as_json:
        click.echo(orjson.dumps(inspection.to_json(), option=orjson.OPT_INDENT_2))
    else:
        inspection.print(Console())
    sys.exit(1 if inspection.refusal is not None else 0)


@cli.command()
@click.option("--dry-run", is_flag=True, help="Only print what would be removed.")
@common_options
def reclaim(options: CommonOptions, dry_run: bool) -> None:
    """Remove files from Ollama that pulls have left and that no model needs."""
    from rich.filesize import decimal

    from proxy.commands.reclaim import reclaim as reclaim_now

    removed = _run(reclaim_now(options.load(), dry_run=dry_run))
    for blob in removed["blobs"]:
        click.echo(f"{blob['digest']}  {decimal(blob['size'])}")
    for model in removed["models"]:
        click.echo(model)
    verb = "would be removed" if dry_run else "removed"
    click.echo(f"{len(removed['blobs'])} blobs and {len(removed['models'])} models {verb}, {decimal(removed['bytes'])}")
    if removed["spooled"]:
        click.echo(f"the proxy's own files of unfinished pulls {verb}, {decimal(removed['spooled'])}")


@cli.command()
@common_options
def doctor(options: CommonOptions) -> None:
    """Check everything that a pull needs, and print how to repair it; exit 1 if pulls would fail."""
    from proxy.commands.doctor import examine

    settings = options.load()

    async def report() -> bool:
        is_healthy = True
        async for finding in examine(settings):
            click.echo(f"{finding.verdict:<4}  {finding.text}")
            is_healthy &= finding.verdict != "fail"
        return is_healthy

    sys.exit(0 if _run(report()) else 1)


@cli.command()
@common_options
def demo(options: CommonOptions) -> None:
    """Pull a small random model, on a machine that has nothing installed."""
    from proxy.commands.demo import show

    _run(show(options.load()))


def main() -> None:
    """Run the command line. An error that the user can repair is one line on stderr, and exit 1."""
    try:
        cli()
    except ProxyError as error:
        sys.exit(f"ollama-hf-proxy: {error}")


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(coroutine)


def _allow_many_connections() -> None:
    """Raise the limit of open files to the maximum, as Go programs such as Ollama do at their start."""
    if sys.platform != "win32":
        import resource

        _, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))


def _loop_factory() -> Any:
    if sys.platform == "win32":
        return None  # there is no uvloop for Windows
    import uvloop

    return uvloop.new_event_loop


def _on_signal(number: signal.Signals, stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(number, stop.set)
    except NotImplementedError:  # the event loop on Windows has no signal handlers
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
