"""Writes projectors of tiny repositories in memory, and knows where they differ from llama.cpp's, and why."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from proxy.gguf.projection import Projection, project
from proxy.gguf.projectors import TOWERS
from proxy.gguf.projectors.common import ADDED_TOKENS, added_tokens
from proxy.gguf.tokenizer_files import TokenizerFiles
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.repository import Tiny
from tests.gguf.tiny_repositories.sighted import SIGHTED
from tests.gguf.writing import made, readable_tensors

EXPECTED = Path(__file__).parent / "expected" / "projectors"
TOWERED: Mapping[str, Tiny] = {
    name: tiny for name, tiny in {**REPOSITORIES, **SIGHTED}.items() if tiny.towers and tiny.architecture in TOWERS
}
"""Tiny repositories of models that see or hear."""


@lru_cache(maxsize=32)
def towered(name: str) -> Mapping[str, bytes]:
    """The files of such a repository."""
    return TOWERED[name].files()


LEFT_OUT = ("general.sampling.*",)
"""Patterns of keys that only llama.cpp's converter writes; Ollama has these values in its parameters."""
ONLY_OURS: Mapping[str, Mapping[str, str]] = {
    "gemma4_inputs": {
        "clip.use_gelu": "without it, llama.cpp computes another approximation of GELU than transformers",
    },
}
"""Repository → key that only the proxy writes → reason."""
_EPSILON = "llama.cpp's converter takes that of the text model; transformers always takes this one"
OTHER_VALUES: Mapping[str, Mapping[str, tuple[object, str]]] = {
    name: {"clip.vision.attention.layer_norm_epsilon": (1e-6, _EPSILON)} for name in ("qwen3_5_eyes", "qwen3_5moe_eyes")
}
"""Repository → key → the proxy's value, which differs from that of llama.cpp's converter, and the reason."""
OTHER_NAMES: Mapping[str, tuple[str, str, str]] = {
    "llama4_eyes": (
        ".attn_post_norm.",
        ".ln2.",
        "since it knows Gemma 4, it takes the norm before Llama 4's MLP for one that llama.cpp applies before",
    ),
}
"""Repository → part of a name that llama.cpp's converter gives tensors → the proxy's part, and the reason."""


def projection(files: Mapping[str, bytes], file_type: str = "F16", name: str = "tiny-model") -> Projection:
    """The plan of a repository's projector."""
    config = json.loads(files["config.json"])
    images = {
        **json.loads(files.get("preprocessor_config.json", b"{}")),
        ADDED_TOKENS: added_tokens(TokenizerFiles.read(files)),
    }
    towers = TOWERS[config["architectures"][0]]
    return project(towers, config, images, readable_tensors(files), (name, file_type))


def projector(files: Mapping[str, bytes], file_type: str = "F16", name: str = "tiny-model") -> bytes:
    """The content of a repository's projector."""
    planned = projection(files, file_type, name)
    content = planned.header + b"".join(part for piece in planned.pieces for part in made(piece, files))
    assert len(content) == planned.size
    return content


def expected(name: str) -> dict[str, Any]:
    """What llama.cpp's converter makes, with the deliberate differences."""
    figures: dict[str, Any] = json.loads((EXPECTED / f"{name}.json").read_bytes())
    if name in OTHER_NAMES:
        theirs, ours, _ = OTHER_NAMES[name]
        renamed = {one.replace(theirs, ours): tensor for one, tensor in figures["tensors"].items()}
        assert renamed.keys() != figures["tensors"].keys()
        figures["tensors"] = renamed
    return figures
