"""Repositories with a whole layer for multi-token prediction, which `pull.draft` keeps."""

from dataclasses import replace

from tests.gguf.tiny_repositories import qwen, state_spaces
from tests.gguf.tiny_repositories.repository import Tiny


def _qwen(name: str) -> Tiny:
    tiny = qwen.REPOSITORIES[name]
    # Qwen3-Next has no such key.
    count = {} if tiny.model_type == "qwen3_next" else {"mtp_num_hidden_layers": 1}
    return replace(tiny, weights=qwen.draft_layer, change={**tiny.change, **count})


def nemotron_h(name: str) -> Tiny:
    tiny = state_spaces.REPOSITORIES[name]
    mtp = {"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E"}
    return replace(tiny, weights=state_spaces.nemotron_h_drafts, change={**tiny.change, **mtp})


DRAFTS: dict[str, Tiny] = {
    **{
        f"{name}_draft": _qwen(name)
        for name in (
            *("qwen3_5", "qwen3_5_eyes", "qwen3_5moe", "qwen3_5moe_eyes"),
            *("qwen3_next", "qwen3_next_v5"),
        )
    },
    "nemotron_h_moe_draft": nemotron_h("nemotron_h_moe"),
}
"""The name of the file in `tests/gguf/expected` → the repository."""
