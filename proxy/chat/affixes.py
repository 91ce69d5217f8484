"""The longest prefix and the longest suffix that several texts share."""

from collections.abc import Sequence


def common_prefix(texts: Sequence[str]) -> str:
    low, high = min(texts), max(texts)
    size = 0
    while size < min(len(low), len(high)) and low[size] == high[size]:
        size += 1
    return low[:size]


def common_suffix(texts: Sequence[str]) -> str:
    return common_prefix([text[::-1] for text in texts])[::-1]
