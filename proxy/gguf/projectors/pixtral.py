"""Mistral's eyes: an encoder for pictures of any size, with RoPE in two dimensions and RMS norms. Pure.

Mistral 3 merges squares of patches; Pixtral 12B does not.
"""

from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.families.rules import OneRow, Permuted, Rule
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, count
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.projectors.common import GELU_OR_SILU, activation, added_token
from proxy.gguf.projectors.tower import VISION_KEYS, Tower, projector_type
from proxy.gguf.tensors import shown

_EPSILON = 1e-5
"""Of all norms, in the code of transformers."""
_ROPE_BASE = 10000.0
_MOST_TOKENS = 1024
"""llama.cpp shrinks a picture to as many (clip.cpp, b10488)."""


def pixtral_encoder(prefix: str) -> Mapping[str, Rule | str]:
    layer = f"{prefix}transformer.layers.{{}}."
    return {
        f"{prefix}patch_conv": "v.patch_embd",
        f"{prefix}ln_pre": "v.pre_ln",
        f"{layer}attention.q_proj": Permuted("v.blk.{}.attn_q", lambda config: config.heads),
        f"{layer}attention.k_proj": Permuted("v.blk.{}.attn_k", lambda config: config.heads),
        f"{layer}attention.v_proj": "v.blk.{}.attn_v",
        f"{layer}attention.o_proj": "v.blk.{}.attn_out",
        f"{layer}attention_norm": "v.blk.{}.ln1",
        f"{layer}ffn_norm": "v.blk.{}.ln2",
        f"{layer}feed_forward.gate_proj": "v.blk.{}.ffn_gate",
        f"{layer}feed_forward.up_proj": "v.blk.{}.ffn_up",
        f"{layer}feed_forward.down_proj": "v.blk.{}.ffn_down",
    }


def _epsilon(_: ModelConfig) -> Pairs:
    yield "vision.attention.layer_norm_epsilon", Field.float32(_EPSILON)


def _check_rope(config: ModelConfig) -> Pairs:
    """llama.cpp rotates one half of a head by the row, the other by the column, with a base of its own."""
    rope, size = config.rope, config.hidden // config.heads
    if rope.get("rope_theta") not in (None, _ROPE_BASE) or rope.get("rope_type") not in (None, "axial", "default"):
        raise CannotConvert(f"config.json has the rope {shown(dict(rope))} for pictures, which llama.cpp does not know")
    if config.find("head_dim") not in (None, size) or size % 4:
        raise CannotConvert(
            f"config.json has head_dim = {shown(config.find('head_dim'))} for pictures, and {config.heads} heads share "
            f"{config.hidden} numbers"
        )
    yield from ()


def _caveat(config: ModelConfig) -> str | None:
    differences = []
    epsilon = config.find("text.rms_norm_eps")
    if config.find("model.spatial_merge_size") is not None and epsilon not in (None, _EPSILON):
        differences.append(f"llama.cpp normalizes patches with an epsilon of {_EPSILON}, not of {shown(epsilon)}")
    size = config.find("images.size")
    longest = size.get("longest_edge") if isinstance(size, dict) else None
    side = config.positive("patch_size") * (config.optional_count("model.spatial_merge_size") or 1)
    if isinstance(longest, int) and (longest // side) ** 2 > _MOST_TOKENS:
        differences.append(
            f"llama.cpp shrinks pictures to {_MOST_TOKENS} tokens, and the authors' code to {(longest // side) ** 2}"
        )
    return "; ".join(differences) or None


PIXTRAL_SHAPES: Mapping[str, str] = {
    "pre_ln.weight": "n_embd",
    "mm.1.weight": "n_embd n_text",
    "mm.2.weight": "n_text n_text",
    **dict.fromkeys(("mm.1.bias", "mm.2.bias", "token_embd.img_break"), "n_text"),
}
PIXTRAL = Tower(
    "pixtral",
    {
        **pixtral_encoder("vision_tower."),
        "multi_modal_projector.linear_1": "mm.1",
        "multi_modal_projector.linear_2": "mm.2",
        "language_model.model.embed_tokens.weight": OneRow("v.token_embd.img_break", added_token("[IMG_BREAK]")),
    },
    (*VISION_KEYS, projector_type("pixtral"), _epsilon, activation("hidden_act", GELU_OR_SILU), _check_rope),
    prefixes=("vision_tower.", "multi_modal_projector."),
    prefix_aliases={
        "model.vision_tower.": "vision_tower.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "model.language_model.": "language_model.model.",
    },
    # Those of transformers' PixtralVisionConfig and LlavaConfig.
    defaults={
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_channels": 3,
        "image_size": 1024,
        "patch_size": 16,
        "hidden_act": "gelu",
        "model.projector_hidden_act": "gelu",
        "model.vision_feature_layer": -2,
        "model.vision_feature_select_strategy": "default",
    },
    accepted_values={
        "num_channels": (3,),
        # llama.cpp computes the approximation, which differs by less than 0.001.
        "model.projector_hidden_act": ("gelu", "gelu_pytorch_tanh"),
        "model.vision_feature_layer": (-1,),
        "model.vision_feature_select_strategy": ("full",),
        "model.spatial_merge_size": (None, 1),
    },
    # transformers has the epsilon in its code.
    harmless_keys=frozenset({"layer_norm_eps", "is_composition"}),
    shapes=PIXTRAL_SHAPES,
    caveat=_caveat,
)
_CHOSEN = PIXTRAL.accepted_values
MISTRAL3 = replace(
    PIXTRAL,
    tensors={
        **PIXTRAL.tensors,
        "multi_modal_projector.norm": "mm.input_norm",
        "multi_modal_projector.patch_merger.merging_layer": "mm.patch_merger",
    },
    keys=(*PIXTRAL.keys, count("vision.spatial_merge_size", "model.spatial_merge_size", required=True)),
    # Those of transformers' Mistral3Config.
    defaults={
        **{key: value for key, value in PIXTRAL.defaults.items() if key != "model.vision_feature_select_strategy"},
        "model.vision_feature_layer": -1,
        "model.spatial_merge_size": 2,
    },
    accepted_values={
        key: _CHOSEN[key] for key in ("num_channels", "model.projector_hidden_act", "model.vision_feature_layer")
    },
    shapes={**PIXTRAL_SHAPES, "mm.input_norm.weight": "n_embd", "mm.patch_merger.weight": "merged n_embd"},
)
