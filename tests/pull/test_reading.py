"""What a plan reads of weight files beside their headers."""

from typing import Any

import pytest

from proxy.errors import Refusal
from proxy.planning.conversion_plan import FilePart
from proxy.planning.spans import NEIGHBOUR_BYTES
from proxy.pull import reading as module
from proxy.pull.reading import Reading
from proxy.sources.base import RepositoryFile
from proxy.transfer.progress import Progress
from tests.planning.listings import LFS, Listing

CONTENT = bytes(range(256)) * 1024
FILES = [RepositoryFile(path, len(CONTENT), LFS) for path in ("a", "b")]


class Source:
    """A transfer that answers at once, and logs what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []

    async def read_part(self, _: object, file: RepositoryFile, start: int, stop: int, __: object) -> bytes:
        self.asked.append((file.path, start, stop))
        return CONTENT[start:stop]


def reader() -> tuple[Source, Reading]:
    source: Any = Source()
    listing: Any = Listing(tuple(FILES), "acme/tiny")
    return source, Reading(source, listing, Progress())


async def test_neighbours_are_one_request() -> None:
    source, reading = reader()
    far = 8 + NEIGHBOUR_BYTES + 1
    parts = [FilePart("b", 6, 9), FilePart("a", far, far + 2), FilePart("a", 1, 4), FilePart("a", 4, 8)]
    contents = await reading.parts(FILES, parts)
    assert sorted(source.asked) == [("a", 1, 8), ("a", far, far + 2), ("b", 6, 9)]
    assert contents == {(part.path, part.start): CONTENT[part.start : part.stop] for part in parts}


async def test_no_part_is_no_request() -> None:
    source, reading = reader()
    assert not await reading.parts(FILES, [])
    assert not source.asked


async def test_too_many_requests_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PARTS", 1)
    source, reading = reader()
    with pytest.raises(Refusal, match="acme/tiny: a plan would have to read 2 parts of its weight files"):
        await reading.parts(FILES, [FilePart("a", 1, 4), FilePart("b", 1, 4)])
    assert not source.asked
