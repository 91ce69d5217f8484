"""Any recipes of three small files, and what they make."""

from collections.abc import Iterable

from hypothesis import strategies as st

from proxy.gguf.transforms import Transform
from proxy.planning.recipe import Literal, Range, Recipe
from proxy.sources.base import RepositoryFile

CONTENTS = {"a": bytes(range(24)), "b": bytes(range(80, 104)), "c": bytes(range(160, 184))}
FILES = {path: RepositoryFile(path, len(content)) for path, content in CONTENTS.items()}
WINDOW = 3

Part = Literal | Range


def doubled(content: bytes) -> bytes:
    return bytes(byte for byte in content for _ in range(2))


def summed(content: bytes) -> bytes:
    """One byte for every window."""
    return bytes(sum(content[start : start + WINDOW]) % 256 for start in range(0, len(content), WINDOW))


DOUBLED, SUMMED = Transform(1, 2, doubled), Transform(WINDOW, 1, summed)


def content_of(part: Range) -> bytes:
    return CONTENTS[part.file.path][part.start : part.stop]


def blob_of(parts: Iterable[Part]) -> bytes:
    return b"".join(
        part.content
        if isinstance(part, Literal)
        else part.transform.change(content_of(part))
        if part.transform
        else content_of(part)
        for part in parts
    )


def fetched_for(recipe: Recipe) -> bytes:
    return b"".join(content_of(part) for part in recipe.parts if isinstance(part, Range))


@st.composite
def ranges(draw: st.DrawFn, least: int = 0) -> Range:
    file = draw(st.sampled_from(list(FILES.values())))
    transform = draw(st.sampled_from([None, DOUBLED, SUMMED]))
    block = transform.block if transform else 1
    start = draw(st.integers(0, file.size - least * block))
    blocks = draw(st.integers(least, (file.size - start) // block))
    return Range(file, start, start + blocks * block, transform)


@st.composite
def recipes(draw: st.DrawFn, least: int = 0) -> Recipe:
    """Literals and ranges of `least` blocks or more, of which some are cut into neighbours."""
    parts: list[Part] = []
    for part in draw(st.lists(st.builds(Literal, st.binary(max_size=5)) | ranges(least), max_size=8)):
        if isinstance(part, Range) and part.transform is None and part.stop - part.start > 1 and draw(st.booleans()):
            middle = draw(st.integers(part.start + 1, part.stop - 1))
            parts += [Range(part.file, part.start, middle), Range(part.file, middle, part.stop)]
        else:
            parts.append(part)
    return Recipe(tuple(parts))
