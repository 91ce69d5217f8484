"""The plan for a GGUF in the repository: unchanged, merged from shards, or quantized. Pure."""

from collections.abc import Sequence

from proxy.errors import Refusal
from proxy.gguf.cast import NoEngine
from proxy.gguf.families.refused import REFUSED_GGUFS
from proxy.gguf.foreign import MODEL, PRE, check_layout, check_tensors, check_vocabulary, without_misleading_name
from proxy.gguf.header import GgufHeader, Incomplete, read_header
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.requantize import TransformedRange, requantize
from proxy.gguf.split import COUNT, MergedGguf, Padding, ShardRange, SplitName, check_parts, merge, tensors_of
from proxy.gguf.tensor_types import ModelFacts, is_quantized
from proxy.gguf.tensors import GgufError, TensorType, shown
from proxy.planning.capabilities import NEVER, NEWEST, Capabilities
from proxy.planning.gguf_files import GgufChoice, GgufModel, choose_projector, file_name
from proxy.planning.modelfile import Modelfile
from proxy.planning.plan import (
    Format,
    GgufSummary,
    Plan,
    PlanRequest,
    QuantizationOffer,
    Upload,
    weight_file,
    weight_upload,
)
from proxy.planning.quantizations import naming_file, no_engine_refusal, offers, read_quantization
from proxy.planning.recipe import Literal, Range, Recipe, cover_file, verify_header
from proxy.sources.base import Repository, RepositoryFile

QUANTIZABLE = (TensorType.F32, TensorType.F16, TensorType.BF16)
TRANSFORM_ID = "quantized 1"
"""Increase the number when the same input gives other bytes."""
OTHER_TYPES = ("adapter", "mmproj", "imatrix")
FILE_TYPE = "general.file_type"
FILE_TYPE_NAMES = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S"), 7)),
    **dict(enumerate(("Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL"), 17)),
    **dict(enumerate(("IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16"), 26)),
    **dict(enumerate(("TQ1_0", "TQ2_0", "MXFP4_MOE", "NVFP4", "Q1_0"), 36)),
}
"""Ollama's names for the numbers in `general.file_type` (fs/ggml/type.go, 0.34.1)."""


def plan_gguf(
    request: PlanRequest,
    choice: GgufChoice,
    headers: Sequence[GgufHeader],
    projector: RepositoryFile | None,
    modelfile: Modelfile,
) -> Plan:
    """`headers` are those of the model's files, in order. Raises Refusal for a model that would not load."""
    repository, capabilities = request.repository, request.capabilities
    model, quantization = choice.model, choice.quantization
    where = f"{repository.id}/{model.files[0].path}"
    if quantization is not None:
        read_quantization(repository.id, quantization, quantization, capabilities)
    try:
        _check(where, choice, headers)
        if model.is_split:
            check_parts(headers)
        _check_loads(where, choice, headers, capabilities)
        upload = _upload(repository, model, headers, quantization)
    except NoEngine as error:
        raise no_engine_refusal(repository.id, error) from error
    except GgufError as error:
        raise Refusal(f"{where} cannot be used: {error}; pull another file") from error
    uploads = [upload]
    reason = f"the GGUF {model.tag}"
    if model.is_split:
        reason = f"{reason}; its {len(model.files)} shards are merged"
    if projector is not None:
        uploads.append(weight_file(repository, _blob_name(projector), projector, "projector"))
    if quantization is not None:
        reason = f"{reason}; the proxy quantizes its {model.label} to {quantization}"
    return Plan(
        request.name,
        repository,
        Format.GGUF,
        reason,
        tuple(uploads),
        quantization=quantization,
        is_converted=quantization is not None,
        template_source=modelfile.source,
        template_exact=modelfile.exact,
        settings=modelfile.settings,
        result_size=sum(upload.size for upload in uploads),
        gguf_summary=_summary(headers, quantization),
        warnings=modelfile.warnings,
        offers=_offers(headers, capabilities),
    )


