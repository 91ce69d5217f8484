"""Google's Gemma, Gemma 2, Gemma 3 and EmbeddingGemma. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from proxy.gguf.families.common_keys import rope_bases, window_pattern
from proxy.gguf.families.common_tensors import ATTENTION, BARE_PREFIXES, DENSE, LAYER, MLP
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import AddOne, Rule
from proxy.gguf.families.text_part import VISION_TEXT
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, Pairs, Writer, count, nonzero, number
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import TokenizerFiles

_ACCEPTED_VALUES: Mapping[str, tuple[object, ...]] = {
    # The first files have `gelu`, which transformers reads as the approximation that llama.cpp computes.
    "hidden_act": ("gelu_pytorch_tanh", "gelu", None),
    "hidden_activation": ("gelu_pytorch_tanh", None),
    "attention_bias": (False, None),
    "tie_word_embeddings": (True,),
    "use_bidirectional_attention": (False, None),
}

_DEFAULTS: Mapping[str, Any] = {
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "head_dim": 256,
    "tie_word_embeddings": True,
}

_TABLE_AND_NORM: Mapping[str, Rule | str] = {
    "model.embed_tokens": "token_embd",
    "model.norm": AddOne("output_norm"),
}

_GEMMA2_TENSORS: Mapping[str, Rule | str] = {
    **_TABLE_AND_NORM,
    **ATTENTION,
    **MLP,
    LAYER + "input_layernorm": AddOne("blk.{}.attn_norm"),
    LAYER + "post_attention_layernorm": AddOne("blk.{}.post_attention_norm"),
    LAYER + "pre_feedforward_layernorm": AddOne("blk.{}.ffn_norm"),
    LAYER + "post_feedforward_layernorm": AddOne("blk.{}.post_ffw_norm"),
}

_TURN_END = "<end_of_turn>"

_LOCAL_ROPE_BASE = 10000.0


def _no_prefix_space(_config: ModelConfig, _files: TokenizerFiles) -> Pairs:
    yield "add_space_prefix", Field.boolean(False)


def _gemma_vocabulary(config: ModelConfig, files: TokenizerFiles) -> Pairs:
    """Writes the id of `<end_of_turn>`; llama.cpp's converter always writes 107, its id in Google's vocabulary."""
    for token in files.added_tokens:
        if token["content"] == _TURN_END:
            yield "eot_token_id", Field.uint32(token["id"])
    yield from _no_prefix_space(config, files)


def _check_scale(largest_blocks: int | None) -> Writer:
    """llama.cpp scales attention by the head size. It recognizes the 27B, an exception, by its number of layers."""

    def write(config: ModelConfig) -> Pairs:
        expected = config.hidden // config.heads if config.blocks == largest_blocks else config.head_size
        if config.number("query_pre_attn_scalar") != expected:
            raise CannotConvert(
                f"config.json has query_pre_attn_scalar = {shown(config.find('query_pre_attn_scalar'))}, "
                f"and llama.cpp uses {expected} with {config.blocks} layers of this architecture"
            )
        yield from ()

    return write


def _rope_bases(config: ModelConfig) -> Pairs:
    """Ollama's engine before 0.30 supports only one base for the sliding-window layers."""
    for key, field in rope_bases(config):
        if key.endswith("swa") and field.value != _LOCAL_ROPE_BASE:
            raise CannotConvert(
                f"config.json has a rope for sliding_attention with another base than {_LOCAL_ROPE_BASE:.0f}"
            )
        yield key, field


GEMMA = Family(
    "gemma",
    {
        **_TABLE_AND_NORM,
        **ATTENTION,
        **MLP,
        LAYER + "input_layernorm": AddOne("blk.{}.attn_norm"),
        LAYER + "post_attention_layernorm": AddOne("blk.{}.ffn_norm"),
    },
    tokenizers=("sentencepiece",),
    defaults={**_DEFAULTS, "num_key_value_heads": 16},
    rope_types=frozenset({"default"}),
    accepted_values=_ACCEPTED_VALUES,
    optional_biases=frozenset(),
    vocabulary=_gemma_vocabulary,
)

GEMMA2 = replace(
    GEMMA,
    architecture="gemma2",
    tensors=_GEMMA2_TENSORS,
    hyperparameters=(
        *BASIC,
        number("attn_logit_softcapping", "attn_logit_softcapping", required=True),
        number("final_logit_softcapping", "final_logit_softcapping", required=True),
        window_pattern(2),
        _check_scale(46),
    ),
    defaults={
        **_DEFAULTS,
        "num_key_value_heads": 4,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
    },
    vocabulary=_no_prefix_space,
)

_GEMMA3_BASIC: tuple[Writer, ...] = (
    *BASIC,
    count("attention.head_count_kv", "num_key_value_heads", required=True),
    nonzero("final_logit_softcapping", "final_logit_softcapping"),
)

GEMMA3 = replace(
    GEMMA,
    architecture="gemma3",
    tensors={
        **_GEMMA2_TENSORS,
        LAYER + "self_attn.q_norm": AddOne("blk.{}.attn_q_norm"),
        LAYER + "self_attn.k_norm": AddOne("blk.{}.attn_k_norm"),
    },
    hyperparameters=(*_GEMMA3_BASIC, window_pattern(6), _check_scale(62), _rope_bases),
    defaults={
        **_DEFAULTS,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": _LOCAL_ROPE_BASE,
        "sliding_window": 4096,
    },
    rope_types=frozenset({"default", "linear"}),
    accepted_values={**_ACCEPTED_VALUES, "attn_logit_softcapping": (None,)},
    has_local_rope=True,
    vocabulary=_no_prefix_space,
)

GEMMA3_MULTIMODAL = replace(
    GEMMA3,
    # Google's own config.json leaves out values that are transformers' defaults.
    defaults={
        **GEMMA3.defaults,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_attention_heads": 8,
        "num_hidden_layers": 26,
        "vocab_size": 262208,
    },
    text_part=VISION_TEXT,
)

GEMMA_EMBEDDING = replace(
    GEMMA3,
    architecture="gemma-embedding",
    tensors={**GEMMA3.tensors, **{f"{name}.linear": name for name in DENSE}},
    hyperparameters=(*_GEMMA3_BASIC, window_pattern(6), _check_scale(None), _rope_bases),
    rope_types=frozenset({"default"}),
    accepted_values={**GEMMA3.accepted_values, "use_bidirectional_attention": (True,)},
    optional_tensors=frozenset(DENSE),
    prefix_aliases=BARE_PREFIXES,
    embeds=True,
    shapes={"dense_2": "n_embd n_dense", "dense_3": "n_dense n_embd"},
)
