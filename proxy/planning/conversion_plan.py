"""The plan of a repository of safetensors that the proxy itself makes a GGUF of, while the bytes come in. Pure."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from proxy.config import Quantization
from proxy.errors import Refusal
from proxy.gguf.cast import NoEngine
from proxy.gguf.config import CannotConvert
from proxy.gguf.conversion import Conversion, ModelDescription, Pooling, convert
from proxy.gguf.families import FAMILIES, NOT_SERVED
from proxy.gguf.sources import FixedBytes, SourceRange, SourceTensor
from proxy.gguf.tensors import GgufError
from proxy.gguf.tokenizer_files import TokenizerFiles
from proxy.gguf.vocabulary import adds_bos
from proxy.planning.capabilities import OLDEST, RUNS, Capabilities
from proxy.planning.card import read_card
from proxy.planning.embedding import name_tensors
from proxy.planning.identity import maker_of
from proxy.planning.modelfile import README, ChatMetadata, Modelfile
from proxy.planning.plan import Finished, Format, Plan, weight_upload
from proxy.planning.quantizations import explained, not_made_here, offers
from proxy.planning.recipe import Literal, Range, Recipe, cover_file, verify_header
from proxy.planning.safetensors import SafetensorsHeader
from proxy.planning.weights import CONFIG, INDEX, NotConvertible, Selection
from proxy.sources.base import Repository, RepositoryFile

FILE = "model.gguf"


def architecture_of(where: str, config: Mapping[str, Any], capabilities: Capabilities) -> str:
    """The first of config.json's `architectures`, which older files have as one text.

    Raises NotConvertible where there is none, where the proxy does not know it, or where this Ollama does not run it,
    and Refusal for what no Ollama has a use for.
    """
    names = config.get("architectures")
    name = names if isinstance(names, str) else names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or not name.isidentifier():
        raise NotConvertible(f"{where} names no architecture, which says what the weights are")
    if reason := NOT_SERVED.get(name):
        raise Refusal(f"{where}: {reason}, and {name} does nothing else")
    family = FAMILIES.get(name)
    if family is None:
        raise NotConvertible(f"{where}: this proxy does not know the architecture {name}")
    if not capabilities.runs(family.architecture):
        raise NotConvertible(
            f"{where}: {capabilities.ollama} does not run {name}; Ollama {RUNS[family.architecture]} or newer does"
        )
    return name


def kept_quantization(architecture: str, config: Mapping[str, Any]) -> Quantization | None:
    """What the proxy makes of weights that are quantized already, as they stay; None where it may quantize them."""
    is_kept = FAMILIES[architecture].kept_quant_method and config.get("quantization_config")
    return Quantization.MXFP4_MOE if is_kept else None


def read_tokens(
    repository: str, config: Mapping[str, Any], contents: Mapping[str, bytes]
) -> tuple[dict[int, str], bool]:
    """The texts of the tokens beside the vocabulary by number, and whether the tokenizer begins each text with BOS.

    Raises NotConvertible.
    """
    family = FAMILIES[config["architectures"][0]]
    try:
        files = TokenizerFiles.read(contents)
        added = {token["id"]: token["content"] for token in files.added_tokens}
        return added, adds_bos(family, family.config(config), files)
    except CannotConvert as error:
        raise NotConvertible(f"{repository}: {error}") from error


@dataclass(frozen=True, slots=True)
class Material:
    """What was read of a repository, and what the model is to have beside its weights."""

    repository: str
    """ORG/REPO."""
    config: Mapping[str, Any]
    selection: Selection
    headers: Mapping[str, SafetensorsHeader]
    contents: Mapping[str, bytes]
    brought: ChatMetadata
    modelfile: Modelfile
    pooling: Pooling | None = None
    sample: str = ""
    """A conversation as the chat template renders it."""

    @property
    def architecture(self) -> str:
        return str(self.config["architectures"][0])


def plan_conversion(
    name: str,
    repository: Repository,
    material: Material,
    wanted: str,
    conversion: Conversion,
    recipe: Recipe,
    capabilities: Capabilities,
) -> Plan:
    """`wanted` is what the matrices are to be, `recipe` makes the converted file.

    Raises NotConvertible and Refusal for what this Ollama cannot make of it.
    """
    modelfile = material.modelfile
    if not capabilities.runs(conversion.architecture):
        raise NotConvertible(
            f"{repository.id}: {capabilities.ollama} does not run {conversion.architecture}; Ollama "
            f"{RUNS[conversion.architecture]} or newer does"
        )
    _check_release(material, conversion, capabilities)
    upload = weight_upload(repository, FILE, recipe)
    return Plan(
        name,
        repository,
        Format.SAFETENSORS,
        f"the proxy converts {material.architecture}",
        (upload,),
        quantization=wanted,
        is_converted=True,
        made_by=maker_of(material.architecture),
        template_source=modelfile.source,
        template_exact=modelfile.exact,
        settings=modelfile.settings,
        warnings=(
            *_losses(material.architecture),
            *conversion.warnings,
            *capabilities.pre_tokenizer_warnings(conversion.pre_tokenizer),
            *modelfile.warnings,
        ),
        result_size=upload.size,
        finished=Finished(conversion.architecture, conversion.parameters, wanted),
        offers=offers(len(conversion.header), conversion.facts, conversion.sources, capabilities),
    )


def _check_release(material: Material, conversion: Conversion, capabilities: Capabilities) -> None:
    """Raises Refusal for a model that loads in this Ollama, and then is not what its authors made."""
    architecture, cut, scaling = conversion.architecture, conversion.pre_tokenizer, conversion.rope_scaling
    name = material.architecture
    embeds = material.pooling is not None
    for since, lack in (
        (capabilities.pre_tokenizer_since(architecture, cut), f"does not cut texts as this tokenizer does ({cut})"),
        (
            capabilities.rope_scaling_since(architecture, scaling),
            f"does not scale positions as this model does ({scaling})",
        ),
        (capabilities.embeddings_since(architecture) if embeds else OLDEST, f"makes no vectors with {name}"),
        (capabilities.correct_since(architecture, cut), f"calculates {name} wrongly"),
    ):
        if capabilities.version < since:
            raise Refusal(f"{material.repository}: {capabilities.ollama} {lack}; update it to {since} or newer")


def _losses(architecture: str) -> tuple[str, ...]:
    """What a person should know that the model cannot do, and its authors' can."""
    text = FAMILIES[architecture].text_part
    return (f"this model cannot {text.lost_ability}: the proxy makes its text part alone",) if text else ()


