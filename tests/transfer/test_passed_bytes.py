"""Bytes that one blob reads past are kept for another one, whatever the order of tries."""

from contextlib import closing
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.planning.recipe import Literal, Range, Recipe
from proxy.sources.base import RepositoryFile
from proxy.transfer.passed_bytes import PassedBytes

SIZE = 300
CONTENT = bytes(at % 251 for at in range(SIZE))
FILE = RepositoryFile("model.safetensors", SIZE)


def _recipe(cuts: list[int]) -> Recipe:
    """Every second stretch between the cuts, the later ones first: their order in the blob is not that of the file."""
    edges = sorted({0, SIZE, *cuts})
    stretches = list(pairwise(edges))[::2]
    return Recipe((Literal(b"header"), *(Range(FILE, start, stop) for start, stop in reversed(stretches))))


async def _blob(passed: PassedBytes) -> bytes:
    repository, recipe = passed.source("acme/tiny")
    content = b""
    for part in recipe.parts:
        if isinstance(part, Literal):
            content += part.content
            continue
        async with repository.stream(part.file, part.start, part.stop) as chunks:
            content += b"".join([chunk async for chunk in chunks])
    return content


def _expected(recipe: Recipe) -> bytes:
    return b"".join(
        part.content if isinstance(part, Literal) else CONTENT[part.start : part.stop] for part in recipe.parts
    )


@given(st.lists(st.integers(1, SIZE - 1), min_size=1, max_size=9), st.lists(st.integers(1, 60), max_size=20), st.data())
def test_all_bytes_are_kept(cuts: list[int], lengths: list[int], data: st.DataObject) -> None:
    """In chunks of any length, also when a try begins again somewhere before the last byte."""
    recipe = _recipe(cuts)
    with TemporaryDirectory() as folder, closing(PassedBytes(recipe, Path(folder))) as passed:
        at = 0
        for length in [*lengths, SIZE]:
            passed.add(FILE, at, CONTENT[at : at + length])
            at = data.draw(st.integers(0, min(at + length, SIZE)))
        passed.add(FILE, at, CONTENT[at:])
        assert passed.complete
        stored, recipe_of_stored = passed.source("acme/tiny")
        content = b"".join(
            part.content if isinstance(part, Literal) else passed.read(part.start, part.stop - part.start)
            for part in recipe_of_stored.parts
        )
        assert content == _expected(recipe)
        assert stored.id == "acme/tiny"


async def test_the_blob_is_made_of_them(tmp_path: Path) -> None:
    recipe = _recipe([40, 90, 200])
    passed = PassedBytes(recipe, tmp_path)
    passed.add(RepositoryFile("other.safetensors", SIZE), 0, bytes(SIZE))
    passed.add(FILE, 0, CONTENT)
    assert await _blob(passed) == _expected(recipe)
    passed.close()
    assert not list(tmp_path.iterdir())


def test_a_gap_leaves_them_incomplete(tmp_path: Path) -> None:
    """As after a restart of the proxy, when the first blob goes on in the middle of the file."""
    passed = PassedBytes(_recipe([200]), tmp_path)
    passed.add(FILE, 100, CONTENT[100:])
    assert not passed.complete
    passed.close()


def test_a_folder_without_room_is_refused(tmp_path: Path) -> None:
    huge = RepositoryFile("model.safetensors", 1 << 60)
    with pytest.raises(OSError, match="no room"):
        PassedBytes(Recipe((Range(huge, 0, 1 << 60),)), tmp_path)
