"""Finds the tensors that are stored quantized, and puts those that rules understand in their place. Pure.

The tensors decide, not config.json: a tensor of FP8 or INT8 numbers with a tensor of scales beside it is read, whatever
`quant_method` says; a quantization_config over tensors of F32, F16 or BF16 is a leftover.
"""

from collections.abc import Mapping
from typing import Any

from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.scaled_bytes import NUMBERS, ScaledBytes, find_grid
from proxy.gguf.tensor_sources import PackedTensor, SourceTensor

Weights = Mapping[str, Mapping[str, SourceTensor]]

_SCALES = ("_scale_inv", "_scale")
"""What the name of a tensor's scales has in addition: DeepSeek and transformers; compressed-tensors and ModelOpt."""
_MISTRAL = (".weight", ".qscale_weight")
_OF_ACTIVATIONS = (
    *(".input_scale", ".output_scale", ".activation_scale", "_activation_scale", ".qscale_act"),
    *(".q_scale", ".k_scale", ".v_scale", ".kv_scale", ".prob_scale"),
)
"""Scales that are for numbers which are calculated while a model runs, such as those of the KV cache."""


def unpack_weights(config: ModelConfig, weights: Weights) -> Weights:
    """The same tensors; those that are stored quantized have F32 numbers. Raises CannotConvert."""
    located = {name: (path, tensor) for path, tensors in weights.items() for name, tensor in tensors.items()}
    scale_names = {
        name: scales
        for name, (_, tensor) in located.items()
        if tensor.dtype in NUMBERS and (scales := _scales_of(name, located)) is not None
    }
    settings = config.find("quantization_config")
    if not scale_names and not settings:
        return weights
    hidden = set(scale_names.values())
    block = None
    if scale_names and isinstance(settings, dict):
        _refuse_rotations(settings)
        block = _block(settings)
    return {
        path: {
            name: _scaled(name, located, scale_names[name], block) if name in scale_names else tensor
            for name, tensor in tensors.items()
            if name not in hidden and not name.endswith(_OF_ACTIVATIONS)
        }
        for path, tensors in weights.items()
    }


def packed_forms(weights: Weights) -> tuple[str, ...]:
    """How the tensors are stored that are stored quantized, such as `FP8`."""
    tensors = (tensor for tensors in weights.values() for tensor in tensors.values())
    return tuple(sorted({tensor.form for tensor in tensors if isinstance(tensor, PackedTensor)}))


def _scales_of(name: str, located: Mapping[str, object]) -> str | None:
    candidates = [name + end for end in _SCALES]
    end, scales = _MISTRAL
    if name.endswith(end):
        candidates.append(name.removesuffix(end) + scales)
    return next((candidate for candidate in candidates if candidate in located), None)


def _scaled(
    name: str, located: Mapping[str, tuple[str, SourceTensor]], scales_name: str, block: tuple[int, int] | None
) -> ScaledBytes:
    path, source = located[name]
    scale_path, scales = located[scales_name]
    return ScaledBytes(path, source, scale_path, scales, find_grid(name, source.shape, scales, block))


def _refuse_rotations(settings: Mapping[str, Any]) -> None:
    """Raises CannotConvert where the model rotates its activations for the weights to fit."""
    if _groups(settings.get("transform_config")):
        raise CannotConvert(
            "config.json has a quantization_config with a transform_config, which llama.cpp does not run"
        )


def _block(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns that share a scale, where the quantization_config has them. Raises CannotConvert."""
    block = settings.get("weight_block_size")
    for group in _groups(settings):
        weights = group.get("weights") if isinstance(group, dict) else None
        block = block or (weights.get("block_structure") if isinstance(weights, dict) else None)
    if block is None:
        return None
    if not isinstance(block, list) or len(block) != 2 or not all(type(size) is int and size > 0 for size in block):  # noqa: PLR2004
        raise CannotConvert(f"config.json has a quantization_config with blocks of {block!r:.100}")
    return block[0], block[1]


def _groups(settings: object) -> list[Any]:
    """The values of the config_groups of compressed-tensors."""
    groups = settings.get("config_groups") if isinstance(settings, dict) else None
    return list(groups.values()) if isinstance(groups, dict) else []
