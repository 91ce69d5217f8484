"""Tencent's dense HunYuan models. Pure."""

from dataclasses import replace

from proxy.gguf.families.common_keys import ANY_SILU
from proxy.gguf.families.common_tensors import ATTENTION, EMBEDDING_AND_OUTPUT, LAYER, MLP, NORMS
from proxy.gguf.families.family import Family
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, Pairs
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import TokenizerFiles, is_id

_CONTEXT = 262144
"""The context of the published models, whatever config.json has as max_position_embeddings."""


def _basic(config: ModelConfig) -> Pairs:
    """In some config.json num_experts is 1, which means a dense model."""
    dense = replace(config, fields={key: value for key, value in config.fields.items() if key != "num_experts"})
    for write in BASIC:
        yield from write(dense)


def _rope(config: ModelConfig) -> Pairs:
    """HunYuan's `dynamic` scaling is its own: alpha increases the base, independent of the length of the text."""
    rope = ModelConfig(config.rope)
    if rope.find("rope_type") != "dynamic":
        return
    base, positions, alpha = rope.number("rope_theta"), config.count("max_position_embeddings"), rope.number("alpha")
    size = config.head_size
    if base != 10000 or positions not in (32768, _CONTEXT) or not 1 <= alpha <= 10000 or size <= 2:  # noqa: PLR2004
        raise CannotConvert(f"config.json has a rope scaling of the type dynamic with {shown(config.rope)}")
    yield "rope.freq_base", Field.float32(base * alpha ** (size / (size - 2)))
    yield "rope.scaling.type", Field.string("none")
    yield "rope.scaling.factor", Field.float32(1)
    yield "rope.scaling.original_context_length", Field.uint32(_CONTEXT)
    yield "context_length", Field.uint32(_CONTEXT)


def _end_tokens(config: ModelConfig, files: TokenizerFiles) -> Pairs:
    """config.json has the token that ends a text; in generation_config.json the one that ends a turn comes first."""
    end_of_text = config.optional_count("eod_token_id")
    if end_of_text is not None:
        yield "eos_token_id", Field.uint32(end_of_text)
    end_tokens = files.generation.get("eos_token_id")
    if isinstance(end_tokens, list) and len(end_tokens) > 1 and is_id(end_tokens[0]):
        yield "eot_token_id", Field.uint32(end_tokens[0])


HUNYUAN = Family(
    "hunyuan-dense",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **ATTENTION,
        **MLP,
        LAYER + "self_attn.query_layernorm": "blk.{}.attn_q_norm",
        LAYER + "self_attn.key_layernorm": "blk.{}.attn_k_norm",
    },
    (_basic, _rope),
    defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0},
    rope_types=frozenset({"default", "dynamic"}),
    optional_biases=frozenset(),
    accepted_values={**ANY_SILU, "num_experts": (1, None), "attention_bias": (False, None)},
    vocabulary=_end_tokens,
)
