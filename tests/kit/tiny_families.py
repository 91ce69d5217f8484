"""Tiny random chat models of several families, and functions that change their files.

Each `tiny_…` function returns the files of one repository: less than a megabyte, the same bytes for the same seed.
"""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tests.gguf.tiny_repositories.sentencepiece import pieces_model
from tests.kit.protobuf import bytes_field, piece_field
from tests.kit.tiny_models import (
    LETTERS,
    Array,
    Pooling,
    Random,
    Tensors,
    ones,
    safetensors,
    sentence_transformer,
    zeros,
)
from tests.kit.tiny_tokenizers import QWEN_TEMPLATE, added_token, json_bytes, qwen_tokenizer

Files = dict[str, bytes]

HIDDEN, FEED_FORWARD, LAYERS, HEADS, KV_HEADS, HEAD = 64, 128, 2, 2, 1, 32
EXPERTS = 4
BLANK = "\u2581"  # SentencePiece's space
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6

GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


class StoredTensor(NamedTuple):
    """A tensor as stored in a file."""

    dtype: str
    shape: Sequence[int]
    data: bytes


def tiny_qwen2(*, seed: int = 0) -> Files:
    tokenizer = qwen_tokenizer()
    rows = tokenizer.pop("rows")
    specials = json.loads(tokenizer["tokenizer.json"])["added_tokens"]
    end = next(token["id"] for token in specials if token["content"] == "<|im_end|>")
    first_special = min(token["id"] for token in specials)
    config = _config("Qwen2ForCausalLM", "qwen2", rows) | {"rope_theta": 1000000.0, "eos_token_id": end}
    random = Random(seed)
    tensors = _decoder(random, config) | {
        "lm_head.weight": _only_words(random.weights(rows, HIDDEN), 256, first_special)
    }
    for layer in range(LAYERS):
        for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            tensors[f"model.layers.{layer}.self_attn.{part}_proj.bias"] = random.weights(heads * HEAD)
    template = json.loads(tokenizer["tokenizer_config.json"]) | {"chat_template": QWEN_TEMPLATE}
    return {
        **tokenizer,
        "tokenizer_config.json": json_bytes(template),
        **_repository(config, tensors, {"eos_token_id": end}),
    }


