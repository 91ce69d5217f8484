"""Uploads single blobs without a pull."""

from proxy.planning.plan import Upload
from proxy.planning.recipe import Literal, Range, Recipe
from proxy.transfer.transfer import Transfer
from proxy.transfer.window import Fetching


class Uploads:
    """Uploads blobs made from parts. `moved_sizes` are all sizes that the transfer has reported."""

    def __init__(self, transfer: Transfer, fetching: Fetching) -> None:
        self._transfer = transfer
        self._fetching = fetching
        self.moved_sizes: list[int] = []

    async def push(self, *parts: Literal | Range, digest: str | None = None) -> str:
        return await self._transfer.push(self._fetching, Upload("made", Recipe(parts, digest)), 0, self)

    def moved(self, size: int) -> None:
        self.moved_sizes.append(size)

    def digest_known(self, digest: str) -> None:
        pass
