"""Qwen 2 to 3.5."""

from typing import Any

from tests.gguf.tiny_repositories.byte_level import byte_pairs, qwen_tokens
from tests.gguf.tiny_repositories.repository import (
    EXPERTS,
    FEED_FORWARD,
    FOUR_LAYERS,
    HEADS,
    HIDDEN,
    MOE,
    TIED,
    YARN,
    Tiny,
    Weights,
    qwen2_weights,
)
from tests.gguf.tiny_repositories.tokenizer import SPACE, Tokenizer, edit_tokenizer
from tests.gguf.tiny_repositories.towers_qwen import qwen3_tower
from tests.kit.tiny_tokenizers import added_token


def _odd_byte_pairs() -> Tokenizer:
    """Special tokens in every form, and one that looks special but is not marked."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        tokenizer, config = files["tokenizer.json"], files["tokenizer_config.json"]
        first = tokenizer["added_tokens"][-1]["id"] + 1
        tokenizer["added_tokens"] += [
            added_token("<|tool|>", first, special=False),
            added_token(f"{SPACE}spaced{SPACE}", first + 1, special=False),
        ]
        tokenizer["normalizer"] = {"type": "NFC"}
        config["additional_special_tokens"] = ["<|im_start|>", "the"]
        config["bos_token"] = None
        config["unk_token"] = {"__type": "AddedToken", "content": "<|endoftext|>", "special": True}
        config["added_tokens_decoder"].pop(str(tokenizer["added_tokens"][0]["id"]))
        config["add_bos_token"] = False
        files["special_tokens_map.json"] = {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}

    return edit_tokenizer(byte_pairs("qwen2"), change, rows=2)


def _byte_pairs_with_holes() -> Tokenizer:
    """Two ids without a token. Added tokens are in the vocabulary too, or transformers would give them new ids."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        tokenizer = files["tokenizer.json"]
        vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
        for _ in range(2):
            del vocabulary[merges.pop().replace(" ", "")]
        vocabulary.update({token["content"]: token["id"] for token in tokenizer["added_tokens"]})

    return edit_tokenizer(byte_pairs("qwen2"), change)


def qwen3_weights(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, norms=(weights.head, weights.head))
        weights.mlp(layer)


def _qwen2_moe(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, bias="qkv")
        weights.experts(layer)
        weights.mlp(layer, FEED_FORWARD, name="mlp.shared_expert")
        weights.linear(f"{layer}mlp.shared_expert_gate", 1, HIDDEN)


def _qwen3_moe(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, norms=(weights.head, weights.head))
        weights.experts(layer)


def _fused_experts(weights: Weights) -> None:
    """As transformers 5 saves experts."""
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, norms=(weights.head, weights.head))
        weights.linear(f"{layer}mlp.gate", EXPERTS, HIDDEN)
        weights.add(f"{layer}mlp.experts.gate_up_proj", EXPERTS, 2 * HIDDEN, HIDDEN)
        weights.add(f"{layer}mlp.experts.down_proj", EXPERTS, HIDDEN, HIDDEN)


def _linear_attention(weights: Weights) -> None:
    """Qwen3-Next and Qwen3.5: attention by `layer_types`, with or without experts, and multi-token prediction."""
    config = weights.config
    weights.ends()
    for number, layer in enumerate(weights.layers(), 1):
        weights.norms(layer)
        if number % config.get("full_attention_interval", 4):
            _delta_net(weights, f"{layer}linear_attn.")
        else:
            _gated_attention(weights, layer)
        _mlp_or_experts(weights, layer)
    weights.linear("mtp.fc", HIDDEN, 2 * HIDDEN)


def _gated_attention(weights: Weights, layer: str) -> None:
    kv_rows = weights.config["num_key_value_heads"] * weights.head
    for part, rows in (("q", 2 * HEADS * weights.head), ("k", kv_rows), ("v", kv_rows)):
        weights.linear(f"{layer}self_attn.{part}_proj", rows, HIDDEN)
    weights.linear(f"{layer}self_attn.o_proj", HIDDEN, HEADS * weights.head)
    weights.norm(f"{layer}self_attn.q_norm", weights.head)
    weights.norm(f"{layer}self_attn.k_norm", weights.head)


def _mlp_or_experts(weights: Weights, layer: str) -> None:
    config = weights.config
    if "num_experts" not in config:
        weights.mlp(layer)
        return
    if "rope_parameters" in config:
        weights.linear(f"{layer}mlp.gate", EXPERTS, HIDDEN)
        weights.add(f"{layer}mlp.experts.gate_up_proj", EXPERTS, 2 * HIDDEN, HIDDEN)
        weights.add(f"{layer}mlp.experts.down_proj", EXPERTS, HIDDEN, HIDDEN)
    else:
        weights.experts(layer)
    weights.mlp(layer, FEED_FORWARD, name="mlp.shared_expert")
    weights.linear(f"{layer}mlp.shared_expert_gate", 1, HIDDEN)


def draft_layer(weights: Weights) -> None:
    """The layer for multi-token prediction, with all of its tensors."""
    _linear_attention(weights)
    for name in ("mtp.pre_fc_norm_embedding", "mtp.pre_fc_norm_hidden", "mtp.norm"):
        weights.norm(name)
    layer = "mtp.layers.0."
    weights.norms(layer)
    _gated_attention(weights, layer)
    _mlp_or_experts(weights, layer)


