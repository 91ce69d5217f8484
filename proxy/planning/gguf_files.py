"""Which GGUF files of a repository a tag means: by quantization label, folder or file name. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from proxy.config import Quantization
from proxy.errors import Refusal
from proxy.gguf.split import SplitName
from proxy.planning.json_files import UPLOAD_AGAIN
from proxy.planning.quantizations import available_quantizations, known_quantization
from proxy.sources.base import RepositoryFile

LABEL = re.compile(r"(?<![A-Z0-9])(?:UD-)?(?:BF16|FP?16|FP?32|T?I?Q\d(?:_[A-Z0-9]+)*|MXFP4(?:_MOE)?|NVFP4)(?![A-Z0-9])")
PROJECTOR = re.compile(r"mmproj", re.IGNORECASE)
IMPORTANCE = re.compile(r"imatrix", re.IGNORECASE)
DRAFT = re.compile(r"mtp-|eagle\d?-|.*(?<![a-z0-9])draft(?![a-z0-9])", re.IGNORECASE | re.DOTALL)
UNQUANTIZED = ("F16", "BF16", "F32")
"""The labels that can be quantized, best source first."""
PROJECTOR_BITS = 16


@dataclass(frozen=True, slots=True)
class GgufModel:
    """One model in one quantization: one file, or its shards in order."""

    label: str | None
    files: tuple[RepositoryFile, ...]

    @property
    def is_split(self) -> bool:
        return len(self.files) > 1

    @property
    def tag(self) -> str:
        """The tag of this model in a name."""
        return self.label or file_name(self.files[0])


@dataclass(frozen=True, slots=True)
class GgufChoice:
    """The GGUF that a tag means."""

    model: GgufModel
    quantization: Quantization | None
    """What the proxy makes from it; None if it stays as it is."""
    as_the_hub: bool
    """Whether the Hub's registry for Ollama chooses the same file for the tag."""


def choose_gguf(repository: str, files: Sequence[RepositoryFile], tag: str, default: Quantization) -> GgufChoice:
    """For a repository with GGUF files only. Raises Refusal, which lists the available tags."""
    models = gguf_models(repository, files)
    if not models:
        raise Refusal(f"{repository} has GGUF files, but none of them is a complete model; pull another repository")
    if tag.lower() == "latest":
        hub_choice = _first(models, [Quantization.Q4_K_M]) or _first_q4(models) or models[0]
        choice = _first(models, [default]) or hub_choice
        return GgufChoice(choice, None, as_the_hub=choice is hub_choice and not choice.is_split)
    if model := find_gguf(models, tag):
        return GgufChoice(model, None, as_the_hub=not model.is_split)
    source = _first(models, UNQUANTIZED)
    if source is not None and (quantization := known_quantization(repository, tag)) is not None:
        return GgufChoice(source, quantization, as_the_hub=False)
    tags = ", ".join(dict.fromkeys(model.tag for model in models))
    raise Refusal(
        f"{repository} has no GGUF for the tag {tag!r}; pull with one of these: {tags}"
        + (
            f"; or with one that the proxy makes from its {source.label}: {', '.join(available_quantizations())}"
            if source
            else ""
        )
    )


def find_gguf(models: Iterable[GgufModel], tag: str) -> GgufModel | None:
    """The model whose label or file name is equal to the tag: Q4_K is neither Q4_K_M nor UD-Q4_K_M."""
    upper = tag.upper()
    for model in models:
        if any(file_name(file).upper() == upper for file in model.files):
            return model
    return _first(models, [_normalized(upper)])


def gguf_models(repository: str, files: Iterable[RepositoryFile]) -> list[GgufModel]:
    """All models among the files, those in the top folder first; without projectors, importance matrices and drafts.

    Raises Refusal if a shard is missing.
    """
    groups: dict[str, list[RepositoryFile]] = {}
    for file in files:
        name = file_name(file)
        if name.lower().endswith(".gguf") and not PROJECTOR.search(name) and not IMPORTANCE.match(name):
            if IMPORTANCE.search(name) and _label(file.path) is None:
                continue
            shard = SplitName.parse(file.path)
            groups.setdefault(f"{shard.prefix} of {shard.count}" if shard else file.path, []).append(file)
    models = [GgufModel(_label(group[0].path), _in_order(repository, group)) for group in groups.values()]
    models.sort(key=lambda model: (model.files[0].path.count("/"), model.files[0].path))
    # A repository may hold draft models only.
    return [model for model in models if not DRAFT.match(file_name(model.files[0]))] or models


def choose_projector(model: GgufModel, files: Iterable[RepositoryFile]) -> RepositoryFile | None:
    """The vision projector for a model: from the nearest folder, then with the most similar number of bits."""
    own, bits = model.files[0].path, _bits(model.label)
    candidates = [file for file in files if file.path.lower().endswith(".gguf") and PROJECTOR.search(file_name(file))]

    def fitness(file: RepositoryFile) -> tuple[int, int, bool, str]:
        label = _label(file.path)
        return -_shared_folders(own, file.path), abs(_bits(label) - bits), label == "BF16", file.path

    return min(candidates, key=fitness, default=None)


def _in_order(repository: str, group: list[RepositoryFile]) -> tuple[RepositoryFile, ...]:
    names = [SplitName.parse(file.path) for file in group]
    shards = {name.number: file for name, file in zip(names, group, strict=True) if name}
    if names[0] is None:
        return tuple(group)
    count = names[0].count
    if missing := [number for number in range(1, count + 1) if number not in shards]:
        raise Refusal(
            f"{repository}: {group[0].path} is one of {count} shards, but number {missing[0]} is not in the "
            f"repository; {UPLOAD_AGAIN}"
        )
    return tuple(shards[number] for number in sorted(shards))


def _label(path: str) -> str | None:
    """The last quantization in the file's name, or in its folders' names."""
    for part in reversed(path.upper().removesuffix(".GGUF").split("/")):
        if labels := LABEL.findall(part):
            return _normalized(labels[-1])
    return None


def _normalized(label: str) -> str:
    return re.sub(r"^FP(?=16|32)", "F", label)


def _first(models: Iterable[GgufModel], labels: Sequence[str]) -> GgufModel | None:
    models = list(models)
    return next((model for label in labels for model in models if model.label == label), None)


def _first_q4(models: Iterable[GgufModel]) -> GgufModel | None:
    return next((model for model in models if model.label and model.label.startswith("Q4")), None)


def _bits(label: str | None) -> int:
    number = re.search(r"\d+", label or "")
    return int(number[0]) if number else PROJECTOR_BITS


def _shared_folders(one: str, other: str) -> int:
    shared = 0
    for left, right in zip(one.split("/")[:-1], other.split("/")[:-1], strict=False):
        if left != right:
            break
        shared += 1
    return shared


def file_name(file: RepositoryFile) -> str:
    return file.path.rpartition("/")[2]
