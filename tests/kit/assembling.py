"""Assembles the blob of a recipe without a transfer."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from proxy.planning.recipe import Recipe
from proxy.transfer.assembly import Assembly


def assembled(recipe: Recipe, chunks: Sequence[bytes], repository: str = "") -> bytes:
    """Make the whole blob from the bytes of its ranges."""
    with ThreadPoolExecutor(2) as pool:
        assembly = Assembly(recipe, pool, repository)
        blob = b"".join(assembly.join(assembly.cut(chunks)))
    assert len(blob) == recipe.size
    return blob
