"""InternVL, PaddleOCR, dots.ocr, LFM2-VL, Kimi-VL and Phi-4."""

from tests.gguf.tiny_repositories.byte_level import byte_pairs
from tests.gguf.tiny_repositories.llama import internlm2_pieces, internlm2_weights
from tests.gguf.tiny_repositories.qwen import qwen3_weights
from tests.gguf.tiny_repositories.repository import TIED, Tiny, qwen2_weights
from tests.gguf.tiny_repositories.state_spaces import lfm2_weights
from tests.gguf.tiny_repositories.tokenizer import Tokenizer
from tests.gguf.tiny_repositories.towers_intern import INTERNVL_CHAT_TOWER, internvl_tower, lfm2_tower

_INTERNVL_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>")


def _internvl_tokens() -> Tokenizer:
    return byte_pairs("qwen2", merge_lists=True, more=_INTERNVL_TOKENS)


def _lfm2_tokens() -> Tokenizer:
    return byte_pairs("llama-bpe", more=("<|image_start|>", "<|image_end|>", "<image>", "<|img_thumbnail|>"))


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
