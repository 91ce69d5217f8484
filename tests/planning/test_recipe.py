"""Recipes of any parts: the requests, and which files are read whole and checked."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.planning.recipe import Literal, Range, Recipe
from proxy.planning.spans import Span
from tests.planning.random_recipes import CONTENTS, DOUBLED, FILES, SUMMED, Part, blob_of, fetched_for, recipes

A, B = FILES["a"], FILES["b"]
SHA_A, SHA_B = (replace(file, sha256="0" * 64) for file in (A, B))

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


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
        ([Range(A, 0, 9), Literal(b"x"), Range(A, 9, 24, DOUBLED)], 99, [Span(A, 0, 24, whole=True)]),
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
        ([Literal(b"x"), Range(B, 0, 24, DOUBLED), Range(A, 0, 24)], True),
        ([Range(A, 0, 10), Literal(b"x"), Range(A, 10, 24)], True),
        ([Range(A, 0, 24), Range(B, 0, 23)], False),
        ([Range(A, 1, 24), Range(B, 0, 24)], False),
    ],
)
def test_a_recipe_knows_whether_it_takes_whole_files(parts: list[Part], whole: bool) -> None:
    assert Recipe(tuple(parts)).takes_whole_files is whole


@pytest.mark.parametrize(
    ("parts", "digest", "unchecked"),
    [
        ([Range(SHA_A, 0, 24)], None, []),
        ([Range(SHA_A, 0, 8), Range(SHA_A, 8, 24, DOUBLED), Literal(b"x"), Range(SHA_B, 0, 24)], None, []),
        ([Range(SHA_A, 0, 8), Range(SHA_B, 0, 24), Range(SHA_A, 8, 24)], None, ["a"]),
        ([Range(SHA_A, 0, 8)], None, ["a"]),
        ([Range(SHA_A, 8, 24), Range(SHA_A, 0, 8)], None, ["a"]),
        ([Range(A, 0, 24), Range(SHA_B, 0, 24)], None, ["a"]),
        ([Range(A, 0, 24)], "sha256:0", []),
    ],
)
def test_what_no_digest_tells_of_is_known(parts: list[Part], digest: str | None, unchecked: list[str]) -> None:
    """`Assembly` checks files that arrive whole and in order; a digest of the blob checks all of them."""
    recipe = Recipe(tuple(parts), digest)
    assert [file.path for file in recipe.unchecked] == unchecked
    assert {file.path for file in recipe.files} == {part.file.path for part in parts if isinstance(part, Range)}


@patient
@given(recipes())
def test_a_recipes_size_is_its_blobs(recipe: Recipe) -> None:
    assert recipe.size == len(blob_of(recipe.parts))


@pytest.mark.parametrize(
    ("part", "size"),
    [(Literal(b"abc"), 3), (Range(A, 4, 10), 6), (Range(A, 4, 10, DOUBLED), 12), (Range(A, 4, 10, SUMMED), 2)],
)
def test_a_parts_size_is_what_is_made_of_it(part: Part, size: int) -> None:
    assert part.size == size
