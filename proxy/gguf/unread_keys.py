"""What a config.json says that nothing here has asked for: whether it can be left out, is told, or refused. Pure.

transformers reads what its class for the model knows, and ignores any other key; tests/gguf holds each key that a
class knows against what its family reads, fixes, or declares as harmless. So a key that is left is one that the class
ignores, unless the repository brings code of its own, or a newer transformers has written it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from proxy.gguf.config import LOCAL_ROPE, ROPE, CannotConvert, ModelConfig
from proxy.gguf.families.family import Family
from proxy.gguf.ignored_keys import OF_ROPES, is_harmless
from proxy.gguf.tensors import shown

KNOWN = (5, 24)
"""The transformers whose classes the families are held against."""
_ANY_KIND = frozenset({"partial_rotary_factor", "rope_theta"})
_READ: Mapping[str, frozenset[str]] = {
    "default": _ANY_KIND,
    "linear": _ANY_KIND | {"factor"},
    # Beyond the context that is written only.
    "dynamic": _ANY_KIND,
    "proportional": _ANY_KIND | {"factor"},
    "yarn": _ANY_KIND
    | {"factor", "attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow", "truncate"}
    | {"original_max_position_embeddings"},
    "longrope": _ANY_KIND
    | {"factor", "attention_factor", "long_factor", "short_factor", "original_max_position_embeddings"},
    "llama3": _ANY_KIND | {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
}
"""What transformers reads of a rope, by its kind (modeling_rope_utils.py)."""
_OF_ROPES = frozenset[str]().union(*_READ.values())
_OF_ALL = frozenset({"per_layer_config"})
"""What PreTrainedConfig reads for every model: settings of single layers."""
_OF_MODELS = ("AutoModel", "AutoModelForCausalLM")


def check_accounted(family: Family, config: ModelConfig, given: Mapping[str, Any]) -> Iterator[str]:
    """Yields what a person should know of keys in `given`, config.json as it stands, that may mean something.

    `config` is the same with the family's defaults, after all has been asked for. Raises CannotConvert for a key that
    changes what the model calculates, or may.
    """
    architecture = shown((given.get("architectures") or [None])[0])
    text = given["text_config"] if family.text_part else given
    accounted = config.asked | family.accepted_values.keys() | family.harmless_keys
    left = {key: value for key, value in text.items() if key not in accounted and not is_harmless(key)}
    known = {key: left.pop(key) for key in _OF_ALL & left.keys()}
    local = [(config.local_rope, LOCAL_ROPE)] if family.has_local_rope else []
    for rope, begin in [(config.rope, ROPE), *local]:
        of_kind = _READ.get(rope.fields.get("rope_type") or "default", frozenset())
        for key, value in rope.fields.items():
            if begin + key in accounted or key in family.accepted_values.keys() | family.harmless_keys | OF_ROPES:
                continue
            if key in of_kind:
                known[begin + key] = value
            elif key not in _OF_ROPES:
                left[begin + key] = value
    for key, value in known.items():
        if _says_something(value):
            raise CannotConvert(f"config.json has {key} = {shown(value)}, unknown for {architecture}")
    for key, value in left.items():
        if _says_something(value):
            yield from _left(family, given, text, f"{key} = {shown(value)}, unknown for {architecture}")
            return


def _left(family: Family, given: Mapping[str, Any], text: Mapping[str, Any], what: str) -> Iterator[str]:
    if not family.has_transformers_class or _brings_code(given) or _brings_code(text):
        raise CannotConvert(f"config.json has {what}: the repository's own code may calculate something else by it")
    written_by = _version(text.get("transformers_version") or given.get("transformers_version"))
    if written_by > KNOWN:
        yield (
            f"config.json has {what}, and was written by transformers {_dotted(written_by)}, which may calculate "
            f"something else by it; known is what {_dotted(KNOWN)} reads"
        )


def _says_something(value: object) -> bool:
    """Not of what is off, empty or neutral, as a factor of 1 is."""
    return bool(value) and (value is True or value != 1)


def _brings_code(fields: Mapping[str, Any]) -> bool:
    """Whether the model is calculated by code in the repository, not by that of transformers."""
    places = fields.get("auto_map")
    return isinstance(places, dict) and any(places.get(name) for name in _OF_MODELS)


def _version(text: object) -> tuple[int, int]:
    found = re.match(r"(\d{1,3})\.(\d{1,3})", text) if isinstance(text, str) else None
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
