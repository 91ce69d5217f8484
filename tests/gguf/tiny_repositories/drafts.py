"""Repositories with a whole layer for multi-token prediction, which `pull.draft` keeps."""

from dataclasses import replace

from tests.gguf.tiny_repositories import qwen
from tests.gguf.tiny_repositories.repository import Tiny


def _qwen(name: str) -> Tiny:
    tiny = qwen.REPOSITORIES[name]
    # Qwen3-Next has no such key.
    count = {} if tiny.model_type == "qwen3_next" else {"mtp_num_hidden_layers": 1}
    return replace(tiny, weights=qwen.draft_layer, change={**tiny.change, **count})


DRAFTS: dict[str, Tiny] = {
    f"{name}_draft": _qwen(name)
    for name in (
        *("qwen3_5", "qwen3_5_eyes", "qwen3_5moe", "qwen3_5moe_eyes"),
        *("qwen3_next", "qwen3_next_v5"),
    )
}
"""The name of the file in `tests/gguf/expected` → the repository."""
