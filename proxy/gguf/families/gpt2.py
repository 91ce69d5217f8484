"""OpenAI's GPT-2, and GPT BigCode (SantaCoder, StarCoder), which has one head of K and V. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Rule, Transposed
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, always, count, number
from proxy.gguf.model_config import ModelConfig

_LAYER, _BLOCK = "h.{}.", "blk.{}."

_TENSORS: Mapping[str, Rule | str] = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "lm_head": "output",
    _LAYER + "ln_1": _BLOCK + "attn_norm",
    _LAYER + "ln_2": _BLOCK + "ffn_norm",
}

_MATRICES: Mapping[str, str] = {
    _LAYER + "attn.c_attn": _BLOCK + "attn_qkv",
    _LAYER + "attn.c_proj": _BLOCK + "attn_output",
    _LAYER + "mlp.c_fc": _BLOCK + "ffn_up",
    _LAYER + "mlp.c_proj": _BLOCK + "ffn_down",
}


def _feed_forward(config: ModelConfig) -> int:
    """`n_inner`, where transformers takes null for four times the embedding. llama.cpp's converter knows only this."""
    return config.optional_count("n_inner") or 4 * config.hidden


def _qkv(config: ModelConfig) -> int:
    return 3 * config.hidden


def _hidden(config: ModelConfig) -> int:
    return config.hidden


def _sizes(config: ModelConfig) -> Pairs:
    yield "block_count", Field.uint32(config.blocks)
    yield "embedding_length", Field.uint32(config.hidden)
    yield "feed_forward_length", Field.uint32(_feed_forward(config))
    yield "attention.head_count", Field.uint32(config.heads)


GPT2 = Family(
    "gpt2",
    {
        **_TENSORS,
        # GPT-2's inputs are multiplied from the left.
        _LAYER + "attn.c_attn.weight": Transposed(((_BLOCK + "attn_qkv", _qkv),)),
        _LAYER + "attn.c_proj.weight": Transposed(((_BLOCK + "attn_output", _hidden),)),
        _LAYER + "mlp.c_fc.weight": Transposed(((_BLOCK + "ffn_up", _feed_forward),)),
        _LAYER + "mlp.c_proj.weight": Transposed(((_BLOCK + "ffn_down", _hidden),)),
        **{f"{name}.bias": target for name, target in _MATRICES.items()},
    },
    (
        count("context_length", "max_position_embeddings", "n_positions", required=True),
        _sizes,
        number("attention.layer_norm_epsilon", "layer_norm_epsilon", required=True),
    ),
    defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    rope_types=frozenset({"default"}),
    required_biases=frozenset(
        {"output_norm", "attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"}
    ),
    # llama.cpp always computes the approximation by a hyperbolic tangent; of `gelu` it differs by less than 0.001.
    accepted_values={
        "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu", None),
        "scale_attn_weights": (True, None),
        "scale_attn_by_inverse_layer_idx": (False, None),
    },
    # Heads of classifiers, the order in which attention is calculated, and another name for `n_positions`.
    harmless_keys=frozenset(
        {
            *("summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"),
            *("reorder_and_upcast_attn", "n_ctx"),
        }
    ),
    prefix_aliases={"transformer.": ""},
    heads_fill_embedding=True,
)

STARCODER = replace(
    GPT2,
    architecture="starcoder",
    tensors={**_TENSORS, **_MATRICES},
    hyperparameters=(*GPT2.hyperparameters, always("attention.head_count_kv", Field.uint32(1))),
    accepted_values={
        "activation_function": GPT2.accepted_values["activation_function"],
        "scale_attn_weights": (True, None),
        # Without it Q, K and V lie head by head, and llama.cpp's converter writes one head of K and V all the same.
        "multi_query": (True, None),
    },
    # How attention is calculated, and what follows from `multi_query`.
    harmless_keys=GPT2.harmless_keys
    | {"attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "num_key_value_heads"},
)
