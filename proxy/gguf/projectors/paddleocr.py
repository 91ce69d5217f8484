"""PaddleOCR-VL: SigLIP for pictures of any size, with a RoPE of two axes; an MLP projects squares of patches. Pure."""

import math

from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, always, count
from proxy.gguf.model_config import ModelConfig
from proxy.gguf.projectors.common import TANH_GELU, clip_layers
from proxy.gguf.projectors.tower import USE_GELU, Tower, projector_type, vision_keys

_EPSILON = 1e-6
"""llama.cpp's converter always writes it: it looks for the key of another norm."""


def _image_size(config: ModelConfig) -> Pairs:
    yield "vision.image_size", Field.uint32(math.isqrt(config.positive("images.max_pixels")))


PADDLEOCR = Tower(
    "paddleocr",
    {
        **clip_layers("visual.vision_model.encoder.layers.{}."),
        "visual.vision_model.embeddings.patch_embedding": "v.patch_embd",
        "visual.vision_model.embeddings.position_embedding": "v.position_embd",
        "visual.vision_model.post_layernorm": "v.post_ln",
        "mlp_AR.pre_norm": "mm.input_norm",
        "mlp_AR.linear_1": "mm.1",
        "mlp_AR.linear_2": "mm.2",
    },
    (
        *vision_keys(_image_size),
        projector_type("paddleocr"),
        count("vision.image_max_pixels", "images.max_pixels", required=True),
        count("vision.image_min_pixels", "images.min_pixels", required=True),
        USE_GELU,
        always("vision.attention.layer_norm_epsilon", Field.float32(_EPSILON)),
    ),
    prefixes=("visual.", "mlp_AR."),
    prefix_aliases={"model.visual.": "visual.", "model.projector.": "mlp_AR."},
    # A head and positions that nothing uses.
    skipped_prefixes=("visual.vision_model.head.", "visual.vision_model.embeddings.packing_position_embedding."),
    # Those of transformers' PaddleOCRVisionConfig.
    defaults={
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_channels": 3,
        "patch_size": 14,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": _EPSILON,
        "spatial_merge_size": 2,
    },
    accepted_values={
        "num_channels": (3,),
        "hidden_act": TANH_GELU,
        "layer_norm_eps": (_EPSILON,),
        "spatial_merge_size": (2,),
        "rope_parameters": (None, {"rope_type": "axial", "rope_theta": 10000.0}),
    },
    # The length of the positions, and keys for moving pictures.
    harmless_keys=frozenset({"image_size", "temporal_patch_size", "tokens_per_second"}),
)
