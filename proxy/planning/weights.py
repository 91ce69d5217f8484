"""Which files of a safetensors repository make the model: one set of weights, and the small files beside it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import orjson

from proxy.errors import Refusal
from proxy.gguf.tokenizer_files import PLAMO, RWKV, TIKTOKENS, TOKENIZER_CODE
from proxy.planning.json_files import UPLOAD_AGAIN, as_object
from proxy.sources.base import Repository, RepositoryFile

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
OTHER_TOKENIZERS = (RWKV, PLAMO, *TIKTOKENS)
TEKKEN = "tekken.json"
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
COMPANIONS = (
    CONFIG,
    PREPROCESSOR,
    PROCESSOR,
    *TOKENIZERS,
    *OTHER_TOKENIZERS,
    *TOKENIZER_CODE,
    TOKENIZER_CONFIG,
    "generation_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "modules.json",
)
"""Small files that a conversion reads."""
WEIGHTS = re.compile(r"(model|consolidated)[^/]*\.safetensors")
_SHARD = re.compile(r"(?P<name>.*)-(?P<number>\d{1,9})-of-(?P<count>\d{1,9})\.safetensors", re.ASCII)


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
    weight_map: Mapping[str, str] | None = None
    """From the index: tensor to shard. All tensors of a shard share its text."""
    warnings: tuple[str, ...] = ()
    """Why better weights of the repository are not taken."""


def has_weights(files: Iterable[RepositoryFile]) -> bool:
    """Whether there are safetensors files of a whole model (not of an adapter)."""
    return any(file.path == INDEX or WEIGHTS.fullmatch(file.path) for file in files)


def choose_files(repository: Repository, index: bytes | None, more: Iterable[str] = ()) -> Selection:
    """The weights that the index names, else the best whole set of weights by their names; and the companions.

    `more`: paths of further files that the repository itself names. Raises Refusal for a repository that cannot become
    a model, and for an unsafe path in it.
    """
    files = {file.path: file for file in repository.files}
    weights, weight_map, warnings = _choose_weights(repository.id, files, index)
    present = [files[path] for path in (*COMPANIONS, *more) if path in files and files[path].size]
    weights += tuple(file for file in present if _is_weights(file.path))
    companions = tuple(file for file in present if not _is_weights(file.path))
    for file in (*weights, *companions):
        check_path(repository.id, file.path)
    if CONFIG not in files:
        raise NotConvertible(f"{repository.id} has no {CONFIG}, which names the architecture of the weights")
    if not any(path in files and files[path].size for path in (*TOKENIZERS, *OTHER_TOKENIZERS)):
        only = f" but {TEKKEN}, Mistral's own format, which the proxy does not read" if TEKKEN in files else ""
        raise NotConvertible(f"{repository.id} has no tokenizer{only}: it needs one of {' and '.join(TOKENIZERS)}")
    return Selection(weights, companions, weight_map, warnings)


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


class _Incomplete(Refusal):
    """A set of weights is not whole; another set may be."""


def _choose_weights(
    repository: str, files: Mapping[str, RepositoryFile], index: bytes | None
) -> tuple[tuple[RepositoryFile, ...], Mapping[str, str] | None, tuple[str, ...]]:
    """The weights, what the index says of them, and warnings. Raises Refusal if no set of weights is whole."""
    reasons: list[_Incomplete] = []
    if index is not None:
        try:
            weight_map = _weight_map(f"{repository}/{INDEX}", files, index)
            return tuple(files[shard] for shard in sorted(set(weight_map.values()))), weight_map, ()
        except _Incomplete as reason:
            reasons.append(reason)
    whole = []
    for weights in _sets_by_name(files):
        try:
            _check_whole(repository, weights)
            whole.append(weights)
        except _Incomplete as reason:
            reasons.append(reason)
    if whole:
        return whole[0], None, tuple(f"{reason}; the proxy takes {whole[0][0].path}" for reason in reasons)
    if reasons:
        raise reasons[0]
    pickled = next((path for path in sorted(files) if path.endswith((".bin", ".pt", ".pth"))), None)
    instead = f"; {pickled} is a pickle, which may run any code when it is loaded" if pickled else ""
    raise NotConvertible(f"{repository} has no safetensors weights in its top folder (model*.safetensors){instead}")


def _sets_by_name(files: Mapping[str, RepositoryFile]) -> Iterable[tuple[RepositoryFile, ...]]:
    """A repository may hold the model several times. The best set of weights goes first."""
    sets: dict[tuple[int, str, str], list[RepositoryFile]] = {}
    for path in sorted(files):
        if not WEIGHTS.fullmatch(path):
            continue
        shard = _SHARD.fullmatch(path)
        name, count = (shard["name"], shard["count"]) if shard else (path.removesuffix(".safetensors"), "")
        rank = 3 if name.startswith("consolidated") else 2 if name != "model" else 1 if shard else 0
        sets.setdefault((rank, name if shard else "", count), []).append(files[path])
    return (tuple(sets[key]) for key in sorted(sets))


def _check_whole(repository: str, weights: Sequence[RepositoryFile]) -> None:
    """Raises _Incomplete for an empty file, and for missing shards: without an index, their names have their count."""
    if empty := next((file.path for file in weights if not file.size), None):
        raise _Incomplete(f"{repository}/{empty} is empty; {UPLOAD_AGAIN}")
    shards = [shard for file in weights if (shard := _SHARD.fullmatch(file.path))]
    if shards and (count := int(shards[0]["count"])) != len(shards):
        missing = set(range(1, count + 1)) - {int(shard["number"]) for shard in shards}
        lacks = f", but number {min(missing)} is not in the repository" if missing else ""
        raise _Incomplete(
            f"{repository}: {weights[0].path} is one of {count} shards{lacks}; its upload is incomplete: {UPLOAD_AGAIN}"
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
    for shard, _ in groupby(weight_map.values()):
        check_path(where, shard)
    shards = {shard: shard for shard in weight_map.values()}
    if missing := sorted(shard for shard in shards if shard not in files or not files[shard].size):
        lack = "is empty" if missing[0] in files else "the repository does not have"
        raise _Incomplete(f"{where} names {missing[0]}, which {lack}; its upload is incomplete: {UPLOAD_AGAIN}")
    if nested := sorted(shard for shard in shards if "/" in shard or not shard.endswith(".safetensors")):
        raise Refusal(
            f"{where} names {nested[0]}, but the proxy reads only *.safetensors in the top folder; pull a GGUF of the "
            "model"
        )
    return {name: shards[shard] for name, shard in weight_map.items()}
