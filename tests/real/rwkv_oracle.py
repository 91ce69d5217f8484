"""RWKV-7 by its authors' package `rwkv` (0.8.32), for `make_logprobs.py`. transformers has no class for it."""

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

VOCABULARY = "rwkv_vocab_v20230424.txt"
_PARTS = {
    "model.embeddings": "emb",
    "model.norm": "ln_out",
    "lm_head": "head",
    "model.layers.0.pre_norm": "blocks.0.ln0",
    "model.layers": "blocks",
    "attn_norm": "ln1",
    "ffn_norm": "ln2",
    "attn.g_norm": "att.ln_x",
    "attn.r_proj": "att.receptance",
    "attn.k_proj": "att.key",
    "attn.v_proj": "att.value",
    "attn.o_proj": "att.output",
    "attn.": "att.",
    "_lora.lora.0.weight": "1",
    "_lora.lora.2.weight": "2",
    "_lora.lora.2.bias": "0",
}
"""flash-linear-attention's parts of names → those of the authors, whose small matrices are transposed."""


def load(folder: Path) -> tuple[Callable[[list[int]], Any], Callable[[str], list[int]], list[str | None]]:
    """The logits after tokens, the tokens of a text, and the text that a server shows for each token alone."""
    os.environ |= {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"}
    torch, safetensors = import_module("torch"), import_module("safetensors.torch")
    tensors = {}
    for source_name, tensor in safetensors.load_file(folder / "model.safetensors").items():
        is_small, name = ".lora." in source_name and source_name.endswith("weight"), source_name
        for part, other in _PARTS.items():
            name = name.replace(part, other)
        tensors[name] = (tensor.t() if is_small else tensor).float().contiguous()
    torch.save(tensors, folder / "model.pth")
    model = import_module("rwkv.model").RWKV(model=str(folder / "model"), strategy="cpu fp32")
    tokenizer = import_module("rwkv.rwkv_tokenizer").TRIE_TOKENIZER(str(folder / VOCABULARY))

    def logits(tokens: list[int]) -> Any:
        return model.forward(tokens, None)[0].float()

    texts: list[str | None] = [None] * tensors["head.weight"].shape[0]
    for token_id, content in tokenizer.idx2token.items():
        texts[token_id] = _shown(content)
    return logits, tokenizer.encode, texts


def _shown(content: bytes) -> str | None:
    """None for a part of a character, for what a server holds back, and for the end of an answer."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text or "<" in text or "[" in text or text == "\n\n" else text
