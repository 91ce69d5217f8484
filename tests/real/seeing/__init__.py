"""How transformers sees a picture or hears a sound: the tokens that stand for it, and the model's inputs."""

from collections.abc import Callable, Mapping

from tests.real.seeing import audio, gemma, intern, mistral, qwen
from tests.real.seeing.view import Seen, View

SEEN: Mapping[str, Callable[[View], Seen]] = {
    **audio.SEEN,
    **gemma.SEEN,
    **intern.SEEN,
    **mistral.SEEN,
    **qwen.SEEN,
}
"""By architecture."""
SIZES: Mapping[str, int] = {
    **gemma.SIZES,
    **intern.SIZES,
    **qwen.SIZES,
}
"""Architecture whose encoder has no size of its own → pixels on each side of a picture that is not resized."""
IN_TRANSFORMERS: Mapping[str, Callable[[Mapping[str, bytes]], Mapping[str, bytes]]] = intern.IN_TRANSFORMERS
"""Architecture that transformers does not have → the repository in the form of one that it has."""
UNSEEN = intern.UNSEEN
"""Tiny repositories whose text transformers does not have."""
