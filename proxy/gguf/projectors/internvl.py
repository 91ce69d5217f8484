"""InternVL: a ViT with a class token; squares of patches become one vector, which an MLP projects. Pure."""

from collections.abc import Mapping
from typing import Any

from proxy.gguf.families.rules import Named
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, Writer, number
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.projectors.common import GELU_OR_SILU, activation, split_qkv
from proxy.gguf.projectors.tower import Tower, projector_type, vision_keys
from proxy.gguf.tensors import shown


def _side(key: str) -> Writer:
    """The side of a square; transformers writes height and width."""

    def write(config: ModelConfig) -> Pairs:
        value = config.find(key)
        sides = value if isinstance(value, list) else [value]
        if not sides or any(side != sides[0] for side in sides):
            raise CannotConvert(f"config.json has vision_config.{key} = {shown(value)}, which is not a square")
        yield f"vision.{key}", Field.uint32(ModelConfig({key: sides[0]}).positive(key))

    return write


def _merged_patches(config: ModelConfig) -> Pairs:
    ratio = config.number("model.downsample_ratio")
    if not 0 < ratio <= 1 or (1 / ratio) % 1:
        raise CannotConvert(f"config.json has downsample_ratio = {ratio}, which is not 1 by a whole number")
    yield "vision.projector.scale_factor", Field.uint32(int(1 / ratio))


def _tiles(config: ModelConfig) -> Pairs:
    """Older files have no numbers of tiles; llama.cpp then takes those of the newer ones."""
    for name, key in (("min", "min_dynamic_patch"), ("max", "max_dynamic_patch")):
        if tiles := config.optional_count(f"model.{key}"):
            yield f"vision.preproc_{name}_tiles", Field.uint32(tiles)


def _no_other_size(config: ModelConfig) -> Pairs:
    forced, size = config.find("model.force_image_size"), config.find("image_size")
    if forced not in (None, size):
        raise CannotConvert(f"config.json has force_image_size = {shown(forced)}, and an encoder for {shown(size)}")
    yield from ()


_RMS_NORM = (3200, 45)
"""The embedding and the layers of the only encoder for which llama.cpp computes RMS norms (b10488)."""


def _norm(config: ModelConfig) -> Pairs:
    kind = config.find("norm_type")
    if kind != "layer_norm":
        raise CannotConvert(f"config.json has vision_config.norm_type = {shown(kind)}, unknown for internvl")
    if (config.positive("hidden_size"), config.positive("num_hidden_layers")) == _RMS_NORM:
        raise CannotConvert("config.json has an encoder of the size of which llama.cpp assumes RMS norms")
    yield from ()


_KEYS = (
    *vision_keys(_side("image_size"), _side("patch_size")),
    projector_type("internvl"),
    number("vision.attention.layer_norm_epsilon", "layer_norm_eps", required=True),
    activation("hidden_act", GELU_OR_SILU),
    _merged_patches,
    _tiles,
    _norm,
)
_POSITIONS = (
    "llama.cpp puts InternVL's class token behind the patches and not before them, so each patch gets the position of "
    "the one before it: the model sees a little worse than the authors'"
)
_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "hidden_act": "gelu",
    "norm_type": "layer_norm",
    "layer_norm_eps": 1e-6,
    "image_size": 448,
    "patch_size": 14,
    "num_channels": 3,
    "use_qk_norm": False,
    "use_mask_token": False,
    "use_absolute_position_embeddings": True,
    "use_mean_pooling": True,
    "model.downsample_ratio": 0.5,
    "model.projector_hidden_act": "gelu",
    "model.vision_feature_layer": -1,
    "model.vision_feature_select_strategy": "default",
}
"""Those of transformers' InternVLVisionConfig and InternVLConfig."""
_F32 = ("v.position_embd.weight",)

