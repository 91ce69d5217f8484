"""The plan of a GGUF that the proxy pulls: as it is, merged of its shards, or for Ollama to quantize. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

from proxy.config import Quantization
from proxy.errors import Refusal
from proxy.gguf.header import Field, Header, Incomplete, read_header, write_header
from proxy.gguf.split import COUNT, Merged, Padding, Piece, SplitName, merge
from proxy.gguf.tensors import GgufError, TensorType
from proxy.planning.capabilities import ROW, Capabilities
from proxy.planning.gguf_files import UNQUANTIZED, GgufChoice, GgufModel, choose_projector, file_name
from proxy.planning.modelfile import Modelfile
from proxy.planning.plan import Bar, Format, Plan, Upload, bar_digest, weight_file
from proxy.planning.recipe import Literal, Range, Recipe, compared, covered
from proxy.planning.sizes import Shape, quantized_size
from proxy.sources.base import Repository, RepositoryFile

QUANTIZABLE = (TensorType.F32, TensorType.F16, TensorType.BF16)
OTHER_TYPES = ("adapter", "mmproj", "imatrix")
FILE_TYPE = "general.file_type"
FILE_TYPES = {"F16": 1, "BF16": 32}


def plan_gguf(
    name: str,
    repository: Repository,
    choice: GgufChoice,
    headers: Sequence[Header],
    projector: RepositoryFile | None,
    capabilities: Capabilities,
    modelfile: Modelfile,
) -> Plan:
    """`headers` are those of the model's files, in their order. Raises Refusal for what would not load."""
    model = choice.model
    where = f"{repository.id}/{model.files[0].path}"
    try:
        _check(where, choice, headers, capabilities)
        first = headers[0] if choice.quantization is None else _quantizable(headers[0], choice.quantization)
        uploads = _uploads(repository, model, headers, first, capabilities)
    except GgufError as error:
        raise Refusal(f"{where} cannot be used: {error}") from error
    reason = f"the GGUF {model.tag}"
    if len(uploads) < len(model.files):
        reason = f"{reason}; {capabilities.ollama} takes no split GGUF, so its {len(model.files)} shards are merged"
    if projector is not None:
        uploads.append(weight_file(repository, _blob_name(projector), projector))
    size = sum(upload.size for upload in uploads)
    if choice.quantization is not None:
        reason = f"{reason}; Ollama quantizes its {model.label} to {choice.quantization}"
        size = headers[0].data_start + quantized_size(_shapes(headers), choice.quantization)
        size += projector.size if projector else 0
    return Plan(
        name,
        repository,
        Format.GGUF,
        reason,
        tuple(uploads),
        quantization=choice.quantization,
        template_source=modelfile.source,
        template_exact=modelfile.exact,
        settings=modelfile.settings,
        result_size=size,
        # From v0.30 on Ollama writes its own copy of a GGUF that it is given.
        made_size=size if choice.quantization is not None or capabilities.runs_llama_server else 0,
        repairs=(f"{FILE_TYPE} is changed: Ollama quantizes no GGUF without F16 or BF16 there",)
        if first is not headers[0]
        else (),
        warnings=(
            *capabilities.warnings_of(choice.quantization),
            *modelfile.warnings,
        ),
    )


def plan_native(name: str, repository: Repository, choice: GgufChoice, why: str) -> Plan:
    """What Ollama fetches by itself; the proxy carries nothing out of it."""
    files = [*choice.model.files, *filter(None, [choose_projector(choice.model, repository.files)])]
    return Plan(
        name,
        repository,
        Format.GGUF,
        f"the GGUF {choice.model.tag}, {why}: Ollama pulls it by itself",
        tuple(weight_file(repository, file.path, file) for file in files),
        template_source="gguf",
        result_size=sum(file.size for file in files),
    )


def _check(where: str, choice: GgufChoice, headers: Sequence[Header], capabilities: Capabilities) -> None:
    first = headers[0]
    kind = first.get("general.type", str)
    if first.architecture in (None, "clip") or kind in OTHER_TYPES:
        raise Refusal(f"{where} is not a model of its own ({kind or first.architecture or 'no architecture'})")
    count = first.get(COUNT, int)
    if count and count > 1 and not choice.model.is_split:
        raise Refusal(f"{where} is the first of {count} shards, and the others are not named as such in the repository")
    if choice.quantization is None:
        return
    if choice.model.label == "BF16" and not capabilities.quantizes_bf16_gguf:
        raise Refusal(f"{where}: {capabilities.ollama} cannot quantize BF16 of a GGUF; pull it as BF16")
    blocks = capabilities.runs_llama_server and choice.quantization not in UNQUANTIZED
    for header in headers:
        for tensor in header.tensors:
            if len(tensor.shape) > 1 and blocks and tensor.shape[0] % ROW:
                raise Refusal(
                    f"{where}: {tensor.name} has rows of {tensor.shape[0]} numbers, which {capabilities.ollama} cannot "
                    f"quantize to {choice.quantization} (they must be a multiple of {ROW}); pull it as "
                    f"{choice.model.tag}"
                )
            if len(tensor.shape) > 1 and tensor.type not in QUANTIZABLE:
                raise Refusal(
                    f"{where} is named {choice.model.label}, but {tensor.name} is {TensorType(tensor.type).name}, "
                    f"which Ollama cannot quantize again; pull it as {choice.model.tag}"
                )