def _offers(headers: Sequence[GgufHeader], capabilities: Capabilities) -> tuple[QuantizationOffer, ...]:
    """The quantizations that could be made; none from a model that is already quantized."""
    tensors = [tensor for header in headers for tensor in header.tensors]
    try:
        facts = ModelFacts.of(headers[0].metadata)
    except CannotConvert:
        return ()
    if any(tensor.type not in QUANTIZABLE for tensor in tensors if is_quantized(tensor)):
        return ()
    return offers(headers[0].data_start, facts, tensors, capabilities)


def plan_native(name: str, repository: Repository, choice: GgufChoice, why: str) -> Plan:
    """Describes a pull that Ollama does on its own; the proxy does not execute this plan."""
    files = [*choice.model.files, *filter(None, [choose_projector(choice.model, repository.files)])]
    return Plan(
        name,
        repository,
        Format.GGUF,
        f"the GGUF {choice.model.tag}, {why}: Ollama pulls it by itself",
        tuple(weight_file(repository, file.path, file) for file in files),
        template_source="gguf",
        warnings=choice.warnings,
        result_size=sum(file.size for file in files),
    )


def _check(where: str, choice: GgufChoice, headers: Sequence[GgufHeader]) -> None:
    first = headers[0]
    file_kind = first.get("general.type", str)
    if first.architecture in (None, "clip") or file_kind in OTHER_TYPES:
        what = file_kind or first.architecture or "no architecture"
        raise Refusal(f"{where} is not a complete model ({what}); pull another file")
    count = first.get(COUNT, int)
    if count and count > 1 and not choice.model.is_split:
        raise Refusal(
            f"{where} is the first of {count} shards, but the names of the others do not show it; ask the repository's "
            "owner to rename them"
        )
    if choice.quantization is None:
        return
    for header in headers:
        for tensor in header.tensors:
            if len(tensor.shape) > 1 and tensor.type not in QUANTIZABLE:
                raise Refusal(
                    f"{where} is named {choice.model.label}, but {tensor.name} is {TensorType(tensor.type).name}, "
                    f"which the proxy does not quantize again; pull it as {choice.model.tag}"
                )


def _check_loads(where: str, choice: GgufChoice, headers: Sequence[GgufHeader], capabilities: Capabilities) -> None:
    """Raises Refusal for a GGUF that crashes the loader, before 0.30 together with Ollama (two equal tokens, v0.24)."""
    first, tensors = headers[0], tensors_of(headers)
    architecture = str(first.architecture)
    _check_architecture(where, architecture, capabilities)
    for tensor in tensors:
        if capabilities.version < (since := capabilities.tensor_type_since(tensor.type)):
            raise Refusal(
                f"{where} has the tensor {shown(tensor.name)} in {TensorType(tensor.type).name}, which "
                f"{capabilities.ollama} does not run; update it to {since} or newer, or pull another file of the model"
            )
    model, pre_tokenizer = first.get(MODEL, str), first.get(PRE, str)
    if model is not None and not capabilities.knows_tokenizer(model):
        raise Refusal(
            f"{where} has the tokenizer {shown(model)}, which no Ollama up to {NEWEST} knows; pull another file of the "
            "model"
        )
    if pre_tokenizer is not None and model == "gpt2" and not capabilities.knows_pre_tokenizer(pre_tokenizer):
        raise Refusal(
            f"{where} has the pre-tokenizer {shown(pre_tokenizer)}, which no Ollama up to {NEWEST} knows; pull another "
            "file of the model"
        )
    if not capabilities.loads_unchanged(architecture):
        return
    is_rewritten = choice.model.is_split or choice.quantization is not None
    metadata = without_misleading_name(first.metadata) if is_rewritten else first.metadata
    try:
        check_vocabulary(metadata, tensors)
        check_tensors(metadata, tensors)
        if not is_rewritten:
            check_layout(first)
    except GgufError as error:
        raise Refusal(f"{where}: {error}, so Ollama cannot load it; pull another file of the model") from error


def _check_architecture(where: str, architecture: str, capabilities: Capabilities) -> None:
    if (reason := REFUSED_GGUFS.get(architecture)) and capabilities.version <= NEWEST:
        raise Refusal(f"{where}: {architecture} {reason}; pull another model")
    since = capabilities.architecture_since(architecture)
    if since == NEVER:
        raise Refusal(
            f"{where} has the architecture {shown(architecture)}, which no Ollama up to {NEWEST} runs; pull another "
            "model"
        )
    if capabilities.version < since:
        raise Refusal(f"{where}: {capabilities.ollama} does not run {architecture}; update it to {since} or newer")