INTERNVL = Tower(
    "internvl",
    {
        "vision_tower.embeddings.cls_token": Named("v.class_embd"),
        "vision_tower.embeddings.patch_embeddings.projection": "v.patch_embd",
        "vision_tower.embeddings.position_embeddings": Named("v.position_embd.weight"),
        "vision_tower.encoder.layer.{}.attention.q_proj": "v.blk.{}.attn_q",
        "vision_tower.encoder.layer.{}.attention.k_proj": "v.blk.{}.attn_k",
        "vision_tower.encoder.layer.{}.attention.v_proj": "v.blk.{}.attn_v",
        "vision_tower.encoder.layer.{}.attention.projection_layer": "v.blk.{}.attn_out",
        "vision_tower.encoder.layer.{}.layernorm_before": "v.blk.{}.ln1",
        "vision_tower.encoder.layer.{}.layernorm_after": "v.blk.{}.ln2",
        "vision_tower.encoder.layer.{}.mlp.fc1": "v.blk.{}.ffn_up",
        "vision_tower.encoder.layer.{}.mlp.fc2": "v.blk.{}.ffn_down",
        "vision_tower.encoder.layer.{}.lambda_1": Named("v.blk.{}.ls1.weight"),
        "vision_tower.encoder.layer.{}.lambda_2": Named("v.blk.{}.ls2.weight"),
        "multi_modal_projector.layer_norm": "mm.model.mlp.0",
        "multi_modal_projector.linear_1": "mm.model.mlp.1",
        "multi_modal_projector.linear_2": "mm.model.mlp.3",
    },
    _KEYS,
    prefixes=("vision_tower.", "multi_modal_projector."),
    prefix_aliases={
        "model.vision_tower.": "vision_tower.",
        "model.multi_modal_projector.": "multi_modal_projector.",
    },
    defaults=_DEFAULTS,
    accepted_values={
        "num_channels": (3,),
        "use_qk_norm": (False,),
        "use_mask_token": (False,),
        "use_absolute_position_embeddings": (True,),
        "use_mean_pooling": (True,),
        "model.projector_hidden_act": ("gelu",),
        "model.vision_feature_layer": (-1,),
        "model.vision_feature_select_strategy": ("default",),
    },
    # Tensors decide whether Q, K and V have biases; the initial layer scale is for training.
    harmless_keys=frozenset({"attention_bias", "layer_scale_init_value"}),
    f32=_F32,
    caveat=lambda _: _POSITIONS,
)
"""transformers' layout."""

INTERNVL_CHAT = Tower(
    "internvl",
    {
        "vision_model.embeddings.class_embedding": Named("v.class_embd"),
        "vision_model.embeddings.patch_embedding": "v.patch_embd",
        "vision_model.embeddings.position_embedding": Named("v.position_embd.weight"),
        "vision_model.encoder.layers.{}.attn.qkv": split_qkv(),
        "vision_model.encoder.layers.{}.attn.proj": "v.blk.{}.attn_out",
        "vision_model.encoder.layers.{}.norm1": "v.blk.{}.ln1",
        "vision_model.encoder.layers.{}.norm2": "v.blk.{}.ln2",
        "vision_model.encoder.layers.{}.mlp.fc1": "v.blk.{}.ffn_up",
        "vision_model.encoder.layers.{}.mlp.fc2": "v.blk.{}.ffn_down",
        "vision_model.encoder.layers.{}.ls1": Named("v.blk.{}.ls1.weight"),
        "vision_model.encoder.layers.{}.ls2": Named("v.blk.{}.ls2.weight"),
        "mlp1.0": "mm.model.mlp.0",
        "mlp1.1": "mm.model.mlp.1",
        "mlp1.3": "mm.model.mlp.3",
    },
    (*_KEYS, _no_other_size),
    prefixes=("vision_model.", "mlp1."),
    # The authors' configuration_intern_vit.py has other sizes, so config.json must have them.
    defaults={key: _DEFAULTS[key] for key in ("hidden_act", "layer_norm_eps", "patch_size", "num_channels")}
    | {
        "norm_type": "rms_norm",
        "qk_normalization": True,
        "model.downsample_ratio": 0.5,
        "model.ps_version": "v1",
        "model.select_layer": -1,
        "model.pad2square": False,
        "model.dynamic_image_size": False,
    },
    accepted_values={
        "num_channels": (3,),
        "qk_normalization": (False,),
        "model.ps_version": ("v2",),
        "model.select_layer": (-1,),
        "model.pad2square": (False,),
        "model.dynamic_image_size": (True,),
    },
    harmless_keys=frozenset({"qkv_bias", "drop_path_rate", "dropout"}),
    f32=_F32,
    caveat=lambda _: _POSITIONS,
)
"""OpenGVLab's own layout."""
