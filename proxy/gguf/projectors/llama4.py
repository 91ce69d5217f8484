"""Llama 4: a vision transformer with RoPE over rows and columns, and an MLP for squares of patches. Pure."""

from proxy.gguf.families.rules import Named
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, number
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.projectors.tower import USE_GELU, VISION_KEYS, Tower, projector_type
from proxy.gguf.tensors import shown

_LAYER = "vision_model.model.layers.{}."
_ROPE_BASE = 10000.0


def _shuffle(config: ModelConfig) -> Pairs:
    """How many patches a square has on each side. They are numbers of one vector for the MLP."""
    ratio = config.number("pixel_shuffle_ratio")
    side = round(1 / ratio) if ratio > 0 else 0
    patches, rest = divmod(config.positive("image_size"), config.positive("patch_size"))
    if side < 1 or ratio * side != 1 or rest or patches % side:
        raise CannotConvert(f"config.json has pixel_shuffle_ratio = {ratio} for {patches} patches on each side")
    if config.hidden * side * side != config.positive("intermediate_size"):
        raise CannotConvert(f"config.json has intermediate_size = {shown(config.find('intermediate_size'))}")
    yield "vision.projector.scale_factor", Field.uint32(side)


def _check_rope(config: ModelConfig) -> Pairs:
    if config.hidden % config.heads or (config.hidden // config.heads) % 4:
        raise CannotConvert(f"config.json has {config.heads} attention heads for {config.hidden} numbers, to see")
    if (base := config.rope.get("rope_theta", _ROPE_BASE)) != _ROPE_BASE:
        raise CannotConvert(f"config.json has vision_config.rope_theta = {shown(base)}, unknown for llama4")
    yield from ()


def _caveat(_config: ModelConfig) -> str:
    return "llama.cpp gives Llama 4 the parts of a picture column by column, not row by row as transformers"


LLAMA4 = Tower(
    "llama4",
    {
        f"{_LAYER}self_attn.q_proj": "v.blk.{}.attn_q",
        f"{_LAYER}self_attn.k_proj": "v.blk.{}.attn_k",
        f"{_LAYER}self_attn.v_proj": "v.blk.{}.attn_v",
        f"{_LAYER}self_attn.o_proj": "v.blk.{}.attn_out",
        f"{_LAYER}mlp.fc1": "v.blk.{}.ffn_up",
        f"{_LAYER}mlp.fc2": "v.blk.{}.ffn_down",
        f"{_LAYER}input_layernorm": "v.blk.{}.ln1",
        f"{_LAYER}post_attention_layernorm": "v.blk.{}.ln2",
        "vision_model.class_embedding": Named("v.class_embd"),
        "vision_model.positional_embedding_vlm": Named("v.position_embd.weight"),
        "vision_model.patch_embedding.linear": "v.patch_embd",
        "vision_model.layernorm_pre": "v.pre_ln",
        "vision_model.layernorm_post": "v.post_ln",
        "vision_model.vision_adapter.mlp.fc1": "mm.model.mlp.1",
        "vision_model.vision_adapter.mlp.fc2": "mm.model.mlp.2",
        "multi_modal_projector.linear_1": "mm.model.fc",
    },
    (
        *VISION_KEYS,
        projector_type("llama4"),
        number("vision.attention.layer_norm_epsilon", "norm_eps", required=True),
        USE_GELU,
        _shuffle,
        _check_rope,
    ),
    prefixes=("vision_model.", "multi_modal_projector."),
    without_bias=frozenset({"v.patch_embd", "mm.model.mlp.1", "mm.model.mlp.2", "mm.model.fc"}),
    # Those of transformers' Llama4VisionConfig.
    defaults={
        "hidden_size": 768,
        "intermediate_size": 5632,
        "num_hidden_layers": 34,
        "num_attention_heads": 16,
        "image_size": 448,
        "patch_size": 14,
        "num_channels": 3,
        "hidden_act": "gelu",
        "norm_eps": 1e-5,
        "pixel_shuffle_ratio": 0.5,
        "vision_feature_select_strategy": "default",
        "multi_modal_projector_bias": False,
    },
    # transformers gives its norms no other epsilon.
    accepted_values={
        "hidden_act": ("gelu",),
        "norm_eps": (1e-5,),
        "num_channels": (3,),
        "vision_feature_select_strategy": ("default",),
        "multi_modal_projector_bias": (False,),
    },
    # The weights show the sizes anyway.
    harmless_keys=frozenset(
        {"vision_feature_layer", "projector_input_dim", "projector_output_dim", "vision_output_dim"}
    ),
    shapes={"patch_embd.weight": "pixels n_embd", "class_embd": "n_embd"},
    caveat=_caveat,
)
