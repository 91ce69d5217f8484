"""DistilBERT, CamemBERT and other encoders."""

from dataclasses import replace
from typing import Any

from tests.gguf.tiny_repositories.byte_level import llama3_tokens
from tests.gguf.tiny_repositories.encoders import REPOSITORIES as ENCODERS
from tests.gguf.tiny_repositories.encoders import unigram, word_pieces
from tests.gguf.tiny_repositories.repository import (
    FEED_FORWARD,
    HEAD,
    HEADS,
    HIDDEN,
    TIED,
    Tiny,
    Weights,
    plain_weights,
)
from tests.gguf.tiny_repositories.tokenizer import Tokenizer, edit_tokenizer


def _camembert_pieces() -> Tokenizer:
    """Two pieces that nothing uses stand before the special tokens, which are therefore not those of XLM-RoBERTa."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        tokenizer, config = files["tokenizer.json"], files["tokenizer_config.json"]
        pieces = tokenizer["model"]["vocab"]
        names = [piece for piece, _ in pieces[:4]]
        pieces[:4] = [
            ["<s>NOTUSED", 0.0],
            ["<pad>", 0.0],
            ["</s>NOTUSED", 0.0],
            ["<unk>", 0.0],
            ["<unk>NOTUSED", -100.0],
        ]
        pieces[5:5] = [["<s>", 0.0], ["</s>", 0.0]]
        ids = {piece: number for number, (piece, _) in enumerate(pieces)}
        for token in tokenizer["added_tokens"]:
            token["id"] = ids[token["content"]]
        tokenizer["added_tokens"].sort(key=lambda token: token["id"])
        for name, token in tokenizer["post_processor"]["special_tokens"].items():
            token["ids"] = [ids[name]]
        assert names == ["<s>", "<pad>", "</s>", "<unk>"]
        config["tokenizer_class"] = "CamembertTokenizer"

    base = edit_tokenizer(unigram(), change, rows=3)
    return replace(base, specials={"bos": 5, "pad": 1, "eos": 6})


def _distil_bert(weights: Weights) -> None:
    config = weights.config
    weights.add("embeddings.word_embeddings.weight", config["vocab_size"], HIDDEN)
    weights.add("embeddings.position_embeddings.weight", config["max_position_embeddings"], HIDDEN)
    weights.norm("embeddings.LayerNorm", bias=True)
    for number in range(config["n_layers"]):
        layer = f"transformer.layer.{number}."
        for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
            weights.linear(f"{layer}attention.{part}", HIDDEN, HIDDEN, bias=True)
        weights.norms(layer, "sa_layer_norm", "output_layer_norm", bias=True)
        weights.linear(f"{layer}ffn.lin1", FEED_FORWARD, HIDDEN, bias=True)
        weights.linear(f"{layer}ffn.lin2", HIDDEN, FEED_FORWARD, bias=True)


def _neo_bert(weights: Weights) -> None:
    config = weights.config
    weights.add("encoder.weight", config["vocab_size"], HIDDEN)
    weights.norm("layer_norm")
    for number in range(config["num_hidden_layers"]):
        layer = f"transformer_encoder.{number}."
        weights.linear(f"{layer}qkv", 3 * HIDDEN, HIDDEN)
        weights.linear(f"{layer}wo", HIDDEN, HIDDEN)
        weights.linear(f"{layer}ffn.w12", 2 * FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}ffn.w3", HIDDEN, FEED_FORWARD)
        weights.norms(layer, "attention_norm", "ffn_norm")


REPOSITORIES: dict[str, Tiny] = {
    "camembert": replace(
        ENCODERS["roberta"],
        architecture="CamembertModel",
        model_type="camembert",
        tokenizer=_camembert_pieces,
        change={**ENCODERS["roberta"].change, "max_position_embeddings": 258},
    ),
    "llama_bidirectional": Tiny(
        "LlamaBidirectionalModel",
        "llama_bidirec",
        plain_weights,
        llama3_tokens,
        {
            "auto_map": {
                "AutoConfig": "llama_bidirectional_model.LlamaBidirectionalConfig",
                "AutoModel": "llama_bidirectional_model.LlamaBidirectionalModel",
            },
            "pooling": "avg",
            "rope_theta": 500000.0,
            "temperature": 1.0,
            **TIED,
        },
        pooling="mean",
    ),
    "neo_bert": Tiny(
        "NeoBERT",
        "neobert",
        _neo_bert,
        word_pieces,
        {
            "auto_map": {"AutoConfig": "model.NeoBERTConfig", "AutoModel": "model.NeoBERT"},
            "dim_head": HEAD,
            "embedding_init_range": 0.02,
            "intermediate_size": FEED_FORWARD * 3 // 2,
            "max_length": 1024,
            "norm_eps": 1e-4,
        },
        drop=(
            *("num_key_value_heads", "max_position_embeddings", "hidden_act", "rms_norm_eps", "rope_theta"),
            "tie_word_embeddings",
        ),
        pooling="cls",
    ),
    "distil_bert": Tiny(
        "DistilBertModel",
        "distilbert",
        _distil_bert,
        word_pieces,
        {
            "activation": "gelu",
            "dim": HIDDEN,
            "dropout": 0.1,
            "hidden_dim": FEED_FORWARD,
            "max_position_embeddings": 256,
            "n_heads": HEADS,
            "n_layers": 3,
            "sinusoidal_pos_embds": False,
            "tie_weights_": True,
        },
        drop=(
            *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
            *("hidden_act", "rms_norm_eps", "rope_theta", "tie_word_embeddings"),
        ),
        pooling="mean",
    ),
}
