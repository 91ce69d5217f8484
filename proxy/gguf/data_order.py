"""The order of the tensors' data in a GGUF, and its bytes in pieces. Pure."""

from collections.abc import Iterable, Iterator, Sequence

from proxy.gguf.tensor_sources import FixedBytes, SourceRange, Target, unpacked
from proxy.gguf.tensors import padding


def data_order(targets: Sequence[Target], paths: Sequence[str]) -> list[Target]:
    """The order of the source. `paths` are the files in order; calculated tensors go first."""
    places = {path: number for number, path in enumerate(paths)}

    def source(target: Target) -> tuple[int, int]:
        first = target.pieces[0]
        return (places[first.path], first.start) if isinstance(first, SourceRange) else (-1, 0)

    if all(target.is_in_order for target in targets):
        return sorted(targets, key=source)
    # The experts of a block are spread over a file. Block by block, their ranges stay close together.
    return sorted(targets, key=lambda target: (target.block is None, target.block or 0, *source(target)))


def aligned(targets: Iterable[Target]) -> Iterator[SourceRange | FixedBytes]:
    """The pieces of all tensors, each tensor with its padding."""
    for target in targets:
        for piece in target.pieces:
            yield from unpacked(piece)
        if gap := padding(target.info.size):
            yield FixedBytes(bytes(gap))