def tiny_gemma(generation: int = 1, *, seed: int = 0) -> Files:
    """Gemma, Gemma 2, or the text-only Gemma 3."""
    tokenizer = _sentencepiece(
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"), prefix=False, template=GEMMA_TEMPLATE
    )
    number = "" if generation == 1 else str(generation)
    model_type = "gemma3_text" if generation == 3 else f"gemma{number}"
    config = _config(f"Gemma{number}ForCausalLM", model_type, tokenizer.rows) | {
        "head_dim": HEAD,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": HEAD,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "eos_token_id": [1, 5],
    }
    if generation > 1:
        config |= {"sliding_window": 512}
    if generation == 2:
        config |= {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    if generation == 3:
        # These differ from the values that Ollama assumes for missing keys.
        config |= {"rope_theta": 500000.0, "rope_local_base_freq": 5000.0, "sliding_window_pattern": 2}
    # Gemma's norms add 1 to their weights.
    tensors = _decoder(Random(seed), config, norms=zeros)
    _only_words(tensors["model.embed_tokens.weight"], tokenizer.words, tokenizer.rows)
    for layer in range(LAYERS):
        start = f"model.layers.{layer}."
        if generation > 1:
            tensors |= zeros(f"{start}pre_feedforward_layernorm.weight", HIDDEN)
            tensors |= zeros(f"{start}post_feedforward_layernorm.weight", HIDDEN)
        if generation == 3:
            tensors |= zeros(f"{start}self_attn.q_norm.weight", HEAD)
            tensors |= zeros(f"{start}self_attn.k_norm.weight", HEAD)
    return {**tokenizer.files, **_repository(config, tensors, {"bos_token_id": 2, "eos_token_id": [1, 5]})}


def tiny_phi3(*, long: bool = True, seed: int = 0) -> Files:
    """`long` adds factors for long contexts. The 128k models have them, the 4k models do not."""
    added = ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>")
    tokenizer = _sentencepiece(("<unk>", "<s>", "</s>"), added, prefix=True, template=PHI_TEMPLATE)
    first = tokenizer.rows - len(added)
    stops = [first, first + added.index("<|end|>")]
    factors = {
        "type": "longrope",
        "short_factor": [1.0 + number / 32 for number in range(HEAD // 2)],
        "long_factor": [1.0 + number / 8 for number in range(HEAD // 2)],
    }
    config = _config("Phi3ForCausalLM", "phi3", tokenizer.rows) | {
        "eos_token_id": first,
        "original_max_position_embeddings": 1024,
        "rope_scaling": factors if long else None,
        "sliding_window": 2047,
    }
    random = Random(seed)
    tensors = _decoder(random, config, attention=False, feed_forward=False)
    for layer in range(LAYERS):
        start = f"model.layers.{layer}."
        tensors[f"{start}self_attn.qkv_proj.weight"] = random.weights((HEADS + 2 * KV_HEADS) * HEAD, HIDDEN)
        tensors[f"{start}self_attn.o_proj.weight"] = random.weights(HIDDEN, HEADS * HEAD)
        tensors[f"{start}mlp.gate_up_proj.weight"] = random.weights(2 * FEED_FORWARD, HIDDEN)
        tensors[f"{start}mlp.down_proj.weight"] = random.weights(HIDDEN, FEED_FORWARD)
    tensors["lm_head.weight"] = _only_words(
        random.weights(tokenizer.rows, HIDDEN), tokenizer.words, tokenizer.words_end
    )
    return {**tokenizer.files, **_repository(config, tensors, {"bos_token_id": 1, "eos_token_id": stops})}


def with_json(files: Files, path: str, change: Callable[[dict[str, Any]], object]) -> Files:
    """The files with `change` applied to the object in one of them."""
    value = json.loads(files[path])
    change(value)
    return files | {path: json_bytes(value)}


def with_config(files: Files, **fields: Any) -> Files:
    """The files with other values in config.json; `...` removes a key."""

    def change(config: dict[str, Any]) -> None:
        config.update(fields)
        for key, value in fields.items():
            if value is ...:
                del config[key]

    return with_json(files, "config.json", change)


def unpack_safetensors(content: bytes) -> dict[str, StoredTensor]:
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    return {
        name: StoredTensor(field["dtype"], field["shape"], data[slice(*field["data_offsets"])])
        for name, field in header.items()
        if name != "__metadata__"
    }


def pack_safetensors(tensors: Mapping[str, StoredTensor]) -> bytes:
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *(tensor.data for tensor in tensors.values())])


def embedding_form(files: Files, pooling: Pooling = "lasttoken") -> Files:
    """The decoder as a sentence-transformers embedding model: no output weights, and no `model.` in names."""
    tensors = {
        name.removeprefix("model."): tensor
        for name, tensor in unpack_safetensors(files["model.safetensors"]).items()
        if not name.startswith("lm_head")
    }
    hidden = json.loads(files["config.json"])["hidden_size"]
    return files | {
        "model.safetensors": pack_safetensors(tensors),
        **sentence_transformer(hidden, pooling, normalize=True),
    }


def with_tensors(files: Files, change: Callable[[dict[str, StoredTensor]], dict[str, StoredTensor]]) -> Files:
    """The files after `change` of the tensors."""
    return files | {"model.safetensors": pack_safetensors(change(unpack_safetensors(files["model.safetensors"])))}


class _Tokenizer(NamedTuple):
    """`words` is the first token that is neither special nor a byte. `words_end` is the token after the words."""

    files: Files
    rows: int
    words: int
    words_end: int


def _only_words(table: Array, first: int, end: int) -> Array:
    """Keep the model from generating special tokens and bytes: Ollama v0.33 fails on half a letter."""
    table[:first] = 0
    table[end:] = 0
    return table


def _config(architecture: str, model_type: str, rows: int) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "max_position_embeddings": 2048,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": rows,
    }


def _decoder(
    random: Random,
    config: Mapping[str, Any],
    *,
    norms: Callable[[str, int], Tensors] = ones,
    attention: bool = True,
    feed_forward: bool = True,
) -> Tensors:
    """The tensors that all these families have. Some have no separate tensors for attention or feed-forward."""
    tensors = {"model.embed_tokens.weight": random.weights(config["vocab_size"], HIDDEN)}
    tensors |= norms("model.norm.weight", HIDDEN)
    for layer in range(LAYERS):
        start = f"model.layers.{layer}."
        tensors |= norms(f"{start}input_layernorm.weight", HIDDEN)
        tensors |= norms(f"{start}post_attention_layernorm.weight", HIDDEN)
        if attention:
            for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
                tensors[f"{start}self_attn.{part}_proj.weight"] = random.weights(heads * HEAD, HIDDEN)
            tensors[f"{start}self_attn.o_proj.weight"] = random.weights(HIDDEN, HEADS * HEAD)
        if feed_forward:
            tensors[f"{start}mlp.gate_proj.weight"] = random.weights(FEED_FORWARD, HIDDEN)
            tensors[f"{start}mlp.up_proj.weight"] = random.weights(FEED_FORWARD, HIDDEN)
            tensors[f"{start}mlp.down_proj.weight"] = random.weights(HIDDEN, FEED_FORWARD)
    return tensors


def _repository(config: Mapping[str, Any], tensors: Tensors, generation: Mapping[str, Any]) -> Files:
    return {
        "config.json": json_bytes(config),
        "generation_config.json": json_bytes(generation),
        "model.safetensors": safetensors(tensors, "BF16"),
    }


def _sentencepiece(specials: Sequence[str], added: Sequence[str] = (), *, prefix: bool, template: str) -> _Tokenizer:
    """The files of a SentencePiece tokenizer with all bytes, letters, and pairs of letters.

    `added` are tokens after the pieces. `prefix` adds a space before each text.
    """
    singles = [BLANK, *LETTERS, *"0123456789.,!?:|<>_/[]", "\n"]
    pairs = [(first, second) for first in (BLANK, *LETTERS) for second in LETTERS]
    types = {"<unk>": UNKNOWN, "[INST]": USER_DEFINED, "[/INST]": USER_DEFINED}
    pieces = [(text, 0.0, types.get(text, CONTROL)) for text in specials]
    pieces += [(f"<0x{number:02X}>", 0.0, BYTE) for number in range(256)]
    merged = [(first + second, -float(rank), NORMAL) for rank, (first, second) in enumerate(pairs)]
    pieces += merged
    pieces += [(text, -float(len(merged) + number), NORMAL) for number, text in enumerate(singles)]
    # The trainer type BPE, and a normalizer that does not change the text.
    normalizer = bytes_field(1, b"identity") + bytes([0x18, prefix, 0x20, 0])
    model = b"".join(piece_field(*piece) for piece in pieces) + bytes_field(2, b"\x18\x02") + bytes_field(3, normalizer)
    extra = {text: len(pieces) + number for number, text in enumerate(added)}
    numbers = {text: number for number, text in enumerate(specials)} | extra
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    if "<s>" in specials:
        names = {"bos_token": "<s>", "eos_token": added[0] if added else "</s>", "unk_token": "<unk>"}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(text, number) for text, number in numbers.items()],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                *([{"type": "Prepend", "prepend": BLANK}] if prefix else []),
                {"type": "Replace", "pattern": {"String": " "}, "content": BLANK},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": pieces_model((text for text, *_ in pieces), [[first, second] for first, second in pairs]),
    }
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {str(number): added_token(text, number) for text, number in numbers.items()},
        "chat_template": template,
        "tokenizer_class": "LlamaTokenizer" if prefix else "GemmaTokenizer",
        **names,
    }
    files = {
        "tokenizer.model": model,
        "tokenizer.json": json_bytes(tokenizer),
        "tokenizer_config.json": json_bytes(config),
        "special_tokens_map.json": json_bytes(names),
    }
    if extra:
        files["added_tokens.json"] = json_bytes(extra)
    return _Tokenizer(files, len(pieces) + len(extra), len(specials) + 256, len(pieces))
