"""Where the metadata that the proxy writes differs from that of llama.cpp's converter (b10488), and why."""

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
ONLY_OURS: Mapping[str, Mapping[str, str]] = {
    "qwen3moe": {"qwen3moe.norm_top_k_prob": _EXPERTS},
    "qwen3moe_v5": {"qwen3moe.norm_top_k_prob": _EXPERTS},
    "exaone": {"exaone.attention.layer_norm_rms_epsilon": "llama.cpp's loader needs it"},
    "gemma": {"gemma.rope.freq_base": _ROPE},
    "gemma2": {"gemma2.rope.freq_base": _ROPE},
    "glm4moelite": {"deepseek2.expert_gating_func": _GATING},
    "glm4moelite_v5": {"deepseek2.expert_gating_func": _GATING},
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
BEGINS = "tokenizer.ggml.add_bos_token"
BEGINS_REASON = "where a repository says nothing, llama.cpp or Ollama would begin a text with a token"
WITHOUT_FIGURES: Mapping[str, str] = {
    "gemma3_json": "without tokenizer.model llama.cpp's converter takes its tokens to be byte-level",
    "mistral_model": "llama.cpp's converter does not know this name",
    "nomic_bert_v5": "of Nomic's BERT llama.cpp's converter reads the older form of config.json alone",
    "stablelm-norms": 'llama.cpp\'s converter fails on it: "Unprocessed norms"',
}


def llama_cpp_figures(name: str) -> Any:
    """The figures of a repository's tensors and metadata by llama.cpp's converter."""
    return json.loads((EXPECTED / f"{name}.json").read_text())


def leaves_out_begins(metadata: Mapping[str, Any]) -> bool:
    """Whether llama.cpp's converter wrote no BEGINS for a vocabulary whose repository may leave it open."""
    return BEGINS not in metadata and metadata["tokenizer.ggml.model"]["value"] == "gpt2"


def differences(name: str) -> dict[str, str]:
    """The reasons by key, for a repository that has figures."""
    reasons = {**ONLY_OURS.get(name, {}), **{key: reason for key, (_, reason) in OTHERWISE.get(name, {}).items()}}
    return reasons | ({BEGINS: BEGINS_REASON} if leaves_out_begins(llama_cpp_figures(name)["metadata"]) else {})
