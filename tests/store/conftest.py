"""The fixtures of tests that transfer."""

from tests.kit.pauses import short_pauses, small_spans

__all__ = ["short_pauses", "small_spans"]
