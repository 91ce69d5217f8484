"""Encoders of texts that become one vector, with a rope for positions: Nomic's BERT, ModernBERT, EuroBERT. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.config import CannotConvert, ModelConfig
from proxy.gguf.families.bert import BIDIRECTIONAL, NORMS, token_types
from proxy.gguf.families.parts import ANY_SILU, ATTENTION, BARE, MLP, experts, head_dim, no_scaling, sliding, two_ropes
from proxy.gguf.families.parts import NORMS as DECODER_NORMS
from proxy.gguf.families.rules import Family, Rule, StackedExperts, Unused
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, Pairs, count, number

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
    only=ANY_SILU,
    ropes=frozenset({"default"}),
    skipped=("pooler.",),
    harmless=_NOMIC_NOTES,
    biases=NORMS,
    optional_biases=frozenset(),
    vocabulary=token_types,
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
    only={
        **_NOMIC_ONLY,
        "activation_function": ("gelu",),
        "moe_every_n_layers": (_EVERY,),
        "moe_normalize_expert_weights": (False,),
    },
    biases=NORMS | {"attn_qkv", "attn_output", "ffn_up", "ffn_down"},
    absent=_dense_or_experts,
    told=lambda _: "it differs a little from its authors' model: llama.cpp leaves out the bias behind the experts",
)


def _nomic(config: ModelConfig) -> Family:
    """By whose config.json it is: transformers', or Nomic's own."""
    if config.find("moe_every_n_layers"):
        return _NOMIC_BERT_MOE
    own = {**_NOMIC_ONLY, "activation_function": ("swiglu",)}
    return replace(_NOMIC_BERT, only=own) if "n_positions" in config.fields else _NOMIC_BERT


NOMIC_BERT = replace(_NOMIC_BERT, of=_nomic)
NOMIC_BERT_MOE = replace(NOMIC_BERT, in_transformers=False)


def _windows(config: ModelConfig) -> Pairs:
    """The first of so many layers sees all, and the others half of the window to each side."""
    every = config.positive("global_attn_every_n_layers")
    if config.find("layer_types") is not None:
        windows = sliding(config)
        full = [at for at, has_window in enumerate(windows) if not has_window]
        every = full[1] if len(full) > 1 else config.blocks
        if windows != [at % every != 0 for at in range(config.blocks)]:
            raise CannotConvert("config.json has layer_types other than the first of so many without a window")
    yield "attention.sliding_window", Field.uint32(config.positive("local_attention"))
    yield "attention.sliding_window_pattern", Field.uint32(every)


def _activation(config: ModelConfig) -> Pairs:
    yield "hidden_activation", Field.string(config.fields["hidden_activation"])


MODERN_BERT = Family(
    "modern-bert",
    {
        "embeddings.tok_embeddings": "token_embd",
        "embeddings.norm": "token_embd_norm",
        "final_norm": "output_norm",
        "layers.{}.attn_norm": "blk.{}.attn_norm",
        "layers.{}.attn.Wqkv": "blk.{}.attn_qkv",
        "layers.{}.attn.Wo": "blk.{}.attn_output",
        "layers.{}.mlp_norm": "blk.{}.ffn_norm",
        "layers.{}.mlp.Wi": "blk.{}.ffn_up",
        "layers.{}.mlp.Wo": "blk.{}.ffn_down",
    },
    (
        *BASIC,
        number("attention.layer_norm_epsilon", "norm_eps", required=True),
        BIDIRECTIONAL,
        two_ropes,
        no_scaling,
        _windows,
        _activation,
        VOCABULARY_SIZE,
    ),
    defaults={
        "max_position_embeddings": 8192,
        "norm_eps": 1e-5,
        "local_attention": 128,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
        "hidden_activation": "gelu",
    },
    # llama.cpp calculates the approximation of gelu in any case; its vectors differ by less than F16's.
    only={
        "hidden_activation": ("gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "swish"),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "norm_bias": (False, None),
    },
    # Of the head that guesses words, and of how the same is calculated.
    harmless=frozenset(
        {
            *("decoder_bias", "deterministic_flash_attn", "initializer_cutoff_factor", "position_embedding_type"),
            *("reference_compile", "repad_logits_with_grad", "sparse_prediction", "sparse_pred_ignore_index"),
        }
    ),
    ropes=frozenset({"default"}),
    optional_biases=frozenset(),
    renamed={"model.": ""},
    skipped=("head.", "decoder."),
    local_rope=True,
    absent=lambda _, layer: {"attn_norm": False} if layer == 0 else {},
    embeds=True,
)

EURO_BERT = Family(
    "eurobert",
    {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        **DECODER_NORMS,
        **ATTENTION,
        **MLP,
    },
    (*BASIC, head_dim, BIDIRECTIONAL, no_scaling),
    defaults={"max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 10000.0},
    only={**ANY_SILU, "attention_bias": (False, None), "mlp_bias": (False, None)},
    # The tokenizer's, and a classifier's.
    harmless=frozenset({"bos_token", "eos_token", "mask_token", "pad_token", "clf_pooling"}),
    ropes=frozenset({"default"}),
    optional_biases=frozenset(),
    renamed=BARE,
    embeds=True,
)
