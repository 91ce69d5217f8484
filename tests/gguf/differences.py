"""Where the metadata that the proxy writes differs from that of llama.cpp's converter (b11434), and why."""

import json
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tests.gguf.tiny_repositories.rwkv_world import FIRST

EXPECTED = Path(__file__).parent / "expected"
_EXPERTS = "Ollama's own engine assumes true if it is missing"
_ROPE = "llama.cpp's converter assumes 10,000 for every Gemma, but its loader reads the key"
_GATING = "llama.cpp guesses it from the number of tokens"
_FIRST_TOKEN = "llama.cpp's converter always calls the first token <s>, which no chat template contains"
_HEADS = "llama.cpp uses the same number, that of all heads, if it is missing"
_OLD_FORM = "llama.cpp's converter reads only the older form of config.json, but its loader needs the key"
_FILE_TYPE = "llama.cpp's converter leaves it out only for these families"
_LENGTHS = "llama.cpp's converter relies on transformers' defaults, and refuses their classifier_pooling"
_POOLING = "llama.cpp's converter reads it only for other families"
_RECURRENT = "llama.cpp reads it instead of `full_attention_interval`, which means the same for these layers"
_PLAMO_BOS = "llama.cpp adds none with this tokenizer (b10488), but with the key it removes that of a chat template"
_PADDING = "a text never contains these tokens; with the converter's score, llama.cpp finds them in one"
_TEMPERATURE = "llama.cpp's converter leaves it out, but its loader and graph use it"
_BOS = "Ollama's own engine assumes true if it is missing, and llama.cpp's converter sets it only with a tokenizer.json"
_HUNYUAN_BOS = "llama.cpp's converter always writes the number that the published models have"
_GLM_ENDS = "llama.cpp's converter writes it where GLM-4 has a tokenizer.json"
_THOUGHTS = "llama.cpp's converter makes <think> special, which hides it in an answer; tokenizer_config.json does not"
_THINK = {"tokenizer.ggml.token_type": ("<think> and </think> are user-defined", _THOUGHTS)}
_UNROTATED = "with the converter's, llama.cpp does not rotate the last pairs of a head, which transformers rotates"
ONLY_OURS: Mapping[str, Mapping[str, str]] = {
    "qwen3moe": {"qwen3moe.norm_top_k_prob": _EXPERTS},
    "qwen3moe_v5": {"qwen3moe.norm_top_k_prob": _EXPERTS},
    "cohere2_moe_softmax": {
        "cohere2moe.feed_forward_length": "llama.cpp's converter leaves it out if no layer is dense; nothing reads it"
    },
    "distil_bert": {"bert.attention.head_count_kv": _HEADS},
    "eurobert": {"eurobert.attention.key_length": _LENGTHS, "eurobert.attention.value_length": _LENGTHS},
    "exaone": {"exaone.attention.layer_norm_rms_epsilon": "llama.cpp's loader needs it"},
    "gemma": {"gemma.rope.freq_base": _ROPE},
    "gemma2": {"gemma2.rope.freq_base": _ROPE},
    "glm4moelite": {"deepseek2.expert_gating_func": _GATING},
    "glm4moelite_v5": {"deepseek2.expert_gating_func": _GATING},
    "jina_bert": {"jina-bert-v2.attention.head_count_kv": _HEADS},
    "jina_bert_code": {"jina-bert-v2.attention.head_count_kv": _HEADS},
    "mistral4_eyes": {
        "mistral4.attention.temperature_scale": _TEMPERATURE,
        "mistral4.attention.temperature_length": _TEMPERATURE,
    },
    "llama_bidirectional": {
        "llama-embed.attention.causal": "without it, llama.cpp lets no token attend to later ones",
        "llama-embed.pooling_type": _POOLING,
    },
    "llama_model": {"llama.pooling_type": _POOLING},
    "modern_bert": {"modern-bert.attention.head_count_kv": _HEADS},
    "modern_bert_v5": {
        "modern-bert.attention.head_count_kv": _HEADS,
        "modern-bert.attention.layer_norm_epsilon": _OLD_FORM,
        "modern-bert.attention.sliding_window_pattern": _OLD_FORM,
    },
    "chatglm": {"tokenizer.ggml.eos_token_id": _GLM_ENDS, "tokenizer.ggml.eot_token_id": _GLM_ENDS},
    "hunyuan_moe": {"tokenizer.ggml.add_bos_token": _BOS},
    "hunyuan_tiktoken": {"tokenizer.ggml.add_bos_token": _BOS},
    "kimi_k2": {"tokenizer.ggml.add_bos_token": _BOS},
    "kimi_linear": {"tokenizer.ggml.add_bos_token": _BOS},
    "neo_bert": {"neo-bert.attention.head_count_kv": _HEADS},
    "nomic_bert": {"nomic-bert.attention.head_count_kv": _HEADS},
    "nomic_bert_moe": {"nomic-bert-moe.attention.head_count_kv": _HEADS},
    "qwen1": {
        "qwen.attention.head_count_kv": _HEADS,
        "qwen.attention.layer_norm_rms_epsilon": "llama.cpp's loader needs it",
        "tokenizer.ggml.add_bos_token": _BOS,
    },
    "plamo2": {"tokenizer.chat_template": "llama.cpp's converter leaves it out"},
    "roberta": {"bert.attention.head_count_kv": _HEADS},
    "gptneox": {"general.file_type": _FILE_TYPE},
    "mpt": {"general.file_type": _FILE_TYPE},
    "xverse": {"tokenizer.ggml.scores": "llama.cpp's converter writes none; they come from the merges"},
}
"""Repository → key that only the proxy writes → reason."""
OTHER_VALUES: Mapping[str, Mapping[str, tuple[object, str]]] = {
    "arctic": {
        "tokenizer.ggml.scores": (
            "scores",
            "llama.cpp's converter gives added tokens another score for Arctic alone; llama.cpp never merges them",
        ),
        "tokenizer.ggml.token_type": (
            "types",
            "llama.cpp's converter does not count <unk> as a special token for Arctic alone",
        ),
    },
    "bert": {"bert.attention.head_count_kv": (4, _HEADS)},
    "bert_hole": {"bert.attention.head_count_kv": (4, _HEADS)},
    "gpt2_gelu": {
        "gpt2.feed_forward_length": (
            512,
            "llama.cpp's converter always writes four times the embedding, and its loader then refuses the tensors",
        )
    },
    "cohere2_moe_softmax": {
        "cohere2moe.expert_weights_norm": (
            True,
            "llama.cpp's converter follows norm_topk_prob, which transformers ignores with a softmax",
        )
    },
    "hunyuan_moe": {"tokenizer.ggml.bos_token_id": (371, _HUNYUAN_BOS)},
    "hunyuan_tiktoken": {"tokenizer.ggml.bos_token_id": (370, _HUNYUAN_BOS)},
    "qwen1": {
        "qwen.context_length": (2048, "beyond it, its authors' code changes RoPE and attention; llama.cpp does not"),
    },
    "mimo_v2": {
        "mimo2.attention.sliding_window": (
            9,
            "llama.cpp's converter writes the number of tokens before a token, its graph counts the token itself too",
        )
    },
    "xlm_roberta": {
        "bert.attention.head_count_kv": (4, _HEADS),
        "tokenizer.ggml.remove_extra_whitespaces": (
            True,
            "llama.cpp's converter follows a setting that transformers no longer writes",
        ),
        "tokenizer.ggml.token_type": (
            [3, 3, 3, 2, *[1] * 90, 3],
            "llama.cpp's converter does not count <pad> and <mask> as special tokens, but tokenizer.json does",
        ),
    },
    "kimi_k2": _THINK,
    "kimi_linear": _THINK,
    "plamo2": {
        "plamo2.attention.head_count": (
            4,
            "with none in the first layer, as the converter writes it, RoPE rotates nothing (llama-model.cpp, b10488)",
        ),
        "tokenizer.ggml.add_bos_token": (False, _PLAMO_BOS),
        "tokenizer.ggml.scores": (None, _PADDING),
        "tokenizer.ggml.tokens": (None, _PADDING),
    },
    "plamo3": {"tokenizer.ggml.add_bos_token": (False, _PLAMO_BOS)},
    "qwen3vl": {"qwen3vl.rope.dimension_sections": ([11, 11, 10, 0], _UNROTATED)},
    "qwen3vlmoe": {"qwen3vlmoe.rope.dimension_sections": ([11, 11, 10, 0], _UNROTATED)},
    "rwkv6": {"tokenizer.ggml.tokens": (FIRST, _FIRST_TOKEN)},
    "rwkv7": {"tokenizer.ggml.tokens": (FIRST, _FIRST_TOKEN)},
}
"""Repository → key → the proxy's value, which differs from that of llama.cpp's converter, and the reason."""
ONLY_THEIRS: Mapping[str, Mapping[str, str]] = {
    name + end: {f"{architecture}.attention.recurrent_layers": _RECURRENT}
    for architecture, names in (
        ("qwen35", ("qwen3_5", "qwen3_5_eyes")),
        ("qwen35moe", ("qwen3_5moe", "qwen3_5moe_eyes")),
        ("qwen3next", ("qwen3_next", "qwen3_next_v5")),
    )
    for name in names
    for end in ("", "_draft")
}
"""Repository → key that only llama.cpp's converter writes → reason."""
WIDER: Mapping[str, Mapping[str, str]] = {
    "nemotron_h_moe_draft": {
        "blk.4.ffn_gate_inp.weight": "llama.cpp's converter keeps every other router in F32; here it compares the "
        "layer's number in the repository with that in the GGUF"
    }
}
"""Repository → tensor that is F32 and that llama.cpp's converter writes in BF16, with the same numbers → reason."""
_MANIFEST = "Ollama has it beside the GGUF, in its parameters and its license, where a change moves no weights"
LEFT_OUT: Mapping[str, str] = {
    "general.sampling.*": _MANIFEST,
    "general.license*": _MANIFEST,
    **dict.fromkeys(
        ("general.base_model.*", "general.dataset.*", "general.languages", "general.tags"),
        "nothing in Ollama reads these texts of the model card, and a change would move the weights again",
    ),
}
"""Pattern of keys that the proxy writes for no repository → reason."""
HALVES: Mapping[str, tuple[str, ...]] = {"jina_bert_code": ("ffn_up", "ffn_gate")}
"""Repository → tensors of each layer that llama.cpp's converter leaves in one tensor.

llama.cpp's graph uses the first half as the gate (cosine of the vectors: 0.9), the authors' code the second half."""
_WHOLE_HEADS = "llama.cpp's converter permutes whole heads, but RoPE rotates only the first half of each"
OTHER_ORDER: Mapping[str, Mapping[str, str]] = {
    # With the converter's order, llama.cpp's logprobs are not transformers'.
    "bamba": {"attn_q": _WHOLE_HEADS, "attn_k": _WHOLE_HEADS},
    "neo_bert": {"attn_qkv": "llama.cpp's converter leaves Q, K and V head by head, but its graph expects all Q first"},
}
"""Repository → tensor of each layer, with the same numbers in another order → reason."""
ADDED: Mapping[str, Mapping[str, str]] = {
    "distil_bert": {"token_types.weight": "it is zeros, without which Ollama below 0.30 does not run the model"},
}
"""Repository → tensor that only the proxy writes → reason."""
ADD_EOS = "tokenizer.ggml.add_eos_token"
"""llama.cpp's converter also writes False; its loader assumes False if the key is missing."""
_RECURSION = 'llama.cpp\'s converter fails on it: "maximum recursion depth exceeded"'
WITHOUT_FIGURES: Mapping[str, str] = {
    "camembert": "llama.cpp's converter treats its Unigram tokens as WordPieces, and its positions as BERT's",
    "baichuan_13b": _RECURSION,
    "baichuan_7b": _RECURSION,
    "deepseek4_bf16": "llama.cpp's converter knows its experts only in FP4",
    "gemma3_json": "without tokenizer.model, llama.cpp's converter treats its tokens as byte-level",
    "mimo_v2_v5": "llama.cpp's converter reads only the authors' form of config.json for MiMo V2",
    "ministral": "llama.cpp's converter does not know this name",
    "mistral_model": "llama.cpp's converter does not know this name",
    "nomic_bert_v5": "llama.cpp's converter reads only the older form of config.json for Nomic's BERT",
    "plamo": "llama.cpp's converter has the sizes of PLaMo-13B in its code and fails with others",
    "sarvam": "llama.cpp's converter fails on it with transformers 5.24, which renames num_experts",
    "stablelm-norms": 'llama.cpp\'s converter fails on it: "Unprocessed norms"',
}

