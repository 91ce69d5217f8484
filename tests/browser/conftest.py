"""The page in a real browser, where there is one."""

from collections.abc import AsyncIterator, Iterator

import pytest

from proxy.pull import tries, window
from tests.browser.devtools import Page, find_chromium, running, tab


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(window, "BATCH_SECONDS", 0.01)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    binary = find_chromium()
    if binary is None:
        pytest.skip("there is no Chromium: install one, or say where it is with CHROMIUM")
    with running(binary, tmp_path_factory.mktemp("chromium")) as devtools:
        yield devtools


@pytest.fixture
async def page(chromium: str) -> AsyncIterator[Page]:
    async with tab(chromium) as page:
        yield page
