"""BERT, and RoBERTa and XLM-RoBERTa, whose positions start later: encoders that embed texts. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import RowsFrom, Rule
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, Pairs, always
from proxy.gguf.model_config import ModelConfig
from proxy.gguf.tokenizer_files import TokenizerFiles

ENCODER_LAYER = "encoder.layer.{}."

NORM_STEMS = frozenset({"token_embd_norm", "attn_output_norm", "layer_output_norm"})

EMBEDDINGS_AND_ATTENTION: Mapping[str, Rule | str] = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    ENCODER_LAYER + "attention.self.query": "blk.{}.attn_q",
    ENCODER_LAYER + "attention.self.key": "blk.{}.attn_k",
    ENCODER_LAYER + "attention.self.value": "blk.{}.attn_v",
    ENCODER_LAYER + "attention.output.dense": "blk.{}.attn_output",
    ENCODER_LAYER + "attention.output.LayerNorm": "blk.{}.attn_output_norm",
}
"""All that is equal in BERT and Jina's BERT: everything except positions and the MLP."""

_TENSORS: Mapping[str, Rule | str] = {
    **EMBEDDINGS_AND_ATTENTION,
    "embeddings.position_embeddings": "position_embd",
    ENCODER_LAYER + "intermediate.dense": "blk.{}.ffn_up",
    ENCODER_LAYER + "output.dense": "blk.{}.ffn_down",
    ENCODER_LAYER + "output.LayerNorm": "blk.{}.layer_output_norm",
}


def token_type_count(config: ModelConfig, _files: TokenizerFiles) -> Pairs:
    yield "token_type_count", Field.uint32(config.positive("type_vocab_size"))


BIDIRECTIONAL = always("attention.causal", Field.boolean(False))

BERT = Family(
    "bert",
    _TENSORS,
    (*BASIC, BIDIRECTIONAL),
    tokenizers=("wordpiece", "unigram"),
    defaults={"max_position_embeddings": 512, "layer_norm_eps": 1e-12, "type_vocab_size": 2, "pad_token_id": 0},
    # llama.cpp always computes the approximation; its vectors differ by less than F16 rounding does.
    accepted_values={
        "hidden_act": ("gelu", "gelu_new", "gelu_pytorch_tanh", None),
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False, None),
        "add_cross_attention": (False, None),
    },
    # There is no output tensor.
    harmless_keys=frozenset({"tie_word_embeddings"}),
    rope_types=frozenset({"default"}),
    prefix_aliases={"bert.": "", "roberta.": ""},
    skipped_prefixes=("pooler.", "embeddings.position_ids", "cls.", "lm_head."),
    required_biases=NORM_STEMS,
    optional_biases=frozenset({"attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"}),
    vocabulary=token_type_count,
    embeds=True,
    heads_fill_embedding=True,
)


def _first_position(config: ModelConfig) -> int:
    """RoBERTa numbers positions from the padding token's id + 1 on (transformers)."""
    return config.count("pad_token_id") + 1


def _context(config: ModelConfig) -> Pairs:
    yield "context_length", Field.uint32(config.positive("max_position_embeddings") - _first_position(config))


XLM_ROBERTA = replace(
    BERT,
    tensors={**_TENSORS, "embeddings.position_embeddings": RowsFrom("position_embd", _first_position)},
    hyperparameters=(*BERT.hyperparameters, _context),
    tokenizers=("unigram",),
    defaults={**BERT.defaults, "pad_token_id": 1},
    # jina-embeddings-v3 has adapters among its weights, and RoPE.
    accepted_values={**BERT.accepted_values, "lora_adaptations": (None,)},
)

ROBERTA = replace(XLM_ROBERTA, tokenizers=("bpe",))

_DISTILLED_LAYER = "transformer.layer.{}."


def _no_token_types(config: ModelConfig) -> Mapping[str, bytes]:
    """Zeros for a single token type: Ollama's own engine and the llama.cpp of old versions need the tensor."""
    return {"token_types.weight": bytes(4 * config.hidden)}


DISTIL_BERT = replace(
    BERT,
    tensors={
        "embeddings.word_embeddings": "token_embd",
        "embeddings.position_embeddings": "position_embd",
        "embeddings.LayerNorm": "token_embd_norm",
        _DISTILLED_LAYER + "attention.q_lin": "blk.{}.attn_q",
        _DISTILLED_LAYER + "attention.k_lin": "blk.{}.attn_k",
        _DISTILLED_LAYER + "attention.v_lin": "blk.{}.attn_v",
        _DISTILLED_LAYER + "attention.out_lin": "blk.{}.attn_output",
        _DISTILLED_LAYER + "sa_layer_norm": "blk.{}.attn_output_norm",
        _DISTILLED_LAYER + "ffn.lin1": "blk.{}.ffn_up",
        _DISTILLED_LAYER + "ffn.lin2": "blk.{}.ffn_down",
        _DISTILLED_LAYER + "output_layer_norm": "blk.{}.layer_output_norm",
    },
    # transformers always uses this epsilon.
    hyperparameters=(always("attention.layer_norm_epsilon", Field.float32(1e-12)), *BERT.hyperparameters),
    computed_tensors=_no_token_types,
    key_aliases={"dim": "hidden_size", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
    defaults={
        "hidden_size": 768,
        "n_heads": 12,
        "n_layers": 6,
        "hidden_dim": 3072,
        "max_position_embeddings": 512,
        "type_vocab_size": 1,
    },
    accepted_values={
        "activation": BERT.accepted_values["hidden_act"],
        "is_decoder": (False, None),
        "add_cross_attention": (False, None),
    },
    # Its weights have sinusoidal positions too.
    harmless_keys=BERT.harmless_keys | {"dropout", "sinusoidal_pos_embds"},
    prefix_aliases={"distilbert.": ""},
    skipped_prefixes=("vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
)
"""DistilBERT: BERT with other names and without token types."""
