"""Gemma 1 to 4."""

from collections import Counter
from functools import cache
from typing import Any

import numpy as np

from tests.gguf.tiny_repositories.repository import EXPERTS, FEED_FORWARD, HEADS, HIDDEN, KV_HEADS, TIED, Tiny, Weights
from tests.gguf.tiny_repositories.sentencepiece import pieces_model
from tests.gguf.tiny_repositories.tokenizer import (
    SPACE,
    WORDS,
    Tokenizer,
    decoder_of,
    dump,
    edit_tokenizer,
    frequent_merges,
)
from tests.gguf.tiny_repositories.towers import GEMMA3_TOWER
from tests.gguf.tiny_repositories.towers_gemma import GEMMA4_TOWERS
from tests.kit.protobuf import bytes_field, piece_field
from tests.kit.tiny_tokenizers import added_token

GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] + "
    "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


@cache
def gemma_pieces(*, model: bool = True, ends: bool = False) -> Tokenizer:
    """Tokens in Gemma's order: control, code, turns, lines, bytes, text. The tokenizer adds no space before a text.

    `model` includes tokenizer.model; `ends` adds EOS after each text.
    """
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<unused{number}>" for number in range(103))]
    first[67:71] = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|file_separator|>"]
    first[106:] = ["<start_of_turn>", "<end_of_turn>", "\n\n", "\n\n\n"]
    types = {"<pad>": 3, "<eos>": 3, "<bos>": 3, "<unk>": 2}
    words = Counter((*(SPACE if at else ""), *word) for at, word in enumerate(WORDS))
    characters = sorted({SPACE, "\n", *"".join(WORDS), *"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?:'"})
    merges = list(frequent_merges(words, 200))
    pieces = [(text, 0.0, types.get(text, 4)) for text in first]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    pieces += [(a + b, -float(rank), 1) for rank, (a, b) in enumerate(merges)]
    pieces += [(text, -float(len(merges) + at), 1) for at, text in enumerate(characters)]
    content = b"".join(piece_field(*piece) for piece in pieces)
    content += bytes_field(2, b"\x18\x02\x98\x02\x01") + bytes_field(
        3, bytes_field(1, b"identity") + b"\x18\x00\x20\x00"
    )
    tokens = [added_token(text, number, special=not text.startswith("\n")) for number, text in enumerate(first)]
    begin, end = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("<bos>", "<eos>"))
    last = [end] if ends else []
    sequences: list[dict[str, Any]] = [{"Sequence": {"id": name, "type_id": at}} for at, name in enumerate("AB")]
    underscores = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    spaces = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": tokens,
        "normalizer": underscores,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, sequences[0], *last],
            "pair": [begin, sequences[0], *last, begin, sequences[1], *last],
            "special_tokens": {
                name: {"id": name, "ids": [number], "tokens": [name]}
                for name, number in (("<bos>", 2), *((("<eos>", 1),) if ends else ()))
            },
        },
        "decoder": {"type": "Sequence", "decoders": [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": pieces_model((text for text, _, _ in pieces), [[a, b] for a, b in merges]),
    }
    config = {
        "add_bos_token": True,
        "add_eos_token": ends,
        "added_tokens_decoder": decoder_of(tokens),
        **{f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")},
        "chat_template": GEMMA_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "tokenizer_class": "GemmaTokenizer",
    }
    files = {"tokenizer.json": dump(tokenizer), "tokenizer_config.json": dump(config)}
    if model:
        files["tokenizer.model"] = content
    return Tokenizer(files, len(pieces), {"bos": 2, "eos": 1, "pad": 0})


GEMMA4_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|turn>' + message['role'] + '\n' + message['content'] + "
    "'<turn|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}"
)


@cache
def gemma4_pieces() -> Tokenizer:
    """The same order, with Gemma 4's turns and merges by rank."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        tokenizer, config = files["tokenizer.json"], files["tokenizer_config.json"]
        more = {67: '<|"|>', 68: "<|channel>", 69: "<channel|>", 70: "<|image|>", 105: "<|turn>", 106: "<turn|>"}
        more |= {107: "<unused62>"}
        vocabulary = {number: text for text, number in tokenizer["model"]["vocab"].items()} | more
        tokenizer["model"]["vocab"] = {text: number for number, text in vocabulary.items()}
        tokenizer["model"]["merges"][:0] = [["\n", "\n"], ["\n\n", "\n"]]
        del more[107]
        specials = dict(enumerate(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))) | more
        added = [added_token(text, number) for number, text in specials.items()]
        tokenizer["added_tokens"] = [*added, *(added_token("\n" * (at - 106), at, special=False) for at in (108, 109))]
        config["added_tokens_decoder"] = decoder_of(tokenizer["added_tokens"])
        config["extra_special_tokens"] = list(more.values())
        config["mask_token"] = "<mask>"
        config["chat_template"] = GEMMA4_TEMPLATE

    return edit_tokenizer(gemma_pieces(model=False), change)


def _gemma(weights: Weights) -> None:
    """Gemma 1 has two norms a layer, Gemma 2 and 3 have four, and Gemma 3 also has norms of Q and K."""
    first, last = (weights.config["model_type"] == name for name in ("gemma", "gemma3_text"))
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        if not first:
            weights.norms(layer, "pre_feedforward_layernorm", "post_feedforward_layernorm")
        weights.attention(layer, norms=(weights.head, weights.head) if last else None)
        weights.mlp(layer)


def _gemma4(weights: Weights) -> None:
    """Heads with full attention have another size and may have no V. The last layers may share earlier K and V."""
    config = weights.config
    layers, inputs = config["num_hidden_layers"], config["hidden_size_per_layer_input"]
    weights.ends()
    weights.tensors["model.embed_tokens.weight"] *= 2
    _layer_inputs(weights)
    for number, layer in enumerate(weights.layers()):
        weights.norms(layer)
        weights.norms(layer, "pre_feedforward_layernorm", "post_feedforward_layernorm")
        full = config["layer_types"][number] == "full_attention"
        shared = number >= layers - config["num_kv_shared_layers"]
        size, kv_heads = (GLOBAL_HEAD, 1) if full and config["attention_k_eq_v"] else (weights.head, KV_HEADS)
        size = GLOBAL_HEAD if full else size
        parts = "q" if shared else "qk" if full and config["attention_k_eq_v"] else "qkv"
        for part in parts:
            weights.linear(f"{layer}self_attn.{part}_proj", (HEADS if part == "q" else kv_heads) * size, HIDDEN)
        for part in parts[:2]:
            weights.norm(f"{layer}self_attn.{part}_norm", size)
            weights.tensors[f"{layer}self_attn.{part}_norm.weight"] *= np.float32(0.4)
        weights.linear(f"{layer}self_attn.o_proj", HIDDEN, HEADS * size)
        weights.mlp(layer, FEED_FORWARD * (2 if shared and config.get("use_double_wide_mlp") else 1))
        weights.tensors[f"{layer}layer_scalar"] = np.array([0.75 + number / 8], dtype=np.float32)
        if inputs:
            weights.linear(f"{layer}per_layer_input_gate", inputs, HIDDEN)
            weights.linear(f"{layer}per_layer_projection", HIDDEN, inputs)
            weights.norm(f"{layer}post_per_layer_input_norm")
        if config["enable_moe_block"]:
            weights.linear(f"{layer}router.proj", EXPERTS, HIDDEN)
            weights.add(f"{layer}router.scale", HIDDEN)
            weights.tensors[f"{layer}router.scale"] += 16
            weights.add(f"{layer}router.per_expert_scale", EXPERTS)
            weights.tensors[f"{layer}router.per_expert_scale"] += 1
            weights.add(f"{layer}experts.gate_up_proj", EXPERTS, 2 * HIDDEN, HIDDEN)
            weights.add(f"{layer}experts.down_proj", EXPERTS, HIDDEN, HIDDEN)
            for name in ("post_feedforward_layernorm_1", "pre_feedforward_layernorm_2", "post_feedforward_layernorm_2"):
                weights.norm(f"{layer}{name}")


def _gemma3n(weights: Weights) -> None:
    weights.ends()
    weights.tensors["model.embed_tokens.weight"] *= 2
    _layer_inputs(weights)
    for at in range(3):
        weights.linear(f"model.altup_projections.{at}", HIDDEN, HIDDEN)
        weights.linear(f"model.altup_unembed_projections.{at}", HIDDEN, HIDDEN)
    for layer in weights.layers():
        weights.norms(layer)
        weights.norms(layer, "pre_feedforward_layernorm", "post_feedforward_layernorm", "post_per_layer_input_norm")
        weights.norms(layer, "altup.router_norm", "laurel.post_laurel_norm")
        weights.attention(layer, norms=(weights.head, weights.head))
        for part in "qk":
            weights.tensors[f"{layer}self_attn.{part}_norm.weight"] *= np.float32(0.4)
        weights.mlp(layer)
        weights.norm(f"{layer}altup.correct_output_scale")
        scale = weights.tensors.pop(f"{layer}altup.correct_output_scale.weight")
        weights.tensors[f"{layer}altup.correct_output_scale"] = scale
        weights.linear(f"{layer}altup.correction_coefs", 4, 4)
        weights.linear(f"{layer}altup.prediction_coefs", 16, 4)
        weights.linear(f"{layer}altup.modality_router", 4, HIDDEN)
        weights.tensors[f"{layer}altup.modality_router.weight"] *= np.float32(HIDDEN)
        weights.linear(f"{layer}laurel.linear_left", 64, HIDDEN)
        weights.linear(f"{layer}laurel.linear_right", HIDDEN, 64)
        inputs = weights.config["hidden_size_per_layer_input"]
        weights.linear(f"{layer}per_layer_input_gate", inputs, HIDDEN)
        weights.linear(f"{layer}per_layer_projection", HIDDEN, inputs)


def _layer_inputs(weights: Weights) -> None:
    inputs = weights.config["hidden_size_per_layer_input"]
    whole = weights.config["num_hidden_layers"] * inputs
    if inputs:
        weights.linear("model.embed_tokens_per_layer", weights.config["vocab_size_per_layer_input"], whole)
        weights.linear("model.per_layer_model_projection", whole, HIDDEN)
        weights.norm("model.per_layer_projection_norm", inputs)


GEMMA = {"hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True, "rms_norm_eps": 1e-6}


GEMMA3 = {
    **GEMMA,
    "num_hidden_layers": 6,
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
    "sliding_window": 64,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    "layer_types": [*["sliding_attention"] * 5, "full_attention"],
}


GEMMA_EMBEDDING = {**GEMMA3, "sliding_window": 8, "use_bidirectional_attention": True, "rope_scaling": None}


GLOBAL_HEAD = 128


GEMMA4 = {
    "hidden_activation": "gelu_pytorch_tanh",
    **TIED,
    "num_hidden_layers": 6,
    "head_dim": 64,
    "global_head_dim": GLOBAL_HEAD,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "enable_moe_block": False,
    "sliding_window": 8,
    "final_logit_softcapping": 20.0,
    "layer_types": [*["sliding_attention"] * 2, "full_attention"] * 2,
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    },
}


GEMMA3N = {
    "hidden_activation": "gelu_pytorch_tanh",
    **TIED,
    "num_hidden_layers": 5,
    "head_dim": 64,
    "hidden_size_per_layer_input": 256,
    "vocab_size_per_layer_input": gemma_pieces().rows,
    "num_kv_shared_layers": 0,
    "activation_sparsity_pattern": [0.95] * 5,
    "altup_num_inputs": 4,
    "altup_active_idx": 0,
    "laurel_rank": 64,
    "sliding_window": 8,
    "rope_theta": 5e5,
    "rope_local_base_freq": 2e4,
}


REPOSITORIES: dict[str, Tiny] = {
    "gemma": Tiny("GemmaForCausalLM", "gemma", _gemma, gemma_pieces, {"head_dim": 128, **GEMMA}),
    "gemma2": Tiny(
        "Gemma2ForCausalLM",
        "gemma2",
        _gemma,
        gemma_pieces,
        {
            **GEMMA,
            "head_dim": 64,
            "query_pre_attn_scalar": 64,
            "sliding_window": 64,
            "attn_logit_softcapping": 40.0,
            "final_logit_softcapping": 20.0,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "gemma3": Tiny("Gemma3ForCausalLM", "gemma3_text", _gemma, gemma_pieces, GEMMA3),
    "gemma3_eyes": Tiny(
        "Gemma3ForConditionalGeneration",
        "gemma3_text",
        _gemma,
        gemma_pieces,
        {**GEMMA3, "hidden_act": None},
        drop=("layer_types", "rope_local_base_freq", "hidden_act"),
        part_of="gemma3",
        towers=(GEMMA3_TOWER,),
    ),
    "gemma3_json": Tiny("Gemma3ForCausalLM", "gemma3_text", _gemma, lambda: gemma_pieces(model=False), GEMMA3),
    "gemma3_v5": Tiny(
        "Gemma3ForCausalLM",
        "gemma3_text",
        _gemma,
        gemma_pieces,
        {
            **GEMMA3,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        drop=("rope_theta", "rope_scaling", "rope_local_base_freq"),
    ),
    "gemma_embedding": Tiny(
        "Gemma3TextModel",
        "gemma3_text",
        _gemma,
        lambda: gemma_pieces(ends=True),
        GEMMA_EMBEDDING,
        dtype="F32",
        pooling="mean",
        dense=True,
    ),
    "gemma_embedding_v5": Tiny(
        "Gemma3TextModel",
        "gemma3_text",
        _gemma,
        lambda: gemma_pieces(ends=True),
        {
            **GEMMA_EMBEDDING,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        drop=("rope_theta", "rope_scaling", "rope_local_base_freq"),
        pooling="mean",
    ),
    "gemma3n": Tiny("Gemma3nForCausalLM", "gemma3n_text", _gemma3n, gemma_pieces, GEMMA3N, drop=("hidden_act",)),
    "gemma3n_v5": Tiny(
        "Gemma3nForConditionalGeneration",
        "gemma3n_text",
        _gemma3n,
        gemma_pieces,
        {
            **GEMMA3N,
            "intermediate_size": [FEED_FORWARD] * 5,
            "layer_types": [*["sliding_attention"] * 4, "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            },
        },
        drop=("rope_theta", "rope_local_base_freq", "hidden_act"),
        part_of="gemma3n",
        prefix="model.language_model.",
    ),
    "gemma4": Tiny(
        "Gemma4ForCausalLM", "gemma4_text", _gemma4, gemma4_pieces, GEMMA4, drop=("rope_theta", "hidden_act")
    ),
    "gemma4_inputs": Tiny(
        "Gemma4ForConditionalGeneration",
        "gemma4_text",
        _gemma4,
        gemma4_pieces,
        {
            **GEMMA4,
            "attention_k_eq_v": False,
            "num_global_key_value_heads": None,
            "hidden_size_per_layer_input": 256,
            "vocab_size_per_layer_input": gemma4_pieces().rows,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "layer_types": [*["sliding_attention"] * 3, "full_attention", "sliding_attention", "full_attention"],
        },
        drop=("rope_theta", "hidden_act"),
        part_of="gemma4",
        prefix="model.language_model.",
        towers=GEMMA4_TOWERS,
    ),
    "gemma4_moe": Tiny(
        "Gemma4ForCausalLM",
        "gemma4_text",
        _gemma4,
        gemma4_pieces,
        {
            **GEMMA4,
            "per_layer_config": {at: {"head_dim": GLOBAL_HEAD, "num_key_value_heads": 1} for at in "25"},
            "enable_moe_block": True,
            "num_experts": EXPERTS,
            "top_k_experts": 2,
            "moe_intermediate_size": HIDDEN,
        },
        drop=("rope_theta", "hidden_act", "global_head_dim", "num_global_key_value_heads"),
    ),
}
