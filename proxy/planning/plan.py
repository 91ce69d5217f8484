"""The plan of a pull: all that the later steps need, decided before the first weight byte moves."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from proxy.config.sections import NO_SETTINGS, ModelSettings
from proxy.planning.capabilities import Capabilities
from proxy.planning.recipe import Literal, Range, Recipe
from proxy.sources.base import Repository, RepositoryFile


class Format(StrEnum):
    """What the repository holds."""

    SAFETENSORS = "safetensors"
    GGUF = "gguf"
    ADAPTER = "adapter"


class Bar(NamedTuple):
    """A progress bar of the client: the digest of a file, and how many of its bytes are fetched."""

    digest: str
    size: int


class BarRange(NamedTuple):
    """A part of a blob, in its order: `blob_bytes` of the blob are made from `file_bytes` of the file of one bar."""

    digest: str
    blob_bytes: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Upload:
    """One blob that Ollama must have."""

    path: str
    """The file name in a create request: Ollama recognises a GGUF by the end of the name."""
    recipe: Recipe
    bars: tuple[Bar, ...] = ()
    """Empty for small files."""
    bar_ranges: tuple[BarRange, ...] = ()
    """In the order of the blob: which bar grows as the blob grows."""
    kind: str = "model"
    """The kind of the layer: `model`, `projector` or `adapter`."""
    is_read_past: bool = False
    """Whether the first blob of the plan reads all bytes of the files that this one is made from."""

    @property
    def size(self) -> int:
        return self.recipe.size

    @property
    def fetch_size(self) -> int:
        """Bytes to fetch for the blob."""
        return sum(part.file_bytes for part in self.bar_ranges) if self.bar_ranges else self.size

    @property
    def digest(self) -> str | None:
        """None if it is unknown until the bytes have arrived."""
        return self.recipe.digest

    @property
    def content(self) -> bytes | None:
        """The bytes, if the proxy already has them."""
        match self.recipe.parts:
            case (Literal(content),):
                return content
            case _:
                return None


@dataclass(frozen=True, slots=True)
class GgufSummary:
    """What Ollama shows about a GGUF."""

    architecture: str
    """llama.cpp's name."""
    parameters: int
    file_type: str
    """Such as `Q8_0`."""


class QuantizationOffer(NamedTuple):
    """A quantization that would work too, and the size of the model in bytes."""

    quantization: str
    size: int
    usual: bool = True
    """Whether it is one of the few that most users choose from."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a pull needs to know. After planning, nothing reads the name or the file list again."""

    name: str
    """The name of the model in Ollama, as the client sent it."""
    repository: Repository
    format: Format
    reason: str
    """Why the model is made in this way, for the user."""
    uploads: tuple[Upload, ...]
    quantization: str | None = None
    """The quantization that the proxy makes; None if the weights stay as they are."""
    is_converted: bool = False
    """Whether the proxy writes a new GGUF."""
    made_by: str = ""
    """Family and revision of the conversion code (identity.family_revision); empty without a conversion."""
    template_source: str = "none"
    """The origin of the chat template, as `inspect` shows it."""
    template_exact: bool | None = None
    """Whether the template renders as the authors' Jinja does; None if that was not compared."""
    settings: ModelSettings = NO_SETTINGS
    """Template, system text, parameters and license of the model; complete, not only the user's."""
    warnings: tuple[str, ...] = ()
    result_size: int | None = None
    """Bytes of the finished model; None if unknown."""
    base: "Base | None" = None
    """The model that an adapter changes."""
    gguf_summary: GgufSummary | None = None
    """None for an adapter, and for a model that Ollama pulls on its own."""
    offers: tuple[QuantizationOffer, ...] = ()
    """All quantizations that could be made from these weights."""

    @property
    def steps(self) -> tuple["Plan", ...]:
        """The plans to execute, in order: an adapter's base comes before the adapter."""
        return (self.base.plan, self) if self.base is not None and self.base.plan is not None else (self,)

    @property
    def bars(self) -> tuple[Bar, ...]:
        return merged_bars(self.uploads)

    @property
    def weights(self) -> tuple[Upload, ...]:
        return tuple(upload for upload in self.uploads if upload.bars)


