"""The plan of a repository of safetensors that the proxy itself makes a GGUF of, while the bytes come in. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from proxy.config import ConvertedBy, Quantization
from proxy.errors import Refusal
from proxy.gguf.config import CannotConvert
from proxy.gguf.conversion import Conversion, Description, convert
from proxy.gguf.families import FAMILIES
from proxy.gguf.header import read_header
from proxy.gguf.targets import Made, Piece, stays_wide
from proxy.gguf.tensors import GgufError
from proxy.gguf.tokenizer_files import TokenizerFiles
from proxy.planning.capabilities import ROW, Capabilities
from proxy.planning.card import read_card
from proxy.planning.modelfile import README, Brought, Modelfile
from proxy.planning.plan import Bar, Converter, Format, Plan, Upload, bar_digest
from proxy.planning.recipe import Literal, Range, Recipe, compared, covered
from proxy.planning.safetensors import FLOATS, Header
from proxy.planning.safetensors_plan import shapes_of
from proxy.planning.sizes import quantized_size
from proxy.planning.weights import CONFIG, NotConvertible, Selection, json_object
from proxy.sources.base import Repository, RepositoryFile

FILE = "model.gguf"


def converts_here(wanted: ConvertedBy, architecture: str, capabilities: Capabilities) -> bool:
    """The one place that decides who converts: Ollama what it knows, the proxy what Ollama only runs."""
    family = FAMILIES.get(architecture)
    if wanted is ConvertedBy.OLLAMA or family is None or not capabilities.runs(family.architecture):
        return False
    return wanted is ConvertedBy.PROXY or not capabilities.converts(architecture)


def added_tokens(repository: str, contents: Mapping[str, bytes]) -> dict[int, str]:
    """The texts of the tokens beside the vocabulary, by number. Raises NotConvertible."""
    try:
        return {token["id"]: token["content"] for token in TokenizerFiles.read(contents).written_added}
    except CannotConvert as error:
        raise NotConvertible(f"{repository}: {error}") from error


def plan_conversion(
    name: str,
    repository: Repository,
    selection: Selection,
    headers: Mapping[str, Header],
    contents: Mapping[str, bytes],
    quantization: str | None,
    modelfile: Modelfile,
    brought: Brought,
    capabilities: Capabilities,
) -> Plan:
    """Raises NotConvertible for what the proxy does not know, Refusal for what this Ollama cannot make of it."""
    config = json_object(f"{repository.id}/{CONFIG}", contents[CONFIG])
    architecture = str(config["architectures"][0])
    files = {file.path: file for file in sorted(selection.weights, key=lambda file: file.path)}
    source = _source_type(headers)
    quantize = None if quantization == source else quantization
    if quantize is not None and source == "BF16" and not capabilities.quantizes_bf16_gguf:
        raise Refusal(f"{repository.id}: {capabilities.ollama} cannot quantize BF16 of a GGUF; pull it as BF16")
    description = Description(
        repository.id.rpartition("/")[2],
        read_card(contents.get(README, b"")),
        chat_template=_chat_template(modelfile, brought),
        generation=brought.generation,
    )
    try:
        conversion = convert(
            config,
            contents,
            {path: headers[path].tensors for path in files},
            description,
            for_ollama_quantizer=quantize is not None,
            for_ollama_quantizer_below_0_30=quantize is not None and not capabilities.runs_llama_server,
        )
    except GgufError as error:
        raise NotConvertible(f"{repository.id}: {error}") from error
    if quantize not in (None, *FLOATS) and capabilities.runs_llama_server:
        _check_rows(repository, conversion, source, str(quantize), capabilities)
    upload = _upload(repository, files, headers, conversion)
    result = upload.size
    if quantize is not None:
        result = len(conversion.header) + quantized_size(shapes_of(headers.values()), quantize)
    return Plan(
        name,
        repository,
        Format.SAFETENSORS,
        f"the proxy converts {architecture}, which {capabilities.ollama} runs and does not convert"
        if not capabilities.converts(architecture)
        else f"the proxy converts {architecture}, as pull.converter says",
        (upload,),
        quantization=quantize,
        converter=Converter.PROXY,
        template_source=modelfile.source,
        template_exact=modelfile.exact,
        settings=modelfile.settings,
        warnings=(*capabilities.warnings_of(quantize), *modelfile.warnings),
        result_size=result,
        # From v0.30 on Ollama writes its own copy of a GGUF that it is given.
        made_size=result if quantize is not None or capabilities.runs_llama_server else 0,
    )


def _source_type(headers: Mapping[str, Header]) -> str | None:
    """What all matrices are of; None where they differ."""
    kinds = {tensor.dtype for header in headers.values() for tensor in header.tensors.values() if len(tensor.shape) > 1}
    return kinds.pop() if len(kinds) == 1 else None


def _check_rows(
    repository: Repository, conversion: Conversion, source: str | None, wanted: str, capabilities: Capabilities
) -> None:
    for tensor in read_header(conversion.header, size=conversion.size).tensors:
        row = tensor.shape[0]
        # llama-quantize leaves a row that its blocks do not divide in F16, but for Q8_0, where it gives up (v0.33). The
        # steps of a state space are as small as that by design.
        is_small = tensor.name.endswith(".ssm_dt.weight") and wanted != Quantization.Q8_0
        if row % ROW and not is_small and not stays_wide(tensor.name, tensor.shape):
            raise Refusal(
                f"{repository.id}: {tensor.name} has rows of {row} numbers, which {capabilities.ollama} cannot "
                f"quantize to {wanted} (they must be a multiple of {ROW}); pull it as {source or 'F16'}"
            )


def _chat_template(modelfile: Modelfile, brought: Brought) -> str | None:
    """That which Ollama renders by itself is opened so that it mistakes it for no other."""
    if modelfile.tokenizer_config is None:
        return brought.jinja
    value: Any = json.loads(modelfile.tokenizer_config).get("chat_template")
    return value if isinstance(value, str) else brought.jinja


def _upload(
    repository: Repository,
    files: Mapping[str, RepositoryFile],
    headers: Mapping[str, Header],
    conversion: Conversion,
) -> Upload:
    parts: list[Literal | Range] = [Literal(conversion.header)]
    sizes = dict.fromkeys(files, 0)
    if conversion.in_file_order:
        for path, pieces in _by_file(conversion.pieces, files):
            file, header = files[path], headers[path]
            read_before = compared(f"{repository.id}/{path}", file, header.size, header.content.__eq__)
            taken = [read_before, *covered(file, header.size, [_part(files, piece) for piece in pieces])]
            sizes[path] = sum(part.size for part in taken)
            parts += taken
    else:
        last = next(iter(files))
        for piece in conversion.pieces:
            last = piece.path if isinstance(piece, Piece) else last
            sizes[last] += piece.size
            parts.append(_part(files, piece))
    sizes[next(iter(files))] += len(conversion.header)
    bars = tuple(Bar(bar_digest(repository, files[path]), size) for path, size in sizes.items() if size)
    return Upload(FILE, Recipe(tuple(parts)), bars)


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


def _part(files: Mapping[str, RepositoryFile], piece: Piece | Made) -> Literal | Range:
    if isinstance(piece, Made):
        return Literal(piece.content)
    return Range(files[piece.path], piece.start, piece.stop, piece.transform, piece.becomes)
