"""How transformers sees a picture: for each architecture the tokens that stand for it, and the model's inputs."""

from collections.abc import Callable, Mapping

from tests.real.seeing import gemma
from tests.real.seeing.view import Seen, View

SEEN: Mapping[str, Callable[[View], Seen]] = {
    **gemma.SEEN,
}
"""By architecture."""
