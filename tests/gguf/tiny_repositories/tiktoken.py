"""Families whose tokenizer is a vocabulary of tiktoken."""

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.gguf.tiny_repositories.byte_level import HEAD_PATTERN, TAIL, byte_characters, byte_pairs
from tests.gguf.tiny_repositories.experts import DEEPSEEK, MLA, deepseek2_weights, latent_attention
from tests.gguf.tiny_repositories.latent import LATENT
from tests.gguf.tiny_repositories.repository import EXPERTS, FEED_FORWARD, HEADS, HIDDEN, LAYERS, TIED, Tiny, Weights
from tests.gguf.tiny_repositories.tokenizer import Tokenizer, decoder_of, dump
from tests.kit.tiny_tokenizers import added_token

VOCABULARY, CODE = "tiktoken.model", "tokenization_kimi.py"
GLM, GLM_CODE = "tokenizer.model", "tokenization_chatglm.py"
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
PATTERN = HEAD_PATTERN + r"|\p{N}" + TAIL
"""HunYuan's and Qwen's."""
CHATGLM_PATTERN = HEAD_PATTERN + r"|\p{N}{1,3}" + TAIL
"""GLM-4's."""
_EXTRAS = 7
_NAMED: Mapping[str, Mapping[str, str]] = {
    "hy.tiktoken": {
        "ENDOFTEXT": "<|endoftext|>",
        "STARTOFTEXT": "<|startoftext|>",
        "BOSTOKEN": "<|bos|>",
        "EOSTOKEN": "<|eos|>",
        "PADTOKEN": "<|pad|>",
    },
    "qwen.tiktoken": {"ENDOFTEXT": "<|endoftext|>", "IMSTART": "<|im_start|>", "IMEND": "<|im_end|>"},
}
"""Vocabulary → the names that the code gives to special tokens, and their texts."""
LISTED = {
    path: (*texts.values(), *(f"<|extra_{number}|>" for number in range(_EXTRAS))) for path, texts in _NAMED.items()
}
"""Vocabulary → the special tokens that follow it, in the order of their ids."""
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_' + message['role'] + '|>' + message['role'] + '<|im_middle|>' + "
    "message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_assistant|>assistant<|im_middle|>' }}{% endif %}"
)
HUNYUAN_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ message['content'] + '<|eos|>' }}"
    "{% elif message['role'] == 'system' %}{{ '<|startoftext|>' + message['content'] + '<|extra_4|>' }}"
    "{% else %}{{ '<|startoftext|>' + message['content'] + '<|extra_0|>' }}{% endif %}{% endfor %}"
)
CHATGLM_TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def token_lines(tokens: list[bytes]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def _tokens() -> list[bytes]:
    """Those of `byte_pairs`."""
    bytes_of = {character: bytes([byte]) for byte, character in enumerate(byte_characters())}
    vocabulary = json.loads(byte_pairs("gpt-2").files["tokenizer.json"])["model"]["vocab"]
    return [b"".join(map(bytes_of.__getitem__, text)) for text in vocabulary]


def _listed_tokens(path: str, code: str, config: Mapping[str, Any]) -> Tokenizer:
    """The code has only what the proxy looks for, and an older pattern in a comment."""
    tokens, names = _tokens(), _NAMED[path]
    lines = [
        f'PAT_STR = r"""{PATTERN}"""',
        f'# PAT_STR = r"""{PATTERN.replace("N}", "N}{1,3}")}"""',
        *(f'{name} = "{text}"' for name, text in names.items()),
        f'EXTRAS = tuple((f"<|extra_{{i}}|>" for i in range({_EXTRAS})))',
        f"SPECIAL_START_ID = {len(tokens)}",
        f"SPECIAL_TOKENS = tuple(enumerate((({', '.join(names)},) + EXTRAS), start=SPECIAL_START_ID))",
    ]
    files = {
        path: token_lines(tokens),
        f"{code.partition('.')[0]}.py": "\n".join(lines).encode(),
        "tokenizer_config.json": dump({"auto_map": {"AutoTokenizer": [code, None]}, **config}),
    }
    return Tokenizer(files, len(tokens) + len(LISTED[path]), {})


def hunyuan_tokens() -> Tokenizer:
    config = {
        "additional_special_tokens": ["<|startoftext|>", "<|extra_0|>", "<|extra_4|>", "<|eos|>"],
        "chat_template": HUNYUAN_TEMPLATE,
        "eos_token": "<|eos|>",
        "pad_token": "<|pad|>",
        "tokenizer_class": "HYTokenizer",
    }
    tokenizer = _listed_tokens("hy.tiktoken", "tokenization_hy.HYTokenizer", config)
    ids = {text: tokenizer.rows - len(LISTED["hy.tiktoken"]) + at for at, text in enumerate(LISTED["hy.tiktoken"])}
    specials = {"bos": 1, "eos": ids["<|eos|>"], "pad": ids["<|pad|>"], "eod": ids["<|extra_5|>"]}
    return replace(tokenizer, specials=specials)


def qwen_tokens() -> Tokenizer:
    """No file says which tokens begin and end a text."""
    return _listed_tokens("qwen.tiktoken", "tokenization_qwen.QWenTokenizer", {"tokenizer_class": "QWenTokenizer"})


def chatglm_tokens() -> Tokenizer:
    """GLM-4's, whose vocabulary has the name of a SentencePiece model."""
    tokens = _tokens()
    names = ("<|endoftext|>", "[MASK]", "[gMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>")
    added = [added_token(text, token_id) for token_id, text in enumerate(names, len(tokens))]
    config = {
        "added_tokens_decoder": decoder_of(added),
        "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLM4Tokenizer", None]},
        "chat_template": CHATGLM_TEMPLATE,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "ChatGLM4Tokenizer",
    }
    pattern = CHATGLM_PATTERN.replace("\\", 2 * "\\")
    files = {
        GLM: token_lines(tokens),
        GLM_CODE: f'class ChatGLM4Tokenizer:\n    pat_str = "{pattern}"\n'.encode(),
        "tokenizer_config.json": dump(config),
    }
    return Tokenizer(files, len(tokens) + 12, {"pad": len(tokens)})


