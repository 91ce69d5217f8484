"""Nomic's BERT, dense and with experts: encoders that embed texts and use RoPE. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.config import CannotConvert, ModelConfig
from proxy.gguf.families.bert import BIDIRECTIONAL, NORM_STEMS, token_type_count
from proxy.gguf.families.common_keys import ANY_SILU
from proxy.gguf.families.common_tensors import experts
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Rule, StackedExperts, Unused
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, Pairs, count

_LAYER = "encoder.layers.{}."

_NOMIC_TENSORS: Mapping[str, Rule | str] = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "emb_ln": "token_embd_norm",
    _LAYER + "attn.Wqkv": "blk.{}.attn_qkv",
    _LAYER + "attn.out_proj": "blk.{}.attn_output",
    _LAYER + "norm1": "blk.{}.attn_output_norm",
    _LAYER + "mlp.fc2": "blk.{}.ffn_down",
    _LAYER + "norm2": "blk.{}.layer_output_norm",
}

_EVERY = 2

_SHORT = 512

_NOMIC_ONLY: Mapping[str, tuple[object, ...]] = {
    "causal": (False,),
    "prenorm": (False,),
    "rotary_emb_fraction": (1.0,),
    "rotary_emb_interleaved": (False,),
    "rotary_emb_scale_base": (None,),
    "scale_attn_weights": (True, None),
}
"""Of Nomic's own config.json; the defaults of its code are others."""

_NOMIC_NOTES = frozenset(
    {
        *("add_pooling_layer", "dense_seq_output", "ffn_div", "fused_bias_fc", "fused_dropout_add_ln", "moe_impl"),
        *("moe_resid_pdrop", "pad_vocab_size_multiple", "summary_activation", "summary_proj_to_labels"),
        *("summary_use_proj", "use_xentropy"),
        # Beyond the trained positions, which the context does not reach.
        "rotary_scaling_factor",
    }
)
"""The same, of how the same is calculated, and of what is left out here."""


def _context(config: ModelConfig) -> Pairs:
    """Nomic's code scales the rope beyond what was trained, and llama.cpp's converter knows how much that was."""
    positions = config.positive("n_positions", "max_position_embeddings")
    if "n_positions" in config.fields:
        trained = config.positive("max_trained_positions")
        positions = _SHORT if positions == trained == 2048 else min(positions, trained)  # noqa: PLR2004
    yield "context_length", Field.uint32(positions)


def _has_base(config: ModelConfig) -> Pairs:
    """Nomic's code and transformers take another one where there is none."""
    if config.rope.get("rope_theta") is None:
        raise CannotConvert("config.json has no rope_theta")
    yield from ()


_NOMIC_BERT = Family(
    "nomic-bert",
    {**_NOMIC_TENSORS, _LAYER + "mlp.fc11": "blk.{}.ffn_up", _LAYER + "mlp.fc12": "blk.{}.ffn_gate"},
    (*BASIC, _context, _has_base, BIDIRECTIONAL),
    tokenizers=("wordpiece", "unigram"),
    accepted_values=ANY_SILU,
    rope_types=frozenset({"default"}),
    skipped_prefixes=("pooler.",),
    harmless_keys=_NOMIC_NOTES,
    required_biases=NORM_STEMS,
    optional_biases=frozenset(),
    vocabulary=token_type_count,
    embeds=True,
)


def _dense_or_experts(_: ModelConfig, layer: int | None) -> Mapping[str, bool]:
    if layer is None:
        return {}
    is_dense = (layer + 1) % _EVERY
    absent = ("ffn_gate_inp", "ffn_up_exps", "ffn_down_exps") if is_dense else ("ffn_up", "ffn_down")
    return dict.fromkeys(absent, False)


_NOMIC_BERT_MOE = replace(
    _NOMIC_BERT,
    architecture="nomic-bert-moe",
    tensors={
        **_NOMIC_TENSORS,
        _LAYER + "mlp.fc1": "blk.{}.ffn_up",
        _LAYER + "mlp.router.layer": "blk.{}.ffn_gate_inp",
        _LAYER + "mlp.experts.mlp.w1": StackedExperts("blk.{}.ffn_up_exps", experts),
        _LAYER + "mlp.experts.mlp.w2": StackedExperts("blk.{}.ffn_down_exps", experts, transposed=True),
        _LAYER + "mlp.experts.bias": Unused(),
    },
    hyperparameters=(
        *_NOMIC_BERT.hyperparameters,
        count("moe_every_n_layers", "moe_every_n_layers", required=True),
        count("expert_used_count", "moe_top_k", required=True),
    ),
    accepted_values={
        **_NOMIC_ONLY,
        "activation_function": ("gelu",),
        "moe_every_n_layers": (_EVERY,),
        "moe_normalize_expert_weights": (False,),
    },
    required_biases=NORM_STEMS | {"attn_qkv", "attn_output", "ffn_up", "ffn_down"},
    absent_tensors=_dense_or_experts,
    caveat=lambda _: "it differs a little from its authors' model: llama.cpp leaves out the bias behind the experts",
)


def _nomic(config: ModelConfig) -> Family:
    """By whose config.json it is: transformers', or Nomic's own."""
    if config.find("moe_every_n_layers"):
        return _NOMIC_BERT_MOE
    own = {**_NOMIC_ONLY, "activation_function": ("swiglu",)}
    return replace(_NOMIC_BERT, accepted_values=own) if "n_positions" in config.fields else _NOMIC_BERT


NOMIC_BERT = replace(_NOMIC_BERT, variant=_nomic)

NOMIC_BERT_MOE = replace(NOMIC_BERT, has_transformers_class=False)