OTHER_ARCHITECTURES: Mapping[str, tuple[str, str, str]] = {
    "mistral3_eyes": ("mistral3", "llama", "llama.cpp computes the same for both, and Ollama before 0.30 knows llama")
}
"""Repository → llama.cpp's architecture, the proxy's, which is before the names of keys too, and the reason."""


def llama_cpp_figures(name: str) -> Any:
    """Metadata and tensors of a repository as llama.cpp's converter writes them, without the keys of LEFT_OUT.

    The architecture is the proxy's.
    """
    figures = json.loads((EXPECTED / f"{name}.json").read_text())
    if name in OTHER_ARCHITECTURES:
        theirs, ours, _ = OTHER_ARCHITECTURES[name]
        assert figures["metadata"]["general.architecture"]["value"] == theirs
        keys = {re.sub(rf"^{theirs}\.", f"{ours}.", key): value for key, value in figures["metadata"].items()}
        figures["metadata"] = keys | {"general.architecture": {"kind": "STRING", "value": ours}}
    metadata = {
        key: value
        for key, value in figures["metadata"].items()
        if not any(fnmatchcase(key, pattern) for pattern in LEFT_OUT)
    }
    return {**figures, "metadata": metadata}


def differences(name: str) -> dict[str, str]:
    """Key or tensor → reason, for a repository with figures."""
    halves = dict.fromkeys(
        HALVES.get(name, ()), "llama.cpp keeps both in one tensor, but uses the other half as the gate"
    )
    other_values = {key: reason for key, (_, reason) in OTHER_VALUES.get(name, {}).items()}
    tensors = {**halves, **ADDED.get(name, {}), **OTHER_ORDER.get(name, {})}
    *_, reason = OTHER_ARCHITECTURES.get(name, ("",))
    architecture = {"general.architecture": reason} if reason else {}
    return {**ONLY_OURS.get(name, {}), **ONLY_THEIRS.get(name, {}), **other_values, **architecture, **tensors}
