"""A journal in memory, and a clock."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from proxy.store import journal as module
from proxy.store.journal import Journal
from tests.kit.journals import WallClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    clock = WallClock(1_000_000.0)
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def journal() -> Iterator[Journal]:
    with closing(Journal()) as journal:
        yield journal
