"""Fetches small pieces of a file in one request that a recipe needs apart, and passes all bytes on in its order. Pure.

A mixture of experts in FP8 has tens of thousands of matrices, each with some kilobytes of scales before its numbers.
The package safetensors sorts tensors by type, so the scales of a layer stand together in the file. Pieces that are
needed soon are fetched when the first of them is needed, and the others are held until the recipe gets to them.
"""

import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from proxy.errors import TransferError
from proxy.planning.recipe import Recipe
from proxy.planning.spans import Span, merged, neighbours
from proxy.sources.base import RepositoryFile

PIECE_BYTES = 256 * 1024
"""Larger pieces have requests of their own: their bytes take longer than an answer takes to begin."""
HELD_BYTES = 2 * 1024 * 1024
"""Pieces are looked for until they have so many bytes, and then held. No request for pieces has more bytes."""
SPANS_AHEAD = 256
"""Pieces are looked for among so many spans of a recipe: for more, the event loop would stand still for over 2 ms."""


class Gathered(NamedTuple):
    """Bytes to fetch at once. The pieces in them go to `held`."""

    file: RepositoryFile
    start: int
    stop: int
    pieces: frozenset[Span]
    held: dict[Span, bytes]


class Held(NamedTuple):
    """A piece that is in `held`."""

    piece: Span
    held: dict[Span, bytes]


Step = Span | Gathered | Held
"""What comes next: bytes to fetch and to pass on, bytes to fetch and to hold, or bytes to pass on."""


class Gathering:
    """The requests for a recipe's ranges, with PIECE_BYTES and HELD_BYTES.

    With a `piece_bytes` of 0 nothing is held, and the requests are the recipe's spans.
    """

    def __init__(self, recipe: Recipe, piece_bytes: int, held_bytes: int) -> None:
        self._recipe, self._piece_bytes, self._held_bytes = recipe, piece_bytes, held_bytes

    def requests(self, max_bytes: int) -> Iterator[Span]:
        """What to fetch, in order: as `Recipe.spans`, but with pieces fetched together."""
        return merged((step for step in self.steps() if not isinstance(step, Held)), max_bytes)

    def steps(self) -> Iterator[Step]:
        """How the bytes of the requests become those of the recipe's ranges."""
        for batch in self._batches():
            held: dict[Span, bytes] = {}
            requests = self._together(batch, held)
            begun: set[Span] = set()
            for span in batch:
                request = requests.get(span) if span.size <= self._piece_bytes else None
                if request is None:
                    yield span
                    continue
                if span not in begun:
                    begun |= request.pieces
                    yield request
                yield Held(span, held)

    def _together(self, batch: Iterable[Span], held: dict[Span, bytes]) -> dict[Span, Gathered]:
        """The request for each piece that has neighbours."""
        pieces = (span for span in batch if span.size <= self._piece_bytes)
        requests: dict[Span, Gathered] = {}
        for group in neighbours(pieces, self._held_bytes):
            if len(group) > 1:
                first, stop = group[0], max(piece.stop for piece in group)
                requests |= dict.fromkeys(group, Gathered(first.file, first.start, stop, frozenset(group), held))
        return requests

    def _batches(self) -> Iterator[list[Span]]:
        """The recipe's spans, as many at a time as pieces are looked for in."""
        batch: list[Span] = []
        size = 0
        for span in self._recipe.spans(sys.maxsize):
            batch.append(span)
            size += span.size if span.size <= self._piece_bytes else 0
            if size >= self._held_bytes or len(batch) == SPANS_AHEAD:
                yield batch
                batch, size = [], 0
        yield batch


class InOrder:
    """Passes the bytes of the requests on in the order of the recipe.

    Holds up to HELD_BYTES, one piece more, and the bytes of one request for pieces.
    """

    def __init__(self, steps: Iterator[Step]) -> None:
        self._steps = steps
        self._step: Span | Gathered | None = None
        self._missing = 0
        """Bytes of the present step that have not arrived."""
        self._content = bytearray()
        """Bytes of the present step, if its pieces will be held."""
        self._next_step([])

    def take(self, chunks: Iterable[bytes]) -> list[bytes]:
        """The next bytes of the recipe's ranges, from the next bytes of the requests; perhaps none.

        Raises TransferError for more bytes than the requests have.
        """
        ready: list[bytes] = []
        for chunk in chunks:
            start = 0
            while start < len(chunk):
                if not self._missing:
                    raise TransferError("more bytes arrived than were requested")
                content = chunk[start : start + self._missing]
                start += len(content)
                self._missing -= len(content)
                if isinstance(self._step, Gathered):
                    self._content += content
                else:
                    ready.append(content)
                if not self._missing:
                    self._next_step(ready)
        return ready

    def _next_step(self, ready: list[bytes]) -> None:
        """After the last byte of a step: hold its pieces, and pass on those that come before the next step."""
        if isinstance(self._step, Gathered):
            for piece in self._step.pieces:
                start = piece.start - self._step.start
                self._step.held[piece] = bytes(self._content[start : start + piece.size])
            self._content.clear()
        for step in self._steps:
            if not isinstance(step, Held):
                self._step, self._missing = step, step.stop - step.start
                return
            ready.append(step.held[step.piece])
