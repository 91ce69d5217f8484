"""The plan of a repository of safetensors that the proxy itself makes a GGUF of, while the bytes come in. Pure."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

from proxy.config import ConvertedBy, Quantization
from proxy.errors import Refusal
from proxy.gguf.config import CannotConvert
from proxy.gguf.conversion import FILE_TYPES, Conversion, Description, convert
from proxy.gguf.families import FAMILIES
from proxy.gguf.targets import Made, Piece, stays_wide
from proxy.gguf.tensors import GgufError
from proxy.gguf.tokenizer_files import TokenizerFiles
from proxy.gguf.transforms import Step, Transform
from proxy.planning.capabilities import ROW, Capabilities
from proxy.planning.card import read_card
from proxy.planning.modelfile import README, Brought, Modelfile
from proxy.planning.plan import Bar, Converter, Finished, Format, Offer, Plan, Upload, bar_digest
from proxy.planning.recipe import Literal, Range, Recipe, compared, covered
from proxy.planning.safetensors import FLOATS, Header
from proxy.planning.safetensors_plan import shapes_of
from proxy.planning.sizes import count_numbers
from proxy.planning.weights import CONFIG, TOKENIZER_CONFIG, NotConvertible, Selection
from proxy.sources.base import Repository, RepositoryFile

FILE = "model.gguf"


def converts_here(wanted: ConvertedBy, architecture: str, capabilities: Capabilities) -> bool:
    """Whether the proxy should convert, where it can: the one place that decides."""
    family = FAMILIES.get(architecture)
    return wanted is not ConvertedBy.OLLAMA and family is not None and capabilities.runs(family.architecture)


def added_tokens(repository: str, contents: Mapping[str, bytes]) -> dict[int, str]:
    """The texts of the tokens beside the vocabulary, by number. Raises NotConvertible."""
    try:
        return {token["id"]: token["content"] for token in TokenizerFiles.read(contents).written_added}
    except CannotConvert as error:
        raise NotConvertible(f"{repository}: {error}") from error


@dataclass(frozen=True, slots=True)
class Material:
    """What was read of a repository, and what the model is to have beside its weights."""

    repository: Repository
    config: Mapping[str, Any]
    selection: Selection
    headers: Mapping[str, Header]
    contents: Mapping[str, bytes]
    brought: Brought
    modelfile: Modelfile


def plan_conversion(name: str, material: Material, wanted: str, capabilities: Capabilities) -> Plan:
    """`wanted` is what the matrices are to be.

    Raises NotConvertible for what the proxy does not know, Refusal for what this Ollama cannot make of it.
    """
    repository, headers, modelfile = material.repository, material.headers, material.modelfile
    conversion, by_ollama = _choose(material, wanted, capabilities)
    since = capabilities.cuts_from(conversion.architecture, conversion.pre_tokenizer)
    if capabilities.version < since:
        raise Refusal(
            f"{repository.id}: {capabilities.ollama} does not cut texts as this tokenizer does "
            f"({conversion.pre_tokenizer}); update it to {since} or newer"
        )
    upload = _upload(material, conversion)
    numbers = count_numbers(shapes_of(headers.values()))
    sizes = {offered: len(conversion.header) + numbers.size(offered) for offered in capabilities.quantizations}
    result = sizes[wanted] = sizes[wanted] if by_ollama else upload.size
    return Plan(
        name,
        repository,
        Format.SAFETENSORS,
        f"the proxy converts {material.config['architectures'][0]}",
        (upload,),
        quantization=wanted,
        converter=Converter.PROXY,
        template_source=modelfile.source,
        template_exact=modelfile.exact,
        settings=modelfile.settings,
        warnings=(*(capabilities.warnings_of(wanted) if by_ollama else ()), *modelfile.warnings),
        result_size=result,
        # Ollama writes what it quantizes to a file beside the blobs, and copies that (v0.24, v0.33).
        made_size=2 * result if by_ollama else 0,
        finished=None if by_ollama else Finished(conversion.architecture, conversion.parameters, wanted),
        offers=tuple(Offer(*offer) for offer in sizes.items()),
    )


def _choose(material: Material, wanted: str, capabilities: Capabilities) -> tuple[Conversion, bool]:
    """What is written here, and whether Ollama has to quantize it then."""
    source = _source_type(material.headers)
    if wanted in FILE_TYPES:
        try:
            return _convert(material, None if wanted == source else wanted), False
        except NotConvertible:
            # Ollama takes a GGUF of F32 only where it calls itself F16, and then has nothing to do.
            if (source, wanted) == ("F32", "F16"):
                raise
    written = "F16" if source == "BF16" and not capabilities.quantizes_bf16_gguf else None
    below_0_30 = not capabilities.runs_llama_server
    conversion = _convert(material, written, for_ollama_quantizer=True, for_ollama_quantizer_below_0_30=below_0_30)
    if wanted not in FLOATS and capabilities.runs_llama_server:
        _check_rows(material.repository, conversion, source, wanted, capabilities)
    return conversion, True


def _convert(material: Material, matrices: str | None, **options: bool) -> Conversion:
    repository = material.repository
    description = Description(
        repository.id.rpartition("/")[2],
        read_card(material.contents.get(README, b"")),
        generation=material.brought.generation,
        **_chat(material),
    )
    paths = sorted(file.path for file in material.selection.weights)
    try:
        return convert(
            material.config,
            material.contents,
            {path: material.headers[path].tensors for path in paths},
            description,
            matrices=matrices,
            **options,
        )
    except GgufError as error:
        raise NotConvertible(f"{repository.id}: {error}") from error


def _source_type(headers: Mapping[str, Header]) -> str | None:
    """What all matrices are of; None where they differ."""
    kinds = {tensor.dtype for header in headers.values() for tensor in header.tensors.values() if len(tensor.shape) > 1}
    return kinds.pop() if len(kinds) == 1 else None


def _check_rows(
    repository: Repository, conversion: Conversion, source: str | None, wanted: str, capabilities: Capabilities
) -> None:
    for tensor in conversion.tensors:
        row = tensor.shape[0]
        # llama-quantize leaves a row that its blocks do not divide in F16, but for Q8_0, where it gives up (v0.33). The
        # steps of a state space are as small as that by design.
        is_small = tensor.name.endswith(".ssm_dt.weight") and wanted != Quantization.Q8_0
        if row % ROW and not is_small and not stays_wide(tensor.name, tensor.shape):
            raise Refusal(
                f"{repository.id}: {tensor.name} has rows of {row} numbers, which {capabilities.ollama} cannot "
                f"quantize to {wanted} (they must be a multiple of {ROW}); pull it as {source or 'F16'}"
            )


def _chat(material: Material) -> dict[str, Any]:
    """The chat template that the converter of Ollama would be sent, and what goes with it."""
    brought, sent = material.brought, material.modelfile.tokenizer_config
    if brought.jinja is None:
        return {}
    config = json.loads(sent or material.contents.get(TOKENIZER_CONFIG) or b"{}")
    template, adds_bos = (config.get(key) for key in ("chat_template", "add_bos_token"))
    return {
        "chat_template": template if isinstance(template, str) and sent else brought.jinja,
        "adds_bos": adds_bos if isinstance(adds_bos, bool) else None,
    }


def _upload(material: Material, conversion: Conversion) -> Upload:
    repository, headers = material.repository, material.headers
    files = {file.path: file for file in sorted(material.selection.weights, key=lambda file: file.path)}
    parts: list[Literal | Range] = [Literal(conversion.header)]
    path = next(iter(files))
    turns = [(path, len(conversion.header))]
    # What becomes of a tensor is told by this and by both headers, which are part of a blob's identity anyway.
    of = hashlib.sha256(material.contents[CONFIG]).hexdigest()
    if conversion.in_file_order:
        for path, pieces in _by_file(conversion.pieces, files):
            file, header = files[path], headers[path]
            read_before = compared(f"{repository.id}/{path}", file, header.size, header.content.__eq__)
            taken = [read_before, *covered(file, header.size, [_part(files, piece, of) for piece in pieces])]
            turns.append((path, sum(part.size for part in taken)))
            parts += taken
    else:
        for piece in conversion.pieces:
            path = piece.path if isinstance(piece, Piece) else path
            turns.append((path, piece.size))
            parts.append(_part(files, piece, of))
    return Upload(FILE, Recipe(tuple(parts)), *_bars(repository, files, turns))


def _bars(
    repository: Repository, files: Mapping[str, RepositoryFile], turns: Sequence[tuple[str, int]]
) -> tuple[tuple[Bar, ...], tuple[Bar, ...]]:
    """The bar of each file, and the turns by which they fill."""
    digests = {path: bar_digest(repository, file) for path, file in files.items()}
    merged = [
        Bar(digests[path], sum(size for _, size in stretch)) for path, stretch in groupby(turns, key=itemgetter(0))
    ]
    sizes = Counter[str]()
    for digest, size in merged:
        sizes[digest] += size
    in_order = dict.fromkeys(digests.values())
    return tuple(Bar(digest, sizes[digest]) for digest in in_order if sizes[digest]), tuple(merged)


def _by_file(
    pieces: Sequence[Piece | Made], files: Mapping[str, RepositoryFile]
) -> Iterator[tuple[str, list[Piece | Made]]]:
    """What is made goes with the piece before it."""
    shares: dict[str, list[Piece | Made]] = {path: [] for path in files}
    path = next(iter(files))
    for piece in pieces:
        path = piece.path if isinstance(piece, Piece) else path
        shares[path].append(piece)
    yield from shares.items()


def _part(files: Mapping[str, RepositoryFile], piece: Piece | Made, of: str) -> Literal | Range:
    if isinstance(piece, Made):
        return Literal(piece.content)
    transform = piece.transform and partial(_explained, piece.path, piece.transform)
    return Range(files[piece.path], piece.start, piece.stop, transform, piece.becomes, of)


def _explained(path: str, transform: Transform) -> Step:
    """Raises Refusal for what only the numbers tell."""
    step = transform()

    def explained(piece: bytes) -> bytes:
        try:
            return step(piece)
        except GgufError as error:
            raise Refusal(f"{path}: {error}; pull it as BF16 or F32") from error

    return explained
