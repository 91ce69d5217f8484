"""Dense families that have no file of their own."""

from typing import Any

from tests.gguf.tiny_repositories.byte_level import BYTE_LEVEL, byte_pairs, llama3_tokens, qwen_tokens, smollm_tokens
from tests.gguf.tiny_repositories.repository import (
    FEED_FORWARD,
    FOUR_LAYERS,
    HEAD,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    LLAMA3_ROPE,
    TIED,
    Tiny,
    Weights,
)
from tests.gguf.tiny_repositories.sentencepiece import instruct_pieces
from tests.gguf.tiny_repositories.tokenizer import Tokenizer, edit_tokenizer


def _ending_byte_pairs() -> Tokenizer:
    """The post-processor adds tokens at both ends of a text, but tokenizer_config.json names another EOS."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        tokenizer = files["tokenizer.json"]
        template = tokenizer["post_processor"]
        end = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
        number = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == "<|im_start|>")
        template["single"] = [*template["single"], end]
        template["pair"] = [*template["single"], template["pair"][-1], end]
        template["special_tokens"]["<|im_start|>"] = {"id": "<|im_start|>", "ids": [number], "tokens": ["<|im_start|>"]}
        tokenizer["post_processor"] = {"type": "Sequence", "processors": [{**BYTE_LEVEL, "use_regex": True}, template]}
        files["tokenizer_config.json"].pop("bos_token")

    return edit_tokenizer(byte_pairs("llama-bpe", begins=True), change)


def _phi4_mini_byte_pairs() -> Tokenizer:
    """With `ignore_merges`, which has no effect: merges make every word."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        files["tokenizer.json"]["model"]["ignore_merges"] = True

    return edit_tokenizer(byte_pairs("gpt-4o", tokenizer_class="GPT2Tokenizer"), change)


def _olmo(weights: Weights) -> None:
    weights.ends(norm=False)
    for layer in weights.layers():
        weights.attention(layer)
        weights.mlp(layer)


def _olmo2(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer, "post_attention_layernorm", "post_feedforward_layernorm")
        weights.attention(layer, norms=(HEADS * weights.head, weights.config["num_key_value_heads"] * weights.head))
        weights.mlp(layer)


