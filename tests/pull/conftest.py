"""Fixtures for tests with transfers."""

from tests.kit.pauses import short_pauses, small_spans

__all__ = ["short_pauses", "small_spans"]
