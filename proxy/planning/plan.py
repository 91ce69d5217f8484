"""What a pull will do, decided before a weight byte moves: the value that everything after planning works from."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from proxy.config import NO_SETTINGS, ModelSettings
from proxy.planning.recipe import Literal, Range, Recipe
from proxy.sources.base import Repository, RepositoryFile


class Format(StrEnum):
    """What the repository has."""

    SAFETENSORS = "safetensors"
    GGUF = "gguf"
    ADAPTER = "adapter"


class Bar(NamedTuple):
    """A file as clients see it move: its digest, and how many of its bytes are taken."""

    digest: str
    size: int


class TakenRange(NamedTuple):
    """A part of a blob that comes from one bar's file: `made` bytes of the blob out of `taken` bytes of the file."""

    digest: str
    made: int
    taken: int


@dataclass(frozen=True, slots=True)
class Upload:
    """One blob that Ollama has to hold, and the file name that it has for Ollama.

    `kind` is the kind of layer that it becomes: `model`, `projector` or `adapter`. Weights have bars, and stretches
    that say in which order these fill.
    """

    path: str
    recipe: Recipe
    bars: tuple[Bar, ...] = ()
    stretches: tuple[TakenRange, ...] = ()
    kind: str = "model"

    @property
    def size(self) -> int:
        return self.recipe.size

    @property
    def taken(self) -> int:
        """How many bytes are fetched for it."""
        return sum(stretch.taken for stretch in self.stretches) if self.stretches else self.size

    @property
    def digest(self) -> str | None:
        """None where nobody knows it before the bytes have come."""
        return self.recipe.digest

    @property
    def content(self) -> bytes | None:
        """The bytes, where the proxy has them already."""
        match self.recipe.parts:
            case (Literal(content),):
                return content
            case _:
                return None


@dataclass(frozen=True, slots=True)
class Finished:
    """A GGUF that needs no more work. `architecture` is llama.cpp's name, `file_type` a name like `Q8_0`."""

    architecture: str
    parameters: int
    file_type: str


class QuantizationOffer(NamedTuple):
    """A tag that works in place of the one that was asked for, and how many bytes the model would have.

    `usual` is one that most people look for.
    """

    quantization: str
    size: int
    usual: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """A pull from here on: nothing later looks at the name or the listing again.

    `quantization` is what the weights are to be, None where they stay as they are. `is_converted` says whether the
    proxy makes a GGUF of them, and `made_by` who does (identity.maker_of); it is empty where the repository has one.
    `finished` says what the model is; it is None for what goes on another model, and for what Ollama pulls by itself.
    `reason` says why this is the way. `result_size` is what the model will take, in bytes; None where that is not
    known. `base` is what an adapter goes on. `offers` are the quantizations that there are.
    """

    name: str
    repository: Repository
    format: Format
    reason: str
    uploads: tuple[Upload, ...]
    quantization: str | None = None
    is_converted: bool = False
    made_by: str = ""
    template_source: str = "none"
    template_exact: bool | None = None
    settings: ModelSettings = NO_SETTINGS
    warnings: tuple[str, ...] = ()
    result_size: int | None = None
    base: "Base | None" = None
    finished: Finished | None = None
    offers: tuple[QuantizationOffer, ...] = ()

    @property
    def steps(self) -> tuple["Plan", ...]:
        """What is made, in order: the base of an adapter before the adapter."""
        return (self.base.plan, self) if self.base is not None and self.base.plan is not None else (self,)

    @property
    def bars(self) -> tuple[Bar, ...]:
        return tuple(bar for upload in self.uploads for bar in upload.bars)

    @property
    def weights(self) -> tuple[Upload, ...]:
        return tuple(upload for upload in self.uploads if upload.bars)


@dataclass(frozen=True, slots=True)
class Base:
    """The model that an adapter changes; `plan` makes it where Ollama does not have it."""

    name: str
    plan: Plan | None


def small_file(path: str, content: bytes) -> Upload:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return Upload(path, Recipe((Literal(content),), digest))


def weight_file(repository: Repository, path: str, file: RepositoryFile, kind: str = "model") -> Upload:
    """A file of weights as it is."""
    digest = f"sha256:{file.sha256}" if file.sha256 else None
    return weight_upload(repository, path, Recipe((Range(file, 0, file.size),), digest), kind)


def weight_upload(repository: Repository, path: str, recipe: Recipe, kind: str = "model") -> Upload:
    """A blob of weights with the bars of the files that it is made of. A literal counts with the range before it."""
    digests = {file: bar_digest(repository, file) for file in recipe.files}
    merged: list[TakenRange] = []
    digest = next(iter(digests.values()), "")
    for part in recipe.parts:
        taken = 0
        if isinstance(part, Range):
            digest, taken = digests[part.file], part.stop - part.start
        last = merged.pop() if merged and merged[-1].digest == digest else TakenRange(digest, 0, 0)
        merged.append(TakenRange(digest, last.made + part.size, last.taken + taken))
    # A file of which nothing is made has no bar: it could never fill.
    stretches = tuple(stretch for stretch in merged if stretch.made)
    sizes = Counter[str]()
    for stretch in stretches:
        sizes[stretch.digest] += stretch.taken
    in_order = dict.fromkeys(digests[file] for file in sorted(digests, key=lambda file: file.path))
    return Upload(path, recipe, tuple(Bar(one, sizes[one]) for one in in_order if sizes[one]), stretches, kind)


def bar_digest(repository: Repository, file: RepositoryFile) -> str:
    """What clients know a file by: its SHA-256, or one of its name where nobody knows that."""
    if file.sha256:
        return f"sha256:{file.sha256}"
    return f"sha256:{hashlib.sha256(f'{repository.id} {repository.commit} {file.path}'.encode()).hexdigest()}"
