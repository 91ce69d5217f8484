"""Small pieces are fetched together, and every byte comes in the recipe's order."""

import sys
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import TransferError
from proxy.planning.recipe import Beside, Literal, Range, Recipe
from proxy.planning.spans import NEIGHBOUR_BYTES, Span
from proxy.sources.base import RepositoryFile
from proxy.transfer.gathering import HELD_BYTES, PIECE_BYTES, SPANS_AHEAD, Gathered, Gathering, InOrder
from tests.planning.random_recipes import CONTENTS, FILES, ZIPPED, fetched_for, recipes

A = FILES["a"]
KIB, MIB = 1024, 1024 * 1024
LARGE = PIECE_BYTES + 1
BIG = RepositoryFile("big", 1 << 40)

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def content_of(spans: Iterable[Span]) -> bytes:
    return b"".join(CONTENTS[span.file.path][span.start : span.stop] for span in spans)


@patient
@given(recipes(), st.integers(0, 12), st.integers(1, 30), st.integers(1, 30), st.lists(st.integers(0, 20), max_size=20))
def test_bytes_come_in_the_recipes_order(recipe: Recipe, piece: int, held: int, most: int, cuts: list[int]) -> None:
    gathering = Gathering(recipe, piece, held)
    content = content_of(gathering.requests(most))
    in_order = InOrder(gathering.steps())
    made = []
    for size in [*cuts, len(content)]:
        made += in_order.take([content[:size]])
        content = content[size:]
    assert b"".join(made) == fetched_for(recipe)
    with pytest.raises(TransferError, match="more bytes arrived"):
        in_order.take([b"x"])


@patient
@given(recipes(), st.integers(0, 12), st.integers(1, 30))
def test_requests_get_fewer_and_what_is_held_is_limited(recipe: Recipe, piece: int, held: int) -> None:
    gathering = Gathering(recipe, piece, held)
    assert len(list(gathering.requests(sys.maxsize))) <= len(list(recipe.spans(sys.maxsize)))
    gathered = [step for step in gathering.steps() if isinstance(step, Gathered)]
    assert all(step.stop - step.start <= held for step in gathered)
    batches = {id(step.held): [other for other in gathered if other.held is step.held] for step in gathered}
    for steps in batches.values():
        assert sum(one.size for step in steps for one in step.pieces) < held + piece


@patient
@given(recipes(least=1), st.integers(1, 30))
def test_without_pieces_the_requests_are_the_recipes_spans(recipe: Recipe, most: int) -> None:
    assert list(Gathering(recipe, 0, HELD_BYTES).requests(most)) == list(recipe.spans(most))


def requests(*parts: tuple[int, int], file: RepositoryFile = BIG) -> list[tuple[int, int]]:
    """The requests, as offsets, for parts of a large file."""
    recipe = Recipe(tuple(Range(file, *part) for part in parts))
    return [(span.start, span.stop) for span in Gathering(recipe, PIECE_BYTES, HELD_BYTES).requests(8 * MIB)]


def test_scales_before_each_of_the_numbers_are_one_request() -> None:
    """In a file, they stand before all numbers, and are sorted by other names."""
    numbers = [(MIB + number * LARGE, MIB + (number + 1) * LARGE) for number in (0, 3, 1, 2)]
    scales = [(4000 * number, 4000 * number + 3000) for number in (2, 0, 1, 3)]
    parts = [part for pair in zip(scales, numbers, strict=True) for part in pair]
    assert requests(*parts) == [(0, 15_000), numbers[0], numbers[1], (numbers[2][0], numbers[3][1])]


@pytest.mark.parametrize(("gap", "count"), [(NEIGHBOUR_BYTES, 2), (NEIGHBOUR_BYTES + 1, 3)])
def test_pieces_far_apart_are_fetched_alone(gap: int, count: int) -> None:
    assert len(requests((0, 100), (MIB, MIB + LARGE), (100 + gap, 200 + gap))) == count


@pytest.mark.parametrize(("size", "count"), [(PIECE_BYTES, 2), (PIECE_BYTES + 1, 3)])
def test_large_pieces_are_fetched_alone(size: int, count: int) -> None:
    assert len(requests((0, size), (4 * MIB, 4 * MIB + LARGE), (size + 1, 2 * size + 1))) == count


def test_pieces_of_different_files_are_fetched_alone() -> None:
    first, second = (RepositoryFile(path, 100) for path in ("a", "b"))
    recipe = Recipe((Range(first, 0, 8), Range(second, 8, 16)))
    assert list(Gathering(recipe, PIECE_BYTES, HELD_BYTES).requests(MIB)) == list(recipe.spans(MIB))


def test_scales_that_several_ranges_need_are_fetched_once() -> None:
    numbers = [(MIB * number, MIB * number + LARGE) for number in (1, 3, 5)]
    assert requests((0, 9), numbers[0], (0, 9), numbers[1], (4, 6), numbers[2]) == [(0, 9), *numbers]


def test_pieces_are_not_looked_for_too_far_ahead() -> None:
    """They are looked for until there are enough bytes of them, and among a number of spans."""
    pieces = [(2 * number * KIB, (2 * number + 1) * KIB) for number in range(2 * SPANS_AHEAD)]
    assert len(requests(*pieces)) == 2
    size, far = 200 * KIB, 64 * MIB
    pieces = [
        (start, start + size) for number in range(8) for start in (number * size * 9 // 8, far + number * size * 9 // 8)
    ]
    assert size * len(pieces) < 2 * HELD_BYTES
    assert len(requests(*pieces)) == 4


def test_the_memory_does_not_depend_on_the_number_of_pieces() -> None:
    """Of scales of 40 MiB, and of as many bytes between them."""
    count, size = 2500, 16 * KIB
    parts: list[Range] = []
    for number in range(count):
        start = 2 * number * size
        parts += [
            Range(BIG, start, start + size, beside=Beside.SHARE),
            Range(BIG, MIB * (count + 2 * number), MIB * (count + 2 * number) + 2 * size, ZIPPED),
        ]
    gathering = Gathering(Recipe(tuple(parts)), size, HELD_BYTES)
    tracemalloc.start()
    in_order = InOrder(gathering.steps())
    passed_on = requested = 0
    for span in gathering.requests(8 * MIB):
        requested += span.size
        passed_on += sum(map(len, in_order.take([bytes(span.size)])))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert passed_on == 3 * count * size
    assert requested > passed_on
    # The bytes of a request, and their copies: the test passes them on at once, in one chunk.
    assert peak < 3 * HELD_BYTES + 2 * PIECE_BYTES


def test_a_chunk_of_one_range_is_not_copied() -> None:
    chunk = CONTENTS["a"]
    recipe = Recipe((Literal(b"x"), Range(A, 0, A.size)))
    [passed_on] = InOrder(Gathering(recipe, PIECE_BYTES, HELD_BYTES).steps()).take([chunk])
    assert passed_on is chunk
