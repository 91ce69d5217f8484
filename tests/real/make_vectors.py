"""Writes transformers' vectors of texts, for tiny encoders.

`python -m tests.real.make_vectors NAME…` adds them to vectors.json. It needs torch and transformers, which this project
does not depend on. The vectors are from transformers 5.24 with torch 2.15, in F32 with eager attention.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.__main__ import write
from tests.gguf.tiny_repositories.repository import FEED_FORWARD, HEAD, HEADS, HIDDEN, LAYERS
from tests.gguf.tiny_repositories.tokenizer import TEXT

VECTORS = Path(__file__).with_name("vectors.json")
TEXTS = (
    "the quick brown fox jumps",
    "When other people talk about Water,  and fire: 12 cafés",
    "a",
    TEXT,
    "  the story   begins and  ends ",
)
DIGITS = 5
READ_AS: Mapping[str, Mapping[str, Any]] = {
    # transformers has no class for it. With an empty mask, Llama's computes the same.
    "llama_bidirectional": {"architectures": ["LlamaModel"], "model_type": "llama", "auto_map": {}},
    "neo_bert": {
        "architectures": ["LlamaModel"],
        "model_type": "llama",
        "auto_map": {},
        "intermediate_size": FEED_FORWARD,
        "rms_norm_eps": 1e-4,
        "rope_theta": 10000.0,
    },
}
"""Changes of config.json with which transformers computes the same as the repository's own code."""


def _neo_bert_as_llama(tensors: Any) -> dict[str, Any]:
    """NeoBERT has Q, K and V head by head, and its RoPE rotates neighbours; Llama's rotates the halves of a head."""
    torch = import_module("torch")
    made = {"embed_tokens.weight": tensors["encoder.weight"], "norm.weight": tensors["layer_norm.weight"]}
    for number in range(LAYERS):
        old, new = f"transformer_encoder.{number}.", f"layers.{number}."
        query, key, value = tensors[f"{old}qkv.weight"].reshape(HEADS, 3, HEAD, HIDDEN).unbind(1)
        halves = (torch.cat((each[:, ::2], each[:, 1::2]), 1) for each in (query, key))
        for part, each in zip("qkv", (*halves, value), strict=True):
            made[f"{new}self_attn.{part}_proj.weight"] = each.reshape(HIDDEN, HIDDEN).contiguous()
        gate, up = tensors[f"{old}ffn.w12.weight"].chunk(2)
        made |= {f"{new}mlp.gate_proj.weight": gate.contiguous(), f"{new}mlp.up_proj.weight": up.contiguous()}
        for theirs, ours in (
            ("wo", "self_attn.o_proj"),
            ("ffn.w3", "mlp.down_proj"),
            ("attention_norm", "input_layernorm"),
            ("ffn_norm", "post_attention_layernorm"),
        ):
            made[f"{new}{ours}.weight"] = tensors[f"{old}{theirs}.weight"]
    return made


def vectors(name: str) -> list[dict[str, Any]]:
    """The vectors of the repository, of length 1, after its pooling. Raises ValueError if a weight is missing."""
    torch, transformers = import_module("torch"), import_module("transformers")
    with tempfile.TemporaryDirectory() as folder:
        write(name, Path(folder))
        config = Path(folder) / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **READ_AS.get(name, {})}))
        if name == "neo_bert":
            safetensors, weights = import_module("safetensors.torch"), Path(folder) / "model.safetensors"
            safetensors.save_file(_neo_bert_as_llama(safetensors.load_file(weights)), weights, {"format": "pt"})
        model, loading = transformers.AutoModel.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if missing := [key for key in loading["missing_keys"] if not key.startswith("pooler.")]:
        raise ValueError(f"transformers did not find all weights of {name}: {missing}")
    model.eval()
    made = []
    for text in TEXTS:
        tokens = tokenizer(text).input_ids
        sees = {"attention_mask": torch.zeros(1, 1, len(tokens), len(tokens))} if name in READ_AS else {}
        with torch.no_grad():
            rows = model(input_ids=torch.tensor([tokens]), **sees).last_hidden_state[0]
        row = {"mean": rows.mean(0), "cls": rows[0], "lasttoken": rows[-1]}[REPOSITORIES[name].pooling or "mean"]
        numbers = [round(number, DIGITS) for number in (row / row.norm()).tolist()]
        made.append({"text": text, "tokens": len(tokens), "vector": numbers})
    return made


if __name__ == "__main__":
    recorded = json.loads(VECTORS.read_text())
    recorded |= {name: vectors(name) for name in sys.argv[1:]}
    lines = [f"{json.dumps(name)}: {json.dumps(one, ensure_ascii=False)}" for name, one in recorded.items()]
    VECTORS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