def convert_material(material: Material, quantization: str) -> tuple[Conversion, Recipe]:
    """The converted file, with its pieces in the recipe. Raises NotConvertible for what the proxy does not know."""
    repository = material.repository
    description = ModelDescription(
        repository.rpartition("/")[2],
        read_card(material.contents.get(README, b"")),
        chat_template=material.modelfile.jinja,
        generation=material.brought.generation,
        adds_bos=material.modelfile.adds_bos,
        sample=material.sample,
        pooling=material.pooling,
    )
    try:
        conversion = convert(
            material.config,
            material.contents,
            _tensors(material),
            description,
            quantization=quantization,
        )
    except NoEngine as error:
        raise not_made_here(repository, error) from error
    except GgufError as error:
        raise NotConvertible(f"{repository}: {error}") from error
    return replace(conversion, pieces=()), _recipe(material, conversion)


def _tensors(material: Material) -> dict[str, Mapping[str, SourceTensor]]:
    """By file and name, in the order of the files' paths; of a tensor in two files, that which the index names.

    Raises Refusal where the index names a tensor that its file does not have, and where two files have one tensor and
    no index tells which counts. Raises NotConvertible as `name_tensors` does.
    """
    index, repository = material.selection.weight_map or {}, material.repository
    there = {file.path: material.headers[file.path].tensors for file in material.selection.weights}
    for name, path in index.items():
        if name not in there[path]:
            raise Refusal(
                f"{repository}/{INDEX} says that {path} has the tensor {name}, but it has not; its upload is damaged"
            )
    chosen = {
        path: {name: tensor for name, tensor in there[path].items() if index.get(name, path) == path}
        for path in sorted(there)
    }
    named = name_tensors(repository, material.contents, chosen)
    places: dict[str, str] = {}
    for path, tensors in named.items():
        for name in tensors:
            if (first := places.setdefault(name, path)) != path:
                raise Refusal(
                    f"{repository}: {first} and {path} both have the tensor {name}, and no {INDEX} says which counts; "
                    "the repository mixes two models"
                )
    return named


def _recipe(material: Material, conversion: Conversion) -> Recipe:
    files = {file.path: file for file in sorted(material.selection.weights, key=lambda file: file.path)}
    parts: list[Literal | Range] = [Literal(conversion.header)]
    # What becomes of a tensor is told by this and by both headers, which are part of a blob's identity anyway.
    of = hashlib.sha256(material.contents[CONFIG] + maker_of(material.architecture).encode()).hexdigest()
    ranges = _Ranges(files, of)
    if conversion.in_file_order:
        for path, pieces in _by_file(conversion.pieces, files):
            file, header = files[path], material.headers[path]
            read_before = verify_header(f"{material.repository}/{path}", file, header.size, header.content.__eq__)
            parts += [read_before, *cover_file(file, header.size, [ranges.part(piece) for piece in pieces])]
    else:
        parts += [part for piece in conversion.pieces for part in ranges.parts(piece)]
    return Recipe(tuple(parts))


def _by_file(
    pieces: Sequence[SourceRange | FixedBytes], files: Mapping[str, RepositoryFile]
) -> Iterator[tuple[str, list[SourceRange | FixedBytes]]]:
    """What is made goes with the piece before it."""
    shares: dict[str, list[SourceRange | FixedBytes]] = {path: [] for path in files}
    path = next(iter(files))
    for piece in pieces:
        path = piece.path if isinstance(piece, SourceRange) else path
        shares[path].append(piece)
    yield from shares.items()


class _Ranges:
    """Makes parts of pieces. What a file's pieces go through is shared by them: there may be tens of thousands."""

    def __init__(self, files: Mapping[str, RepositoryFile], of: str) -> None:
        self._files, self._of, self._explained = files, of, cache(explained)

    def parts(self, piece: SourceRange | FixedBytes) -> Iterator[Literal | Range]:
        """With those that are kept beside."""
        if isinstance(piece, SourceRange) and (beside := piece.beside) is not None:
            yield Range(self._files[beside.path], beside.start, beside.stop, of=self._of, beside=True)
        yield self.part(piece)

    def part(self, piece: SourceRange | FixedBytes) -> Literal | Range:
        if isinstance(piece, FixedBytes):
            return Literal(piece.content)
        transform = piece.transform and self._explained(piece.path, piece.transform)
        return Range(self._files[piece.path], piece.start, piece.stop, transform, self._of)
