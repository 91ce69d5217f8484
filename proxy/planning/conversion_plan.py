"""The plan for safetensors: the proxy converts them to a GGUF while the bytes arrive. Pure."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple

import msgspec

from proxy.config.sections import ModelSettings
from proxy.config.values import Quantization
from proxy.errors import Refusal
from proxy.gguf.cast import NoEngine
from proxy.gguf.conversion import AGAIN, Conversion, ModelDescription, Pooling, convert
from proxy.gguf.draft import DraftRequest
from proxy.gguf.families import FAMILIES
from proxy.gguf.families.refused import REFUSED
from proxy.gguf.keeping import NVFP4, Fallback
from proxy.gguf.model_config import CannotKeep
from proxy.gguf.single_numbers import numbers_to_read
from proxy.gguf.tensor_sources import FixedBytes, ReadTensor, SourceRange, SourceTensor
from proxy.gguf.tensors import GgufError
from proxy.gguf.tokenizer_files import TokenizerFiles, read_added_tokens_decoder
from proxy.gguf.transforms import WIDTHS
from proxy.gguf.unpacking import READ_MARKS, tensors_to_read
from proxy.gguf.vocabulary import adds_bos
from proxy.planning.capabilities import NVFP4_SINCE, OLDEST, RUNS_SINCE, Capabilities, runs_since
from proxy.planning.embedding import name_tensors
from proxy.planning.identity import family_revision
from proxy.planning.json_files import UPLOAD_AGAIN
from proxy.planning.modelfile import Modelfile
from proxy.planning.plan import Format, GgufSummary, Plan, PlanRequest, QuantizationOffer, weight_upload
from proxy.planning.quantizations import cannot_keep_refusal, naming_file, no_engine_refusal, offers
from proxy.planning.recipe import Beside, Literal, Range, Recipe, cover_file, verify_header
from proxy.planning.safetensors import SafetensorsHeader
from proxy.planning.weights import CONFIG, INDEX, NotConvertible, Selection
from proxy.sources.base import Derived, RepositoryFile

FILE = "model.gguf"
DRAFT_TOKENS = {"draft_num_predict": 4}
"""How many tokens are drafted at once. It is Ollama's own number for a draft model in another file (`DefaultOptions`,
api/types.go). Without this parameter Ollama does not use the layers of a model's own GGUF (`modelOptions` in
server/routes.go)."""


def architecture_of(where: str, config: Mapping[str, Any], capabilities: Capabilities) -> str:
    """The first of config.json's `architectures`; in older files that is a text, not a list.

    Raises NotConvertible if there is none, if the proxy does not know it, or if this Ollama does not run it, and
    Refusal for one that no Ollama runs.
    """
    names = config.get("architectures")
    name = names if isinstance(names, str) else names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or not name.isidentifier():
        raise NotConvertible(f"{where} names no architecture, so the proxy cannot know what the weights are")
    if reason := REFUSED.get(name):
        raise Refusal(f"{where}: {name} {reason}; pull another model")
    family = FAMILIES.get(name)
    if family is None:
        raise NotConvertible(f"{where}: this proxy does not know the architecture {name}")
    if capabilities.version < (since := runs_since(name, family.architecture)):
        raise NotConvertible(f"{where}: {capabilities.ollama} does not run {name}; Ollama {since} or newer does")
    return name


def kept_quantization(architecture: str, config: Mapping[str, Any]) -> Quantization | None:
    """The quantization that keeps weights which are quantized already: no tag means it. None if there is none."""
    return Quantization.MXFP4_MOE if FAMILIES[architecture].keeps_experts(config) else None


def draft_request(request: PlanRequest, architecture: str) -> DraftRequest | None:
    """What `pull.draft` means for an architecture of FAMILIES on this Ollama."""
    if not request.draft:
        return None
    return DraftRequest(request.capabilities.draft_problem(FAMILIES[architecture].architecture))


def read_tokens(
    repository: str, config: Mapping[str, Any], contents: Mapping[str, bytes]
) -> tuple[dict[int, str], bool]:
    """The added tokens (number to text), and whether the tokenizer begins each text with BOS.

    Raises NotConvertible.
    """
    family = FAMILIES[config["architectures"][0]]
    with _conversion_errors(repository):
        files = TokenizerFiles.read(contents)
        added = {token["id"]: token["content"] for token in files.added_tokens}
        if not files.tokenizer:
            added = {token_id: token["content"] for token_id, token in read_added_tokens_decoder(files)}
        return added, adds_bos(family, family.config(config), files)


@contextmanager
def _conversion_errors(repository: str) -> Iterator[None]:
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


def plan_conversion(request: PlanRequest, material: Material, conversion: Conversion, recipe: Recipe) -> Plan:
    """`recipe` makes the converted file. Raises NotConvertible and Refusal for what this Ollama cannot run."""
    modelfile, capabilities, quantization = material.modelfile, request.capabilities, conversion.quantization
    if not capabilities.runs(conversion.architecture):
        raise NotConvertible(
            f"{request.repository.id}: {capabilities.ollama} does not run {conversion.architecture}; Ollama "
            f"{RUNS_SINCE[conversion.architecture]} or newer does"
        )
    _check_release(material, conversion, capabilities)
    upload = weight_upload(request.repository, FILE, recipe)
    return Plan(
        request.name,
        request.repository,
        Format.SAFETENSORS,
        f"the proxy converts {material.architecture}{_stored_as(conversion)}{_with_draft(conversion)}",
        (upload,),
        quantization=quantization,
        is_converted=True,
        made_by=family_revision(material.architecture),
        template_source=modelfile.source,
        template_exact=modelfile.exact,
        settings=_drafting(modelfile.settings) if conversion.draft_layers else modelfile.settings,
        warnings=(
            *_lost_abilities(material.architecture),
            *_lost_draft(conversion),
            *conversion.warnings,
            *_second_quantization(request, conversion),
            *capabilities.pre_tokenizer_warnings(conversion.pre_tokenizer),
            *modelfile.warnings,
        ),
        result_size=upload.size,
        gguf_summary=GgufSummary(conversion.architecture, conversion.parameters, quantization),
        offers=_offers(conversion, capabilities),
    )


def _offers(conversion: Conversion, capabilities: Capabilities) -> tuple[QuantizationOffer, ...]:
    nvfp4 = conversion.nvfp4
    header = nvfp4.other_header if nvfp4 else len(conversion.header)
    stays = nvfp4 and not nvfp4.problem and capabilities.runs_quantization(NVFP4)
    kept = [QuantizationOffer(NVFP4, nvfp4.size)] if nvfp4 and stays else []
    return (*kept, *offers(header, conversion.facts, conversion.sources, capabilities, AGAIN))


def _check_release(material: Material, conversion: Conversion, capabilities: Capabilities) -> None:
    """Raises Refusal for a model that this Ollama would load but compute wrongly."""
    architecture, pre_tokenizer, scaling = conversion.architecture, conversion.pre_tokenizer, conversion.rope_scaling
    name = material.architecture
    embeds = material.pooling is not None
    for since, problem in (
        (
            capabilities.pre_tokenizer_since(architecture, pre_tokenizer),
            f"does not split texts as this tokenizer does ({pre_tokenizer})",
        ),
        (
            capabilities.rope_scaling_since(architecture, scaling),
            f"does not scale positions as this model does ({scaling})",
        ),
        (
            capabilities.embeddings_since(architecture) if embeds else OLDEST,
            f"makes no embeddings with {name}",
        ),
        (capabilities.correct_since(architecture, pre_tokenizer), f"computes {name} wrongly"),
    ):
        if capabilities.version < since:
            raise Refusal(f"{material.repository}: {capabilities.ollama} {problem}; update it to {since} or newer")


def _stored_as(conversion: Conversion) -> str:
    kept = ", which keeps its NVFP4" if conversion.quantization == NVFP4 else ""
    return (f" from {' and '.join(conversion.stored_as)}" if conversion.stored_as else "") + kept


def _with_draft(conversion: Conversion) -> str:
    return ", with its layer for multi-token prediction" if conversion.draft_layers else ""


def _drafting(settings: ModelSettings) -> ModelSettings:
    """The settings with which Ollama drafts tokens, unless they have a number already."""
    return msgspec.structs.replace(settings, parameters={**DRAFT_TOKENS, **settings.parameters})


def _lost_draft(conversion: Conversion) -> tuple[str, ...]:
    """A warning about what `pull.draft` asks for and the model does not get."""
    problem = conversion.draft_problem
    return (f"the layers for multi-token prediction (pull.draft) are left out: {problem}",) if problem else ()


def _second_quantization(request: PlanRequest, conversion: Conversion) -> Iterator[str]:
    stored_as, quantization = conversion.stored_as, conversion.quantization
    if not stored_as or quantization in (*WIDTHS, NVFP4):
        return
    repository = request.repository
    original = repository.quantized_from if isinstance(repository, Derived) else None
    better = f"{original}, which they were made from" if original else "the repository that they were made from"
    yield (
        f"the repository has these weights in {' and '.join(stored_as)}, and {quantization} makes them less exact "
        f"once more; pull BF16, or {better}{_about_nvfp4(conversion, request.capabilities)}"
    )


def _about_nvfp4(conversion: Conversion, capabilities: Capabilities) -> str:
    """Whether matrices that do not stay NVFP4 could."""
    if conversion.nvfp4 is None:
        return ""
    if conversion.nvfp4.problem:
        return f"; they cannot stay {NVFP4}: {conversion.nvfp4.problem}"
    if capabilities.runs_quantization(NVFP4):
        return f"; the tag {NVFP4} keeps them as they are"
    return f"; they could stay {NVFP4}, but {capabilities.ollama} does not run it; {NVFP4_SINCE} or newer does"


def _lost_abilities(architecture: str) -> tuple[str, ...]:
    """A warning about what the original model can do and the converted one cannot."""
    text = FAMILIES[architecture].text_part
    return (f"this model cannot {text.lost_ability}: the proxy converts its text part only",) if text else ()


def convert_material(material: Material, quantization: str | Fallback) -> tuple[Conversion, Recipe]:
    """The conversion, with its pieces moved into the recipe. Raises NotConvertible."""
    repository = material.repository
    description = ModelDescription(
        repository.rpartition("/")[2],
        chat_template=material.modelfile.jinja,
        adds_bos=material.modelfile.adds_bos,
        sample=material.sample,
        pooling=material.pooling,
        draft=material.draft,
    )
    tensors = _tensors(material)
    with _conversion_errors(repository):
        conversion = convert(material.config, material.contents, tensors, description, quantization=quantization)
    return replace(conversion, pieces=()), _recipe(material, conversion)


class FilePart(NamedTuple):
    """The bytes of a file from offset `start` up to `stop`."""

    path: str
    start: int
    stop: int


def parts_to_read(material: Material) -> list[FilePart]:
    """The small tensors whose bytes a conversion needs (`Material.read`). Raises NotConvertible."""
    with _conversion_errors(material.repository):
        tensors, family = _tensors(material), FAMILIES[material.architecture]
        wanted = [*tensors_to_read(tensors), *numbers_to_read(family, family.config(material.config), tensors)]
    return [FilePart(one.path, one.source.start, one.source.stop) for one in wanted]


def _tensors(material: Material) -> dict[str, Mapping[str, SourceTensor]]:
    """The tensors by file and name, sorted by path. If two files have a tensor, the index decides.

    Raises Refusal if the index names a tensor that its file does not have, and if two files have a tensor and there is
    no index. Raises NotConvertible as `name_tensors` does.
    """
    index, repository = material.selection.weight_map or {}, material.repository
    in_files = {file.path: _tensors_of(material, file.path) for file in material.selection.weights}
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


def _tensors_of(material: Material, path: str) -> Mapping[str, SourceTensor]:
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


def _recipe(material: Material, conversion: Conversion) -> Recipe:
    files = {file.path: file for file in sorted(material.selection.weights, key=lambda file: file.path)}
    parts: list[Literal | Range] = [Literal(conversion.header)]
    # A conversion depends on these two, on the headers of the files, which their digests identify, and on the tensors'
    # types, which upload_identity and data_identity take from the header of the GGUF.
    inputs = material.contents[CONFIG] + family_revision(material.architecture).encode()
    ranges = _Ranges(files, hashlib.sha256(inputs).hexdigest())
    if conversion.in_file_order:
        for path, pieces in _by_file(conversion.pieces, files):
            file, header = files[path], material.headers[path]
            verified = verify_header(f"{material.repository}/{path}", file, header.size, header.content.__eq__)
            parts += [verified, *cover_file(file, header.size, [ranges.part(piece) for piece in pieces])]
    else:
        parts += [part for piece in conversion.pieces for part in ranges.parts(piece)]
    return Recipe(tuple(parts))


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
