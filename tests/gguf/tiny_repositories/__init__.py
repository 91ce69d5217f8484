"""Tiny repositories of many families for tests of the conversion. Their random weights are the same in every run.

Rows are multiples of 256 numbers, so that Ollama can quantize them. `python -m tests.gguf.tiny_repositories FOLDER`
writes them into folders. llama.cpp's converter made the figures in `tests/gguf/expected` from such folders.
"""

from tests.gguf.tiny_repositories import (
    classic,
    deepseek4,
    dense,
    encoders,
    experts,
    gemma,
    glm,
    hybrids,
    large_mixtures,
    latent,
    llama,
    mixtures,
    more_encoders,
    newest_mixtures,
    qwen,
    qwen_vl,
    rarer,
    recent,
    recurrent,
    sighted_intern,
    state_spaces,
    tiktoken,
)
from tests.gguf.tiny_repositories.repository import Tiny

REPOSITORIES: dict[str, Tiny] = {
    **classic.REPOSITORIES,
    **deepseek4.REPOSITORIES,
    **dense.REPOSITORIES,
    **encoders.REPOSITORIES,
    **experts.REPOSITORIES,
    **gemma.REPOSITORIES,
    **glm.REPOSITORIES,
    **hybrids.REPOSITORIES,
    **large_mixtures.REPOSITORIES,
    **latent.REPOSITORIES,
    **llama.REPOSITORIES,
    **more_encoders.REPOSITORIES,
    **mixtures.REPOSITORIES,
    **newest_mixtures.REPOSITORIES,
    **qwen.REPOSITORIES,
    **qwen_vl.REPOSITORIES,
    **rarer.REPOSITORIES,
    **recent.REPOSITORIES,
    **recurrent.REPOSITORIES,
    **sighted_intern.REPOSITORIES,
    **state_spaces.REPOSITORIES,
    **tiktoken.REPOSITORIES,
}
"""The name of the file in `tests/gguf/expected` → the repository."""
