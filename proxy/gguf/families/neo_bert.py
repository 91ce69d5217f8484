"""NeoBERT: an encoder that embeds texts, with RoPE and without biases. Pure."""

from proxy.gguf.families.bert import BIDIRECTIONAL, token_type_count
from proxy.gguf.families.common_keys import no_rope_scaling
from proxy.gguf.families.common_tensors import FUSED_MLP_SHAPES
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import MergedQkv
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, Pairs, always, number
from proxy.gguf.model_config import CannotConvert, ModelConfig

_LAYER = "transformer_encoder.{}."
_MULTIPLE = 8


def _feed_forward(config: ModelConfig) -> Pairs:
    """Gate and up together are as large as an ungated matrix would be, rounded up to multiples of 8."""
    size = 2 * config.positive("intermediate_size") // 3
    yield "feed_forward_length", Field.uint32(-(-size // _MULTIPLE) * _MULTIPLE)


def _check_heads(config: ModelConfig) -> Pairs:
    if config.optional_count("dim_head") not in (None, config.hidden // config.heads):
        raise CannotConvert(f"config.json has dim_head = {config.find('dim_head')}, unknown for this architecture")
    yield from ()


NEO_BERT = Family(
    "neo-bert",
    {
        "encoder": "token_embd",
        "layer_norm": "enc.output_norm",
        # The weights have Q, K and V of each head together. llama.cpp's converter leaves them so, against its graph.
        _LAYER + "qkv": MergedQkv("blk.{}.attn_qkv", lambda config: config.heads, lambda config: config.heads),
        _LAYER + "wo": "blk.{}.attn_output",
        _LAYER + "ffn.w12": "blk.{}.ffn_up",
        _LAYER + "ffn.w3": "blk.{}.ffn_down",
        _LAYER + "attention_norm": "blk.{}.attn_norm",
        _LAYER + "ffn_norm": "blk.{}.ffn_norm",
    },
    (
        *BASIC,
        _feed_forward,
        _check_heads,
        number("attention.layer_norm_rms_epsilon", "norm_eps", required=True),
        always("rope.freq_base", Field.float32(10000.0)),
        no_rope_scaling,
        BIDIRECTIONAL,
    ),
    tokenizers=("wordpiece",),
    key_aliases={"max_length": "max_position_embeddings"},
    defaults={"type_vocab_size": 1},
    rope_types=frozenset({"default"}),
    # Settings of the authors' own code. It has no key for RoPE's base.
    accepted_values={
        "hidden_act": ("SwiGLU", "swiglu", None),
        "ngpt": (False, None),
        "rms_norm": (True, None),
        "rope": (True, None),
        "rope_theta": (None,),
    },
    harmless_keys=frozenset(
        {
            *("base_scale", "classifier_init_range", "decoder_init_range", "dropout", "embedding_init_range"),
            # The arguments with which the config was made; the model does not read them.
            *("kwargs", "flash_attention", "pretrained_model_name_or_path", "tie_word_embeddings", "trust_remote_code"),
        }
    ),
    has_transformers_class=False,
    optional_biases=frozenset(),
    shapes={**FUSED_MLP_SHAPES, "enc.output_norm": "n_embd"},
    vocabulary=token_type_count,
    embeds=True,
    heads_fill_embedding=True,
)
