"""PLaMo, PLaMo 2 and 3 by the package `mlx-lm` (0.32.2), for `make_logprobs.py`. transformers has no class for them.

For PLaMo 2 and 3, tokens are those of a Unigram model of the package `tokenizers`, which has the same rule: the
highest sum of scores. There is no BOS before them, as in llama.cpp (b10488).
"""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.gguf.tiny_repositories.tokenizer import SPACE

MODEL_TYPES = ("plamo", "plamo2", "plamo3")
_VOCABULARY = "tokenizer.jsonl"
_NORMAL = "NORMAL"


def load(folder: Path) -> tuple[Callable[[list[int]], Any], Callable[[str], list[int]], list[str | None]]:
    """The logits after tokens, the tokens of a text, and the text that a server shows for each token alone."""
    mlx, torch, tokenizers = import_module("mlx.core"), import_module("torch"), import_module("tokenizers")
    config = json.loads((folder / "config.json").read_bytes())
    family = import_module(f"mlx_lm.models.{config['model_type']}")
    if "window_size" in config:
        # mlx-lm lets a token see one more. vLLM and llama.cpp, whose code is by PLaMo's authors, agree with each other.
        config["window_size"] -= 1
    model = family.Model(family.ModelArgs.from_dict(config))
    weights = {name: tensor.astype(mlx.float32) for name, tensor in mlx.load(f"{folder}/model.safetensors").items()}
    sanitized = getattr(model, "sanitize", dict)
    model.load_weights(list(sanitized(weights).items()))
    if config["model_type"] == "plamo2":
        # mlx-lm does not read the base. pfnet/plamo-translate-cli sets it like this.
        for mixer in (layer.mixer for layer in model.layers if not layer.is_mamba):
            mixer.rope = import_module("mlx.nn").RoPE(mixer.qk_dim, base=config["rope_local_theta"])

    def logits(tokens: list[int]) -> Any:
        return torch.tensor(model(mlx.array([tokens]))[0, -1].tolist())

    if config["model_type"] == "plamo":
        return logits, *_pieces(tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json"))
    rows = [json.loads(line) for line in (folder / _VOCABULARY).read_bytes().splitlines()]
    unigram = tokenizers.Tokenizer(
        tokenizers.models.Unigram([(text, float(score)) for text, score, *_ in rows], unk_id=0, byte_fallback=True)
    )

    def encode(prompt: str) -> list[int]:
        return list(unigram.encode(prompt).ids)

    texts = [text if kind == _NORMAL and "<" not in text and "[" not in text else None for text, _, kind, *_ in rows]
    return logits, encode, [*texts, *[None] * (config["vocab_size"] - len(rows))]


def _pieces(tokenizer: Any) -> tuple[Callable[[str], list[int]], list[str | None]]:
    """The tokens of a text, after BOS, as the chat template begins; and the texts."""
    pieces = [tokenizer.id_to_token(token_id) for token_id in range(tokenizer.get_vocab_size())]
    texts = [None if "<" in piece or "[" in piece else piece.replace(SPACE, " ") for piece in pieces]
    return lambda prompt: [1, *tokenizer.encode(prompt, add_special_tokens=False).ids], texts
