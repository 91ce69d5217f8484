"""ModernBERT: an encoder that embeds texts, with RoPE and sliding windows. Pure."""

from proxy.gguf.families.bert import BIDIRECTIONAL
from proxy.gguf.families.common_keys import no_rope_scaling, rope_bases, sliding_by_layer
from proxy.gguf.families.common_tensors import FUSED_MLP_SHAPES
from proxy.gguf.families.family import Family
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, Pairs, number
from proxy.gguf.model_config import CannotConvert, ModelConfig


def _windows(config: ModelConfig) -> Pairs:
    """Every `period`-th layer, from the first on, has full attention; the others see half the window to each side."""
    period = config.positive("global_attn_every_n_layers")
    if config.find("layer_types") is not None:
        slides = sliding_by_layer(config)
        full = [layer for layer, has_window in enumerate(slides) if not has_window]
        period = full[1] if len(full) > 1 else config.blocks
        if slides != [layer % period != 0 for layer in range(config.blocks)]:
            raise CannotConvert(
                "config.json has layer_types that do not repeat one layer without a window and the others with one"
            )
    yield "attention.sliding_window", Field.uint32(config.positive("local_attention"))
    yield "attention.sliding_window_pattern", Field.uint32(period)


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
        rope_bases,
        no_rope_scaling,
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
    # llama.cpp always computes the approximation of gelu; its vectors differ by less than F16 rounding does.
    accepted_values={
        "hidden_activation": ("gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "swish"),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "norm_bias": (False, None),
    },
    # Keys of the language-model head, or that choose an implementation.
    harmless_keys=frozenset(
        {
            *("decoder_bias", "deterministic_flash_attn", "initializer_cutoff_factor", "position_embedding_type"),
            *("reference_compile", "repad_logits_with_grad", "sparse_prediction", "sparse_pred_ignore_index"),
        }
    ),
    rope_types=frozenset({"default"}),
    optional_biases=frozenset(),
    prefix_aliases={"model.": ""},
    skipped_prefixes=("head.", "decoder."),
    has_local_rope=True,
    absent_tensors=lambda _, layer: {"attn_norm": False} if layer == 0 else {},
    embeds=True,
    shapes=FUSED_MLP_SHAPES,
    heads_fill_embedding=True,
)
