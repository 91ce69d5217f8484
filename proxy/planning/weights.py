"""Which files of a safetensors repository make the model: one family of weights, and what is read beside it."""

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
"""What is read beside the weights."""
WEIGHTS = re.compile(r"(model|consolidated)[^/]*\.safetensors")


class NotConvertible(Refusal):
    """What only another form of the same model would help against, such as a GGUF."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The files of a repository that a pull needs. `weight_map` is the index's: tensor to shard."""

    weights: tuple[RepositoryFile, ...]
    companions: tuple[RepositoryFile, ...]
    chat_template: RepositoryFile | None
    weight_map: Mapping[str, str] | None = None

    @property
    def to_read(self) -> tuple[RepositoryFile, ...]:
        """What has to be read before there is a plan."""
        small = [file for file in self.companions if not _is_weights(file.path)]
        return (*small, *([self.chat_template] if self.chat_template else []))


def has_weights(files: Iterable[RepositoryFile]) -> bool:
    """Whether there are safetensors of a whole model."""
    return any(file.path == INDEX or WEIGHTS.fullmatch(file.path) for file in files)


def choose_files(repository: Repository, index: bytes | None, more: Iterable[str] = ()) -> Selection:
    """The weights of one family, exactly as the index names them, and the companions that are read.

    `more` are companions that the repository itself names. Raises Refusal for a repository that cannot become a
    model, and for an unsafe path in it.
    """
    files = {file.path: file for file in repository.files}
    weight_map = None if index is None else _weight_map(f"{repository.id}/{INDEX}", files, index)
    if weight_map is None:
        weights = _weights_by_name(repository.id, files)
    else:
        weights = tuple(files[shard] for shard in sorted(set(weight_map.values())))
    there = [files[path] for path in (*COMPANIONS, *more) if path in files and files[path].size]
    weights += tuple(file for file in there if _is_weights(file.path))
    companions = tuple(file for file in there if not _is_weights(file.path))
    for file in (*weights, *companions):
        check_path(repository.id, file.path)
    if CONFIG not in files:
        raise NotConvertible(f"{repository.id} has no {CONFIG}, which says what architecture the weights are")
    if not any(path in files and files[path].size for path in TOKENIZERS):
        only = f" but {TEKKEN}, Mistral's own, which is not read" if TEKKEN in files else ""
        raise NotConvertible(f"{repository.id} has no tokenizer{only}: it takes one of {' and '.join(TOKENIZERS)}")
    return Selection(weights, companions, files.get(CHAT_TEMPLATE), weight_map)


def token_text(token: Any, default: str = "") -> str:
    """A special token in a tokenizer_config.json, where it stands as a text or as an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else default


def _is_weights(path: str) -> bool:
    return path.endswith(".safetensors")


def check_path(where: str, path: object) -> None:
    """A path from outside becomes part of URLs with our token."""
    if (
        not isinstance(path, str)
        or "\\" in path
        or not path.isprintable()
        or any(part in ("", ".", "..") for part in path.split("/"))
    ):
        raise Refusal(f"{where} names an unsafe file, {path!r}; nothing of this repository is fetched")


def _weights_by_name(repository: str, files: Mapping[str, RepositoryFile]) -> tuple[RepositoryFile, ...]:
    # Two families of files together are two models.
    for pattern in ("model", r"model-\d+-of-\d+", "model[^/]*", "consolidated[^/]*"):
        family = [files[path] for path in sorted(files) if re.fullmatch(rf"{pattern}\.safetensors", path)]
        if family:
            _check_count(repository, family)
            return tuple(family)
    pickled = next((path for path in sorted(files) if path.endswith((".bin", ".pt", ".pth"))), None)
    instead = f"; {pickled} is a pickle, which may run anything when it is loaded" if pickled else ""
    raise NotConvertible(f"{repository} has no safetensors weights in its top folder (model*.safetensors){instead}")


def _check_count(repository: str, shards: Sequence[RepositoryFile]) -> None:
    """Where no index names the shards, each of them says how many there are."""
    for shard in shards:
        counted = re.search(r"-of-0*(\d{1,9})\.safetensors$", shard.path)
        if counted and int(counted[1]) != len(shards):
            raise Refusal(
                f"{repository} has {len(shards)} shards, and {shard.path} is one of {counted[1]}; its upload is "
                "incomplete, or has two models"
            )


def _weight_map(where: str, files: Mapping[str, RepositoryFile], index: bytes) -> Mapping[str, str]:
    try:
        # The index of a large model has megabytes: json.loads would block all threads for 50 ms.
        value = orjson.loads(index)
    except orjson.JSONDecodeError as error:
        raise Refusal(f"{where} is not JSON: {error}; {UPLOAD_AGAIN}") from error
    weight_map = as_object(where, value).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise Refusal(f"{where} names no shards: it has no weight_map")
    for shard in weight_map.values():
        check_path(where, shard)
    shards = set(weight_map.values())
    if missing := sorted(shard for shard in shards if shard not in files):
        raise Refusal(f"{where} names {missing[0]}, which the repository does not have; its upload is incomplete")
    if nested := sorted(shard for shard in shards if "/" in shard or not shard.endswith(".safetensors")):
        raise Refusal(f"{where} names {nested[0]}; only *.safetensors in the top folder are read")
    return weight_map
