"""Pixtral, SmolVLM, Idefics 3, LightOnOCR and LLaVA."""

from tests.gguf.tiny_repositories.byte_level import byte_pairs
from tests.gguf.tiny_repositories.repository import Tiny, plain_weights
from tests.gguf.tiny_repositories.tokenizer import Tokenizer
from tests.gguf.tiny_repositories.towers_mistral import idefics3_tower

_TILES = tuple(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2))


def _tile_tokens() -> Tokenizer:
    return byte_pairs("smollm", more=("\n\n", "<fake_token_around_image>", "<global-img>", "<image>", *_TILES))


SIGHTED: dict[str, Tiny] = {
    "idefics3": Tiny(
        "Idefics3ForConditionalGeneration",
        "llama",
        plain_weights,
        _tile_tokens,
        {"rope_theta": 273768.0},
        drop=("tie_word_embeddings",),
        part_of="idefics3",
        prefix="model.text_model.",
        text_architecture="LlamaForCausalLM",
        towers=(idefics3_tower(_tile_tokens().number("<image>"), "idefics3_vision"),),
    ),
    "smolvlm": Tiny(
        "SmolVLMForConditionalGeneration",
        "llama",
        plain_weights,
        _tile_tokens,
        {"rope_theta": 273768.0, "head_dim": 64, "is_llama_config": True, "qk_layer_norms": False},
        drop=("tie_word_embeddings",),
        part_of="smolvlm",
        prefix="model.text_model.",
        text_architecture="VLlama3ForCausalLM",
        towers=(idefics3_tower(_tile_tokens().number("<image>"), "smolvlm_vision"),),
    ),
}
