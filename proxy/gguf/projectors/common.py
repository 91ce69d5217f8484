"""Tensors, keys and defaults that several towers share. Pure."""

from collections.abc import Mapping

from proxy.gguf.families.common_tensors import size_from
from proxy.gguf.families.rules import Patches, Rule, Size, Split
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, Writer
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import TokenizerFiles, read_added_tokens_decoder


def clip_layers(layer: str) -> Mapping[str, str]:
    """The layers of CLIP and SigLIP. `layer` is how their names begin."""
    return {
        f"{layer}self_attn.q_proj": "v.blk.{}.attn_q",
        f"{layer}self_attn.k_proj": "v.blk.{}.attn_k",
        f"{layer}self_attn.v_proj": "v.blk.{}.attn_v",
        f"{layer}self_attn.out_proj": "v.blk.{}.attn_out",
        f"{layer}layer_norm1": "v.blk.{}.ln1",
        f"{layer}layer_norm2": "v.blk.{}.ln2",
        f"{layer}mlp.fc1": "v.blk.{}.ffn_up",
        f"{layer}mlp.fc2": "v.blk.{}.ffn_down",
    }


def split_qkv(config_key: str = "hidden_size") -> Rule:
    """Q, K and V of a layer, one below the other, in three tensors."""

    def size(config: ModelConfig) -> int:
        return config.positive(config_key)

    return Split((("v.blk.{}.attn_q", size), ("v.blk.{}.attn_k", size), ("v.blk.{}.attn_v", size)))


def activation(key: str, names: Mapping[str, str]) -> Writer:
    """Writes `use_gelu` or `use_silu` by the name of the activation; `quick_gelu` is what llama.cpp assumes."""

    def write(config: ModelConfig) -> Pairs:
        name = config.find(key)
        if name not in names:
            raise CannotConvert(f"config.json has {key} = {shown(name)}, which llama.cpp does not compute here")
        if written := names[name]:
            yield written, Field.boolean(True)

    return write


ADDED_TOKENS = "added_tokens"
"""A key beside those of the preprocessor: the ids of the tokenizer's added tokens by their texts."""


def added_tokens(files: TokenizerFiles) -> Mapping[str, int]:
    """The value of ADDED_TOKENS. Raises CannotConvert for tokenizer files that no tokenizer reads."""
    in_tokenizer = {str(token["content"]): int(token["id"]) for token in files.added_tokens}
    return {**in_tokenizer, **{str(token["content"]): number for number, token in read_added_tokens_decoder(files)}}


def added_token(text: str) -> Size:
    """Its id. Raises CannotConvert if the tokenizer does not have it."""

    def number(config: ModelConfig) -> int:
        tokens = config.find(f"images.{ADDED_TOKENS}")
        if not isinstance(tokens, Mapping) or text not in tokens:
            raise CannotConvert(f"the tokenizer has no {text}, which llama.cpp puts into pictures")
        return int(tokens[text])

    return number


GELU_OR_SILU = {"gelu": "use_gelu", "silu": "use_silu"}
TANH_GELU = ("gelu_pytorch_tanh",)
"""transformers' name of the approximation that llama.cpp computes for GELU (ggml_gelu)."""

_ENCODER = "vision_tower.vision_model."
SIGLIP2: Mapping[str, Rule | str] = {
    **clip_layers(f"{_ENCODER}encoder.layers.{{}}."),
    f"{_ENCODER}embeddings.patch_embedding": Patches("v.patch_embd", size_from("patch_size")),
    f"{_ENCODER}embeddings.position_embedding": "v.position_embd",
}
"""SigLIP 2 for pictures of any size: its patches come as rows of numbers."""
WITHOUT_MODEL: Mapping[str, str] = {
    "model.vision_tower.vision_model.": _ENCODER,
    "model.vision_tower.": _ENCODER,
    _ENCODER: _ENCODER,
    "vision_tower.": _ENCODER,
    "model.multi_modal_projector.": "multi_modal_projector.",
}
"""transformers 5.24 writes the names of CLIP and SigLIP without `vision_model.`, and any version may begin with
`model.`."""
