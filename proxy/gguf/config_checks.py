"""Checks the settings of a config.json for what llama.cpp does not compute. Pure."""

import math
from collections.abc import Mapping

from proxy.gguf.families.family import Family
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensor_sources import SourceTensor
from proxy.gguf.tensors import shown
from proxy.gguf.unpacking import are_plain


def check_settings(family: Family, config: ModelConfig, weights: Mapping[str, Mapping[str, SourceTensor]]) -> None:
    """Raises CannotConvert for the first setting that is unknown for the family. `weights` are already unpacked."""
    if not family.has_local_rope and config.has_two_ropes:
        raise CannotConvert("config.json has other rope_parameters for sliding_attention than for full_attention")
    rope_type = config.rope.get("rope_type", "default")
    if rope_type is not None and (not isinstance(rope_type, str) or rope_type not in family.rope_types):
        raise CannotConvert(
            f"config.json has a rope scaling of the type {shown(rope_type)}, unknown for this architecture"
        )
    _check_unquantized(family, config, weights)
    if config.find("is_causal") is False and not family.embeds:
        raise CannotConvert("config.json has is_causal = False, unknown for this architecture")
    _check_yarn(family, config)
    for key, values in family.accepted_values.items():
        value = config.rope.get(key, config.find(key))
        if value not in values:
            raise CannotConvert(f"config.json has {key} = {shown(value)}, unknown for this architecture")
    indivisible = config.find("head_dim") is None and config.hidden % config.heads
    if indivisible or config.heads % config.kv_heads or config.head_size % 2 or not config.head_size:
        raise CannotConvert(
            f"config.json has hidden_size = {config.hidden}, num_attention_heads = {config.heads}, "
            f"num_key_value_heads = {config.kv_heads} and heads of {config.head_size}, which do not fit each other"
        )


def _check_unquantized(family: Family, config: ModelConfig, weights: Mapping[str, Mapping[str, SourceTensor]]) -> None:
    # MLX writes `quantization`.
    quantized = config.find("quantization_config") or config.find("quantization")
    is_known = (
        are_plain(weights) if family.kept_quant_method is None else _has_method(quantized, family.kept_quant_method)
    )
    if quantized and not is_known:
        method = quantized.get("quant_method", "MLX") if isinstance(quantized, dict) else quantized
        raise CannotConvert(
            f"config.json has a quantization_config: the weights are quantized already ({shown(method)}); pull the "
            "repository that they were quantized from"
        )


def _has_method(quantized: object, method: str) -> bool:
    return isinstance(quantized, dict) and quantized.get("quant_method") == method


_FIXED_YARN = {"beta_fast": 32, "beta_slow": 1, "truncate": True, "extrapolation_factor": 1}
"""llama.cpp uses these values for every yarn, whatever the file has (b10488)."""


def _check_yarn(family: Family, config: ModelConfig) -> None:
    """Refuses a yarn for which llama.cpp (llama-context.cpp) calculates something else than transformers does.

    transformers has its own factor for attention (modeling_rope_utils.py).
    """
    rope = ModelConfig(config.rope)
    if rope.find("rope_type") != "yarn":
        return
    for key, fixed in _FIXED_YARN.items():
        value = rope.find(key)
        if value not in (fixed, None) and key not in family.yarn_keys:
            raise CannotConvert(
                f"config.json has a yarn with {key} = {shown(value)}, but llama.cpp always uses {fixed}"
            )
    if family.checks_own_yarn:
        return
    factor, scales = rope.number("factor"), (rope.optional_number("mscale"), rope.optional_number("mscale_all_dim"))
    llama_cpp, *scaled = (1 + 0.1 * (scale or 0.0) * math.log(max(factor, 1.0)) for scale in (1.0, *scales))
    transformers = rope.optional_number("attention_factor")
    if transformers is None:
        transformers = scaled[0] / scaled[1] if all(scales) else llama_cpp
    if not math.isclose(transformers, llama_cpp, rel_tol=1e-5):
        raise CannotConvert(
            f"config.json has a yarn scaling that multiplies attention with {transformers:.4f}, but llama.cpp uses "
            f"{llama_cpp:.4f}"
        )
