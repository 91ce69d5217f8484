"""The text parts of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: Qwen 2 and Qwen 3 with a RoPE of three axes. Pure."""

from dataclasses import replace

from proxy.gguf.families.common_keys import ANY_SILU, check_rope_base
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    LAYER,
    NORMS,
    QK_NORMS,
    ROUTED_EXPERTS,
    size_from,
)
from proxy.gguf.families.mrope import interleaved_sections, sections
from proxy.gguf.families.qwen import EXPERTS_IN_EVERY_LAYER, MOE_SIZES, QWEN2, QWEN3
from proxy.gguf.families.rules import Transposed
from proxy.gguf.families.text_part import TEXT_OF_MULTIMODAL, TextPart
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, Pairs
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown

_SIGHT = TextPart(TEXT_OF_MULTIMODAL, ("visual.", "model.visual."), "see")
DEEPSTACK = (8, 16, 24)
"""transformers' default for `deepstack_visual_indexes`."""


def deepstack_layers(vision: ModelConfig) -> tuple[int, ...]:
    """The layers of the encoder whose results are also added to those of the first layers of the text model.

    llama.cpp takes them in ascending order, transformers in that of the list.
    """
    layers = vision.find("deepstack_visual_indexes")
    is_known = isinstance(layers, list | tuple) and all(type(layer) is int for layer in layers)
    if not is_known or sorted(set(layers)) != list(layers) or not all(0 <= one < vision.blocks for one in layers):
        raise CannotConvert(
            f"config.json has deepstack_visual_indexes = {shown(layers)}, which are not layers in ascending order"
        )
    return tuple(layers)


def _deepstack(config: ModelConfig) -> Pairs:
    vision = config.find("vision_config")
    settings = {"num_hidden_layers": 27, "deepstack_visual_indexes": DEEPSTACK}
    if isinstance(vision, dict):
        settings |= {"num_hidden_layers": vision.get("depth", 27), **vision}
    count = len(deepstack_layers(ModelConfig(settings)))
    if count >= config.blocks:
        raise CannotConvert(
            f"config.json has {count} deepstack_visual_indexes for {config.blocks} layers, and llama.cpp cannot add to "
            "the last one"
        )
    yield "n_deepstack_layers", Field.uint32(count)


QWEN2_VL = replace(
    QWEN2,
    architecture="qwen2vl",
    hyperparameters=(*BASIC, sections((16, 24, 24))),
    defaults={
        **QWEN2.defaults,
        "vocab_size": 152064,
        "hidden_size": 8192,
        "intermediate_size": 29568,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "max_window_layers": 80,
    },
    rope_types=QWEN2.rope_types | {"mrope"},
    text_part=replace(_SIGHT, may_lack_section=True),
)
"""Also the text part of Qwen2.5-VL."""

QWEN3_VL = replace(
    QWEN3,
    architecture="qwen3vl",
    hyperparameters=(*BASIC, check_rope_base, interleaved_sections((24, 20, 20)), _deepstack),
    defaults={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
    },
    # transformers always takes turns.
    harmless_keys=frozenset({"mrope_interleaved"}),
    caveat=lambda _: None,
    text_part=_SIGHT,
)

_EXPERT_SIZE = size_from("moe_intermediate_size")

QWEN3_VL_MOE = replace(
    QWEN3_VL,
    architecture="qwen3vlmoe",
    tensors={
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **ATTENTION,
        **QK_NORMS,
        **ROUTED_EXPERTS,
        LAYER + "mlp.experts.gate_up_proj": Transposed(
            (("blk.{}.ffn_gate_exps", _EXPERT_SIZE), ("blk.{}.ffn_up_exps", _EXPERT_SIZE))
        ),
        LAYER + "mlp.experts.down_proj": Transposed((("blk.{}.ffn_down_exps", size_from("hidden_size")),)),
    },
    hyperparameters=(*QWEN3_VL.hyperparameters, *MOE_SIZES),
    defaults={
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
    },
    # transformers has no window here.
    harmless_keys=QWEN3_VL.harmless_keys | {"sliding_window"},
    # transformers always normalizes.
    accepted_values={**ANY_SILU, **EXPERTS_IN_EVERY_LAYER, "norm_topk_prob": (True, None)},
)
