"""Nomic's BERT, dense and with experts: encoders that embed texts and use RoPE. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.families.bert import BIDIRECTIONAL, NORM_STEMS, token_type_count
from proxy.gguf.families.common_keys import ANY_SILU, check_rope_base
from proxy.gguf.families.common_tensors import expert_count
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Rule, StackedExperts, Unused
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, Pairs, count
from proxy.gguf.model_config import ModelConfig

_LAYER = "encoder.layers.{}."

_TENSORS: Mapping[str, Rule | str] = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "emb_ln": "token_embd_norm",
    _LAYER + "attn.Wqkv": "blk.{}.attn_qkv",
    _LAYER + "attn.out_proj": "blk.{}.attn_output",
    _LAYER + "norm1": "blk.{}.attn_output_norm",
    _LAYER + "mlp.fc2": "blk.{}.ffn_down",
    _LAYER + "norm2": "blk.{}.layer_output_norm",
}

_MOE_PERIOD = 2

_SHORT_CONTEXT = 512

_OWN_ACCEPTED_VALUES: Mapping[str, tuple[object, ...]] = {
    "causal": (False,),
    "prenorm": (False,),
    "rotary_emb_fraction": (1.0,),
    "rotary_emb_interleaved": (False,),
    "rotary_emb_scale_base": (None,),
    "scale_attn_weights": (True, None),
}
"""For a config.json of Nomic's own code, which has other defaults than transformers."""

_OWN_HARMLESS_KEYS = frozenset(
    {
        *("add_pooling_layer", "dense_seq_output", "ffn_div", "fused_bias_fc", "fused_dropout_add_ln", "moe_impl"),
        *("moe_resid_pdrop", "pad_vocab_size_multiple", "summary_activation", "summary_proj_to_labels"),
        *("summary_use_proj", "use_xentropy"),
        # Only for positions beyond the trained ones; the context ends before them.
        "rotary_scaling_factor",
    }
)
"""Keys of Nomic's own code that choose an implementation, or concern parts that are skipped here."""


def _context(config: ModelConfig) -> Pairs:
    """Nomic's code scales RoPE beyond the trained positions; llama.cpp's converter ends the context there."""
    positions = config.positive("n_positions", "max_position_embeddings")
    if "n_positions" in config.fields:
        trained = config.positive("max_trained_positions")
        positions = _SHORT_CONTEXT if positions == trained == 2048 else min(positions, trained)  # noqa: PLR2004
    yield "context_length", Field.uint32(positions)


_NOMIC_BERT = Family(
    "nomic-bert",
    {**_TENSORS, _LAYER + "mlp.fc11": "blk.{}.ffn_up", _LAYER + "mlp.fc12": "blk.{}.ffn_gate"},
    (*BASIC, _context, check_rope_base, BIDIRECTIONAL),
    tokenizers=("wordpiece", "unigram"),
    accepted_values=ANY_SILU,
    rope_types=frozenset({"default"}),
    skipped_prefixes=("pooler.",),
    harmless_keys=_OWN_HARMLESS_KEYS,
    required_biases=NORM_STEMS,
    optional_biases=frozenset(),
    vocabulary=token_type_count,
    embeds=True,
    heads_fill_embedding=True,
)


def _absent_tensors(_: ModelConfig, layer: int | None) -> Mapping[str, bool]:
    if layer is None:
        return {}
    is_dense = (layer + 1) % _MOE_PERIOD
    stems = ("ffn_gate_inp", "ffn_up_exps", "ffn_down_exps") if is_dense else ("ffn_up", "ffn_down")
    return dict.fromkeys(stems, False)


_NOMIC_BERT_MOE = replace(
    _NOMIC_BERT,
    architecture="nomic-bert-moe",
    tensors={
        **_TENSORS,
        _LAYER + "mlp.fc1": "blk.{}.ffn_up",
        _LAYER + "mlp.router.layer": "blk.{}.ffn_gate_inp",
        _LAYER + "mlp.experts.mlp.w1": StackedExperts("blk.{}.ffn_up_exps", expert_count),
        _LAYER + "mlp.experts.mlp.w2": StackedExperts("blk.{}.ffn_down_exps", expert_count, transposed=True),
        _LAYER + "mlp.experts.bias": Unused(),
    },
    hyperparameters=(
        *_NOMIC_BERT.hyperparameters,
        count("moe_every_n_layers", "moe_every_n_layers", required=True),
        count("expert_used_count", "moe_top_k", required=True),
    ),
    accepted_values={
        **_OWN_ACCEPTED_VALUES,
        "activation_function": ("gelu",),
        "moe_every_n_layers": (_MOE_PERIOD,),
        "moe_normalize_expert_weights": (False,),
    },
    required_biases=NORM_STEMS | {"attn_qkv", "attn_output", "ffn_up", "ffn_down"},
    absent_tensors=_absent_tensors,
    caveat=lambda _: "it differs a little from its authors' model: llama.cpp leaves out the bias after the experts",
    has_mixed_layers=True,
)


def _variant(config: ModelConfig) -> Family:
    """Whether config.json is of transformers or of Nomic's own code, and whether the model has experts."""
    if config.find("moe_every_n_layers"):
        return _NOMIC_BERT_MOE
    accepted_values = {**_OWN_ACCEPTED_VALUES, "activation_function": ("swiglu",)}
    return replace(_NOMIC_BERT, accepted_values=accepted_values) if "n_positions" in config.fields else _NOMIC_BERT


NOMIC_BERT = replace(_NOMIC_BERT, variant=_variant)

NOMIC_BERT_MOE = replace(NOMIC_BERT, has_transformers_class=False)
