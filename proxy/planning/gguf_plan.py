"""The plan of a GGUF that the proxy pulls: as it is, its shards merged, or quantized. Pure."""

from collections.abc import Sequence

from proxy.errors import Refusal
from proxy.gguf.cast import NoEngine
from proxy.gguf.config import CannotConvert
from proxy.gguf.header import GgufHeader, Incomplete, read_header
from proxy.gguf.requantize import TransformedRange, requantize
from proxy.gguf.split import COUNT, MergedGguf, Padding, ShardRange, SplitName, merge
from proxy.gguf.tensor_types import ModelFacts, is_quantized
from proxy.gguf.tensors import GgufError, TensorType, shown
from proxy.gguf.tokens import first_duplicate
from proxy.planning.capabilities import NEVER, NEWEST, Capabilities
from proxy.planning.gguf_files import GgufChoice, GgufModel, choose_projector, file_name
from proxy.planning.modelfile import Modelfile
from proxy.planning.plan import Finished, Format, Plan, QuantizationOffer, Upload, weight_file, weight_upload
from proxy.planning.quantizations import explained, not_made_here, offers, read_quantization
from proxy.planning.recipe import Literal, Range, Recipe, cover_file, verify_header
from proxy.sources.base import Repository, RepositoryFile

QUANTIZABLE = (TensorType.F32, TensorType.F16, TensorType.BF16)
QUANTIZED = "quantized 1"
"""Raised when other bytes are made of the same numbers."""
OTHER_TYPES = ("adapter", "mmproj", "imatrix")
FILE_TYPE = "general.file_type"
SHOWN = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S"), 7)),
    **dict(enumerate(("Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL"), 17)),
    **dict(enumerate(("IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16"), 26)),
    **dict(enumerate(("TQ1_0", "TQ2_0", "MXFP4_MOE", "NVFP4", "Q1_0"), 36)),
}
"""How Ollama shows what `general.file_type` says (fs/ggml/type.go, 0.34.1)."""


def plan_gguf(
    name: str,
    repository: Repository,
    choice: GgufChoice,
    headers: Sequence[GgufHeader],
    projector: RepositoryFile | None,
    capabilities: Capabilities,
    modelfile: Modelfile,
) -> Plan:
    """`headers` are those of the model's files, in their order. Raises Refusal for what would not load."""
    model, quantization = choice.model, choice.quantization
    where = f"{repository.id}/{model.files[0].path}"
    if quantization is not None:
        read_quantization(repository.id, quantization, quantization, capabilities)
    try:
        _check(where, choice, headers)
        _check_known(where, headers[0], capabilities)
        upload = _upload(repository, model, headers, quantization)
    except NoEngine as error:
        raise not_made_here(repository.id, error) from error
    except GgufError as error:
        raise Refusal(f"{where} cannot be used: {error}") from error
    uploads = [upload]
    reason = f"the GGUF {model.tag}"
    if model.is_split:
        reason = f"{reason}; its {len(model.files)} shards are merged"
    if projector is not None:
        uploads.append(weight_file(repository, _blob_name(projector), projector, "projector"))
    if quantization is not None:
        reason = f"{reason}; the proxy quantizes its {model.label} to {quantization}"
    return Plan(
        name,
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
        finished=_finished(headers, quantization),
        warnings=modelfile.warnings,
        offers=_offers(headers, capabilities),
    )


def _offers(headers: Sequence[GgufHeader], capabilities: Capabilities) -> tuple[QuantizationOffer, ...]:
    """What could be made of a model that is not quantized."""
    tensors = [tensor for header in headers for tensor in header.tensors]
    try:
        facts = ModelFacts.of(headers[0].metadata)
    except CannotConvert:
        return ()
    if any(tensor.type not in QUANTIZABLE for tensor in tensors if is_quantized(tensor)):
        return ()
    return offers(headers[0].data_start, facts, tensors, capabilities)


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


def _check(where: str, choice: GgufChoice, headers: Sequence[GgufHeader]) -> None:
    first = headers[0]
    kind = first.get("general.type", str)
    if first.architecture in (None, "clip") or kind in OTHER_TYPES:
        raise Refusal(f"{where} is not a model of its own ({kind or first.architecture or 'no architecture'})")
    count = first.get(COUNT, int)
    if count and count > 1 and not choice.model.is_split:
        raise Refusal(f"{where} is the first of {count} shards, and the others are not named as such in the repository")
    if choice.quantization is None:
        return
    for header in headers:
        for tensor in header.tensors:
            if len(tensor.shape) > 1 and tensor.type not in QUANTIZABLE:
                raise Refusal(
                    f"{where} is named {choice.model.label}, but {tensor.name} is {TensorType(tensor.type).name}, "
                    f"which is not quantized a second time; pull it as {choice.model.tag}"
                )


