"""Models that see or hear whose text part is like another repository's: only their projectors are of interest."""

from tests.gguf.tiny_repositories import sighted_intern, sighted_mistral
from tests.gguf.tiny_repositories.repository import Tiny
from tests.gguf.tiny_repositories.sighted_audio import SIGHTED_AUDIO

SIGHTED: dict[str, Tiny] = {
    **sighted_intern.SIGHTED,
    **SIGHTED_AUDIO,
    **sighted_mistral.SIGHTED,
}
