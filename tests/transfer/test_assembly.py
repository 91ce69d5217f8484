"""The blob that an assembly makes, for any chunks of bytes and with several threads."""

import asyncio
import gc
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import Damaged, TransferError
from proxy.gguf.transforms import Transform
from proxy.planning.recipe import Literal, Range, Recipe, verify_header
from proxy.sources.base import RepositoryFile
from proxy.transfer import assembly as module
from proxy.transfer.assembly import SLICE, Assembly
from tests.kit.assembling import assembled
from tests.kit.support import digest_of
from tests.planning.random_recipes import CONTENTS, FILES, SUMMED, Part, blob_of, fetched_for, recipes, summed

A = FILES["a"]
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
Cuts = list[tuple[int, bool]]
CUTS = st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=20)


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as threads:
        yield threads


def chopped(content: bytes, cuts: Cuts) -> list[list[bytes]]:
    """Batches of chunks; some may be empty."""
    batches: list[list[bytes]] = [[]]
    for size, ends_batch in cuts:
        batches[-1].append(content[:size])
        content = content[size:]
        if ends_batch:
            batches.append([])
    return [*batches, [content]]


def joined(assembly: Assembly, batches: list[list[bytes]]) -> bytes:
    """All batches are cut before the first one is joined."""
    pieces = [assembly.cut(batch) for batch in batches]
    return b"".join(content for some in pieces for content in assembly.join(some))


@patient
@given(recipes(), CUTS)
def test_any_recipe_in_any_pieces_becomes_its_blob(pool: ThreadPoolExecutor, recipe: Recipe, cuts: Cuts) -> None:
    expected = blob_of(recipe.parts)
    assembly = Assembly(recipe, pool)
    assert joined(assembly, chopped(fetched_for(recipe), cuts)) == expected
    assert assembly.digest() == digest_of(expected)
    assert recipe.size == len(expected)


@patient
@given(recipes(least=1), CUTS)
def test_one_byte_too_many_or_too_few_is_an_error(pool: ThreadPoolExecutor, recipe: Recipe, cuts: Cuts) -> None:
    content = fetched_for(recipe)
    short = Assembly(recipe, pool)
    made = joined(short, chopped(content[:-1], cuts)) if content else b""
    with pytest.raises(TransferError, match=f"^{len(made)} bytes were made instead of {recipe.size}$"):
        short.digest()
    with pytest.raises(TransferError, match="more bytes arrived"):
        joined(Assembly(recipe, pool), chopped(content + b"x", cuts))


@pytest.mark.parametrize("parts", [[], [Literal(b"")], [Literal(b"one"), Range(A, 3, 3, SUMMED), Literal(b"two")]])
def test_a_recipe_without_bytes_to_fetch_is_made_at_once(pool: ThreadPoolExecutor, parts: list[Part]) -> None:
    expected = blob_of(parts)
    assembly = Assembly(Recipe(tuple(parts)), pool)
    assert joined(assembly, [[]]) == expected
    assert assembly.digest() == digest_of(expected)
    with pytest.raises(TransferError, match="more bytes arrived"):
        assembly.cut([b"x"])


def test_literals_come_as_early_as_possible(pool: ThreadPoolExecutor) -> None:
    """Literals before a range come first; those after it come with its last byte."""
    assembly = Assembly(Recipe((Literal(b"<"), Range(A, 0, 2), Literal(b">"))), pool)
    made = [b"".join(assembly.join(assembly.cut(batch))) for batch in ([], [b"x"], [b"y"])]
    assert made == [b"<", b"x", b"y>"]


def test_each_range_begins_with_a_whole_block(pool: ThreadPoolExecutor) -> None:
    """Bytes of the range before that fill no block are not mixed in."""
    recipe = Recipe((Range(A, 0, 6, SUMMED), Range(A, 7, 13, SUMMED)))
    content = fetched_for(recipe)
    assembly = Assembly(recipe, pool)
    assert joined(assembly, [[content[:4], content[4:5]], [content[5:]]]) == summed(content)