def kimi_tokens() -> Tokenizer:
    """The code has only what the proxy looks for."""
    tokens = _tokens()
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


def _hunyuan(weights: Weights) -> None:
    """The published models have more heads than this one, but of this size."""
    weights.ends()
    for layer in weights.layers():
        name, head = f"{layer}self_attn.", weights.config["attention_head_dim"]
        heads = weights.config["num_attention_heads"]
        weights.norms(layer)
        for part, count in (("q", heads), ("k", 1), ("v", 1)):
            weights.linear(f"{name}{part}_proj", count * head, HIDDEN)
        weights.linear(f"{name}o_proj", HIDDEN, heads * head)
        weights.norm(f"{name}query_layernorm", head)
        weights.norm(f"{name}key_layernorm", head)
        if weights.config["num_experts"] == 1:
            weights.mlp(layer)
            continue
        weights.linear(f"{layer}mlp.gate.wg", EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            weights.mlp(layer, name=f"mlp.experts.{expert}")
        weights.mlp(layer, name="mlp.shared_mlp")


def _qwen(weights: Weights) -> None:
    weights.linear("transformer.wte", weights.config["vocab_size"], HIDDEN)
    for number in range(LAYERS):
        layer = f"transformer.h.{number}."
        weights.norms(layer, "ln_1", "ln_2")
        weights.linear(f"{layer}attn.c_attn", 3 * HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}attn.c_proj", HIDDEN, HIDDEN)
        weights.linear(f"{layer}mlp.w1", FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}mlp.w2", FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}mlp.c_proj", HIDDEN, FEED_FORWARD)
    weights.norm("transformer.ln_f")
    weights.linear("lm_head", weights.config["vocab_size"], HIDDEN)


