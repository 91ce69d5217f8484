"""A small LRU cache of expensive results. Pure."""

from collections import OrderedDict
from typing import Generic, TypeVar

_T = TypeVar("_T")


class RecentResults(Generic[_T]):
    """The results of up to `most` keys; the least recently used result is dropped first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._results: OrderedDict[str, _T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._results)

    def get(self, key: str) -> _T | None:
        if key in self._results:
            self._results.move_to_end(key)
        return self._results.get(key)

    def put(self, key: str, result: _T) -> None:
        self._results[key] = result
        while len(self._results) > self._most:
            self._results.popitem(last=False)