@pytest.mark.parametrize("made", [1, 3])
def test_a_transform_of_another_size_than_planned_is_an_error(pool: ThreadPoolExecutor, made: int) -> None:
    assembly = Assembly(Recipe((Range(A, 0, 24, Transform(1, made, lambda content: content * 2)),)), pool)
    joined(assembly, [[CONTENTS["a"]]])
    with pytest.raises(TransferError, match=f"48 bytes were made instead of {24 * made}"):
        assembly.digest()


def big(size: int) -> tuple[RepositoryFile, bytes]:
    content = bytes(range(251)) * (size // 251 + 1)
    return RepositoryFile("big", size), content[:size]


@pytest.mark.parametrize("block", [1, 1000, SLICE - 1, SLICE, SLICE + 1])
def test_slices_are_whole_blocks_of_about_one_size(pool: ThreadPoolExecutor, block: int) -> None:
    """The last slice of a range may be smaller."""
    sizes = []

    def change(content: bytes) -> bytes:
        sizes.append(len(content))
        return content

    file, content = big(5 * SLICE // block * block)
    recipe = Recipe((Range(file, 0, file.size, Transform(block, block, change)),))
    assert assembled(recipe, [content[at : at + 99_999] for at in range(0, len(content), 99_999)]) == content
    assert all(size % block == 0 for size in sizes)
    assert max(sizes) == max(SLICE // block, 1) * block
    assert len(sizes) == -(-file.size // max(sizes))


def test_slices_that_finish_out_of_order_are_joined_in_order(pool: ThreadPoolExecutor) -> None:
    """The first slice finishes after the last one."""
    last_is_done = threading.Event()

    def change(content: bytes) -> bytes:
        if content[0] == 1:
            assert last_is_done.wait(60)
        if content[0] == 3:
            last_is_done.set()
        return content

    content = b"".join(bytes([number]) * SLICE for number in (1, 2, 3))
    file = RepositoryFile("big", len(content))
    assembly = Assembly(Recipe((Range(file, 0, file.size, Transform(1, 1, change)),)), pool)
    assert joined(assembly, [[content]]) == content
    assert assembly.digest() == digest_of(content)


def test_join_raises_what_a_transform_raised(pool: ThreadPoolExecutor) -> None:
    def change(content: bytes) -> bytes:
        raise Damaged(f"{len(content)} bad bytes")

    assembly = Assembly(Recipe((Literal(b"<"), Range(A, 0, 24, Transform(8, 1, change)))), pool)
    pieces = assembly.cut([CONTENTS["a"]])
    assert assembly.join(pieces[:1]) == [b"<"]
    with pytest.raises(Damaged, match="24 bad bytes"):
        assembly.join(pieces[1:])


def test_close_cancels_transforms_that_have_not_begun() -> None:
    begun, goes_on = threading.Event(), threading.Event()
    changed = []

    def change(content: bytes) -> bytes:
        begun.set()
        assert goes_on.wait(60)
        changed.append(content[0])
        return content

    content = b"".join(bytes([number]) * SLICE for number in (1, 2, 3))
    file = RepositoryFile("big", len(content))
    with ThreadPoolExecutor(1) as pool:
        assembly = Assembly(Recipe((Range(file, 0, file.size, Transform(1, 1, change)),)), pool)
        pieces = assembly.cut([content])
        assert begun.wait(60)
        assembly.close()
        goes_on.set()
    assert changed == [1]
    assert [piece.cancelled() for piece in pieces if isinstance(piece, Future)] == [False, True, True]


def test_a_range_without_a_transform_is_not_copied(pool: ThreadPoolExecutor) -> None:
    chunks = [CONTENTS["a"][:9], CONTENTS["a"][9:]]
    assert all(
        piece is chunk
        for piece, chunk in zip(Assembly(Recipe((Range(A, 0, 24),)), pool).cut(chunks), chunks, strict=True)
    )


def test_memory_does_not_depend_on_the_size_of_a_tensor(pool: ThreadPoolExecutor) -> None:
    """Only a few slices of a range of 64 MiB are held."""
    file = RepositoryFile("big", 64 << 20)
    assembly = Assembly(Recipe((Range(file, 0, file.size, Transform(4096, 4096, bytes)),)), pool)
    window = bytes(1 << 20)
    tracemalloc.start()
    for _ in range(64):
        assembly.join(assembly.cut([window]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assembly.digest()
    assert peak < 8 << 20


# Files are checked on the way.


def hashed(content: bytes) -> RepositoryFile:
    return RepositoryFile("a", len(content), sha256=sha256(content).hexdigest())


RIGHT = hashed(CONTENTS["a"])
SPOILT = CONTENTS["a"][:-1] + b"x"


@pytest.mark.parametrize(
    "parts",
    [
        (Literal(b"x"), Range(RIGHT, 0, 24)),
        (Range(RIGHT, 0, 24, SUMMED),),
        (Range(RIGHT, 0, 3, SUMMED), Literal(b"x"), Range(RIGHT, 3, 24)),
    ],
)
def test_a_file_that_is_taken_whole_is_checked(pool: ThreadPoolExecutor, parts: tuple[Part, ...]) -> None:
    recipe = Recipe(parts)
    assert assembled(recipe, [CONTENTS["a"]]) == blob_of(parts)
    with pytest.raises(Damaged, match=r"^acme/model/a arrived damaged: its digest is \w+, not \w+ as announced"):
        Assembly(recipe, pool, "acme/model").cut([SPOILT[:5], SPOILT[5:]])


async def test_batches_after_a_damaged_one_log_nothing(
    pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    class Fetched:
        """A window with one file, and with the next one in two more batches."""

        def __init__(self) -> None:
            self.batches = [[SPOILT], [CONTENTS["b"][:3]], [CONTENTS["b"][3:]]]

        async def next(self) -> list[bytes]:
            return self.batches.pop(0) if self.batches else []

        def used(self) -> None:
            pass

    parts = (Literal(b"x"), Range(RIGHT, 0, 24), Range(FILES["b"], 0, len(CONTENTS["b"])))
    batches = module.assembled(Assembly(Recipe(parts), pool, "acme"), Fetched(), 8)  # type: ignore[arg-type]
    await anext(batches)
    await asyncio.sleep(0.05)
    with pytest.raises(Damaged):
        await anext(batches)
    gc.collect()
    await asyncio.sleep(0)
    assert not caplog.records


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe((Range(RIGHT, 0, 23),)),
        Recipe((Range(RIGHT, 1, 24),)),
        Recipe((Range(RIGHT, 0, 24),), "sha256:0"),
        Recipe((Range(replace(RIGHT, sha256=None), 0, 24),)),
    ],
)
def test_other_files_are_not_checked(pool: ThreadPoolExecutor, recipe: Recipe) -> None:
    """A blob that is one whole file is checked by its own digest."""
    [span] = recipe.spans(99)
    joined(Assembly(recipe, pool), [[SPOILT[span.start : span.stop]]])


def test_a_header_that_changed_is_damaged(pool: ThreadPoolExecutor) -> None:
    recipe = Recipe((verify_header("acme/model/a", A, 5, CONTENTS["a"][:5].__eq__), Range(A, 5, 24)))
    assert assembled(recipe, [CONTENTS["a"][:2], CONTENTS["a"][2:]]) == CONTENTS["a"][5:]
    with pytest.raises(
        Damaged, match="acme/model/a arrived damaged: its header differs from the one that the plan read"
    ):
        joined(Assembly(recipe, pool), [[b"x" + CONTENTS["a"][1:]]])
