"""Families whose tokenizer is a vocabulary of tiktoken."""

import base64
import json
from typing import Any

from tests.gguf.tiny_repositories.byte_level import byte_characters, byte_pairs
from tests.gguf.tiny_repositories.experts import DEEPSEEK, MLA, deepseek2_weights, latent_attention
from tests.gguf.tiny_repositories.latent import LATENT
from tests.gguf.tiny_repositories.repository import EXPERTS, FEED_FORWARD, HEADS, HIDDEN, Tiny, Weights
from tests.gguf.tiny_repositories.tokenizer import Tokenizer, decoder_of, dump
from tests.kit.tiny_tokenizers import added_token

VOCABULARY, CODE = "tiktoken.model", "tokenization_kimi.py"
_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERNS = (
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+" + _ENDINGS,
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*" + _ENDINGS,
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
)
"""Kimi's tokenizer joins them with |."""
RESERVED = 256
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_' + message['role'] + '|>' + message['role'] + '<|im_middle|>' + "
    "message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_assistant|>assistant<|im_middle|>' }}{% endif %}"
)


def token_lines(tokens: list[bytes]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def kimi_tokens() -> Tokenizer:
    """The tokens of `byte_pairs`. The code has only what the proxy looks for."""
    bytes_of = {character: bytes([byte]) for byte, character in enumerate(byte_characters())}
    vocabulary = json.loads(byte_pairs("gpt-2").files["tokenizer.json"])["model"]["vocab"]
    tokens = [b"".join(map(bytes_of.__getitem__, text)) for text in vocabulary]
    named = {
        **dict(enumerate(("[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>", "<|im_assistant|>"))),
        **dict(enumerate(("[EOT]", "<|im_system|>", "<|tool_call_begin|>"), 9)),
        **dict(enumerate(("<|im_middle|>", "<think>", "</think>"), 17)),
        **dict(enumerate(("[UNK]", "[PAD]"), RESERVED - 2)),
    }
    plain = ("<|tool_call_begin|>", "<think>", "</think>")
    added = [added_token(text, len(tokens) + at, special=text not in plain) for at, text in named.items()]
    ids = {token["content"]: token["id"] for token in added}
    config: dict[str, Any] = {
        "added_tokens_decoder": decoder_of(added),
        "additional_special_tokens": ["<|im_end|>", "<|im_user|>", "<|im_assistant|>", "[EOT]", "<|im_system|>"],
        "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]},
        "bos_token": "[BOS]",
        "eos_token": "[EOS]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "TikTokenTokenizer",
    }
    literals = "".join(f'            r"""{pattern}""",\n' for pattern in PATTERNS)
    code = f'class TikTokenTokenizer:\n    pat_str = "|".join(\n        [\n{literals}        ]\n    )\n'
    files = {VOCABULARY: token_lines(tokens), CODE: code.encode(), "tokenizer_config.json": dump(config)}
    specials = {"bos": ids["[BOS]"], "eos": ids["<|im_end|>"], "pad": ids["[PAD]"]}
    return Tokenizer(files, len(tokens) + RESERVED, specials)


def _kimi_k2(weights: Weights) -> None:
    deepseek2_weights(weights)
    _hide_reserved(weights)


def _hide_reserved(weights: Weights) -> None:
    """A trained model hardly ever predicts one of the reserved tokens."""
    weights.tensors["lm_head.weight"][-RESERVED:] /= 64


def _kimi_linear(weights: Weights) -> None:
    config = weights.config
    weights.ends()
    _hide_reserved(weights)
    for number, layer in enumerate(weights.layers()):
        weights.norms(layer)
        full = number + 1 in config["linear_attn_config"]["full_attn_layers"]
        (latent_attention if full else _delta_net)(weights, layer)
        if number < config["first_k_dense_replace"]:
            weights.mlp(layer, FEED_FORWARD)
            continue
        moe = f"{layer}block_sparse_moe."
        weights.linear(f"{moe}gate", EXPERTS, HIDDEN)
        weights.add(f"{moe}gate.e_score_correction_bias", EXPERTS)
        for expert in range(EXPERTS):
            weights.numbered_mlp(f"{moe}experts.{expert}.", HIDDEN)
        weights.mlp(layer, HIDDEN, name="block_sparse_moe.shared_experts")


def _delta_net(weights: Weights, layer: str) -> None:
    net, name = weights.config["linear_attn_config"], f"{layer}self_attn."
    size, kernel = net["head_dim"], net["short_conv_kernel_size"]
    for part in "qkv":
        weights.linear(f"{name}{part}_proj", HEADS * size, HIDDEN)
        weights.add(f"{name}{part}_conv1d.weight", HEADS * size, 1, kernel)
    weights.decays(f"{name}A_log", 1, 1, HEADS, 1)
    weights.add(f"{name}dt_bias", HEADS * size)
    for part in "fg":
        weights.linear(f"{name}{part}_a_proj", size, HIDDEN)
        weights.linear(f"{name}{part}_b_proj", HEADS * size, size)
    weights.linear(f"{name}b_proj", HEADS, HIDDEN)
    weights.norm(f"{name}o_norm", size)
    weights.linear(f"{name}o_proj", HIDDEN, HEADS * size)


REPOSITORIES: dict[str, Tiny] = {
    "kimi_k2": Tiny(
        "DeepseekV3ForCausalLM",
        "kimi_k2",
        _kimi_k2,
        kimi_tokens,
        {
            **DEEPSEEK,
            **LATENT,
            "n_group": 1,
            "topk_group": 1,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.827,
            "rope_theta": 50000.0,
            "rope_scaling": {
                "type": "yarn",
                "factor": 32.0,
                "original_max_position_embeddings": 64,
                "beta_fast": 1.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
            },
            "num_nextn_predict_layers": 0,
        },
    ),
    "kimi_linear": Tiny(
        "KimiLinearForCausalLM",
        "kimi_linear",
        _kimi_linear,
        kimi_tokens,
        {
            "num_hidden_layers": 5,
            "num_key_value_heads": HEADS,
            "head_dim": 72,
            "linear_attn_config": {
                "full_attn_layers": [2, 5],
                "kda_layers": [1, 3, 4],
                "head_dim": 64,
                "num_heads": HEADS,
                "short_conv_kernel_size": 3,
            },
            **MLA,
            "q_lora_rank": None,
            "mla_use_nope": True,
            "first_k_dense_replace": 2,
            "num_experts": EXPERTS,
            "num_experts_per_token": 2,
            "num_shared_experts": 1,
            "moe_intermediate_size": HIDDEN,
            "moe_layer_freq": 1,
            "moe_renormalize": True,
            "moe_router_activation_func": "sigmoid",
            "num_expert_group": 1,
            "topk_group": 1,
            "use_grouped_topk": True,
            "routed_scaling_factor": 1.5,
            "model_max_length": 4096,
            "num_nextn_predict_layers": 0,
            "rms_norm_eps": 1e-6,
            "rope_scaling": None,
        },
        drop=("max_position_embeddings",),
    ),
}