def _summary(headers: Sequence[GgufHeader], quantization: str | None) -> GgufSummary:
    """`headers[0]` has an architecture: `_check` refuses a GGUF without one."""
    first = headers[0]
    parameters = sum(tensor.numbers for header in headers for tensor in header.tensors)
    field = first.metadata.get(FILE_TYPE)
    file_type = FILE_TYPE_NAMES.get(field.value) if field is not None and isinstance(field.value, int) else None
    return GgufSummary(str(first.architecture), parameters, quantization or file_type or "unknown")


def _upload(
    repository: Repository, model: GgufModel, headers: Sequence[GgufHeader], quantization: str | None
) -> Upload:
    """One blob, also for several shards.

    Before 0.30 Ollama accepts no split GGUF, 0.30 to 0.34 only in a create, and newer versions handle it differently.
    """
    if quantization is not None:
        quantized = requantize(headers, quantization)
        per_file = zip(model.files, quantized.parts, strict=True)
        parts = [[_quantized_part(file, piece) for piece in pieces] for file, pieces in per_file]
        return _blob_of_files(repository, model, headers, quantized.header, parts)
    if model.is_split:
        merged = merge(headers)
        per_shard = zip(model.files, _by_shard(merged, len(headers)), strict=True)
        parts = [[_merged_part(file, piece) for piece in pieces] for file, pieces in per_shard]
        return _blob_of_files(repository, model, headers, merged.header, parts)
    [file] = model.files
    return weight_file(repository, _blob_name(file), file)


def _blob_of_files(
    repository: Repository,
    model: GgufModel,
    headers: Sequence[GgufHeader],
    new_header: bytes,
    parts_of_files: Sequence[Sequence[Literal | Range]],
) -> Upload:
    """One blob that begins with `new_header`. Each file is read whole, so that its digest can be checked."""
    parts: list[Literal | Range] = [Literal(new_header)]
    for file, header, file_parts in zip(model.files, headers, parts_of_files, strict=True):
        parts += [_verified_header(repository, file, header), *cover_file(file, header.data_start, file_parts)]
    return weight_upload(repository, f"{_merged_name(model)}.gguf", Recipe(tuple(parts)))


def _quantized_part(file: RepositoryFile, piece: TransformedRange | Padding) -> Literal | Range:
    if isinstance(piece, Padding):
        return Literal(bytes(piece.size))
    return Range(
        file, piece.start, piece.stop, piece.transform and naming_file(file.path, piece.transform), TRANSFORM_ID
    )


def _by_shard(merged: MergedGguf, count: int) -> list[list[ShardRange | Padding]]:
    """Padding goes to the same shard as the piece before it."""
    shards: list[list[ShardRange | Padding]] = [[] for _ in range(count)]
    shard = 0
    for piece in merged.pieces:
        shard = piece.shard if isinstance(piece, ShardRange) else shard
        shards[shard].append(piece)
    return shards


def _merged_part(file: RepositoryFile, piece: ShardRange | Padding) -> Literal | Range:
    return Range(file, piece.start, piece.stop) if isinstance(piece, ShardRange) else Literal(bytes(piece.size))


def _verified_header(repository: Repository, file: RepositoryFile, header: GgufHeader) -> Range:
    """Not part of the blob, but it must still be equal to `header`."""
    where = f"{repository.id}/{file.path}"
    return verify_header(where, file, min(header.data_start, file.size), lambda content: _parse(content) == header)


def _parse(content: bytes) -> GgufHeader | None:
    try:
        return read_header(content)
    except (GgufError, Incomplete):
        return None


def _merged_name(model: GgufModel) -> str:
    first = SplitName.parse(_blob_name(model.files[0]))
    return first.prefix if first else "model"


def _blob_name(file: RepositoryFile) -> str:
    """Ollama's create recognises a GGUF by this end of its name, in lower case (v0.33)."""
    return file_name(file)[: -len(".gguf")] + ".gguf"