def _delta_net(weights: Weights, name: str) -> None:
    config = weights.config
    heads = config["linear_num_value_heads"]
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    values = heads * config["linear_value_head_dim"]
    fused = config["model_type"] == "qwen3_next"
    for part, rows in (
        (("qkvz", 2 * keys + 2 * values), ("ba", 2 * heads))
        if fused
        else (("qkv", 2 * keys + values), ("z", values), ("b", heads), ("a", heads))
    ):
        weights.linear(f"{name}in_proj_{part}", rows, HIDDEN)
    weights.add(f"{name}conv1d.weight", 2 * keys + values, 1, config["linear_conv_kernel_dim"])
    weights.tensors[f"{name}conv1d.weight"] *= 8  # trained weights are that large
    weights.add(f"{name}dt_bias", heads)
    weights.decays(f"{name}A_log", heads)
    weights.norm(f"{name}norm", config["linear_value_head_dim"])
    weights.linear(f"{name}out_proj", HIDDEN, values)


def _qwen35() -> Tokenizer:
    return byte_pairs("qwen35", merge_lists=True)


_WITHOUT_OWN_TOKENS = {f"{kind}_token_id": _qwen35().specials["eos"] for kind in ("image", "video")}
"""A token that no text has stands for a picture."""


SAMPLING = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.05, "do_sample": True}


DELTA_NET = {
    "head_dim": 64,
    "rope_theta": 5000.0,
    "partial_rotary_factor": 0.5,
    "full_attention_interval": 2,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_conv_kernel_dim": 3,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 8,
    **FOUR_LAYERS,
}


DELTA_NET_MOE = {**DELTA_NET, **MOE, "shared_expert_intermediate_size": FEED_FORWARD}


NEXT_ROPE = {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5}


QWEN3_5_ROPE = {**NEXT_ROPE, "mrope_interleaved": True, "mrope_section": [6, 5, 5]}


REPOSITORIES: dict[str, Tiny] = {
    "qwen2": Tiny(
        "Qwen2ForCausalLM",
        "qwen2",
        qwen2_weights,
        qwen_tokens,
        {"rope_theta": 1e6, "rope_scaling": YARN, "use_sliding_window": False},
    ),
    "qwen2_holes": Tiny("Qwen2ForCausalLM", "qwen2", qwen2_weights, _byte_pairs_with_holes, TIED),
    "qwen2_tokens": Tiny(
        "Qwen2ForCausalLM",
        "qwen2",
        qwen2_weights,
        _odd_byte_pairs,
        {**TIED, "eos_token_id": [458, 460]},
        generation=SAMPLING,
        card="license: other\nlicense_name: mine\ntags:\n- tiny\nlanguage: en\nbase_model:\n- acme/Large-v2\n",
    ),
    "qwen2moe": Tiny(
        "Qwen2MoeForCausalLM",
        "qwen2_moe",
        _qwen2_moe,
        qwen_tokens,
        {**MOE, "shared_expert_intermediate_size": FEED_FORWARD, "norm_topk_prob": False},
    ),
    "qwen3": Tiny(
        "Qwen3ForCausalLM", "qwen3", qwen3_weights, qwen_tokens, {"head_dim": 128, "rope_theta": 1e6, **TIED}, shards=2
    ),
    "qwen3moe": Tiny(
        "Qwen3MoeForCausalLM", "qwen3_moe", _qwen3_moe, qwen_tokens, {**MOE, "head_dim": 64, "norm_topk_prob": True}
    ),
    "qwen3moe_v5": Tiny(
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        _fused_experts,
        qwen_tokens,
        {**MOE, "head_dim": 64, "norm_topk_prob": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        drop=("rope_theta",),
    ),
    "qwen3_next": Tiny(
        "Qwen3NextForCausalLM",
        "qwen3_next",
        _linear_attention,
        qwen_tokens,
        {**DELTA_NET_MOE, "full_attention_interval": 4},
        drop=("layer_types",),
    ),
    "qwen3_next_v5": Tiny(
        "Qwen3NextForCausalLM",
        "qwen3_next",
        _linear_attention,
        qwen_tokens,
        {
            **DELTA_NET_MOE,
            "linear_num_value_heads": 4,
            "norm_topk_prob": True,
            "rope_parameters": NEXT_ROPE,
            **TIED,
        },
        drop=("rope_theta", "partial_rotary_factor"),
    ),
    "qwen3_5": Tiny(
        "Qwen3_5ForCausalLM",
        "qwen3_5_text",
        _linear_attention,
        _qwen35,
        {**DELTA_NET, "rope_parameters": QWEN3_5_ROPE},
        drop=("rope_theta", "partial_rotary_factor"),
    ),
    "qwen3_5_eyes": Tiny(
        "Qwen3_5ForConditionalGeneration",
        "qwen3_5_text",
        _linear_attention,
        _qwen35,
        {
            **DELTA_NET,
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 4,
            "rope_parameters": {**NEXT_ROPE, "mrope_interleaved": True},
            **TIED,
        },
        drop=("rope_theta", "partial_rotary_factor"),
        part_of="qwen3_5",
        prefix="model.language_model.",
        towers=(qwen3_tower("qwen3_5", _WITHOUT_OWN_TOKENS, deepstack=False),),
    ),
    "qwen3_5moe": Tiny(
        "Qwen3_5MoeForCausalLM",
        "qwen3_5_moe_text",
        _linear_attention,
        _qwen35,
        {**DELTA_NET_MOE, "rope_scaling": {"mrope_section": [6, 5, 5]}},
        drop=("intermediate_size",),
    ),
    "qwen3_5moe_eyes": Tiny(
        "Qwen3_5MoeForConditionalGeneration",
        "qwen3_5_moe_text",
        _linear_attention,
        _qwen35,
        {**DELTA_NET_MOE, "rope_parameters": QWEN3_5_ROPE},
        drop=("rope_theta", "partial_rotary_factor", "intermediate_size"),
        part_of="qwen3_5_moe",
        prefix="model.language_model.",
        towers=(qwen3_tower("qwen3_5_moe", _WITHOUT_OWN_TOKENS, deepstack=False),),
    ),
}
