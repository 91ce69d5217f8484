"""Everything that a conversion reads, and how its result becomes a recipe of the repository's files. Pure."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from proxy.errors import Refusal
from proxy.gguf.cast import NoEngine
from proxy.gguf.conversion import Pooling
from proxy.gguf.draft import DraftRequest
from proxy.gguf.families import FAMILIES
from proxy.gguf.model_config import CannotKeep
from proxy.gguf.tensor_sources import FixedBytes, ReadTensor, SourceRange, SourceTensor
from proxy.gguf.tensors import GgufError
from proxy.gguf.unpacking import READ_MARKS
from proxy.planning.embedding import name_tensors
from proxy.planning.identity import family_revision
from proxy.planning.json_files import UPLOAD_AGAIN
from proxy.planning.modelfile import Modelfile
from proxy.planning.quantizations import cannot_keep_refusal, naming_file, no_engine_refusal
from proxy.planning.recipe import Beside, Literal, Range, Recipe, cover_file, verify_header
from proxy.planning.safetensors import SafetensorsHeader
from proxy.planning.weights import CONFIG, INDEX, NotConvertible, Selection
from proxy.sources.base import RepositoryFile


@contextmanager
def conversion_errors(repository: str) -> Iterator[None]:
    """Turns an error of proxy.gguf, which does not know the repository, into a Refusal that names it."""
    try:
        yield
    except NoEngine as error:
        raise no_engine_refusal(repository, error) from error
    except CannotKeep as error:
        raise cannot_keep_refusal(repository, error) from error
    except GgufError as error:
        raise NotConvertible(f"{repository}: {error}") from error


@dataclass(frozen=True, slots=True)
class Material:
    """Everything that a conversion reads."""

    repository: str
    """ORG/REPO."""
    config: Mapping[str, Any]
    """config.json; its `architectures` is a list of one known architecture."""
    selection: Selection
    headers: Mapping[str, SafetensorsHeader]
    """Of the weight files, by path."""
    contents: Mapping[str, bytes]
    """Of the small files, by path."""
    modelfile: Modelfile
    pooling: Pooling | None = None
    """Set for an embedding model."""
    sample: str = ""
    """A conversation as the chat template renders it."""
    read: Mapping[tuple[str, int], bytes] = field(default_factory=dict)
    """The bytes of the small tensors that `parts_to_read` wants, by path and first offset."""
    draft: DraftRequest | None = None
    """Set if layers for multi-token prediction are to be kept."""

    @property
    def may_need_parts(self) -> bool:
        """False if `parts_to_read` finds none, which is far quicker to know than what it finds."""
        return bool(FAMILIES[self.architecture].single_numbers) or any(
            mark in header.content for header in self.headers.values() for mark in READ_MARKS
        )

    @property
    def architecture(self) -> str:
        return str(self.config["architectures"][0])


def tensors_of(material: Material) -> dict[str, Mapping[str, SourceTensor]]:
    """The tensors by file and name, sorted by path. If two files have a tensor, the index decides.

    Raises Refusal if the index names a tensor that its file does not have, and if two files have a tensor and there is
    no index. Raises NotConvertible as `name_tensors` does.
    """
    index, repository = material.selection.weight_map or {}, material.repository
    in_files = {file.path: _in_file(material, file.path) for file in material.selection.weights}
    for name, path in index.items():
        if name not in in_files[path]:
            raise Refusal(
                f"{repository}/{INDEX} lists the tensor {name} in {path}, but that file does not have it; "
                f"{UPLOAD_AGAIN}"
            )
    indexed = {
        path: {name: tensor for name, tensor in in_files[path].items() if index.get(name, path) == path}
        for path in sorted(in_files)
    }
    named = name_tensors(repository, material.contents, indexed)
    path_of: dict[str, str] = {}
    for path, tensors in named.items():
        for name in tensors:
            if (first := path_of.setdefault(name, path)) != path:
                raise Refusal(
                    f"{repository}: {first} and {path} both have the tensor {name}, and there is no {INDEX} that "
                    "chooses one; the repository mixes two models: pull another one"
                )
    return named


def _in_file(material: Material, path: str) -> Mapping[str, SourceTensor]:
    tensors: Mapping[str, SourceTensor] = material.headers[path].tensors
    if not material.read:
        return tensors
    return {
        name: ReadTensor(tensor.dtype, tensor.shape, tensor.start, tensor.stop, content)
        if (content := material.read.get((path, tensor.start))) is not None
        and len(content) == tensor.stop - tensor.start
        else tensor
        for name, tensor in tensors.items()
    }


def recipe_in_file_order(material: Material, header: bytes, pieces: Sequence[SourceRange | FixedBytes]) -> Recipe:
    """The recipe of a GGUF whose pieces read each file once, from start to end: the files are read whole."""
    files, ranges = _files(material), _ranges(material)
    parts: list[Literal | Range] = [Literal(header)]
    for path, of_file in _by_file(pieces, files):
        file, beginning = files[path], material.headers[path]
        verified = verify_header(f"{material.repository}/{path}", file, beginning.size, beginning.content.__eq__)
        parts += [verified, *cover_file(file, beginning.size, [ranges.part(piece) for piece in of_file])]
    return Recipe(tuple(parts))


def recipe_of(material: Material, header: bytes, pieces: Sequence[SourceRange | FixedBytes]) -> Recipe:
    """The recipe of any other GGUF."""
    ranges = _ranges(material)
    return Recipe((Literal(header), *(part for piece in pieces for part in ranges.parts(piece))))


def _files(material: Material) -> dict[str, RepositoryFile]:
    return {file.path: file for file in sorted(material.selection.weights, key=lambda file: file.path)}


def _ranges(material: Material) -> "_Ranges":
    # A conversion depends on these two, on the headers of the files, which their digests identify, and on the tensors'
    # types, which upload_identity and data_identity take from the header of the GGUF.
    inputs = material.contents[CONFIG] + family_revision(material.architecture).encode()
    return _Ranges(_files(material), hashlib.sha256(inputs).hexdigest())


def _by_file(
    pieces: Sequence[SourceRange | FixedBytes], files: Mapping[str, RepositoryFile]
) -> Iterator[tuple[str, list[SourceRange | FixedBytes]]]:
    """Fixed bytes go to the same file as the piece before them."""
    shares: dict[str, list[SourceRange | FixedBytes]] = {path: [] for path in files}
    path = next(iter(files))
    for piece in pieces:
        path = piece.path if isinstance(piece, SourceRange) else path
        shares[path].append(piece)
    yield from shares.items()


class _Ranges:
    """Makes recipe parts from pieces. The pieces of a file share transforms: there may be tens of thousands."""

    def __init__(self, files: Mapping[str, RepositoryFile], transform_id: str) -> None:
        self._files, self._transform_id, self._naming_file = files, transform_id, cache(naming_file)

    def parts(self, piece: SourceRange | FixedBytes) -> Iterator[Literal | Range]:
        """The part for a piece, after the ranges beside it."""
        if isinstance(piece, SourceRange):
            for one in piece.beside:
                beside = Beside.WHOLE if one.is_whole else Beside.SHARE
                yield Range(self._files[one.path], one.start, one.stop, None, self._transform_id, beside)
        yield self.part(piece)

    def part(self, piece: SourceRange | FixedBytes) -> Literal | Range:
        if isinstance(piece, FixedBytes):
            return Literal(piece.content)
        transform = piece.transform and self._naming_file(piece.path, piece.transform)
        return Range(self._files[piece.path], piece.start, piece.stop, transform, self._transform_id)
