"""Embedding models with an encoder."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tests.gguf.tiny_repositories.byte_level import byte_pairs
from tests.gguf.tiny_repositories.repository import (
    EXPERTS,
    FEED_FORWARD,
    HEAD,
    HEADS,
    HIDDEN,
    LAYERS,
    TIED,
    Tiny,
    Weights,
    plain_weights,
)
from tests.gguf.tiny_repositories.tokenizer import Tokenizer, edit_tokenizer
from tests.kit.tiny_models import bert_tokenizer, unigram_tokenizer, wordpieces

ENCODER_TOKENS = ("[CLS]", "[SEP]", "[MASK]")


def encoder_byte_pairs(pre: str = "gpt-2", *, roberta: bool = False) -> Tokenizer:
    """The post-processor adds a token at both ends of a text, with a template or as RobertaProcessing."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        tokenizer, config = files["tokenizer.json"], files["tokenizer_config.json"]
        numbers = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
        begin, end = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ENCODER_TOKENS[:2])
        first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
        template = {
            "type": "TemplateProcessing",
            "single": [begin, first, end],
            "pair": [begin, first, end, second, end],
            "special_tokens": {
                name: {"id": name, "ids": [numbers[name]], "tokens": [name]} for name in ENCODER_TOKENS[:2]
            },
        }
        processor = {"type": "RobertaProcessing", "trim_offsets": True, "add_prefix_space": False}
        processor |= {key: [name, numbers[name]] for key, name in zip(("cls", "sep"), ENCODER_TOKENS, strict=False)}
        tokenizer["post_processor"] = processor if roberta else template
        names = dict(zip(("cls_token", "sep_token", "mask_token"), ENCODER_TOKENS, strict=True))
        if roberta:
            names |= {"bos_token": ENCODER_TOKENS[0], "eos_token": ENCODER_TOKENS[1]}
        for key in ("bos_token", "eos_token", "chat_template"):
            del config[key]
        config |= names

    return edit_tokenizer(byte_pairs(pre, more=ENCODER_TOKENS), change)


def _of_class(name: str) -> Callable[[dict[str, dict[str, Any]]], None]:
    """A change of the class, which llama.cpp's converter reads."""
    return lambda files: files["tokenizer_config.json"].update(tokenizer_class=name)


def _jina_byte_pairs() -> Tokenizer:
    """With the special tokens that transformers assumes for RobertaTokenizer."""
    base = edit_tokenizer(encoder_byte_pairs(roberta=True), _of_class("RobertaTokenizer"))
    names = (*zip(ENCODER_TOKENS, ("<s>", "</s>", "<mask>"), strict=True), ("<|endoftext|>", "<pad>"))
    files = dict(base.files)
    for old, new in (*names, ("<|im_start|>", "<unk>")):
        files = {path: content.replace(old.encode(), new.encode()) for path, content in files.items()}
    return replace(base, files=files)


def word_pieces() -> Tokenizer:
    pieces = wordpieces()
    return Tokenizer(bert_tokenizer(pieces), len(pieces), {"pad": 0})


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(*unigram_tokenizer(), {"bos": 0, "pad": 1, "eos": 2})
    return edit_tokenizer(
        tokenizer, lambda files: files["tokenizer_config.json"].update(clean_up_tokenization_spaces=True)
    )


def _roberta(weights: Weights) -> None:
    config = weights.config
    for name, rows in (
        ("word", "vocab_size"),
        ("position", "max_position_embeddings"),
        ("token_type", "type_vocab_size"),
    ):
        weights.add(f"embeddings.{name}_embeddings.weight", config[rows], HIDDEN)
    weights.norm("embeddings.LayerNorm", bias=True)
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}."
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            weights.linear(f"{layer}attention.{part}", HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}intermediate.dense", FEED_FORWARD, HIDDEN, bias=True)
        weights.linear(f"{layer}output.dense", HIDDEN, FEED_FORWARD, bias=True)
        weights.norms(layer, "attention.output.LayerNorm", "output.LayerNorm", bias=True)
    weights.linear("pooler.dense", HIDDEN, HIDDEN, bias=True)


