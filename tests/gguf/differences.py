"""Where the metadata that the proxy writes differs from that of llama.cpp's converter (b11434), and why."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXPECTED = Path(__file__).parent / "expected"
_EXPERTS = "Ollama's own engine takes it to be true where it is missing"
_ROPE = "llama.cpp takes every Gemma's to be 10,000, and its loader reads it"
_GATING = "llama.cpp guesses it by the number of tokens"
_HEADS = "llama.cpp takes the same number, that of all heads, where it is missing"
_OLD_FORM = "llama.cpp's converter reads the older form of config.json alone, and its loader needs the key"
_LENGTHS = "llama.cpp's converter takes them from transformers' defaults, and refuses their classifier_pooling"
_RECURRENT = "llama.cpp reads it instead of `full_attention_interval`, which says the same of these layers"
ONLY_OURS: Mapping[str, Mapping[str, str]] = {
    "qwen3moe": {"qwen3moe.norm_top_k_prob": _EXPERTS},
    "qwen3moe_v5": {"qwen3moe.norm_top_k_prob": _EXPERTS},
    "eurobert": {"eurobert.attention.key_length": _LENGTHS, "eurobert.attention.value_length": _LENGTHS},
    "exaone": {"exaone.attention.layer_norm_rms_epsilon": "llama.cpp's loader needs it"},
    "gemma": {"gemma.rope.freq_base": _ROPE},
    "gemma2": {"gemma2.rope.freq_base": _ROPE},
    "glm4moelite": {"deepseek2.expert_gating_func": _GATING},
    "glm4moelite_v5": {"deepseek2.expert_gating_func": _GATING},
    "jina_bert": {"jina-bert-v2.attention.head_count_kv": _HEADS},
    "jina_bert_code": {"jina-bert-v2.attention.head_count_kv": _HEADS},
    "llama_model": {"llama.pooling_type": "llama.cpp's converter reads it for other families alone"},
    "modern_bert": {"modern-bert.attention.head_count_kv": _HEADS},
    "modern_bert_v5": {
        "modern-bert.attention.head_count_kv": _HEADS,
        "modern-bert.attention.layer_norm_epsilon": _OLD_FORM,
        "modern-bert.attention.sliding_window_pattern": _OLD_FORM,
    },
    "nomic_bert": {"nomic-bert.attention.head_count_kv": _HEADS},
    "nomic_bert_moe": {"nomic-bert-moe.attention.head_count_kv": _HEADS},
    "roberta": {"bert.attention.head_count_kv": _HEADS},
    "gptneox": {"general.file_type": "llama.cpp's converter leaves it out for this family alone"},
}
"""By repository and key: what only the proxy writes."""
OTHERWISE: Mapping[str, Mapping[str, tuple[object, str]]] = {
    "bert": {"bert.attention.head_count_kv": (4, _HEADS)},
    "bert_hole": {"bert.attention.head_count_kv": (4, _HEADS)},
    "xlm_roberta": {
        "bert.attention.head_count_kv": (4, _HEADS),
        "tokenizer.ggml.remove_extra_whitespaces": (
            True,
            "llama.cpp's converter goes by a setting that transformers no longer writes",
        ),
        "tokenizer.ggml.token_type": (
            [3, 3, 3, 2, *[1] * 90, 3],
            "llama.cpp's converter takes <pad> and <mask> for no special tokens, against what tokenizer.json says",
        ),
    },
}
"""By repository and key: the proxy's value, which llama.cpp's converter does not write."""
ONLY_THEIRS: Mapping[str, Mapping[str, str]] = {
    **{name: {"qwen35.attention.recurrent_layers": _RECURRENT} for name in ("qwen3_5", "qwen3_5_eyes")},
    **{name: {"qwen35moe.attention.recurrent_layers": _RECURRENT} for name in ("qwen3_5moe", "qwen3_5moe_eyes")},
    **{name: {"qwen3next.attention.recurrent_layers": _RECURRENT} for name in ("qwen3_next", "qwen3_next_v5")},
}
"""By repository and key: what only llama.cpp's converter writes."""
HALVES: Mapping[str, tuple[str, ...]] = {"jina_bert_code": ("ffn_up", "ffn_gate")}
"""Tensors of each layer that llama.cpp's converter leaves in one, of which its graph takes the first half for the gate
(cosine of the vectors 0.9), and the authors' code the second."""
ENDS = "tokenizer.ggml.add_eos_token"
"""llama.cpp's converter also writes it where no token ends a text; its loader takes a missing key for that."""
WITHOUT_FIGURES: Mapping[str, str] = {
    "gemma3_json": "without tokenizer.model llama.cpp's converter takes its tokens to be byte-level",
    "ministral": "llama.cpp's converter does not know this name",
    "mistral_model": "llama.cpp's converter does not know this name",
    "nomic_bert_v5": "of Nomic's BERT llama.cpp's converter reads the older form of config.json alone",
    "stablelm-norms": 'llama.cpp\'s converter fails on it: "Unprocessed norms"',
}


def llama_cpp_figures(name: str) -> Any:
    """The figures of a repository's tensors and metadata by llama.cpp's converter."""
    return json.loads((EXPECTED / f"{name}.json").read_text())


def differences(name: str) -> dict[str, str]:
    """The reasons by key, or by tensor, for a repository that has figures."""
    halves = dict.fromkeys(HALVES.get(name, ()), "the authors' gate is the other half, which llama.cpp leaves in one")
    otherwise = {key: reason for key, (_, reason) in OTHERWISE.get(name, {}).items()}
    return {**ONLY_OURS.get(name, {}), **ONLY_THEIRS.get(name, {}), **otherwise, **halves}
