"""Fixtures for all tests: the proxy between the two stand-ins, connected by real sockets."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import hypothesis
import pytest
import pytest_timeout  # type: ignore[import-untyped]
import uvloop

from proxy.app import App
from proxy.gguf import engine, engine_ggml
from proxy.sources import huggingface
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from tests.browser import devtools
from tests.kit.real_ollama import RealOllama, running
from tests.kit.support import PATIENCE, Client, settings

# A busy machine must not fail a test, nor may chance: without RANDOM_EXAMPLES, every run makes the same examples.
hypothesis.settings.register_profile("unhurried", deadline=None, derandomize="RANDOM_EXAMPLES" not in os.environ)
hypothesis.settings.load_profile("unhurried")


# Some images switch bytecode off. Then each process that a test starts, and each worker of pytest, compiles everything.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests on uvloop, as `serve` does."""
    return {"uvloop": uvloop.new_event_loop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first: at the end of the run, none of them keeps one worker busy while others idle.

    They mostly wait. So every second worker gets them, while the others use the processor. `--dist worksteal` gives
    each worker the same number of tests, in this order; a worker that is done takes from the end of another one's.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    longest = [item for item in items if _is_long(item)]
    others = [item for item in items if not _is_long(item)]
    waiting = (workers + 1) // 2
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        own = longest[worker // 2 :: waiting] if worker % 2 == 0 else []
        share = max((len(items) - len(ordered)) // (workers - worker) - len(own), 0)
        ordered += [*own, *others[:share]]
        del others[:share]
    items[:] = ordered


def _is_long(item: pytest.Item) -> bool:
    """It may take longer than other tests."""
    marker = item.get_closest_marker("timeout")
    return marker is not None and marker.args[0] > float(item.config.getini("timeout"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Limit the time of the teardown: pytest-timeout stops its timer when a test fails, and uvloop may then hang.

    A uvloop loop never closes while it has unsent bytes whose receiver does not read.
    """
    settings = pytest_timeout.get_env_settings(item.config)
    if settings.timeout:
        item.ihook.pytest_timeout_cancel_timer(item=item)
        item.ihook.pytest_timeout_set_timer(item=item, settings=settings._replace(timeout=PATIENCE))
    yield


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


@pytest.fixture
async def hub() -> AsyncIterator[StandInHub]:
    async with StandInHub() as hub:
        yield hub


@pytest.fixture
def public_hub(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in acts as huggingface.co, from which Ollama can pull directly."""
    monkeypatch.setattr(huggingface, "PUBLIC_ENDPOINT", hub.endpoint)


@pytest.fixture
async def ollama() -> AsyncIterator[StandInOllama]:
    async with StandInOllama() as ollama:
        yield ollama


@pytest.fixture
async def app(hub: StandInHub, ollama: StandInOllama) -> AsyncIterator[App]:
    async with App(settings(hub.endpoint, ollama.url)) as app:
        yield app


@pytest.fixture
def client(app: App, session: aiohttp.ClientSession) -> Client:
    return Client(app.address.url, session)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests do not use the developer's own token, proxies and configuration."""
    for variable in ("HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(scope="session")
def real_ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealOllama]:
    with running(tmp_path_factory.mktemp("ollama")) as ollama:
        yield ollama


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    binary = devtools.find_chromium()
    if binary is None:
        pytest.skip("no Chromium: install one, or set CHROMIUM to its path")
    with devtools.running(binary, tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest.fixture
async def page(chromium: str) -> AsyncIterator[devtools.Page]:
    async with devtools.tab(chromium) as page:
        yield page


@pytest.fixture
def only_numpy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Simulate a machine without the kernel and without ggml's library."""
    # Only tests that need numpy import it.
    from proxy.gguf.engine_numpy import NumpyEngine

    monkeypatch.setattr(engine, "_kernel", lambda: None)
    monkeypatch.setattr(engine, "_numpy", NumpyEngine)
    monkeypatch.setattr(engine_ggml, "load", lambda: None)
    engine.engines.cache_clear()
    yield
    monkeypatch.undo()
    engine.engines.cache_clear()
