"""Tiny tokenizers that several repositories share."""

import json
from typing import Any

from proxy.standins.tiny_llama import tiny_llama

QWEN_SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def added_token(text: str, token_id: int, *, special: bool = True) -> dict[str, Any]:
    """An entry of `added_tokens` in tokenizer.json."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": text, **flags, "special": special}


def qwen_tokenizer() -> dict[str, Any]:
    """The tiny Llama's byte pairs with Qwen's pattern and token names. `rows` is the number of tokens."""
    tokenizer = json.loads(tiny_llama()["tokenizer.json"])
    base = len(tokenizer["model"]["vocab"])
    tokenizer["added_tokens"] = [added_token(text, base + number) for number, text in enumerate(QWEN_SPECIALS)]
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": QWEN_SPLIT}
    tokenizer["model"]["ignore_merges"] = False
    config = {
        "add_bos_token": False,
        "chat_template": QWEN_TEMPLATE,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
    }
    return {
        "tokenizer.json": json_bytes(tokenizer),
        "tokenizer_config.json": json_bytes(config),
        "rows": base + len(QWEN_SPECIALS),
    }


def json_bytes(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
