"""RWKV-6 and 7 by the authors' package `rwkv` (0.8.32), for `make_logprobs.py`. transformers has no class for them."""

import json
import os
from collections.abc import Callable
from importlib import import_module, reload
from pathlib import Path
from typing import Any

MODEL_TYPES = ("rwkv6", "rwkv7")
_VOCABULARY = "rwkv_vocab_v20230424.txt"
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
_PARTS_OF_6 = {
    "rwkv.embeddings": "emb",
    "rwkv.": "",
    "blocks.0.pre_ln": "blocks.0.ln0",
    "attention.": "att.",
    "feed_forward.": "ffn.",
}
"""The same for RWKV-6 in its Hugging Face repositories, whose matrices are as those of the authors."""


def load(folder: Path) -> tuple[Callable[[list[int]], Any], Callable[[str], list[int]], list[str | None]]:
    """The logits after tokens, the tokens of a text, and the text that a server shows for each token alone."""
    is_7 = json.loads((folder / "config.json").read_bytes())["model_type"] == "rwkv7"
    os.environ |= {"RWKV_V7_ON": str(int(is_7)), "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"}
    torch, safetensors = import_module("torch"), import_module("safetensors.torch")
    tensors = {}
    for source_name, tensor in safetensors.load_file(folder / "model.safetensors").items():
        is_small, name = ".lora." in source_name and source_name.endswith("weight"), source_name
        for part, other in (_PARTS if is_7 else _PARTS_OF_6).items():
            name = name.replace(part, other)
        tensors[name] = (tensor.t() if is_small else tensor).float().contiguous()
    torch.save(tensors, folder / "model.pth")
    # The module chooses its class by the variable when it is loaded.
    model = reload(import_module("rwkv.model")).RWKV(model=str(folder / "model"), strategy="cpu fp32")
    tokenizer = import_module("rwkv.rwkv_tokenizer").TRIE_TOKENIZER(str(folder / _VOCABULARY))

    def logits(tokens: list[int]) -> Any:
        return model.forward(tokens, None)[0].float()

    texts: list[str | None] = [None] * tensors["head.weight"].shape[0]
    for token_id, content in tokenizer.idx2token.items():
        texts[token_id] = _shown(content)
    return logits, tokenizer.encode, texts


def _shown(content: bytes) -> str | None:
    """None for a part of a character, and for what a server holds back: perhaps it begins the end of an answer."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text or "<" in text or "[" in text or text.endswith("\n") else text
