"""Tests of the page in a real browser; they are skipped without one."""

import pytest

from proxy.transfer import retry, window


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(window, "BATCH_SECONDS", 0.01)
