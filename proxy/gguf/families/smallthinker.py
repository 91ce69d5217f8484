"""PowerInfer's SmallThinker. Pure."""

from proxy.gguf.families.common_tensors import ATTENTION, EMBEDDING_AND_OUTPUT, LAYER, NORMS, size_from
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Stacked
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, FEED_FORWARD, GATES, Pairs, count
from proxy.gguf.model_config import CannotConvert, ModelConfig

_WINDOW, _PERIOD = 4096, 4
"""llama.cpp's window and its period of layers without one, whatever the GGUF has."""
_EXPERTS = size_from("moe_num_primary_experts")


def _layers(config: ModelConfig) -> Pairs:
    """llama.cpp has either no windows and RoPE in all layers, or neither of both in every fourth layer."""
    windows, ropes = config.find("sliding_window_layout"), config.find("rope_layout")
    if windows in (None, [0] * config.blocks) and ropes == [1] * config.blocks:
        return
    expected = [int(layer % _PERIOD != 0) for layer in range(config.blocks)]
    # With as many layers as the period, llama.cpp applies RoPE in all of them.
    if windows != expected or ropes != expected or config.blocks == _PERIOD:
        raise CannotConvert("config.json has a sliding_window_layout and a rope_layout that llama.cpp does not run")
    if config.find("sliding_window_size") != _WINDOW:
        raise CannotConvert(f"config.json has a sliding_window_size other than {_WINDOW}; llama.cpp runs only this one")
    yield "attention.sliding_window", Field.uint32(_WINDOW)


def _gate(config: ModelConfig) -> Pairs:
    softmax = config.flag("moe_primary_router_apply_softmax", default=False)
    yield "expert_gating_func", Field.uint32(GATES["softmax" if softmax else "sigmoid"])


SMALL_THINKER = Family(
    "smallthinker",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **ATTENTION,
        LAYER + "block_sparse_moe.primary_router": "blk.{}.ffn_gate_inp",
        LAYER + "block_sparse_moe.experts.{}.gate": Stacked("blk.{}.ffn_gate_exps", _EXPERTS),
        LAYER + "block_sparse_moe.experts.{}.up": Stacked("blk.{}.ffn_up_exps", _EXPERTS),
        LAYER + "block_sparse_moe.experts.{}.down": Stacked("blk.{}.ffn_down_exps", _EXPERTS),
    },
    (
        *(write for write in BASIC if write is not FEED_FORWARD),
        count("expert_count", "moe_num_primary_experts", required=True),
        count("expert_used_count", "moe_num_active_primary_experts", required=True),
        count("expert_feed_forward_length", "moe_ffn_hidden_size", required=True),
        count("feed_forward_length", "moe_ffn_hidden_size", required=True),
        _gate,
        _layers,
    ),
    # Those of the authors' configuration_smallthinker.py.
    defaults={
        "max_position_embeddings": 131072,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "moe_num_primary_experts": 32,
        "moe_num_active_primary_experts": 4,
        "moe_ffn_hidden_size": 768,
        "tie_word_embeddings": True,
    },
    rope_types=frozenset({"default"}),
    optional_biases=frozenset(),
    # The router always normalizes; vLLM needs copies of the window's keys.
    accepted_values={"norm_topk_prob": (True, None)},
    harmless_keys=frozenset({"model_name", "sliding_window", "sliding_window_pattern", "sliding_window_size"}),
    has_transformers_class=False,
)
