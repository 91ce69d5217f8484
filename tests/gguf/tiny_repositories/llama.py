"""Llama, Mistral, Granite and models with a similar structure."""

from dataclasses import replace
from typing import Any

from tests.gguf.tiny_repositories.byte_level import (
    byte_pairs,
    llama3_tokens,
    pixtral_tokens,
    qwen_tokens,
    smollm_tokens,
    tekken_tokens,
)
from tests.gguf.tiny_repositories.repository import (
    EXPERTS,
    FEED_FORWARD,
    GRANITE,
    HEAD,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LLAMA3_ROPE,
    TIED,
    Tiny,
    Weights,
    plain_weights,
    qwen2_weights,
)
from tests.gguf.tiny_repositories.sentencepiece import instruct_pieces, sentence_pieces
from tests.gguf.tiny_repositories.tokenizer import SPACE, Tokenizer, edit_tokenizer
from tests.gguf.tiny_repositories.towers_gemma import LLAMA4_TOWER
from tests.gguf.tiny_repositories.towers_mistral import MISTRAL3_TOWER
from tests.kit.protobuf import bytes_field, piece_field
from tests.kit.tiny_tokenizers import added_token


def _ending_pieces() -> Tokenizer:
    """As in e5-mistral: the post-processor adds BOS; only tokenizer_config.json requires EOS."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        begin, *sequences = (
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}},
        )
        files["tokenizer.json"]["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [begin, sequences[0]],
            "pair": [begin, sequences[0], begin, sequences[1]],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        }
        config = files["tokenizer_config.json"]
        config["add_eos_token"] = True
        del config["chat_template"], config["add_bos_token"]

    return edit_tokenizer(sentence_pieces(), change)


def _odd_pieces() -> Tokenizer:
    """Added tokens in added_tokens.json, an unused id before one of them, and no space before a text."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        config = files["tokenizer_config.json"]
        last = max(files["tokenizer.json"]["model"]["vocab"].values())
        files["added_tokens.json"] = {"<|user|>": last + 1, "plain": last + 3}
        files.pop("tokenizer.json")
        config["added_tokens_decoder"] = {
            "1": {"content": "<s>", "special": True},
            str(last + 4): {"content": f"{SPACE}x{SPACE}", "special": False},
            str(last + 5): {"content": "<unused7>", "special": False},
        }
        config["add_prefix_space"] = False
        config["add_eos_token"] = True

    return edit_tokenizer(sentence_pieces(), change, rows=8)


