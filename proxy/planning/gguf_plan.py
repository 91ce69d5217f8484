"""The plan of a GGUF that the proxy pulls: as it is, merged of its shards, or for Ollama to quantize. Pure."""

from collections.abc import Iterator, Sequence
from math import prod

from proxy.config import ModelSettings
from proxy.errors import Refusal
from proxy.gguf.header import GgufError, Header, TensorType
from proxy.gguf.split import COUNT, Piece, SplitName, merge
from proxy.planning.capabilities import Capabilities
from proxy.planning.gguf_files import GgufChoice, GgufModel, choose_projector
from proxy.planning.plan import Bar, Format, Plan, Upload, bar_digest, weight_file
from proxy.planning.recipe import Literal, Range, Recipe
from proxy.planning.sizes import Shape, quantized_size
from proxy.sources.base import Repository, RepositoryFile

QUANTIZABLE = (TensorType.F32, TensorType.F16, TensorType.BF16)
OTHER_TYPES = ("adapter", "mmproj", "imatrix")


def plan_gguf(
    name: str,
    repository: Repository,
    choice: GgufChoice,
    headers: Sequence[Header],
    projector: RepositoryFile | None,
    capabilities: Capabilities,
    settings: ModelSettings,
) -> Plan:
    """`headers` are those of the model's files, in their order. Raises Refusal for what would not load."""
    model = choice.model
    _check(repository, choice, headers, capabilities)
    reason = f"the GGUF {model.tag}"
    if model.is_split and not capabilities.merges_split_gguf:
        uploads = [_merged(repository, model, headers)]
        reason = f"{reason}; {capabilities.ollama} takes no split GGUF, so its {len(model.files)} shards are merged"
    else:
        uploads = [weight_file(repository, _file_name(file), file) for file in model.files]
    if projector is not None:
        uploads.append(weight_file(repository, _file_name(projector), projector))
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
        template_source="config" if settings.template is not None else "gguf",
        settings=settings,
        result_size=size,
        # From v0.30 on Ollama writes its own copy of a GGUF that it is given.
        made_size=size if choice.quantization is not None or capabilities.runs_llama_server else 0,
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


def _check(repository: Repository, choice: GgufChoice, headers: Sequence[Header], capabilities: Capabilities) -> None:
    first, where = headers[0], f"{repository.id}/{choice.model.files[0].path}"
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
    for header in headers:
        for tensor in header.tensors:
            if len(tensor.shape) > 1 and tensor.type not in QUANTIZABLE:
                raise Refusal(
                    f"{where} is named {choice.model.label}, but {tensor.name} is {TensorType(tensor.type).name}, "
                    f"which Ollama cannot quantize again; pull it as {choice.model.tag}"
                )


def _shapes(headers: Sequence[Header]) -> Iterator[Shape]:
    for header in headers:
        for tensor in header.tensors:
            yield Shape(tensor.name, prod(tensor.shape), tensor.shape[0] if len(tensor.shape) > 1 else 0)


def _merged(repository: Repository, model: GgufModel, headers: Sequence[Header]) -> Upload:
    try:
        merged = merge(headers)
    except GgufError as error:
        raise Refusal(
            f"{repository.id}/{model.files[0].path} cannot be merged with its other shards: {error}"
        ) from error
    parts: list[Literal | Range] = [Literal(merged.header)]
    sizes = [0] * len(model.files)
    shard = 0
    sizes[0] = len(merged.header)
    for piece in merged.pieces:
        if isinstance(piece, Piece):
            shard = piece.shard
            parts.append(Range(model.files[shard], piece.start, piece.stop))
        else:
            parts.append(Literal(bytes(piece.size)))
        sizes[shard] += piece.size
    bars = tuple(Bar(bar_digest(repository, file), size) for file, size in zip(model.files, sizes, strict=True))
    return Upload(f"{_merged_name(model)}.gguf", Recipe(tuple(parts)), bars)


def _merged_name(model: GgufModel) -> str:
    first = SplitName.parse(_file_name(model.files[0]))
    return first.prefix if first else "model"


def _file_name(file: RepositoryFile) -> str:
    """Ollama finds the shards of a split only by llama.cpp's names, in lower case at their end (v0.33)."""
    name = file.path.rpartition("/")[2]
    return name[: -len(".gguf")] + ".gguf"