def _shapes(headers: Sequence[Header]) -> Iterator[Shape]:
    for header in headers:
        for tensor in header.tensors:
            yield Shape(tensor.name, prod(tensor.shape), tensor.shape[0] if len(tensor.shape) > 1 else 0)


def _quantizable(header: Header, wanted: Quantization) -> Header:
    """The same, or one that says a type that Ollama quantizes.

    It takes F32, which is 0 there, for no type at all, and leaves what says the wanted type as it is (v0.24, v0.33).
    """
    said = header.get(FILE_TYPE, int)
    if said in FILE_TYPES.values() and said != FILE_TYPES.get(wanted):
        return header
    other = FILE_TYPES["BF16" if wanted == Quantization.F16 else "F16"]
    return replace(header, metadata=header.metadata | {FILE_TYPE: Field.uint32(other)})


def _uploads(
    repository: Repository, model: GgufModel, headers: Sequence[Header], first: Header, capabilities: Capabilities
) -> list[Upload]:
    """`first` is the header to write in the place of the first."""
    if model.is_split and not capabilities.merges_split_gguf:
        return [_merged(repository, model, headers, first)]
    uploads = [weight_file(repository, _blob_name(file), file) for file in model.files]
    if first is not headers[0]:
        uploads[0] = _with_header(repository, model.files[0], headers[0], first)
    return uploads


def _with_header(repository: Repository, file: RepositoryFile, old: Header, new: Header) -> Upload:
    parts = (
        Literal(write_header(new.metadata, new.tensors)),
        _header(repository, file, old),
        Range(file, old.data_start, file.size),
    )
    recipe = Recipe(parts)
    return Upload(_blob_name(file), recipe, (Bar(bar_digest(repository, file), recipe.size),))


def _merged(repository: Repository, model: GgufModel, headers: Sequence[Header], first: Header) -> Upload:
    merged = merge((first, *headers[1:]))
    parts: list[Literal | Range] = [Literal(merged.header)]
    bars: list[Bar] = []
    for file, header, pieces in zip(model.files, headers, _by_shard(merged, len(headers)), strict=True):
        own_parts = [_part(file, piece) for piece in pieces]
        taken = [_header(repository, file, header), *covered(file, header.data_start, own_parts)]
        own = 0 if bars else len(merged.header)
        bars.append(Bar(bar_digest(repository, file), own + sum(part.size for part in taken)))
        parts += taken
    return Upload(f"{_merged_name(model)}.gguf", Recipe(tuple(parts)), tuple(bars))


def _by_shard(merged: Merged, count: int) -> list[list[Piece | Padding]]:
    """Padding goes with the piece before it."""
    shards: list[list[Piece | Padding]] = [[] for _ in range(count)]
    shard = 0
    for piece in merged.pieces:
        shard = piece.shard if isinstance(piece, Piece) else shard
        shards[shard].append(piece)
    return shards


def _part(file: RepositoryFile, piece: Piece | Padding) -> Literal | Range:
    return Range(file, piece.start, piece.stop) if isinstance(piece, Piece) else Literal(bytes(piece.size))


def _header(repository: Repository, file: RepositoryFile, header: Header) -> Range:
    """What a file begins with, which is compared with the `header` that was read before, and not taken."""
    where = f"{repository.id}/{file.path}"
    return compared(where, file, min(header.data_start, file.size), lambda content: _read(content) == header)


def _read(content: bytes) -> Header | None:
    try:
        return read_header(content)
    except (GgufError, Incomplete):
        return None


def _merged_name(model: GgufModel) -> str:
    first = SplitName.parse(_blob_name(model.files[0]))
    return first.prefix if first else "model"


def _blob_name(file: RepositoryFile) -> str:
    """Ollama finds the shards of a split only by llama.cpp's names, in lower case at their end (v0.33)."""
    return file_name(file)[: -len(".gguf")] + ".gguf"
