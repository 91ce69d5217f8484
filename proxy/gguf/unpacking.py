"""Finds the tensors that are stored quantized, and puts F32 tensors in their place. Pure.

The tensors decide, not config.json: a tensor of FP8 or INT8 numbers with a tensor of scales beside it is read, whatever
`quant_method` says; a quantization_config over tensors of F32, F16 or BF16 is a leftover.
"""

from collections.abc import Mapping
from typing import Any

from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensor_sources import LocatedTensor, PackedTensor, SourceTensor
from proxy.gguf.transforms import WIDTHS

Weights = Mapping[str, Mapping[str, SourceTensor]]

READ_MARKS = (b".quant_state.bitsandbytes__", b".weight_format", b".qweight")
"""A header with none of these has no tensor whose bytes a plan has to read."""
_PLAIN = frozenset({*WIDTHS, "I64"})
"""I64 are tables, such as DeepSeek-V4's experts of each token; numbers are packed into I32."""
_OF_ACTIVATIONS = (
    *(".input_scale", ".output_scale", ".activation_scale", "_activation_scale", ".qscale_act"),
    *(".q_scale", ".k_scale", ".v_scale", ".kv_scale", ".prob_scale"),
)
"""Scales that are for numbers which are calculated while a model runs, such as those of the KV cache."""


def unpack_weights(config: ModelConfig, weights: Weights) -> Weights:
    """The same tensors; those that are stored quantized have F32 numbers. Raises CannotConvert."""
    settings, is_plain = config.find("quantization_config"), are_plain(weights)
    if not settings and is_plain:
        return weights
    # This needs numpy, whose import takes 0.1 s.
    from proxy.gguf.packing.schemes import find_packed

    settings = settings if isinstance(settings, dict) else {}
    if not is_plain:
        _refuse_rotations(settings)
    found = find_packed(_located(weights), settings)
    replaced = {name for one in found for name in one.replaced}
    unpacked: dict[str, dict[str, SourceTensor]] = {
        path: {
            name: tensor
            for name, tensor in tensors.items()
            if name not in replaced and not ((found or settings) and name.endswith(_OF_ACTIVATIONS))
        }
        for path, tensors in weights.items()
    }
    for one in found:
        unpacked[one.path][one.name] = one.tensor
    return unpacked


def tensors_to_read(weights: Weights) -> list[LocatedTensor]:
    """The small tensors whose bytes a conversion needs: it wants a ReadTensor for each. Raises CannotConvert."""
    from proxy.gguf.packing.schemes import wanted

    return list(wanted(_located(weights)))


def packed_forms(weights: Weights) -> tuple[str, ...]:
    """How the tensors are stored that are stored quantized, such as `FP8`."""
    tensors = (tensor for tensors in weights.values() for tensor in tensors.values())
    return tuple(sorted({tensor.form for tensor in tensors if isinstance(tensor, PackedTensor)}))


def are_plain(weights: Weights) -> bool:
    """If so, a quantization_config is a leftover from the model that these weights were made from."""
    return all(tensor.dtype in _PLAIN for tensors in weights.values() for tensor in tensors.values())


def _located(weights: Weights) -> Mapping[str, LocatedTensor]:
    return {
        name: LocatedTensor(path, name, tensor) for path, tensors in weights.items() for name, tensor in tensors.items()
    }


def _refuse_rotations(settings: Mapping[str, Any]) -> None:
    """Raises CannotConvert where the model rotates its activations for the weights to fit."""
    transforms = settings.get("transform_config")
    if isinstance(transforms, dict) and transforms.get("config_groups"):
        raise CannotConvert(
            "config.json has a quantization_config with a transform_config, which llama.cpp does not run"
        )