def _starcoder2(weights: Weights) -> None:
    weights.ends(bias=True)
    for layer in weights.layers():
        weights.norms(layer, bias=True)
        weights.attention(layer, bias="qkvo")
        weights.linear(f"{layer}mlp.c_fc", FEED_FORWARD, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.c_proj", HIDDEN, FEED_FORWARD, bias=True)


def _stablelm(weights: Weights) -> None:
    weights.ends(bias=True)
    for layer in weights.layers():
        weights.norms(layer, bias=True)
        weights.attention(layer, bias="qkv" if weights.config["use_qkv_bias"] else "")
        weights.mlp(layer)


def _stablelm_norms(weights: Weights) -> None:
    _stablelm(weights)
    for layer in weights.layers():
        for part, heads in (("q", HEADS), ("k", KV_HEADS)):
            for head in range(heads):
                weights.norm(f"{layer}self_attn.{part}_layernorm.norms.{head}", HEAD)


def _cohere(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer, "input_layernorm")
        weights.attention(layer)
        if weights.config.get("use_qk_norm"):
            weights.norm(f"{layer}self_attn.q_norm", HEADS, HEAD)
            weights.norm(f"{layer}self_attn.k_norm", KV_HEADS, HEAD)
        weights.mlp(layer)


def _phi3(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.linear(f"{layer}self_attn.qkv_proj", (HEADS + 2 * KV_HEADS) * HEAD, HIDDEN)
        weights.linear(f"{layer}self_attn.o_proj", HIDDEN, HIDDEN)
        weights.linear(f"{layer}mlp.gate_up_proj", 2 * FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}mlp.down_proj", HIDDEN, FEED_FORWARD)


def _cohere2(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer, "input_layernorm")
        weights.attention(layer)
        weights.mlp(layer)


def _exaone4(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer, "post_attention_layernorm", "post_feedforward_layernorm")
        weights.attention(layer, norms=(HEAD, HEAD))
        weights.mlp(layer)


def _nemotron(weights: Weights) -> None:
    weights.ends(bias=True)
    for layer in weights.layers():
        weights.norms(layer, bias=True)
        weights.attention(layer)
        weights.mlp(layer, gate=False)


def _phi2(weights: Weights) -> None:
    weights.add("model.embed_tokens.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("model.final_layernorm", bias=True)
    weights.linear("lm_head", weights.config["vocab_size"], HIDDEN, bias=True)
    for layer in weights.layers():
        weights.norms(layer, "input_layernorm", bias=True)
        for part in ("q_proj", "k_proj", "v_proj", "dense"):
            weights.linear(f"{layer}self_attn.{part}", HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.fc1", 4 * HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.fc2", HIDDEN, 4 * HIDDEN, bias=True)


def _gpt_neox(weights: Weights) -> None:
    weights.add("gpt_neox.embed_in.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("gpt_neox.final_layer_norm", bias=True)
    weights.add("embed_out.weight", weights.config["vocab_size"], HIDDEN)
    for number in range(LAYERS):
        layer = f"gpt_neox.layers.{number}."
        weights.norms(layer, bias=True)
        weights.linear(f"{layer}attention.query_key_value", 3 * HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}attention.dense", HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.dense_h_to_4h", FEED_FORWARD, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.dense_4h_to_h", HIDDEN, FEED_FORWARD, bias=True)


def _falcon(weights: Weights) -> None:
    weights.add("transformer.word_embeddings.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("transformer.ln_f", bias=True)
    for number in range(LAYERS):
        layer = f"transformer.h.{number}."
        weights.norms(layer, "ln_attn", "ln_mlp", bias=True)
        weights.linear(f"{layer}self_attention.query_key_value", (HEADS + 2 * KV_HEADS) * HEAD, HIDDEN)
        weights.linear(f"{layer}self_attention.dense", HIDDEN, HIDDEN)
        weights.linear(f"{layer}mlp.dense_h_to_4h", 4 * HIDDEN, HIDDEN)
        weights.linear(f"{layer}mlp.dense_4h_to_h", HIDDEN, 4 * HIDDEN)


def _falcon_7b(weights: Weights) -> None:
    """One norm for attention and MLP, and one head of K and V."""
    weights.add("transformer.word_embeddings.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("transformer.ln_f", bias=True)
    for number in range(LAYERS):
        layer = f"transformer.h.{number}."
        weights.norms(layer, "input_layernorm", bias=True)
        weights.linear(f"{layer}self_attention.query_key_value", (HEADS + 2) * HEAD, HIDDEN)
        weights.linear(f"{layer}self_attention.dense", HIDDEN, HIDDEN)
        weights.linear(f"{layer}mlp.dense_h_to_4h", 4 * HIDDEN, HIDDEN)
        weights.linear(f"{layer}mlp.dense_4h_to_h", HIDDEN, 4 * HIDDEN)


def _bloom(weights: Weights) -> None:
    weights.add("word_embeddings.weight", weights.config["vocab_size"], HIDDEN)
    weights.norms("", "word_embeddings_layernorm", "ln_f", bias=True)
    for number in range(LAYERS):
        layer = f"h.{number}."
        weights.norms(layer, bias=True)
        weights.linear(f"{layer}self_attention.query_key_value", 3 * HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}self_attention.dense", HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.dense_h_to_4h", 4 * HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.dense_4h_to_h", HIDDEN, 4 * HIDDEN, bias=True)


def _exaone(weights: Weights) -> None:
    weights.add("transformer.wte.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("transformer.ln_f")
    weights.add("lm_head.weight", weights.config["vocab_size"], HIDDEN)
    for number in range(LAYERS):
        layer = f"transformer.h.{number}."
        weights.norms(layer, "ln_1", "ln_2")
        for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            weights.linear(f"{layer}attn.attention.{part}_proj", heads * HEAD, HIDDEN)
        weights.linear(f"{layer}attn.attention.out_proj", HIDDEN, HIDDEN)
        weights.linear(f"{layer}mlp.c_fc_0", FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}mlp.c_fc_1", FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}mlp.c_proj", HIDDEN, FEED_FORWARD)


REPOSITORIES: dict[str, Tiny] = {
    "bloom": Tiny(
        "BloomForCausalLM",
        "bloom",
        _bloom,
        lambda: byte_pairs("bloom"),
        {"layer_norm_epsilon": 1e-5, "n_layer": LAYERS, "n_head": HEADS, "seq_length": 2048, **TIED},
        drop=("rms_norm_eps", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "rope_theta"),
    ),
    "cohere": Tiny(
        "CohereForCausalLM",
        "cohere",
        _cohere,
        change={"layer_norm_eps": 1e-5, "logit_scale": 0.0625, **TIED},
        drop=("rms_norm_eps",),
    ),
    "cohere_v5": Tiny(
        "CohereForCausalLM",
        "cohere",
        _cohere,
        change={
            "layer_norm_eps": 1e-4,
            "logit_scale": 0.125,
            "attention_bias": False,
            "use_qk_norm": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
            **TIED,
        },
        drop=("rms_norm_eps", "rope_theta"),
    ),
    "cohere2": Tiny(
        "Cohere2ForCausalLM",
        "cohere2",
        _cohere2,
        change={
            "layer_norm_eps": 1e-5,
            "logit_scale": 0.25,
            "rotary_pct": 1.0,
            "sliding_window": 1024,
            **TIED,
            **FOUR_LAYERS,
        },
        drop=("rms_norm_eps",),
    ),
    "exaone": Tiny(
        "ExaoneForCausalLM",
        "exaone",
        _exaone,
        smollm_tokens,
        {
            "activation_function": "silu",
            "layer_norm_epsilon": 1e-5,
            "num_layers": LAYERS,
            "rope_scaling": LLAMA3_ROPE,
        },
        drop=("rms_norm_eps", "num_hidden_layers", "hidden_act"),
    ),
    "exaone4": Tiny(
        "Exaone4ForCausalLM",
        "exaone4",
        _exaone4,
        change={
            "sliding_window": None,
            "layer_types": ["full_attention"] * 2,
            "rope_scaling": {**LLAMA3_ROPE, "factor": 16.0},
            "rope_theta": 1e6,
        },
    ),
    "falcon": Tiny(
        "FalconForCausalLM",
        "falcon",
        _falcon,
        lambda: byte_pairs("falcon"),
        {"layer_norm_epsilon": 1e-5, "num_kv_heads": KV_HEADS, "new_decoder_architecture": True, **TIED},
        drop=("rms_norm_eps", "num_key_value_heads", "intermediate_size"),
    ),
    "falcon_7b": Tiny(
        "FalconForCausalLM",
        "falcon",
        _falcon_7b,
        lambda: byte_pairs("falcon"),
        # Without num_kv_heads, llama.cpp's converter reads transformers' default and fails.
        {
            "layer_norm_epsilon": 1e-4,
            "multi_query": True,
            "new_decoder_architecture": False,
            "num_kv_heads": 1,
            **TIED,
        },
        drop=("rms_norm_eps", "num_key_value_heads", "intermediate_size"),
    ),
    "falcon_rw": Tiny(
        "RWForCausalLM",
        "RefinedWeb",
        _falcon,
        lambda: byte_pairs("falcon"),
        {
            "n_head": HEADS,
            "n_head_kv": KV_HEADS,
            "n_layer": LAYERS,
            "layer_norm_epsilon": 1e-4,
            "parallel_attn": True,
            "bias": False,
            "alibi": False,
        },
        drop=(
            *("rms_norm_eps", "num_key_value_heads", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
            *("max_position_embeddings", "rope_theta", "hidden_act", "tie_word_embeddings"),
        ),
    ),
    "gptneox": Tiny(
        "GPTNeoXForCausalLM",
        "gpt_neox",
        _gpt_neox,
        change={"hidden_act": "gelu", "rotary_pct": 0.25, "layer_norm_eps": 1e-5, "use_parallel_residual": True},
        drop=("rms_norm_eps", "num_key_value_heads", "rope_theta"),
    ),
    "nemotron": Tiny(
        "NemotronForCausalLM",
        "nemotron",
        _nemotron,
        instruct_pieces,
        {"hidden_act": "relu2", "norm_eps": 1e-5, "partial_rotary_factor": 0.5},
        drop=("rms_norm_eps",),
    ),
    "olmo": Tiny("OlmoForCausalLM", "olmo", _olmo, change={"clip_qkv": 8.0}, drop=("rms_norm_eps",)),
    "olmo2": Tiny("Olmo2ForCausalLM", "olmo2", _olmo2, llama3_tokens),
    "olmo2_tokens": Tiny("Olmo2ForCausalLM", "olmo2", _olmo2, _ending_byte_pairs),
    "olmo3": Tiny(
        "Olmo3ForCausalLM",
        "olmo3",
        _olmo2,
        qwen_tokens,
        {"sliding_window": 1024, "layer_types": [*["sliding_attention"] * 3, "full_attention"], **FOUR_LAYERS},
    ),
    "olmo3_v5": Tiny(
        "Olmo3ForCausalLM",
        "olmo3",
        _olmo2,
        qwen_tokens,
        {
            "sliding_window": 8,
            "layer_types": [*["sliding_attention"] * 3, "full_attention"],
            "rms_norm_eps": 1e-4,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 50000.0},
                "full_attention": {
                    "rope_type": "yarn",
                    "rope_theta": 50000.0,
                    "factor": 8.0,
                    "attention_factor": 1.2079441541679836,
                    "beta_fast": 32.0,
                    "beta_slow": 1.0,
                    "original_max_position_embeddings": 256,
                },
            },
            **FOUR_LAYERS,
        },
        drop=("rope_theta",),
    ),
    "phi2": Tiny(
        "PhiForCausalLM",
        "phi",
        _phi2,
        change={
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-5,
            "partial_rotary_factor": 0.5,
            "num_key_value_heads": HEADS,
            "intermediate_size": 4 * HIDDEN,
        },
        drop=("rms_norm_eps",),
    ),
    "phi3": Tiny(
        "Phi3ForCausalLM",
        "phi3",
        _phi3,
        instruct_pieces,
        {
            "sliding_window": 2047,
            "original_max_position_embeddings": 1024,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0] * (HEAD // 2),
                "long_factor": [1.0 + at / 8 for at in range(HEAD // 2)],
            },
            "pad_token_id": 0,
        },
    ),
    "phi3_v5": Tiny(
        "Phi3ForCausalLM",
        "phi3",
        _phi3,
        instruct_pieces,
        {
            "rms_norm_eps": 1e-4,
            "sliding_window": None,
            "original_max_position_embeddings": 1024,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 50000.0,
                "partial_rotary_factor": 1.0,
                "original_max_position_embeddings": 1024,
                "short_factor": [1.0 + at / 16 for at in range(HEAD // 2)],
                "long_factor": [1.0 + at / 8 for at in range(HEAD // 2)],
            },
            "pad_token_id": 0,
        },
        drop=("rope_theta",),
    ),
    "phi4_mini": Tiny(
        "Phi3ForCausalLM",
        "phi3",
        _phi3,
        _phi4_mini_byte_pairs,
        {
            "sliding_window": 262144,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 1024,
            "rope_theta": 50000.0,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0 + at / 16 for at in range(3 * HEAD // 8)],
                "long_factor": [1.0 + at / 8 for at in range(3 * HEAD // 8)],
            },
            **TIED,
        },
    ),
    "phi4": Tiny(
        "Phi3ForCausalLM",
        "phi3",
        _phi3,
        lambda: byte_pairs("gpt-2", tokenizer_class="GPT2Tokenizer"),
        {"sliding_window": None, "original_max_position_embeddings": 2048, "partial_rotary_factor": 0.75},
    ),
    "stablelm": Tiny(
        "StableLmForCausalLM",
        "stablelm",
        _stablelm,
        qwen_tokens,
        {"partial_rotary_factor": 0.25, "use_qkv_bias": True, "layer_norm_eps": 1e-5, "use_parallel_residual": False},
        drop=("rms_norm_eps",),
    ),
    "stablelm-norms": Tiny(
        "StableLmForCausalLM",
        "stablelm",
        _stablelm_norms,
        qwen_tokens,
        {"partial_rotary_factor": 0.25, "use_qkv_bias": False, "layer_norm_eps": 1e-5, "qk_layernorm": True},
        drop=("rms_norm_eps",),
    ),
    "stablelm_epoch": Tiny(
        "StableLMEpochForCausalLM",
        "stablelm_epoch",
        _stablelm,
        qwen_tokens,
        {"rope_pct": 0.5, "use_qkv_bias": True, "norm_eps": 1e-4},
        drop=("rms_norm_eps",),
    ),
    "starcoder2": Tiny(
        "Starcoder2ForCausalLM",
        "starcoder2",
        _starcoder2,
        smollm_tokens,
        {"norm_epsilon": 1e-5, "hidden_act": "gelu_pytorch_tanh", **TIED},
        drop=("rms_norm_eps",),
    ),
}
