"""Fixtures for tests with transfers."""

from tests.kit.pauses import short_pauses, small_spans
from tests.kit.streams import clock

__all__ = ["clock", "short_pauses", "small_spans"]
