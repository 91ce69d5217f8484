"""Gemma 3: a SigLIP encoder; its patches are averaged in squares, normalized, and multiplied by a matrix. Pure."""

import math

from proxy.gguf.families.rules import AddOne, Named
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, number
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.projectors.common import TANH_GELU, WITHOUT_MODEL, clip_layers
from proxy.gguf.projectors.tower import USE_GELU, VISION_KEYS, Tower, projector_type

_SIDE = 4
"""How many patches a square has on each side where no key says it (clip.cpp)."""


def _squares(config: ModelConfig) -> Pairs:
    """Only tiny models have another number. llama.cpp fills each square exactly."""
    tokens = config.positive("model.mm_tokens_per_image")
    patches, side = config.positive("image_size") // config.positive("patch_size"), math.isqrt(tokens)
    if side * side != tokens or patches % side:
        raise CannotConvert(f"config.json has mm_tokens_per_image = {tokens}, but an image has {patches}² patches")
    if patches // side != _SIDE:
        yield "vision.projector.scale_factor", Field.uint32(patches // side)


GEMMA3 = Tower(
    "gemma3",
    {
        **clip_layers("vision_tower.vision_model.encoder.layers.{}."),
        "vision_tower.vision_model.embeddings.patch_embedding": "v.patch_embd",
        "vision_tower.vision_model.embeddings.position_embedding": "v.position_embd",
        "vision_tower.vision_model.post_layernorm": "v.post_ln",
        "multi_modal_projector.mm_input_projection_weight": Named("mm.input_projection.weight"),
        "multi_modal_projector.mm_soft_emb_norm": AddOne("mm.soft_emb_norm"),
    },
    (
        *VISION_KEYS,
        projector_type("gemma3"),
        number("vision.attention.layer_norm_epsilon", "layer_norm_eps", required=True),
        USE_GELU,
        _squares,
    ),
    prefixes=("vision_tower.", "multi_modal_projector."),
    prefix_aliases=WITHOUT_MODEL,
    skipped_prefixes=("vision_tower.vision_model.head.",),
    # Those of transformers' SiglipVisionConfig and Gemma3Config.
    defaults={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "num_channels": 3,
        "model.mm_tokens_per_image": 256,
    },
    accepted_values={"hidden_act": TANH_GELU, "num_channels": (3,)},
    harmless_keys=frozenset({"vision_use_head"}),
    f32=("v.patch_embd.weight", "v.position_embd.weight"),
    f16=("mm.input_projection.weight",),
)