def _check_known(where: str, first: GgufHeader, capabilities: Capabilities) -> None:
    """Raises Refusal for what ends the loader, and before 0.30 all of Ollama with it (two tokens alike, v0.24)."""
    architecture, pre = str(first.architecture), first.get("tokenizer.ggml.pre", str)
    since = capabilities.architecture_since(architecture)
    if since == NEVER:
        raise Refusal(f"{where} has the architecture {shown(architecture)}, which no Ollama up to {NEWEST} runs")
    if capabilities.version < since:
        raise Refusal(f"{where}: {capabilities.ollama} does not run {architecture}; update it to {since} or newer")
    is_byte_level = first.get("tokenizer.ggml.model", str) == "gpt2"
    if pre is not None and is_byte_level and not capabilities.knows_pre_tokenizer(pre):
        raise Refusal(f"{where} has the pre-tokenizer {shown(pre)}, which no Ollama up to {NEWEST} knows")
    # llama.cpp gives each token without a text one of its own.
    token = first_duplicate(filter(None, first.get("tokenizer.ggml.tokens", list) or []))
    if token is not None:
        raise Refusal(f"{where} has two tokens with the text {shown(token)}, with which no Ollama loads it")


def _finished(headers: Sequence[GgufHeader], quantization: str | None) -> Finished:
    """`headers[0]` has an architecture: `_check` refuses others."""
    first = headers[0]
    parameters = sum(tensor.numbers for header in headers for tensor in header.tensors)
    said = first.metadata.get(FILE_TYPE)
    own = SHOWN.get(said.value, "unknown") if said is not None and isinstance(said.value, int) else "unknown"
    return Finished(str(first.architecture), parameters, quantization or own)


def _upload(
    repository: Repository, model: GgufModel, headers: Sequence[GgufHeader], quantization: str | None
) -> Upload:
    """One blob, also of several shards.

    Ollama before 0.30 takes no split GGUF, 0.30 to 0.34 only through its create, and newer ones in their own way.
    """
    if quantization is not None:
        made = requantize(headers, quantization)
        parts = [[_changed(file, piece) for piece in part] for file, part in zip(model.files, made.parts, strict=True)]
        return _of_files(repository, model, headers, made.header, parts)
    if model.is_split:
        merged = merge(headers)
        shards = zip(model.files, _by_shard(merged, len(headers)), strict=True)
        return _of_files(
            repository, model, headers, merged.header, [[_part(file, one) for one in of] for file, of in shards]
        )
    [file] = model.files
    return weight_file(repository, _blob_name(file), file)


def _of_files(
    repository: Repository,
    model: GgufModel,
    headers: Sequence[GgufHeader],
    written: bytes,
    parts_of_files: Sequence[Sequence[Literal | Range]],
) -> Upload:
    """One blob that begins with the header that is `written`; each file is read whole and checked."""
    parts: list[Literal | Range] = [Literal(written)]
    for file, header, own_parts in zip(model.files, headers, parts_of_files, strict=True):
        parts += [_header(repository, file, header), *cover_file(file, header.data_start, own_parts)]
    return weight_upload(repository, f"{_merged_name(model)}.gguf", Recipe(tuple(parts)))


def _changed(file: RepositoryFile, piece: TransformedRange | Padding) -> Literal | Range:
    if isinstance(piece, Padding):
        return Literal(bytes(piece.size))
    return Range(file, piece.start, piece.stop, piece.transform and explained(file.path, piece.transform), QUANTIZED)


def _by_shard(merged: MergedGguf, count: int) -> list[list[ShardRange | Padding]]:
    """Padding goes with the piece before it."""
    shards: list[list[ShardRange | Padding]] = [[] for _ in range(count)]
    shard = 0
    for piece in merged.pieces:
        shard = piece.shard if isinstance(piece, ShardRange) else shard
        shards[shard].append(piece)
    return shards


def _part(file: RepositoryFile, piece: ShardRange | Padding) -> Literal | Range:
    return Range(file, piece.start, piece.stop) if isinstance(piece, ShardRange) else Literal(bytes(piece.size))


def _header(repository: Repository, file: RepositoryFile, header: GgufHeader) -> Range:
    """What a file begins with, which is compared with the `header` that was read before, and not taken."""
    where = f"{repository.id}/{file.path}"
    return verify_header(where, file, min(header.data_start, file.size), lambda content: _read(content) == header)


def _read(content: bytes) -> GgufHeader | None:
    try:
        return read_header(content)
    except (GgufError, Incomplete):
        return None


def _merged_name(model: GgufModel) -> str:
    first = SplitName.parse(_blob_name(model.files[0]))
    return first.prefix if first else "model"


def _blob_name(file: RepositoryFile) -> str:
    """Ollama's create knows a GGUF by this end of its name, in lower case (v0.33)."""
    return file_name(file)[: -len(".gguf")] + ".gguf"
