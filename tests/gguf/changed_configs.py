"""Conversions of tiny repositories whose config.json has other values."""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from proxy.gguf import conversion
from proxy.gguf.families import FAMILIES
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.gguf.writing import SourceTensors, plan_of, readable_tensors
from tests.kit.tiny_conversions import small_files
from tests.kit.tiny_models import tiny_bert, tiny_xlm_roberta

ENCODERS: Mapping[str, tuple[str, Callable[[], Mapping[str, bytes]]]] = {
    "bert": ("BertModel", tiny_bert),
    "xlm_roberta": ("XLMRobertaModel", tiny_xlm_roberta),
}
OWN_CODE = {"auto_map": {"AutoConfig": "configuration.C", "AutoModelForCausalLM": "modeling.M"}}


@lru_cache(maxsize=8)
def repository(name: str) -> tuple[Mapping[str, bytes], SourceTensors]:
    """Its small files, and its tensors."""
    if name not in ENCODERS:
        return small_files(name)
    files = ENCODERS[name][1]()
    return files, readable_tensors(files)


def architecture_of(name: str) -> str:
    return ENCODERS[name][0] if name in ENCODERS else REPOSITORIES[name].architecture


def text_of(config: dict[str, Any], architecture: str) -> dict[str, Any]:
    """The text model's settings; older files of Qwen2-VL have them at the outer level."""
    text: dict[str, Any] = config.get("text_config", config) if FAMILIES[architecture].text_part else config
    return text


def changed(name: str, change: Mapping[str, Any], gone: tuple[str, ...] = ()) -> conversion.Conversion:
    config = json.loads(repository(name)[0]["config.json"])
    text = text_of(config, architecture_of(name))
    text |= dict(change)
    for key in gone:
        text.pop(key, None)
    return planned(name, dump(config))


@lru_cache(maxsize=64)
def planned(name: str, config: bytes) -> conversion.Conversion:
    """Many changes give the same config.json: without a key that it does not have, or with a default that it has."""
    files, weights = repository(name)
    return plan_of({**files, "config.json": config}, weights)
