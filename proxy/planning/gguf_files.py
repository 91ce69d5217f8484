"""Which GGUF files of a repository a tag means: by quantization label, folder or file name. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from proxy.config.values import Quantization
from proxy.errors import Refusal
from proxy.gguf.split import SplitName
from proxy.names import TAG, is_tag
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
    incomplete: str | None = None
    """Why the files are not a whole model, for the user; None if they may be one."""

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
    warnings: tuple[str, ...] = ()
    """Incomplete models that the tag means too."""


def choose_gguf(repository: str, files: Sequence[RepositoryFile], tag: str, default: Quantization) -> GgufChoice:
    """For a repository with GGUF files only: a whole model. Raises Refusal, which lists the available tags."""
    models = gguf_models(repository, files)
    latest = latest_gguf(models, default)
    if latest is None:
        incomplete = next((f"{model.incomplete}; {UPLOAD_AGAIN}" for model in models if model.incomplete), None)
        raise Refusal(
            incomplete or f"{repository} has GGUF files, but none of them is a complete model; pull another repository"
        )
    if tag.lower() == "latest":
        hub_choice, preferred = _as_the_hub(models), _first(models, [default])
        warnings = _warnings((preferred or hub_choice).incomplete)
        return GgufChoice(latest, None, latest is hub_choice and not latest.is_split, warnings)
    if choice := choose_named(models, tag):
        return choice
    source, incomplete = _first(whole_models(models), UNQUANTIZED), _incomplete(models, tag)
    # Some labels are no quantization of the proxy's: the reason why their file is not taken goes first.
    if source is not None and (incomplete is None or tag.upper() in tuple(Quantization)):
        quantization = known_quantization(repository, tag)
        if quantization is not None:
            return GgufChoice(source, quantization, as_the_hub=False, warnings=_warnings(incomplete))
    tags, untagged = tags_of(models, latest)
    raise Refusal(
        "; ".join(
            (
                incomplete or f"{repository} has no GGUF for the tag {tag!r}",
                *(reason for reason in untagged if reason != incomplete),
                f"pull with one of these: {', '.join(tags)}",
                *([f"or with one that the proxy makes from its {source.label}: {_made_here()}"] if source else []),
            )
        )
    )


def _made_here() -> str:
    return ", ".join(available_quantizations())


def tags_of(models: Iterable[GgufModel], latest: GgufModel | None) -> tuple[dict[str, GgufModel], list[str]]:
    """A tag for each whole model, and for each other model why no tag means it. `latest`: the model without a tag.

    If several models have one label, the first gets it as its tag; the others get their file names.
    """
    tags: dict[str, GgufModel] = {}
    untagged = []
    for model in models:
        name = file_name(model.files[0])
        usable = (text for text in (model.label, name, "latest" if model is latest else None) if text and is_tag(text))
        tag = next((text for text in usable if text.upper() not in map(str.upper, tags)), None)
        if model.incomplete:
            untagged.append(model.incomplete)
        elif tag is None:
            untagged.append(f"no tag means {model.files[0].path}: {_why_no_tag(name)}")
        else:
            tags[tag] = model
    return tags, untagged


def _why_no_tag(name: str) -> str:
    return TAG.broken_by(name) or "another file has this name too"


def choose_named(models: Sequence[GgufModel], tag: str) -> GgufChoice | None:
    """The whole model that the tag names, by its label or file name."""
    model = find_gguf(whole_models(models), tag)
    if model is None:
        return None
    # The Hub's registry does not know which files are incomplete.
    as_the_hub = not model.is_split and find_gguf(models, tag) is model
    return GgufChoice(model, None, as_the_hub, _warnings(_incomplete(models, tag)))


def passed_over(models: Iterable[GgufModel], tag: str) -> tuple[str, ...]:
    """The warning that an incomplete GGUF has this tag too, where the proxy takes other weights than a GGUF.

    Raises Refusal if the tag can only mean that GGUF.
    """
    incomplete = _incomplete(models, tag)
    if incomplete and tag.upper() not in tuple(Quantization):
        raise Refusal(f"{incomplete}; {UPLOAD_AGAIN}")
    return _warnings(incomplete)


def _incomplete(models: Iterable[GgufModel], tag: str) -> str | None:
    """Why a model that the tag names cannot be taken; None if there is no incomplete one."""
    model = find_gguf([model for model in models if model.incomplete], tag)
    return model.incomplete if model else None


def whole_models(models: Iterable[GgufModel]) -> list[GgufModel]:
    """Those of which no file is missing."""
    return [model for model in models if model.incomplete is None]


def latest_gguf(models: Sequence[GgufModel], default: Quantization) -> GgufModel | None:
    """The whole model that `latest` means; None if there is none."""
    whole = whole_models(models)
    return (_first(whole, [default]) or _as_the_hub(whole)) if whole else None


def _as_the_hub(models: Sequence[GgufModel]) -> GgufModel:
    """What the Hub's registry for Ollama takes without a tag."""
    return _first(models, [Quantization.Q4_K_M]) or _first_q4(models) or models[0]


