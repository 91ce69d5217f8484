"""Keys of config.json that nothing here has read: each is ignored, reported as a warning, or refused. Pure.

transformers reads the keys that its class for the model knows, and ignores all others. tests/gguf checks that each key
that a class knows is read, fixed or declared harmless by its family. So transformers ignores an unread key too, unless
the repository brings its own code or a newer transformers wrote the file.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from proxy.gguf.families.family import Family
from proxy.gguf.ignored_keys import HARMLESS_IN_ROPE, is_harmless
from proxy.gguf.model_config import LOCAL_ROPE_PREFIX, ROPE_PREFIX, CannotConvert, ModelConfig
from proxy.gguf.tensors import shown

KNOWN_TRANSFORMERS = (5, 24)
"""The version of transformers that the families are checked against."""
_ANY_ROPE = frozenset({"partial_rotary_factor", "rope_theta"})
_READ_BY_TYPE: Mapping[str, frozenset[str]] = {
    "default": _ANY_ROPE,
    "linear": _ANY_ROPE | {"factor"},
    # Its factor has an effect only beyond the written context.
    "dynamic": _ANY_ROPE,
    "proportional": _ANY_ROPE | {"factor"},
    "yarn": _ANY_ROPE
    | {"factor", "attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow", "truncate"}
    | {"original_max_position_embeddings"},
    "longrope": _ANY_ROPE
    | {"factor", "attention_factor", "long_factor", "short_factor", "original_max_position_embeddings"},
    "llama3": _ANY_ROPE | {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
}
"""RoPE type → the keys that transformers reads (modeling_rope_utils.py)."""
_READ_IN_ROPE = frozenset[str]().union(*_READ_BY_TYPE.values())
_READ_FOR_ALL = frozenset({"per_layer_config"})
"""PreTrainedConfig reads these for every model: settings of single layers."""
_MODEL_CLASSES = ("AutoModel", "AutoModelForCausalLM")


def check_unread_keys(family: Family, config: ModelConfig, original: Mapping[str, Any]) -> Iterator[str]:
    """Yields a warning for a key in `original`, the parsed config.json, that may have an effect.

    Call it after all keys of `config`, which has the family's defaults too, were read. Raises CannotConvert for a key
    that changes, or may change, what the model calculates.
    """
    architecture = shown((original.get("architectures") or [None])[0])
    section = family.text_part.settings(original) if family.text_part else None
    text = family.renamed(original) if section is None else section
    accounted = config.read_keys | family.accepted_values.keys() | family.harmless_keys
    unknown = {key: value for key, value in text.items() if key not in accounted and not is_harmless(key)}
    read_by_transformers = {key: unknown.pop(key) for key in _READ_FOR_ALL & unknown.keys()}
    local = [(config.local_rope, LOCAL_ROPE_PREFIX)] if family.has_local_rope else []
    for rope, prefix in [(config.rope, ROPE_PREFIX), *local]:
        read_for_type = _READ_BY_TYPE.get(rope.fields.get("rope_type") or "default", frozenset())
        for key, value in rope.fields.items():
            if (
                prefix + key in accounted
                or key in family.accepted_values.keys() | family.harmless_keys | HARMLESS_IN_ROPE
            ):
                continue
            if key in read_for_type:
                read_by_transformers[prefix + key] = value
            elif key not in _READ_IN_ROPE:
                unknown[prefix + key] = value
    for key, value in read_by_transformers.items():
        if _has_effect(value):
            raise CannotConvert(f"config.json has {key} = {shown(value)}, unknown for {architecture}")
    for key, value in unknown.items():
        if _has_effect(value):
            yield from _check_unknown(family, original, text, f"{key} = {shown(value)}, unknown for {architecture}")
            return


def _check_unknown(family: Family, original: Mapping[str, Any], text: Mapping[str, Any], what: str) -> Iterator[str]:
    if not family.has_transformers_class or _brings_code(original) or _brings_code(text):
        raise CannotConvert(f"config.json has {what}: the repository's own code may calculate something else with it")
    version = _version(text.get("transformers_version") or original.get("transformers_version"))
    if version > KNOWN_TRANSFORMERS:
        yield (
            f"config.json has {what}. transformers {_dotted(version)} wrote this file and may calculate something else "
            f"with it; the proxy knows the keys of transformers {_dotted(KNOWN_TRANSFORMERS)}"
        )


def _has_effect(value: object) -> bool:
    """False for a value that is off, empty or neutral, such as a factor of 1."""
    return bool(value) and (value is True or value != 1)


def _brings_code(fields: Mapping[str, Any]) -> bool:
    """Whether the model runs with code from the repository, not from transformers."""
    auto_map = fields.get("auto_map")
    return isinstance(auto_map, dict) and any(auto_map.get(name) for name in _MODEL_CLASSES)


def _version(text: object) -> tuple[int, int]:
    match = re.match(r"(\d{1,3})\.(\d{1,3})", text) if isinstance(text, str) else None
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
