"""LFM2-VL: SigLIP 2 for pictures of any size; squares of patches become one vector, which an MLP projects. Pure."""

from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import always, count, number
from proxy.gguf.projectors.common import SIGLIP2, TANH_GELU, WITHOUT_MODEL
from proxy.gguf.projectors.tower import USE_GELU, Tower, projector_type, vision_keys

LFM2 = Tower(
    "lfm2",
    {
        **SIGLIP2,
        "vision_tower.vision_model.post_layernorm": "v.post_ln",
        "multi_modal_projector.layer_norm": "mm.input_norm",
        "multi_modal_projector.linear_1": "mm.1",
        "multi_modal_projector.linear_2": "mm.2",
    },
    (
        *vision_keys(always("vision.image_size", Field.uint32(256))),
        projector_type("lfm2"),
        number("vision.attention.layer_norm_epsilon", "layer_norm_eps", required=True),
        count("vision.projector.scale_factor", "model.downsample_factor", required=True),
        USE_GELU,
    ),
    prefixes=("vision_tower.", "multi_modal_projector."),
    prefix_aliases=WITHOUT_MODEL,
    skipped_prefixes=("vision_tower.vision_model.head.",),
    optional_tensors=frozenset({"mm.input_norm"}),
    # Those of transformers' Siglip2VisionConfig and Lfm2VlConfig.
    defaults={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_channels": 3,
        "num_patches": 256,
        "patch_size": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "model.downsample_factor": 2,
        "model.projector_hidden_act": "gelu",
    },
    accepted_values={
        "hidden_act": TANH_GELU,
        "num_channels": (3,),
        "patch_size": (16,),
        "model.projector_hidden_act": ("gelu",),
        # Of the first files. transformers always takes the last layer.
        "model.vision_feature_layer": (-1, None),
        # llama.cpp always cuts a large picture so (mtmd-image.h of b10488).
        "images.do_image_splitting": (True, None),
        "images.tile_size": (512, None),
        "images.min_tiles": (2, None),
        "images.max_tiles": (10, None),
        "images.min_image_tokens": (64, None),
        "images.max_image_tokens": (256, None),
        "images.max_pixels_tolerance": (2.0, None),
        "images.use_thumbnail": (True, None),
    },
    # Tensors decide whether the connector has a norm and biases; num_patches is the length of the positions.
    harmless_keys=frozenset({"num_patches", "vision_use_head"}),
)