def _chatglm(weights: Weights) -> None:
    """With the frequencies of RoPE, which nothing reads."""
    config = weights.config
    weights.linear("transformer.embedding.word_embeddings", config["padded_vocab_size"], HIDDEN)
    weights.add("transformer.rotary_pos_emb.inv_freq", 16)
    for number in range(LAYERS):
        layer = f"transformer.encoder.layers.{number}."
        weights.norms(layer)
        rows = HIDDEN + 2 * config["multi_query_group_num"] * config["kv_channels"]
        weights.linear(f"{layer}self_attention.query_key_value", rows, HIDDEN, bias=True)
        weights.linear(f"{layer}self_attention.dense", HIDDEN, HIDDEN)
        weights.linear(f"{layer}mlp.dense_h_to_4h", 2 * FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}mlp.dense_4h_to_h", HIDDEN, FEED_FORWARD)
    weights.norm("transformer.encoder.final_layernorm")
    weights.linear("transformer.output_layer", config["padded_vocab_size"], HIDDEN)


_HUNYUAN: dict[str, Any] = {
    "attention_head_dim": HIDDEN // 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_scaling": {
        "type": "dynamic",
        "alpha": 1000.0,
        "factor": 1.0,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "sep_token_id": 5,
    "use_qk_norm": True,
    "use_rotary_pos_emb": True,
    **TIED,
}

REPOSITORIES: dict[str, Tiny] = {
    "hunyuan_moe": Tiny(
        "HunYuanMoEV1ForCausalLM",
        "hunyuan_v1_moe",
        _hunyuan,
        hunyuan_tokens,
        {
            **_HUNYUAN,
            "moe_intermediate_size": [FEED_FORWARD] * LAYERS,
            "moe_topk": [2] * LAYERS,
            "num_experts": EXPERTS,
            "num_shared_expert": [1] * LAYERS,
            "use_mixed_mlp_moe": True,
        },
    ),
    "hunyuan_tiktoken": Tiny(
        "HunYuanDenseV1ForCausalLM",
        "hunyuan_v1_dense",
        _hunyuan,
        hunyuan_tokens,
        {**_HUNYUAN, "num_experts": 1, "head_dim": HIDDEN // 2},
    ),
    "qwen1": Tiny(
        "QWenLMHeadModel",
        "qwen",
        _qwen,
        qwen_tokens,
        {
            "intermediate_size": 2 * FEED_FORWARD,
            "kv_channels": HIDDEN // HEADS,
            "layer_norm_epsilon": 1e-5,
            "max_position_embeddings": 4096,
            "no_bias": True,
            "rotary_emb_base": 20000,
            "rotary_pct": 1.0,
            "scale_attn_weights": True,
            "seq_length": 2048,
            "use_dynamic_ntk": True,
            "use_logn_attn": True,
        },
        drop=("num_key_value_heads", "rms_norm_eps", "rope_theta", "hidden_act"),
    ),
    "chatglm": Tiny(
        "ChatGLMModel",
        "chatglm",
        _chatglm,
        chatglm_tokens,
        {
            "add_bias_linear": False,
            "add_qkv_bias": True,
            "apply_query_key_layer_scaling": True,
            "apply_residual_connection_post_layernorm": False,
            "attention_softmax_in_fp32": True,
            "bias_dropout_fusion": True,
            "eos_token_id": [369, 375],
            "ffn_hidden_size": FEED_FORWARD,
            "fp32_residual_connection": False,
            "kv_channels": HIDDEN // HEADS,
            "layernorm_epsilon": 1e-4,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "num_layers": LAYERS,
            "original_rope": True,
            "padded_vocab_size": chatglm_tokens().rows,
            "post_layer_norm": True,
            "rmsnorm": True,
            "rope_ratio": 5,
            "seq_length": 4096,
        },
        drop=(
            *("intermediate_size", "num_hidden_layers", "num_key_value_heads", "max_position_embeddings"),
            *("hidden_act", "rms_norm_eps", "rope_theta", "vocab_size"),
        ),
    ),
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
