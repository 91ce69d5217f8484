"""SmolVLM and Idefics 3: a SigLIP encoder for the tiles of a picture; squares of patches are put side by side. Pure."""

from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, number
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.projectors.common import TANH_GELU, clip_layers
from proxy.gguf.projectors.tower import USE_GELU, VISION_KEYS, Tower, projector_type
from proxy.gguf.tensors import shown

_SMALLEST = 2
"""llama.cpp's assertion for the side of a square."""


def _longest_edge(config: ModelConfig, key: str) -> int | None:
    """Of an object in preprocessor_config.json."""
    size = config.find(f"images.{key}")
    value = size.get("longest_edge") if isinstance(size, dict) else None
    return value if type(value) is int and 0 < value < 1 << 31 else None


def _squares(config: ModelConfig) -> Pairs:
    side, size, patch = (config.positive(key) for key in ("model.scale_factor", "image_size", "patch_size"))
    if side < _SMALLEST or size % (patch * side):
        raise CannotConvert(
            f"config.json has scale_factor = {side}, and an image of {size} pixels with patches of {patch}: "
            "llama.cpp fills squares of at least two patches exactly"
        )
    yield "vision.projector.scale_factor", Field.uint32(side)
    yield "vision.preproc_image_size", Field.uint32(_longest_edge(config, "size") or size)


def _caveat(config: ModelConfig) -> str | None:
    """llama.cpp cuts each picture into tiles of the encoder's size, and adds the whole one."""
    if config.find("images.do_image_splitting") is False:
        return "llama.cpp cuts pictures into tiles, and the authors' code does not"
    tile, size = _longest_edge(config, "max_image_size"), config.positive("image_size")
    if tile not in (None, size):
        return f"llama.cpp cuts pictures into tiles of {size} pixels, and the authors' code into tiles of {shown(tile)}"
    return None


IDEFICS3 = Tower(
    "idefics3",
    {
        **clip_layers("model.vision_model.encoder.layers.{}."),
        "model.vision_model.embeddings.patch_embedding": "v.patch_embd",
        "model.vision_model.embeddings.position_embedding": "v.position_embd",
        "model.vision_model.post_layernorm": "v.post_ln",
        "model.connector.modality_projection.proj": "mm.model.fc",
    },
    (
        *VISION_KEYS,
        projector_type("idefics3"),
        number("vision.attention.layer_norm_epsilon", "layer_norm_eps", required=True),
        USE_GELU,
        _squares,
    ),
    prefixes=("model.vision_model.", "model.connector."),
    without_bias=frozenset({"mm.model.fc"}),
    # Those of transformers' Idefics3VisionConfig and Idefics3Config, which SmolVLM's are copies of.
    defaults={
        "hidden_size": 1152,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 16,
        "num_channels": 3,
        "image_size": 224,
        "patch_size": 32,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "model.scale_factor": 2,
    },
    accepted_values={"hidden_act": TANH_GELU, "num_channels": (3,)},
    # preprocessor_config.json has the sizes of pictures.
    harmless_keys=frozenset({"size", "max_image_size", "use_base_siglip"}),
    f32=("v.patch_embd.weight", "v.position_embd.weight"),
    shapes={
        "position_embd.weight": "n_embd n_pos",
        "post_ln.weight": "n_embd",
        "post_ln.bias": "n_embd",
        "mm.model.fc.weight": "merged n_text",
    },
    caveat=_caveat,
)
