"""Jina's BERT, in both variants of its authors' code: ALiBi instead of positions, and a gated MLP. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.families.bert import (
    BIDIRECTIONAL,
    EMBEDDINGS_AND_ATTENTION,
    ENCODER_LAYER,
    NORM_STEMS,
    token_type_count,
)
from proxy.gguf.families.common_tensors import FUSED_MLP_SHAPES, QKV, size_from
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Rule, Split
from proxy.gguf.hyperparameters import BASIC
from proxy.gguf.model_config import ModelConfig

_GATE_SIZE = size_from("intermediate_size")

_QK_NORM_CODE = "qk-post-norm"
"""Part of the name of the repository with the second variant's code."""

_FIRST_MLP: Mapping[str, Rule | str] = {
    ENCODER_LAYER + "mlp.gated_layers": "blk.{}.ffn_up",
    ENCODER_LAYER + "mlp.wo": "blk.{}.ffn_down",
    ENCODER_LAYER + "mlp.layernorm": "blk.{}.layer_output_norm",
}

_SECOND_VARIANT: Mapping[str, Rule | str] = {
    ENCODER_LAYER + "attention.self.layer_norm_q": "blk.{}.attn_q_norm",
    ENCODER_LAYER + "attention.self.layer_norm_k": "blk.{}.attn_k_norm",
    ENCODER_LAYER + "layer_norm_1": "blk.{}.attn_norm_2",
    # llama.cpp's converter keeps both halves in one tensor, and its graph uses the first half as the gate, as in the
    # first variant. In this variant the gate is the second half.
    ENCODER_LAYER + "mlp.up_gated_layer": Split((("blk.{}.ffn_up", _GATE_SIZE), ("blk.{}.ffn_gate", _GATE_SIZE))),
    ENCODER_LAYER + "mlp.down_layer": "blk.{}.ffn_down",
    ENCODER_LAYER + "layer_norm_2": "blk.{}.layer_output_norm",
}


_QK_NORM_SHAPES: Mapping[str, str] = {"attn_q_norm": "n_embd", "attn_k_norm": "n_embd"}


def _variant(config: ModelConfig) -> Family:
    auto_map = config.find("auto_map")
    code = auto_map.get("AutoModel") if isinstance(auto_map, dict) else None
    if isinstance(code, str) and _QK_NORM_CODE in code:
        return replace(JINA_BERT, tensors={**EMBEDDINGS_AND_ATTENTION, **_SECOND_VARIANT}, shapes=_QK_NORM_SHAPES)
    return JINA_BERT


JINA_BERT: Family = Family(
    "jina-bert-v2",
    {**EMBEDDINGS_AND_ATTENTION, **_FIRST_MLP},
    (*BASIC, BIDIRECTIONAL),
    tokenizers=("wordpiece", "bpe"),
    defaults={"max_position_embeddings": 512, "layer_norm_eps": 1e-12, "type_vocab_size": 2},
    accepted_values={
        "position_embedding_type": ("alibi",),
        # llama.cpp computes the approximation of gelu; its vectors differ by less than F16 rounding does.
        "feed_forward_type": ("geglu",),
        "emb_pooler": ("mean", None),
        "is_decoder": (False, None),
        "add_cross_attention": (False, None),
    },
    # feed_forward_type sets the activation; the length limits the tokenizer; there is no output tensor.
    harmless_keys=frozenset({"hidden_act", "model_max_length", "tie_word_embeddings"}),
    has_transformers_class=False,
    rope_types=frozenset({"default"}),
    prefix_aliases={"bert.": ""},
    skipped_prefixes=("pooler.", "embeddings.position_ids", "cls."),
    shapes=FUSED_MLP_SHAPES,
    required_biases=NORM_STEMS | QKV | {"attn_output", "attn_q_norm", "attn_k_norm", "attn_norm_2", "ffn_down"},
    optional_biases=frozenset(),
    vocabulary=token_type_count,
    variant=_variant,
    embeds=True,
    heads_fill_embedding=True,
)