@dataclass(frozen=True, slots=True)
class Base:
    """The base model of an adapter. `plan` makes it; None if Ollama already has it."""

    name: str
    plan: Plan | None


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What a pull asks for. Settings and capabilities are looked up once, here, for everything that plans."""

    name: str
    repository: Repository
    settings: ModelSettings
    """The user's, from `[models]`."""
    capabilities: Capabilities
    draft: bool = False
    """Whether layers for multi-token prediction are kept, `pull.draft`."""
    vision: bool = True
    """Whether the model sees and hears if it can: `vision` of its settings, else `pull.vision`."""
    projector: str = "F16"
    """The type of the projector's matrices, `pull.projector`."""


def merged_bars(uploads: Iterable[Upload]) -> tuple[Bar, ...]:
    """One bar for each file, with the bytes that all these blobs take of it. A blob that comes twice moves once."""
    distinct = {upload.digest or upload.path: upload for upload in uploads}
    sizes = Counter[str]()
    for upload in distinct.values():
        for bar in upload.bars:
            sizes[bar.digest] += bar.size
    return tuple(Bar(digest, size) for digest, size in sizes.items())


def small_file(path: str, content: bytes) -> Upload:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return Upload(path, Recipe((Literal(content),), digest))


def weight_file(repository: Repository, path: str, file: RepositoryFile, kind: str = "model") -> Upload:
    """A weight file that is uploaded unchanged."""
    digest = f"sha256:{file.sha256}" if file.sha256 else None
    return weight_upload(repository, path, Recipe((Range(file, 0, file.size),), digest), kind)


def weight_upload(
    repository: Repository, path: str, recipe: Recipe, kind: str = "model", *, is_read_past: bool = False
) -> Upload:
    """A blob of weights, with one bar for each source file."""
    digests = {file: bar_digest(repository, file) for file in recipe.files}
    bar_ranges = _bar_ranges(recipe, digests)
    if is_read_past:
        bar_ranges = tuple(part._replace(file_bytes=0) for part in bar_ranges)
    sizes = Counter[str]()
    for part in bar_ranges:
        sizes[part.digest] += part.file_bytes
    in_order = dict.fromkeys(digests[file] for file in sorted(digests, key=lambda file: file.path))
    bars = tuple(Bar(one, sizes[one]) for one in in_order if sizes[one])
    return Upload(path, recipe, bars, bar_ranges, kind, is_read_past)


def _bar_ranges(recipe: Recipe, digests: Mapping[RepositoryFile, str]) -> tuple[BarRange, ...]:
    """A literal counts with the range before it; neighbours of one file are merged."""
    merged: list[BarRange] = []
    file, digest = next(iter(digests.items()), (None, ""))
    for part in recipe.parts:
        file_bytes = 0
        if isinstance(part, Range):
            if part.file is not file:
                file, digest = part.file, digests[part.file]
            file_bytes = part.stop - part.start
        last = merged.pop() if merged and merged[-1].digest == digest else BarRange(digest, 0, 0)
        merged.append(BarRange(digest, last.blob_bytes + part.size, last.file_bytes + file_bytes))
    # A bar of a file that adds nothing to the blob could never fill.
    return tuple(part for part in merged if part.blob_bytes)


def bar_digest(repository: Repository, file: RepositoryFile) -> str:
    """The SHA-256 of the file, or a digest of its name and commit if that is unknown."""
    if file.sha256:
        return f"sha256:{file.sha256}"
    return f"sha256:{hashlib.sha256(f'{repository.id} {repository.commit} {file.path}'.encode()).hexdigest()}"
