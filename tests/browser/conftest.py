"""Fixtures for tests of the page in a real browser. Without a browser, the tests are skipped."""

import pytest

from tests.kit.pauses import use_timings


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    use_timings(monkeypatch, first_retry_pause=0.001, batch=0.01)
