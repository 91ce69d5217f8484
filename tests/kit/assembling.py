"""The bytes that a recipe makes of what is fetched for it, without a transfer."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from proxy.planning.recipe import Recipe
from proxy.transfer.assembly import Assembly


def begun(recipe: Recipe, chunks: Sequence[bytes], where: str = "") -> bytes:
    """As many as there are after these chunks."""
    with ThreadPoolExecutor(2) as pool:
        assembly = Assembly(recipe, pool, where)
        return b"".join(assembly.join(assembly.cut(chunks)))


def assembled(recipe: Recipe, chunks: Sequence[bytes], where: str = "") -> bytes:
    """All of them."""
    made = begun(recipe, chunks, where)
    assert len(made) == recipe.size
    return made
