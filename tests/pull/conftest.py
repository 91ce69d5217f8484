"""Fixtures for tests with transfers."""

import pytest

from tests.kit.forked import forked_worker
from tests.kit.pauses import short_pauses, small_spans

__all__ = ["short_pauses", "small_spans"]


@pytest.fixture(autouse=True)
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers' own tests start them as the program does: `tests/tokenizing`, `tests/chat`, `tests/planning`."""
    monkeypatch.setattr("proxy.workers.processes.spawn", forked_worker)
