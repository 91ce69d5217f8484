"""Random recipes from three small files, and the blobs that they make."""

from collections.abc import Iterable

from hypothesis import strategies as st

from proxy.gguf.transforms import Transform
from proxy.planning.recipe import Beside, Literal, Range, Recipe
from proxy.sources.base import RepositoryFile

CONTENTS = {"a": bytes(range(24)), "b": bytes(range(80, 104)), "c": bytes(range(160, 184))}
FILES = {path: RepositoryFile(path, len(content)) for path, content in CONTENTS.items()}
WINDOW = 3

Part = Literal | Range


def doubled(content: bytes) -> bytes:
    return bytes(byte for byte in content for _ in range(2))


def summed(content: bytes) -> bytes:
    """One byte for each window."""
    return bytes(sum(content[start : start + WINDOW]) % 256 for start in range(0, len(content), WINDOW))


def zipped(content: bytes) -> bytes:
    """A byte from the range beside, before every two bytes."""
    count = len(content) // 3
    return b"".join(bytes([content[at], *content[count + 2 * at :][:2]]) for at in range(count))


def raised(content: bytes) -> bytes:
    """Each byte after the first RAISED_BY, raised by their sum."""
    by = sum(content[:RAISED_BY])
    return bytes((byte + by) % 256 for byte in content[RAISED_BY:])


def both(content: bytes) -> bytes:
    """As `zipped`, with the bytes beside raised by the sum of the first RAISED_BY."""
    count = (len(content) - RAISED_BY) // 3
    beside = RAISED_BY + count
    return zipped(raised(content[:beside]) + content[beside:])


RAISED_BY = 4
DOUBLED, SUMMED, ZIPPED = Transform(1, 2, doubled), Transform(WINDOW, 1, summed), Transform(2, 3, zipped)
RAISED, BOTH = Transform(2, 2, raised), Transform(2, 3, both)


def content_of(part: Range) -> bytes:
    return CONTENTS[part.file.path][part.start : part.stop]


def blob_of(parts: Iterable[Part]) -> bytes:
    blob, beside = [], b""
    for part in parts:
        if isinstance(part, Literal):
            blob.append(part.content)
        elif part.beside:
            beside += content_of(part)
        else:
            content, beside = beside + content_of(part), b""
            blob.append(part.transform.change(content) if part.transform else content)
    return b"".join(blob)


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
def assisted(draw: st.DrawFn) -> tuple[Range, ...]:
    """A range, after one or two ranges beside it."""
    file, blocks = draw(st.sampled_from(list(FILES.values()))), draw(st.integers(1, 12))
    transform, sizes = draw(
        st.sampled_from(
            [
                (ZIPPED, {Beside.SHARE: blocks}),
                (RAISED, {Beside.WHOLE: RAISED_BY}),
                (BOTH, {Beside.WHOLE: RAISED_BY, Beside.SHARE: blocks}),
            ]
        )
    )
    parts = []
    for kind, size in sizes.items():
        beside = draw(st.sampled_from(list(FILES.values())))
        first = draw(st.integers(0, beside.size - size))
        parts.append(Range(beside, first, first + size, beside=kind))
    start = draw(st.integers(0, file.size - 2 * blocks))
    return *parts, Range(file, start, start + 2 * blocks, transform)


@st.composite
def recipes(draw: st.DrawFn, least: int = 0) -> Recipe:
    """Literals, ranges of at least `least` blocks (some cut in two), and ranges after ranges beside them."""
    parts: list[Part] = []
    for part in draw(st.lists(st.builds(Literal, st.binary(max_size=5)) | ranges(least) | assisted(), max_size=8)):
        if isinstance(part, tuple):
            parts += part
        elif isinstance(part, Range) and part.transform is None and part.stop - part.start > 1 and draw(st.booleans()):
            middle = draw(st.integers(part.start + 1, part.stop - 1))
            parts += [Range(part.file, part.start, middle), Range(part.file, middle, part.stop)]
        else:
            parts.append(part)
    return Recipe(tuple(parts))
