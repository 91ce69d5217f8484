"""What a pull will do, decided before a weight byte moves: the value that everything after planning works from."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from proxy.config import NO_SETTINGS, ModelSettings
from proxy.planning.capabilities import CONVERTED_TO
from proxy.planning.recipe import Literal, Range, Recipe
from proxy.sources.base import Repository, RepositoryFile


class Format(StrEnum):
    """What the repository has."""

    SAFETENSORS = "safetensors"
    GGUF = "gguf"
    ADAPTER = "adapter"


class Converter(StrEnum):
    """Who makes a GGUF of the weights."""

    OLLAMA = "ollama"
    PROXY = "proxy"
    NOBODY = "none"


class Bar(NamedTuple):
    """A file as clients see it move: its digest, and how many bytes of a blob come from it."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Upload:
    """One blob that Ollama has to hold, and the file name that it has for Ollama.

    Weights have bars. Where their files do not come one after the other in the recipe, `turns` says which brings how
    many of the blob's bytes until the next one does.
    """

    path: str
    recipe: Recipe
    bars: tuple[Bar, ...] = ()
    turns: tuple[Bar, ...] = ()

    @property
    def size(self) -> int:
        return self.recipe.size

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
    """A GGUF that is the model as it stands: `architecture` as llama.cpp says it, `file_type` as `Q8_0`."""

    architecture: str
    parameters: int
    file_type: str


class Offer(NamedTuple):
    """A tag that works in place of the one that was asked for, and how many bytes the model would have."""

    quantization: str
    size: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A pull from here on: nothing later looks at the name or the listing again.

    `quantization` is what the weights are to be, None where they stay as they are. `finished` is what the upload is,
    where nothing is left for Ollama to make of it. `reason` says why this is the way. `result_size` is what the model
    will take, in bytes, and `made_size` what Ollama writes beside the uploads until it is there; None where that is not
    known. `base` is what an adapter goes on. `in_two_creates` says that a first create should only convert: what it
    writes is then a model's, and goes with it. `offers` are the quantizations that there are.
    """

    name: str
    repository: Repository
    format: Format
    reason: str
    uploads: tuple[Upload, ...]
    quantization: str | None = None
    converter: Converter = Converter.NOBODY
    template_source: str = "none"
    template_exact: bool | None = None
    settings: ModelSettings = NO_SETTINGS
    repairs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    result_size: int | None = None
    made_size: int = 0
    base: "Base | None" = None
    in_two_creates: bool = False
    finished: Finished | None = None
    offers: tuple[Offer, ...] = ()

    @property
    def steps(self) -> tuple["Plan", ...]:
        """What is made, in order: the base of an adapter before the adapter."""
        return (self.base.plan, self) if self.base is not None and self.base.plan is not None else (self,)

    @property
    def is_quantized(self) -> bool:
        """Whether Ollama has to quantize, beyond what its converter writes."""
        written = CONVERTED_TO if self.converter is Converter.OLLAMA else None
        return self.finished is None and self.quantization not in (None, written)

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


def weight_file(repository: Repository, path: str, file: RepositoryFile) -> Upload:
    """A file of weights as it is."""
    digest = f"sha256:{file.sha256}" if file.sha256 else None
    return Upload(path, Recipe((Range(file, 0, file.size),), digest), (Bar(bar_digest(repository, file), file.size),))


def bar_digest(repository: Repository, file: RepositoryFile) -> str:
    """What clients know a file by: its SHA-256, or one of its name where nobody knows that."""
    if file.sha256:
        return f"sha256:{file.sha256}"
    return f"sha256:{hashlib.sha256(f'{repository.id} {repository.commit} {file.path}'.encode()).hexdigest()}"
