"""Which files of a safetensors repository make the model: one set of weights, and the small files beside it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.errors import Refusal
from proxy.planning.json_files import UPLOAD_AGAIN, as_object
from proxy.sources.base import Repository, RepositoryFile

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
TEKKEN = "tekken.json"
COMPANIONS = (
    CONFIG,
    *TOKENIZERS,
    TOKENIZER_CONFIG,
    "generation_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "modules.json",
)
"""Small files that a conversion reads."""
WEIGHTS = re.compile(r"(model|consolidated)[^/]*\.safetensors")


class NotConvertible(Refusal):
    """The proxy cannot convert this repository; another form of the model, such as a GGUF, would work.

    proxy.gguf raises CannotConvert, which does not know the repository: conversion_plan turns it into this.
    """


@dataclass(frozen=True, slots=True)
class Selection:
    """The files of a repository that a pull needs."""

    weights: tuple[RepositoryFile, ...]
    companions: tuple[RepositoryFile, ...]
    """COMPANIONS, and small files that the repository itself names."""
    chat_template: RepositoryFile | None
    weight_map: Mapping[str, str] | None = None
    """From the index: tensor to shard."""

    @property
    def to_read(self) -> tuple[RepositoryFile, ...]:
        """The small files that planning reads whole."""
        return (*self.companions, *([self.chat_template] if self.chat_template else []))


def has_weights(files: Iterable[RepositoryFile]) -> bool:
    """Whether there are safetensors files of a whole model (not of an adapter)."""
    return any(file.path == INDEX or WEIGHTS.fullmatch(file.path) for file in files)


def choose_files(repository: Repository, index: bytes | None, more: Iterable[str] = ()) -> Selection:
    """The weights that the index names (else one set of shards), and the companions.

    `more`: paths of further files that the repository itself names. Raises Refusal for a repository that cannot become
    a model, and for an unsafe path in it.
    """
    files = {file.path: file for file in repository.files}
    weight_map = None if index is None else _weight_map(f"{repository.id}/{INDEX}", files, index)
    if weight_map is None:
        weights = _weights_by_name(repository.id, files)
    else:
        weights = tuple(files[shard] for shard in sorted(set(weight_map.values())))
    present = [files[path] for path in (*COMPANIONS, *more) if path in files and files[path].size]
    weights += tuple(file for file in present if _is_weights(file.path))
    companions = tuple(file for file in present if not _is_weights(file.path))
    for file in (*weights, *companions):
        check_path(repository.id, file.path)
    if CONFIG not in files:
        raise NotConvertible(f"{repository.id} has no {CONFIG}, which names the architecture of the weights")
    if not any(path in files and files[path].size for path in TOKENIZERS):
        only = f" but {TEKKEN}, Mistral's own format, which the proxy does not read" if TEKKEN in files else ""
        raise NotConvertible(f"{repository.id} has no tokenizer{only}: it needs one of {' and '.join(TOKENIZERS)}")
    return Selection(weights, companions, files.get(CHAT_TEMPLATE), weight_map)


def token_text(token: Any, default: str = "") -> str:
    """The text of a special token in tokenizer_config.json: there it is a text or an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else default


def _is_weights(path: str) -> bool:
    return path.endswith(".safetensors")


def check_path(where: str, path: object) -> None:
    """Raises Refusal for an unsafe path: it comes from outside, and goes into URLs that carry our token."""
    if (
        not isinstance(path, str)
        or "\\" in path
        or not path.isprintable()
        or any(part in ("", ".", "..") for part in path.split("/"))
    ):
        raise Refusal(f"{where} names an unsafe file, {path!r}; the proxy fetches nothing from this repository")


def _weights_by_name(repository: str, files: Mapping[str, RepositoryFile]) -> tuple[RepositoryFile, ...]:
    # A repository may hold the model twice, in two sets of files: take one set.
    for pattern in ("model", r"model-\d+-of-\d+", "model[^/]*", "consolidated[^/]*"):
        shards = [files[path] for path in sorted(files) if re.fullmatch(rf"{pattern}\.safetensors", path)]
        if shards:
            _check_count(repository, shards)
            return tuple(shards)
    pickled = next((path for path in sorted(files) if path.endswith((".bin", ".pt", ".pth"))), None)
    instead = f"; {pickled} is a pickle, which may run any code when it is loaded" if pickled else ""
    raise NotConvertible(f"{repository} has no safetensors weights in its top folder (model*.safetensors){instead}")


def _check_count(repository: str, shards: Sequence[RepositoryFile]) -> None:
    """Without an index, the name of each shard has the number of shards."""
    for shard in shards:
        counted = re.search(r"-of-0*(\d{1,9})\.safetensors$", shard.path)
        if counted and int(counted[1]) != len(shards):
            raise Refusal(
                f"{repository} has {len(shards)} shards, but {shard.path} is one of {counted[1]}; its upload is "
                f"incomplete or mixes two models: {UPLOAD_AGAIN}"
            )


def _weight_map(where: str, files: Mapping[str, RepositoryFile], index: bytes) -> Mapping[str, str]:
    try:
        # The index of a large model has megabytes: json.loads would block all threads for 50 ms.
        value = orjson.loads(index)
    except orjson.JSONDecodeError as error:
        raise Refusal(f"{where} is not JSON: {error}; {UPLOAD_AGAIN}") from error
    weight_map = as_object(where, value).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise Refusal(f"{where} names no shards: it has no weight_map; {UPLOAD_AGAIN}")
    for shard in weight_map.values():
        check_path(where, shard)
    shards = set(weight_map.values())
    if missing := sorted(shard for shard in shards if shard not in files):
        raise Refusal(
            f"{where} names {missing[0]}, which the repository does not have; its upload is incomplete: {UPLOAD_AGAIN}"
        )
    if nested := sorted(shard for shard in shards if "/" in shard or not shard.endswith(".safetensors")):
        raise Refusal(
            f"{where} names {nested[0]}, but the proxy reads only *.safetensors in the top folder; pull a GGUF of the "
            "model"
        )
    return weight_map
