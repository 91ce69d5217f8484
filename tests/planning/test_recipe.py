"""Recipes: what is fetched for them and what is made of it, for any parts and any chopping of the bytes."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import TransferError
from proxy.planning.recipe import Assembly, Literal, Range, Recipe, Span, Step
from proxy.sources.base import RepositoryFile
from tests.support import digest_of

WINDOW = 3
CONTENTS = {"a": bytes(range(24)), "b": bytes(range(80, 104)), "c": bytes(range(160, 184))}
FILES = {path: RepositoryFile(path, len(content)) for path, content in CONTENTS.items()}
A, B = FILES["a"], FILES["b"]

SHA_A, SHA_B = (replace(file, sha256="0" * 64) for file in (A, B))

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

Part = Literal | Range
Cuts = list[tuple[int, bool]]
CUTS = st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=20)


def doubled(content: bytes) -> bytes:
    return bytes(byte for byte in content for _ in range(2))


def summed(content: bytes) -> bytes:
    """One byte for every window, the last of which may be short."""
    return bytes(sum(content[start : start + WINDOW]) % 256 for start in range(0, len(content), WINDOW))


def doubling() -> Step:
    return doubled


def summing() -> Step:
    held = bytearray()

    def step(piece: bytes) -> bytes:
        held.extend(piece)
        whole = len(held) // WINDOW * WINDOW if piece else len(held)
        ready = summed(bytes(held[:whole]))
        del held[:whole]
        return ready

    return step


TRANSFORMS: dict[Callable[[], Step] | None, Callable[[bytes], bytes]] = {
    None: bytes,
    doubling: doubled,
    summing: summed,
}


def content_of(part: Range) -> bytes:
    return CONTENTS[part.file.path][part.start : part.stop]


def blob_of(parts: Iterable[Part]) -> bytes:
    return b"".join(
        part.content if isinstance(part, Literal) else TRANSFORMS[part.transform](content_of(part)) for part in parts
    )


def fetched_for(recipe: Recipe) -> bytes:
    return b"".join(content_of(part) for part in recipe.parts if isinstance(part, Range))


@st.composite
def ranges(draw: st.DrawFn, least: int = 0) -> Range:
    file = draw(st.sampled_from(list(FILES.values())))
    start = draw(st.integers(0, file.size - least))
    stop = draw(st.integers(start + least, file.size))
    transform = draw(st.sampled_from(list(TRANSFORMS)))
    becomes = {None: None, doubling: 2 * (stop - start), summing: -(-(stop - start) // WINDOW)}[transform]
    return Range(file, start, stop, transform, becomes)


@st.composite
def recipes(draw: st.DrawFn, least: int = 0) -> Recipe:
    """Literals and ranges of `least` bytes or more, of which some are cut into neighbours."""
    parts: list[Part] = []
    for part in draw(st.lists(st.builds(Literal, st.binary(max_size=5)) | ranges(least), max_size=8)):
        if isinstance(part, Range) and part.becomes is None and part.stop - part.start > 1 and draw(st.booleans()):
            middle = draw(st.integers(part.start + 1, part.stop - 1))
            parts += [Range(part.file, part.start, middle), Range(part.file, middle, part.stop)]
        else:
            parts.append(part)
    return Recipe(tuple(parts))


def chopped(content: bytes, cuts: Cuts) -> list[list[bytes]]:
    """Batches of chunks, any of them perhaps empty."""
    batches: list[list[bytes]] = [[]]
    for size, ends_batch in cuts:
        batches[-1].append(content[:size])
        content = content[size:]
        if ends_batch:
            batches.append([])
    return [*batches, [content]]


def assembled(assembly: Assembly, batches: Iterable[Sequence[bytes]]) -> bytes:
    return b"".join(piece for batch in batches for piece in assembly.add(batch))


@patient
@given(recipes(), CUTS)
def test_any_recipe_of_bytes_in_any_pieces_becomes_its_blob(recipe: Recipe, cuts: Cuts) -> None:
    expected = blob_of(recipe.parts)
    assembly = Assembly(recipe)
    assert assembled(assembly, chopped(fetched_for(recipe), cuts)) == expected
    assert assembly.digest() == digest_of(expected)
    assert assembly.size == recipe.size == len(expected)


@patient
@given(recipes(least=1), CUTS)
def test_any_recipe_has_neither_a_byte_too_many_nor_one_too_few(recipe: Recipe, cuts: Cuts) -> None:
    content = fetched_for(recipe)
    short = Assembly(recipe)
    if content:
        assembled(short, chopped(content[:-1], cuts))
    with pytest.raises(TransferError, match=f"{short.size} bytes were made in the place of {recipe.size}"):
        short.digest()
    with pytest.raises(TransferError, match="more bytes came"):
        assembled(Assembly(recipe), chopped(content + b"x", cuts))


@patient
@given(recipes(), st.integers(1, 30))
def test_spans_are_the_bytes_of_all_ranges_in_order(recipe: Recipe, most: int) -> None:
    spans = list(recipe.spans(most))
    assert b"".join(CONTENTS[span.file.path][span.start : span.stop] for span in spans) == fetched_for(recipe)
    assert all(0 < span.size <= most for span in spans)
    assert [span.whole for span in spans] == [(span.start, span.stop) == (0, span.file.size) for span in spans]


@patient
@given(recipes(least=1), st.integers(1, 30))
def test_neighbouring_ranges_are_apart_only_where_a_span_is_full(recipe: Recipe, most: int) -> None:
    for span, following in itertools.pairwise(recipe.spans(most)):
        assert span.size == most or (span.file, span.stop) != (following.file, following.start)


@pytest.mark.parametrize(
    ("parts", "most", "spans"),
    [
        ([], 10, []),
        ([Literal(b"x"), Range(A, 7, 7)], 10, []),
        ([Range(A, 0, 24)], 24, [Span(A, 0, 24, whole=True)]),
        ([Range(A, 0, 9), Literal(b"x"), Range(A, 9, 24, doubling, 30)], 99, [Span(A, 0, 24, whole=True)]),
        ([Range(A, 0, 24)], 16, [Span(A, 0, 16, whole=False), Span(A, 16, 24, whole=False)]),
        ([Range(A, 0, 5), Range(A, 6, 8)], 10, [Span(A, 0, 5, whole=False), Span(A, 6, 8, whole=False)]),
        ([Range(A, 0, 24), Range(A, 0, 24)], 99, [Span(A, 0, 24, whole=True)] * 2),
        ([Range(A, 4, 6), Range(B, 6, 8)], 10, [Span(A, 4, 6, whole=False), Span(B, 6, 8, whole=False)]),
    ],
)
def test_what_is_fetched_for_a_recipe(parts: list[Part], most: int, spans: list[Span]) -> None:
    assert list(Recipe(tuple(parts)).spans(most)) == spans


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([], True),
        ([Literal(b"x")], True),
        ([Literal(b"x"), Range(B, 0, 24, doubling, 48), Range(A, 0, 24)], True),
        ([Range(A, 0, 10), Literal(b"x"), Range(A, 10, 24)], True),
        ([Range(A, 0, 24), Range(B, 0, 23)], False),
        ([Range(A, 1, 24), Range(B, 0, 24)], False),
    ],
)
def test_a_recipe_knows_whether_it_takes_whole_files(parts: list[Part], whole: bool) -> None:
    assert Recipe(tuple(parts)).takes_whole_files is whole


@pytest.mark.parametrize("parts", [[], [Literal(b"")], [Literal(b"one"), Range(A, 3, 3, summing, 0), Literal(b"two")]])
def test_a_recipe_without_a_byte_to_fetch_is_made_of_nothing(parts: list[Part]) -> None:
    expected = blob_of(parts)
    assembly = Assembly(Recipe(tuple(parts)))
    assert b"".join(assembly.add([])) == expected
    assert assembly.digest() == digest_of(expected)
    with pytest.raises(TransferError, match="more bytes came"):
        assembly.add([b"x"])


def test_literals_before_a_range_come_first_and_those_after_it_with_its_last_byte() -> None:
    assembly = Assembly(Recipe((Literal(b"<"), Range(A, 0, 2), Literal(b">"))))
    assert b"".join(assembly.add([])) == b"<"
    assert b"".join(assembly.add([b"x"])) == b"x"
    assert b"".join(assembly.add([b"y"])) == b"y>"


@pytest.mark.parametrize("becomes", [47, 49])
def test_a_transform_that_makes_another_number_of_bytes_than_it_said_makes_no_blob(becomes: int) -> None:
    assembly = Assembly(Recipe((Range(A, 0, 24, doubling, becomes),)))
    assembly.add([CONTENTS["a"]])
    with pytest.raises(TransferError, match=f"48 bytes were made in the place of {becomes}"):
        assembly.digest()


def test_every_range_of_every_assembly_has_a_step_of_its_own() -> None:
    made = 0

    def transform() -> Step:
        nonlocal made
        made += 1
        return summing()

    recipe = Recipe((Range(A, 0, 4, transform, 2), Range(A, 4, 8, transform, 2)))
    Assembly(recipe).add([CONTENTS["a"][:5]])
    again = Assembly(recipe)
    assert b"".join(again.add([CONTENTS["a"][:8]])) == summed(CONTENTS["a"][:4]) + summed(CONTENTS["a"][4:8])
    assert again.digest() == digest_of(bytes([3, 3, 15, 7]))
    assert made == 4


@pytest.mark.parametrize(
    ("parts", "digest", "unchecked"),
    [
        ([Range(SHA_A, 0, 24)], None, []),
        ([Range(SHA_A, 0, 8), Range(SHA_A, 8, 24, doubling), Literal(b"x"), Range(SHA_B, 0, 24)], None, []),
        ([Range(SHA_A, 0, 8), Range(SHA_B, 0, 24), Range(SHA_A, 8, 24)], None, ["a"]),
        ([Range(SHA_A, 0, 8)], None, ["a"]),
        ([Range(SHA_A, 8, 24), Range(SHA_A, 0, 8)], None, ["a"]),
        ([Range(A, 0, 24), Range(SHA_B, 0, 24)], None, ["a"]),
        ([Range(A, 0, 24)], "sha256:0", []),
    ],
)
def test_what_no_digest_tells_of_is_known(parts: list[Part], digest: str | None, unchecked: list[str]) -> None:
    """A file is checked that comes whole and in order, as `Assembly` does, or the blob as a whole is."""
    recipe = Recipe(tuple(parts), digest)
    assert [file.path for file in recipe.unchecked] == unchecked
    assert {file.path for file in recipe.files} == {part.file.path for part in parts if isinstance(part, Range)}