def internlm2_pieces() -> Tokenizer:
    """As in InternLM: pieces are reserved for added tokens, and the tokenizer adds no space before a text."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        last = max(files["tokenizer.json"]["model"]["vocab"].values())
        tokenizer = files["tokenizer.json"]
        tokenizer["added_tokens"].append(added_token("<|im_end|>", last + 1))
        tokenizer["added_tokens"].append(added_token("<|plugin|>", last + 2, special=False))
        tokenizer["normalizer"] = tokenizer["normalizer"]["normalizers"][1]
        files["tokenizer_config.json"]["added_tokens_decoder"] |= {
            str(last + 1): {"content": "<|im_end|>", "special": True},
        }

    base = sentence_pieces()
    more = edit_tokenizer(base, change, rows=4)
    pieces = [*(f"[UNUSED_TOKEN_{number}]" for number in range(3)), "\0"]
    content = b"".join(piece_field(text, -500.0, 1) for text in pieces)
    normalizer = bytes_field(3, bytes_field(1, b"identity") + b"\x18\x00")
    return replace(more, files={**more.files, "tokenizer.model": base.files["tokenizer.model"] + content + normalizer})


def _arcee(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer)
        weights.mlp(layer, gate=False)


def _mixtral(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer)
        weights.linear(f"{layer}block_sparse_moe.gate", EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            weights.numbered_mlp(f"{layer}block_sparse_moe.experts.{expert}.")


def _llama4(weights: Weights) -> None:
    """All experts are in one tensor, transposed."""
    config = weights.config
    weights.ends()
    for number, layer in enumerate(weights.layers(), start=1):
        weights.norms(layer)
        weights.attention(layer)
        if number % config["interleave_moe_layer_step"]:
            weights.mlp(layer, config["intermediate_size_mlp"], name="feed_forward")
            continue
        size = config["intermediate_size"]
        weights.linear(f"{layer}feed_forward.router", EXPERTS, HIDDEN)
        weights.add(f"{layer}feed_forward.experts.gate_up_proj", EXPERTS, HIDDEN, 2 * size)
        weights.add(f"{layer}feed_forward.experts.down_proj", EXPERTS, size, HIDDEN)
        weights.mlp(layer, size, name="feed_forward.shared_expert")


def _granite_moe(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer)
        weights.linear(f"{layer}block_sparse_moe.router.layer", EXPERTS, HIDDEN)
        weights.add(f"{layer}block_sparse_moe.input_linear.weight", EXPERTS, 2 * FEED_FORWARD, HIDDEN)
        weights.add(f"{layer}block_sparse_moe.output_linear.weight", EXPERTS, HIDDEN, FEED_FORWARD)
        if weights.config.get("shared_intermediate_size"):
            weights.linear(f"{layer}shared_mlp.input_linear", 2 * FEED_FORWARD, HIDDEN)
            weights.linear(f"{layer}shared_mlp.output_linear", HIDDEN, FEED_FORWARD)


def internlm2_weights(weights: Weights) -> None:
    weights.add("model.tok_embeddings.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("model.norm")
    weights.add("output.weight", weights.config["vocab_size"], HIDDEN)
    for layer in weights.layers():
        weights.norms(layer, "attention_norm", "ffn_norm")
        weights.linear(f"{layer}attention.wqkv", (HEADS + 2 * KV_HEADS) * HEAD, HIDDEN)
        weights.linear(f"{layer}attention.wo", HIDDEN, HIDDEN)
        weights.linear(f"{layer}feed_forward.w1", FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}feed_forward.w2", HIDDEN, FEED_FORWARD)
        weights.linear(f"{layer}feed_forward.w3", FEED_FORWARD, HIDDEN)


def _gpt_4o() -> Tokenizer:
    return byte_pairs("gpt-4o", begins=True)


MINISTRAL3: dict[str, Any] = {
    "head_dim": 128,
    "rms_norm_eps": 1e-4,
    "max_position_embeddings": 4096,
    "sliding_window": None,
    "rope_parameters": {
        "rope_type": "yarn",
        "type": "yarn",
        "rope_theta": 1e5,
        "factor": 16.0,
        "original_max_position_embeddings": 8,
        "beta_fast": 4.0,
        "beta_slow": 0.5,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.3,
    },
}


LLAMA4: dict[str, Any] = {
    "num_hidden_layers": 5,  # the fourth layer has no RoPE
    "head_dim": 128,
    "rms_norm_eps": 1e-4,
    "intermediate_size_mlp": 2 * FEED_FORWARD,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 1,
    "use_qk_norm": True,
    "attention_chunk_size": 8192,
    "attn_temperature_tuning": True,
    "floor_scale": 8192,
    "attn_scale": 0.1,
}


REPOSITORIES: dict[str, Tiny] = {
    "arcee": Tiny("ArceeForCausalLM", "arcee", _arcee, llama3_tokens, {"hidden_act": "relu2"}),
    "granite": Tiny("GraniteForCausalLM", "granite", plain_weights, smollm_tokens, {**GRANITE, **TIED}),
    "granitemoe": Tiny(
        "GraniteMoeForCausalLM",
        "granitemoe",
        _granite_moe,
        smollm_tokens,
        {**GRANITE, **TIED, "num_local_experts": EXPERTS, "num_experts_per_tok": 2},
    ),
    "granitemoeshared": Tiny(
        "GraniteMoeSharedForCausalLM",
        "granitemoeshared",
        _granite_moe,
        smollm_tokens,
        {
            **GRANITE,
            **TIED,
            "num_local_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": FEED_FORWARD,
        },
    ),
    "internlm2": Tiny(
        "InternLM2ForCausalLM",
        "internlm2",
        internlm2_weights,
        internlm2_pieces,
        {"bias": False, "rope_theta": 1e6, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    ),
    "llama": Tiny(
        "LlamaForCausalLM", "llama", plain_weights, llama3_tokens, {"rope_scaling": LLAMA3_ROPE, "rope_theta": 500000.0}
    ),
    "llama-2": Tiny("LlamaForCausalLM", "llama", plain_weights, sentence_pieces),
    "llama-bias": Tiny(
        "LlamaForCausalLM",
        "llama",
        plain_weights,
        smollm_tokens,
        {"attention_bias": True, "rope_scaling": {"type": "linear", "factor": 2.0}, **TIED},
        dtype="F16",
    ),
    "llama4": Tiny(
        "Llama4ForCausalLM",
        "llama4_text",
        _llama4,
        _gpt_4o,
        {
            **LLAMA4,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "factor": 16.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 1.0,
                "original_max_position_embeddings": 64,
            },
            "layer_types": [*["chunked_attention"] * 3, "full_attention", "chunked_attention"],
            "no_rope_layers": [1, 1, 1, 0, 1],
            "moe_layers": [0, 1, 2, 3, 4],
        },
        drop=("rope_theta",),
    ),
    "llama4_eyes": Tiny(
        "Llama4ForConditionalGeneration",
        "llama4_text",
        _llama4,
        _gpt_4o,
        {
            **LLAMA4,
            "interleave_moe_layer_step": 2,
            "num_experts_per_tok": 2,
            "no_rope_layers": [],
            "rope_theta": 5e5,
        },
        part_of="llama4",
        prefix="language_model.model.",
        towers=(LLAMA4_TOWER,),
    ),
    "llama_v5": Tiny(
        "LlamaForCausalLM",
        "llama",
        plain_weights,
        llama3_tokens,
        {"rope_parameters": {**LLAMA3_ROPE, "rope_theta": 500000.0}, **TIED},
        drop=("rope_theta", "rms_norm_eps"),
        shards=3,
    ),
    "mistral_model": Tiny("MistralModel", "mistral", plain_weights, _ending_pieces, TIED, pooling="lasttoken"),
    "llama_model": Tiny("LlamaModel", "llama", plain_weights, llama3_tokens, TIED, pooling="mean"),
    "minicpm": Tiny(
        "MiniCPMForCausalLM",
        "minicpm",
        plain_weights,
        instruct_pieces,
        {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 128, **TIED},
        drop=("rope_theta",),
    ),
    "llama_f32": Tiny(
        "LlamaForCausalLM",
        "llama",
        plain_weights,
        sentence_pieces,
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "num_key_value_heads": HEADS, **TIED},
        dtype="F32",
    ),
    "llama_pieces": Tiny("LlamaForCausalLM", "llama", plain_weights, _odd_pieces, TIED),
    "mistral": Tiny(
        "MistralForCausalLM", "mistral", plain_weights, instruct_pieces, {"sliding_window": 4096, "head_dim": 128}
    ),
    "ministral": Tiny(
        "MinistralForCausalLM",
        "ministral",
        plain_weights,
        tekken_tokens,
        {"head_dim": 64, "sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"]},
    ),
    "ministral3": Tiny(
        "Ministral3ForCausalLM",
        "ministral3",
        plain_weights,
        tekken_tokens,
        {**MINISTRAL3, "rope_parameters": {**MINISTRAL3["rope_parameters"], "mscale_all_dim": 0.5}},
        drop=("rope_theta",),
    ),
    "ministral3_eyes": Tiny(
        "Mistral3ForConditionalGeneration",
        "ministral3",
        plain_weights,
        pixtral_tokens,
        {**MINISTRAL3, **TIED},
        drop=("rope_theta",),
        part_of="mistral3",
        towers=(MISTRAL3_TOWER,),
    ),
    "mistral3_eyes": Tiny(
        "Mistral3ForConditionalGeneration",
        "mistral",
        plain_weights,
        pixtral_tokens,
        {"head_dim": 128, "rope_theta": 1e9, "sliding_window": None},
        drop=("tie_word_embeddings",),
        part_of="mistral3",
        towers=(MISTRAL3_TOWER,),
    ),
    "mixtral": Tiny(
        "MixtralForCausalLM",
        "mixtral",
        _mixtral,
        instruct_pieces,
        {"num_local_experts": EXPERTS, "num_experts_per_tok": 2, "rope_theta": 1e6, "sliding_window": None},
        shards=2,
    ),
    "seed_oss": Tiny(
        "SeedOssForCausalLM", "seed_oss", qwen2_weights, qwen_tokens, {"head_dim": 64, "attention_bias": True}
    ),
    "smollm3": Tiny(
        "SmolLM3ForCausalLM", "smollm3", plain_weights, llama3_tokens, {"no_rope_layer_interval": 4, **TIED}
    ),
}
