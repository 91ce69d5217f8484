"""`tiny_llama`: a complete safetensors repository of a chat model, a few megabytes with random weights."""

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import orjson

Tensor = tuple[str, tuple[int, ...], bytes]

HIDDEN, FEED_FORWARD, LAYERS, HEADS, KV_HEADS = 256, 512, 2, 4, 2
SPECIALS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPACE = "\u0120"  # a space in the byte-level alphabet

# Ollama and llama.cpp recognize a byte-level tokenizer by the exact text of its split pattern. This is Llama 3's.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% set turn = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] + '<|eot_id|>' %}"
    "{% if loop.first %}{% set turn = bos_token + turn %}{% endif %}{{ turn }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

README = """---
license: mit
pipeline_tag: text-generation
---
# Tiny Llama
A Llama with random weights. It converts and loads, and its answers are nonsense.
"""
LICENSE = "The random numbers in this repository belong to nobody; do with them what you like.\n"


def tiny_llama(*, seed: int = 0, shards: int = 1) -> dict[str, bytes]:
    """The files of the repository. The same seed gives the same tensors, in any number of shards."""
    return dict(_files(seed, shards))


@lru_cache(maxsize=4)
def _files(seed: int, shards: int) -> dict[str, bytes]:
    vocabulary, merges = _vocabulary()
    specials = {text: len(vocabulary) + number for number, text in enumerate(SPECIALS)}
    vocabulary_size = len(vocabulary) + len(specials)
    return {
        "README.md": README.encode(),
        "LICENSE": LICENSE.encode(),
        "config.json": _json(_config(vocabulary_size, specials)),
        "generation_config.json": _json(_token_ids(specials)),
        "tokenizer.json": _json(_tokenizer(vocabulary, merges, specials)),
        "tokenizer_config.json": _json(_tokenizer_config(specials)),
        "special_tokens_map.json": _json(_special_names()),
        **_weight_files(_tensors(random.Random(seed), vocabulary_size), shards),
    }


def _json(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n"


def _vocabulary() -> tuple[dict[str, int], list[list[str]]]:
    """All single bytes, then every pair of lower-case letters and every letter after a space."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = 256 - len(plain)
    alphabet = [chr(code) for code in plain] + [chr(256 + number) for number in range(others)]
    merges = [[first, second] for first in SPACE + LETTERS for second in LETTERS]
    tokens = alphabet + ["".join(pair) for pair in merges]
    return {token: number for number, token in enumerate(tokens)}, merges


def _config(vocabulary_size: int, specials: dict[str, int]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary_size,
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HIDDEN // HEADS,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": None,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        **_token_ids(specials),
    }


def _token_ids(specials: dict[str, int]) -> dict[str, Any]:
    return {
        "bos_token_id": specials["<|begin_of_text|>"],
        "eos_token_id": specials["<|eot_id|>"],
        "pad_token_id": specials["<|end_of_text|>"],
        "transformers_version": "4.46.0",
    }


def _special_names() -> dict[str, str]:
    return {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<|end_of_text|>"}


def _added_token(text: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": text, **flags, "special": True}


def _tokenizer(vocabulary: dict[str, int], merges: list[list[str]], specials: dict[str, int]) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, **_added_token(text)} for text, number in specials.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _tokenizer_config(specials: dict[str, int]) -> dict[str, Any]:
    return {
        "added_tokens_decoder": {str(number): _added_token(text) for text, number in specials.items()},
        **_special_names(),
        "add_bos_token": True,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _tensors(rng: random.Random, vocabulary_size: int) -> list[Tensor]:
    def weight(name: str, *shape: int) -> Tensor:
        return name, shape, _noise(rng, math.prod(shape))

    def norm(name: str) -> Tensor:
        return name, (HIDDEN,), b"\x80\x3f" * HIDDEN  # 1.0 in bfloat16

    kv = HIDDEN // HEADS * KV_HEADS
    tensors = [weight("model.embed_tokens.weight", vocabulary_size, HIDDEN)]
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        tensors += [
            norm(prefix + "input_layernorm.weight"),
            weight(prefix + "self_attn.q_proj.weight", HIDDEN, HIDDEN),
            weight(prefix + "self_attn.k_proj.weight", kv, HIDDEN),
            weight(prefix + "self_attn.v_proj.weight", kv, HIDDEN),
            weight(prefix + "self_attn.o_proj.weight", HIDDEN, HIDDEN),
            norm(prefix + "post_attention_layernorm.weight"),
            weight(prefix + "mlp.gate_proj.weight", FEED_FORWARD, HIDDEN),
            weight(prefix + "mlp.up_proj.weight", FEED_FORWARD, HIDDEN),
            weight(prefix + "mlp.down_proj.weight", HIDDEN, FEED_FORWARD),
        ]
    return [*tensors, norm("model.norm.weight"), weight("lm_head.weight", vocabulary_size, HIDDEN)]


# The upper byte of a bfloat16 has the sign and most of the exponent. These four give magnitudes from 0.002 to 0.031.
_UPPER_BYTES = bytes((0x3B, 0xBB, 0x3C, 0xBC)) * 64


def _noise(rng: random.Random, count: int) -> bytes:
    """`count` little-endian bfloat16 numbers, made at once because a loop over them would take seconds."""
    weights = bytearray(2 * count)
    weights[0::2] = rng.randbytes(count)
    weights[1::2] = rng.randbytes(count).translate(_UPPER_BYTES)
    return bytes(weights)


def _weight_files(tensors: Sequence[Tensor], shards: int) -> dict[str, bytes]:
    if not 1 <= shards <= len(tensors):
        raise ValueError(f"{len(tensors)} tensors do not fill {shards} shards")
    if shards == 1:
        return {"model.safetensors": _safetensors(tensors)}
    bounds = [len(tensors) * number // shards for number in range(shards + 1)]
    files: dict[str, bytes] = {}
    weight_map: dict[str, str] = {}
    for number in range(shards):
        group = tensors[bounds[number] : bounds[number + 1]]
        path = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        files[path] = _safetensors(group)
        weight_map |= {name: path for name, _, _ in group}
    total = sum(len(data) for _, _, data in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return {**files, "model.safetensors.index.json": _json(index)}


def _safetensors(tensors: Sequence[Tensor]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape, data in tensors:
        start, end = end, end + len(data)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (start, end)}
    text = orjson.dumps(header)
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(data for _, _, data in tensors)])
