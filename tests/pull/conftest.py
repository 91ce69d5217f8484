"""Fixtures for tests with transfers."""

from tests.kit.forked import forked_workers
from tests.kit.pauses import short_pauses, small_spans

__all__ = ["forked_workers", "short_pauses", "small_spans"]