def _jina_bert(weights: Weights) -> None:
    """With the tensor names of Jina's first code, or of its second."""
    config = weights.config
    second = "post-norm" in config["auto_map"]["AutoModel"]
    names = ("up_gated_layer", "down_layer") if second else ("gated_layers", "wo")
    weights.add("embeddings.word_embeddings.weight", config["vocab_size"], HIDDEN)
    weights.add("embeddings.token_type_embeddings.weight", 2, HIDDEN)
    weights.norm("embeddings.LayerNorm", bias=True)
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}."
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            weights.linear(f"{layer}attention.{part}", HIDDEN, HIDDEN, bias=True)
        weights.norms(layer, "attention.output.LayerNorm", bias=True)
        weights.linear(f"{layer}mlp.{names[0]}", 2 * FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}mlp.{names[1]}", HIDDEN, FEED_FORWARD, bias=True)
        more = ("layer_norm_1", "layer_norm_2", "attention.self.layer_norm_q", "attention.self.layer_norm_k")
        weights.norms(layer, *(more if second else ("mlp.layernorm",)), bias=True)
    weights.linear("pooler.dense", HIDDEN, HIDDEN, bias=True)


def _nomic_bert(weights: Weights) -> None:
    """With `moe_every_n_layers`, every other layer has experts, and matrices have biases."""
    config = weights.config
    bias = "moe_every_n_layers" in config
    weights.add("embeddings.word_embeddings.weight", config["vocab_size"], HIDDEN)
    weights.add("embeddings.token_type_embeddings.weight", config["type_vocab_size"], HIDDEN)
    weights.norm("emb_ln", bias=True)
    for number in range(LAYERS):
        layer = f"encoder.layers.{number}."
        weights.linear(f"{layer}attn.Wqkv", 3 * HIDDEN, HIDDEN, bias=bias)
        weights.linear(f"{layer}attn.out_proj", HIDDEN, HIDDEN, bias=bias)
        weights.norms(layer, "norm1", "norm2", bias=True)
        if bias and number % 2:
            weights.linear(f"{layer}mlp.router.layer", EXPERTS, HIDDEN)
            for name in ("w1", "w2"):
                weights.add(f"{layer}mlp.experts.mlp.{name}", EXPERTS * FEED_FORWARD, HIDDEN)
            weights.tensors[f"{layer}mlp.experts.bias"] = np.zeros(HIDDEN, np.float32)
            continue
        for name in ("fc1",) if bias else ("fc11", "fc12"):
            weights.linear(f"{layer}mlp.{name}", FEED_FORWARD, HIDDEN, bias=bias)
        weights.linear(f"{layer}mlp.fc2", HIDDEN, FEED_FORWARD, bias=bias)


def _modern_bert(weights: Weights) -> None:
    weights.add("embeddings.tok_embeddings.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("embeddings.norm")
    for number in range(weights.config["num_hidden_layers"]):
        layer = f"layers.{number}."
        weights.norms(layer, *(("attn_norm",) if number else ()), "mlp_norm")
        weights.linear(f"{layer}attn.Wqkv", 3 * HIDDEN, HIDDEN)
        weights.linear(f"{layer}attn.Wo", HIDDEN, HIDDEN)
        weights.linear(f"{layer}mlp.Wi", 2 * FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}mlp.Wo", HIDDEN, FEED_FORWARD)
    weights.norm("final_norm")


NOMIC_BERT = {
    "n_positions": 8192,
    "max_trained_positions": 2048,
    "n_embd": HIDDEN,
    "n_inner": FEED_FORWARD,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "type_vocab_size": 2,
    "layer_norm_epsilon": 1e-4,
    "activation_function": "swiglu",
    "causal": False,
    "prenorm": False,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
}


def _jina_bert_of(code: str) -> dict[str, Any]:
    return {
        "auto_map": {
            "AutoConfig": f"{code}--configuration_bert.JinaBertConfig",
            "AutoModel": f"{code}--modeling_bert.JinaBertModel",
            "AutoModelForMaskedLM": f"{code}--modeling_bert.JinaBertForMaskedLM",
        },
        "emb_pooler": "mean",
        "feed_forward_type": "geglu",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-4,
        "model_max_length": 8192,
        "position_embedding_type": "alibi",
        "type_vocab_size": 2,
    }


NOT_IN_NOMIC_BERT = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("max_position_embeddings", "hidden_act", "rms_norm_eps", "rope_theta", "tie_word_embeddings"),
)


