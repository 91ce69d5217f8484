"""InternVL, PaddleOCR, dots.ocr, LFM2-VL, Kimi-VL and Phi-4."""

from typing import Any

import numpy as np

from tests.gguf.tiny_repositories.byte_level import byte_pairs
from tests.gguf.tiny_repositories.llama import internlm2_pieces, internlm2_weights
from tests.gguf.tiny_repositories.qwen import qwen3_weights
from tests.gguf.tiny_repositories.repository import TIED, Tiny, Weights, plain_weights, qwen2_weights
from tests.gguf.tiny_repositories.sentencepiece import instruct_pieces
from tests.gguf.tiny_repositories.state_spaces import lfm2_weights
from tests.gguf.tiny_repositories.tokenizer import Tokenizer, decoder_of, edit_tokenizer
from tests.gguf.tiny_repositories.towers_intern import (
    INTERNVL_CHAT_TOWER,
    internvl_tower,
    lfm2_tower,
    paddleocr_tower,
)
from tests.kit.tiny_tokenizers import added_token

_INTERNVL_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>")


def _internvl_tokens() -> Tokenizer:
    return byte_pairs("qwen2", merge_lists=True, more=_INTERNVL_TOKENS)


def _lfm2_tokens() -> Tokenizer:
    return byte_pairs("llama-bpe", more=("<|image_start|>", "<|image_end|>", "<image>", "<|img_thumbnail|>"))


def _paddleocr_tokens() -> Tokenizer:
    """In the order of the ids that transformers expects beside each other."""
    more = ("<|IMAGE_START|>", "<|IMAGE_END|>", "<|IMAGE_PLACEHOLDER|>")

    def change(files: dict[str, dict[str, Any]]) -> None:
        first = files["tokenizer.json"]["added_tokens"][-1]["id"] + 1
        added = [added_token(text, first + at) for at, text in enumerate(more)]
        files["tokenizer.json"]["added_tokens"] += added
        files["tokenizer_config.json"]["added_tokens_decoder"] |= decoder_of(added)

    return edit_tokenizer(instruct_pieces(), change, rows=len(more))


def _paddleocr_weights(weights: Weights) -> None:
    """Tokens that are single bytes are unlikely: answers with them cannot be compared."""
    plain_weights(weights)
    weights.tensors["model.embed_tokens.weight"][3 : 3 + 256] *= np.float32(0.125)


SIGHTED: dict[str, Tiny] = {
    "internvl": Tiny(
        "InternVLForConditionalGeneration",
        "qwen2",
        qwen2_weights,
        _internvl_tokens,
        {"rope_theta": 1e6, "rope_scaling": {"rope_type": "dynamic", "type": "dynamic", "factor": 2.0}},
        part_of="internvl",
        prefix="model.language_model.",
        text_architecture="Qwen2ForCausalLM",
        towers=(internvl_tower(_internvl_tokens().number("<IMG_CONTEXT>")),),
    ),
    "internvl_chat": Tiny(
        "InternVLChatModel",
        "qwen3",
        qwen3_weights,
        _internvl_tokens,
        {"head_dim": 64, "rope_theta": 1e6, "attention_bias": False},
        part_of="internvl_chat",
        section="llm_config",
        text_architecture="Qwen3ForCausalLM",
        towers=(INTERNVL_CHAT_TOWER,),
    ),
    "internvl_chat_internlm2": Tiny(
        "InternVLChatModel",
        "internlm2",
        internlm2_weights,
        internlm2_pieces,
        {"bias": False, "rope_theta": 1e6},
        part_of="internvl_chat",
        section="llm_config",
        text_architecture="InternLM2ForCausalLM",
        towers=(INTERNVL_CHAT_TOWER,),
    ),
    "lfm2_vl": Tiny(
        "Lfm2VlForConditionalGeneration",
        "lfm2",
        lfm2_weights,
        _lfm2_tokens,
        {
            "layer_types": ["conv", "full_attention"],
            "norm_eps": 2e-5,
            "conv_L_cache": 3,
            "conv_bias": False,
            "block_ff_dim": 500,
            "block_auto_adjust_ff_dim": True,
            "block_ffn_dim_multiplier": 1.0,
            "block_multiple_of": 256,
            "rope_theta": 30000.0,
            **TIED,
        },
        drop=("rms_norm_eps", "intermediate_size"),
        part_of="lfm2_vl",
        prefix="model.language_model.",
        text_architecture="Lfm2ForCausalLM",
        towers=(lfm2_tower(_lfm2_tokens().number("<image>")),),
    ),
}
REPOSITORIES: dict[str, Tiny] = {
    "paddleocr_vl": Tiny(
        "PaddleOCRVLForConditionalGeneration",
        "paddleocr_vl_text",
        _paddleocr_weights,
        _paddleocr_tokens,
        {
            "head_dim": 64,
            "rope_theta": 500000.0,
            "rope_scaling": {"mrope_section": [8, 12, 12], "rope_type": "default", "type": "default"},
            "rope_is_neox_style": True,
            "use_3d_rope": True,
            "use_bias": False,
            **TIED,
        },
        part_of="paddleocr_vl",
        prefix="model.",
        towers=(
            paddleocr_tower(
                *map(_paddleocr_tokens().number, ("<|IMAGE_PLACEHOLDER|>", "<|IMAGE_START|>", "<|IMAGE_END|>"))
            ),
        ),
    ),
}
"""Of an architecture that has no model of text alone."""