def _warnings(incomplete: str | None) -> tuple[str, ...]:
    return (f"{incomplete}: the proxy takes other weights of the repository",) if incomplete else ()


def find_gguf(models: Iterable[GgufModel], tag: str) -> GgufModel | None:
    """The model whose label or file name is equal to the tag: Q4_K is neither Q4_K_M nor UD-Q4_K_M."""
    upper = tag.upper()
    for model in models:
        if any(file_name(file).upper() == upper for file in model.files):
            return model
    return _first(models, [_normalized(upper)])


def gguf_models(repository: str, files: Iterable[RepositoryFile]) -> list[GgufModel]:
    """All models among the files, those in the top folder first; without projectors, importance matrices and drafts.

    Models of which a file is missing or empty are among them.
    """
    groups: dict[str, list[RepositoryFile]] = {}
    for file in files:
        name = file_name(file)
        if name.lower().endswith(".gguf") and not PROJECTOR.search(name) and not IMPORTANCE.match(name):
            if IMPORTANCE.search(name) and _label(file.path) is None:
                continue
            shard = SplitName.parse(file.path)
            groups.setdefault(f"{shard.prefix} of {shard.count}" if shard else file.path, []).append(file)
    models = [_model(repository, group) for group in groups.values()]
    models.sort(key=lambda model: (model.files[0].path.count("/"), model.files[0].path))
    # A repository may hold draft models only.
    return [model for model in models if not DRAFT.match(file_name(model.files[0]))] or models


def choose_projector(model: GgufModel, files: Iterable[RepositoryFile]) -> RepositoryFile | None:
    """The vision projector for a model: from the nearest folder, then with the most similar number of bits."""
    own, bits = model.files[0].path, _bits(model.label)
    candidates = [
        file
        for file in files
        if file.size and file.path.lower().endswith(".gguf") and PROJECTOR.search(file_name(file))
    ]

    def fitness(file: RepositoryFile) -> tuple[int, int, bool, str]:
        label = _label(file.path)
        return -_shared_folders(own, file.path), abs(_bits(label) - bits), label == "BF16", file.path

    return min(candidates, key=fitness, default=None)


def _model(repository: str, group: Sequence[RepositoryFile]) -> GgufModel:
    """A whole file, or the shards that there are, in order."""
    name = SplitName.parse(group[0].path)
    shards = {shard.number: file for file in group if (shard := SplitName.parse(file.path))}
    files = tuple(shards[number] for number in sorted(shards)) or tuple(group)
    missing = next((number for number in range(1, name.count + 1) if number not in shards), None) if name else None
    empty = next((file.path for file in files if not file.size), None)
    incomplete = None
    if name and missing:
        one = f"{repository}: {files[0].path} is one of {name.count} shards"
        incomplete = f"{one}, but number {missing} is not in the repository: its upload is incomplete"
    elif empty:
        incomplete = f"{repository}/{empty} is empty"
    return GgufModel(_label(files[0].path), files, incomplete)


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
