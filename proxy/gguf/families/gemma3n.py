"""The text part of Google's Gemma 3n. llama.cpp runs only its two published sizes. Pure."""

import math
from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.families.common_keys import rope_bases, sliding_by_layer
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    LAYER,
    MLP,
    PER_LAYER_INPUT_SHAPES,
    PER_LAYER_INPUTS,
    POST_NORMS,
    QK_NORMS,
)
from proxy.gguf.families.family import Family
from proxy.gguf.families.gemma import GEMMA3
from proxy.gguf.families.rules import Padded, Stacked
from proxy.gguf.families.text_part import TEXT_OF_MULTIMODAL, VISION_AUDIO_TEXT
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import BASIC, FEED_FORWARD, Pairs, count, number
from proxy.gguf.model_config import CannotConvert, ModelConfig, as_integer
from proxy.gguf.tensors import shown

_OWN_KV_LAYERS = 20
"""Later layers reuse K and V of the last ones among these."""

_WINDOW_PERIOD = 5
_SPARSE_LAYERS, _SPARSITY = 10, 0.95

_QUANTILES = {_SPARSITY: 1.6448535919189453, 0.0: -math.inf}
"""Quantiles of the normal distribution, as torch computes them in 32 bits."""


def _inactive_inputs(config: ModelConfig) -> int:
    return config.positive("altup_num_inputs") - 1


def _vocabulary_size(config: ModelConfig) -> int:
    return config.positive("vocab_size")


def _layers(config: ModelConfig) -> Pairs:
    blocks, windows = config.blocks, sliding_by_layer(config)
    sparsity = [_SPARSITY if layer < _SPARSE_LAYERS else 0.0 for layer in range(blocks)]
    configured = config.find("activation_sparsity_pattern")
    if configured is None and blocks > _SPARSE_LAYERS:
        configured = sparsity
    for key, value, expected in (
        ("activation_sparsity_pattern", configured, sparsity),
        ("layer_types", windows, [(layer + 1) % _WINDOW_PERIOD != 0 for layer in range(blocks)]),
        ("num_kv_shared_layers", config.count("num_kv_shared_layers"), max(blocks - _OWN_KV_LAYERS, 0)),
    ):
        if value != expected:
            raise CannotConvert(f"config.json has {key} that llama.cpp does not run: {shown(config.find(key))}")
    yield "attention.sliding_window", Field.uint32(config.positive("sliding_window"))
    yield "attention.sliding_window_pattern", Field.array(ValueType.BOOL, windows)
    yield "activation_sparsity_scale", Field.array(ValueType.FLOAT32, [_QUANTILES[share] for share in sparsity])


def _mlp_sizes(config: ModelConfig) -> Pairs:
    size, blocks = config.find("intermediate_size"), config.blocks
    sizes = [as_integer(item) for item in (size if isinstance(size, list) else [size] * blocks)]
    if len(sizes) != blocks or any(item != sizes[0] for item in sizes) or type(sizes[0]) is not int:
        raise CannotConvert(f"config.json has intermediate_size = {shown(size)}, unknown for this architecture")
    yield "feed_forward_length", Field.array(ValueType.INT32, sizes)


_SHAPES: Mapping[str, str] = {
    **PER_LAYER_INPUT_SHAPES,
    "altup_proj": "n_embd n_embd 3",
    "altup_unembd_proj": "n_embd n_embd 3",
    "altup_correct_coef": "4 4",
    "altup_correct_scale": "n_embd",
    "altup_predict_coef": "4 16",
    "altup_router": "n_embd 4",
    "altup_router_norm": "n_embd",
    "laurel_l": "n_embd 64",
    "laurel_r": "64 n_embd",
    "laurel_post_norm": "n_embd",
}

GEMMA3N = Family(
    "gemma3n",
    {
        **EMBEDDING_AND_OUTPUT,
        **ATTENTION,
        **QK_NORMS,
        **MLP,
        **POST_NORMS,
        **PER_LAYER_INPUTS,
        # transformers uses the first row for tokens beyond the matrix; llama.cpp's converter pads with zeros.
        "model.embed_tokens_per_layer": Padded("per_layer_token_embd", _vocabulary_size),
        "model.altup_projections.{}": Stacked("altup_proj", _inactive_inputs),
        "model.altup_unembed_projections.{}": Stacked("altup_unembd_proj", _inactive_inputs),
        LAYER + "input_layernorm": "blk.{}.attn_norm",
        LAYER + "pre_feedforward_layernorm": "blk.{}.ffn_norm",
        LAYER + "altup.correction_coefs": "blk.{}.altup_correct_coef",
        LAYER + "altup.correct_output_scale": "blk.{}.altup_correct_scale",
        LAYER + "altup.prediction_coefs": "blk.{}.altup_predict_coef",
        LAYER + "altup.modality_router": "blk.{}.altup_router",
        LAYER + "altup.router_norm": "blk.{}.altup_router_norm",
        LAYER + "laurel.linear_left": "blk.{}.laurel_l",
        LAYER + "laurel.linear_right": "blk.{}.laurel_r",
        LAYER + "laurel.post_laurel_norm": "blk.{}.laurel_post_norm",
    },
    (
        *(write for write in BASIC if write is not FEED_FORWARD),
        number("final_logit_softcapping", "final_logit_softcapping", required=True),
        count("altup.active_idx", "altup_active_idx", required=True),
        count("altup.num_inputs", "altup_num_inputs", required=True),
        count("embedding_length_per_layer_input", "hidden_size_per_layer_input", required=True),
        count("attention.shared_kv_layers", "num_kv_shared_layers", required=True),
        _layers,
        _mlp_sizes,
        rope_bases,
    ),
    tokenizers=GEMMA3.tokenizers,
    defaults={
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "num_hidden_layers": 35,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "sliding_window": 512,
        "sliding_window_pattern": _WINDOW_PERIOD,
        "tie_word_embeddings": True,
        "vocab_size": 262400,
        "final_logit_softcapping": 30.0,
        "num_kv_shared_layers": 15,
        "hidden_size_per_layer_input": 256,
        "altup_active_idx": 0,
        "altup_num_inputs": 4,
        "altup_correct_scale": True,
        "laurel_rank": 64,
    },
    rope_types=frozenset({"default"}),
    accepted_values={
        "hidden_activation": ("gelu_pytorch_tanh", None),
        "attention_bias": (False, None),
        "tie_word_embeddings": (True,),
        "sliding_window_pattern": (_WINDOW_PERIOD,),
        "final_logit_softcapping": (30.0,),
        "hidden_size_per_layer_input": (256,),
        "altup_active_idx": (0,),
        "altup_num_inputs": (4,),
        "altup_correct_scale": (True,),
        "laurel_rank": (64,),
    },
    # The weights show it anyway.
    harmless_keys=frozenset({"vocab_size_per_layer_input"}),
    vocabulary=GEMMA3.vocabulary,
    optional_biases=frozenset(),
    has_local_rope=True,
    shapes=_SHAPES,
    prefix_aliases=TEXT_OF_MULTIMODAL,
)

GEMMA3N_MULTIMODAL = replace(GEMMA3N, text_part=VISION_AUDIO_TEXT)