MODERN_BERT = {
    "num_hidden_layers": 4,
    "norm_eps": 1e-4,
    "local_attention": 8,
    "global_attn_every_n_layers": 2,
    "global_rope_theta": 40000.0,
    "local_rope_theta": 5000.0,
    "hidden_activation": "gelu",
}


REPOSITORIES: dict[str, Tiny] = {
    "eurobert": Tiny(
        "EuroBertModel",
        "eurobert",
        plain_weights,
        lambda: encoder_byte_pairs("llama-bpe"),
        {"rope_theta": 250000.0, "rms_norm_eps": 1e-4, **TIED},
        pooling="mean",
    ),
    "modern_bert": Tiny(
        "ModernBertModel",
        "modernbert",
        _modern_bert,
        encoder_byte_pairs,
        {**MODERN_BERT, "layer_norm_eps": 1e-4},
        drop=("num_key_value_heads", "rms_norm_eps", "rope_theta", "hidden_act"),
        pooling="cls",
    ),
    "modern_bert_v5": Tiny(
        "ModernBertModel",
        "modernbert",
        _modern_bert,
        encoder_byte_pairs,
        {
            **MODERN_BERT,
            "hidden_activation": "silu",
            "layer_types": ["full_attention", "sliding_attention"] * 2,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 40000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
            },
        },
        drop=(
            *("num_key_value_heads", "rms_norm_eps", "rope_theta", "hidden_act"),
            *("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"),
        ),
        pooling="mean",
    ),
    "jina_bert": Tiny(
        "JinaBertForMaskedLM",
        "bert",
        _jina_bert,
        lambda: edit_tokenizer(word_pieces(), _of_class("BertTokenizer")),
        _jina_bert_of("jinaai/jina-bert-implementation"),
        drop=("num_key_value_heads", "rms_norm_eps", "rope_theta", "tie_word_embeddings"),
        pooling="mean",
    ),
    "jina_bert_code": Tiny(
        "JinaBertModel",
        "bert",
        _jina_bert,
        _jina_byte_pairs,
        {**_jina_bert_of("jinaai/jina-bert-v2-qk-post-norm"), "pad_token_id": 1},
        drop=("num_key_value_heads", "rms_norm_eps", "rope_theta", "tie_word_embeddings"),
        pooling="mean",
    ),
    "nomic_bert": Tiny(
        "NomicBertModel", "nomic_bert", _nomic_bert, word_pieces, NOMIC_BERT, drop=NOT_IN_NOMIC_BERT, pooling="mean"
    ),
    "nomic_bert_moe": Tiny(
        "NomicBertModel",
        "nomic_bert",
        _nomic_bert,
        unigram,
        {
            **NOMIC_BERT,
            **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), True),
            "n_positions": 2048,
            "type_vocab_size": 1,
            "rotary_emb_base": 5000.0,
            "activation_function": "gelu",
            "moe_every_n_layers": 2,
            "moe_normalize_expert_weights": False,
            "moe_top_k": 2,
            "num_experts": EXPERTS,
        },
        drop=NOT_IN_NOMIC_BERT,
        pooling="mean",
    ),
    "nomic_bert_v5": Tiny(
        "NomicBertModel",
        "nomic_bert",
        _nomic_bert,
        word_pieces,
        {
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-4,
            "head_dim": HEAD,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        },
        drop=("num_key_value_heads", "rms_norm_eps", "rope_theta", "tie_word_embeddings"),
        pooling="cls",
    ),
    "roberta": Tiny(
        "RobertaModel",
        "roberta",
        _roberta,
        lambda: encoder_byte_pairs(roberta=True),
        {
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-4,
            "max_position_embeddings": 130,
            "pad_token_id": 1,
            "type_vocab_size": 1,
        },
        drop=("num_key_value_heads", "rms_norm_eps", "rope_theta", "tie_word_embeddings"),
        pooling="mean",
    ),
}
