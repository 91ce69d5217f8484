"""The plan of a safetensors repository: weights as they are, small files as Ollama's converter wants them. Pure."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from proxy.planning.capabilities import CONVERTED_TO
from proxy.planning.modelfile import Modelfile
from proxy.planning.plan import (
    Bar,
    Converter,
    Format,
    Offer,
    Plan,
    Stretch,
    Upload,
    small_file,
    weight_file,
    weight_upload,
)
from proxy.planning.preflight import Edit, Findings
from proxy.planning.recipe import Literal, Range, Recipe, compared
from proxy.planning.safetensors import LENGTH_BYTES, Header
from proxy.planning.sizes import Shape, count_numbers
from proxy.planning.tokenizer_files import TokenizerFiles
from proxy.planning.weights import (
    CHAT_TEMPLATE,
    CONFIG,
    TOKENIZER_CONFIG,
    TOKENIZERS,
    Selection,
    json_object,
    json_value,
)
from proxy.sources.base import Repository, RepositoryFile

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def plan_safetensors(
    name: str,
    repository: Repository,
    selection: Selection,
    headers: Mapping[str, Header],
    contents: Mapping[str, bytes],
    findings: Findings,
    tokenizer: TokenizerFiles,
    modelfile: Modelfile,
) -> Plan:
    """Put the plan together; `contents` holds what `selection.to_read` asked for, by path."""
    changed, clean_ups = _changed(repository.id, selection, contents, findings, tokenizer, modelfile)
    repairs = [*findings.repairs, *tokenizer.repairs, *clean_ups]
    uploads = [
        _weights(repository, file, headers[file.path], contents.get(file.path), findings.edits.get(file.path, {}))
        for file in selection.weights
    ]
    companions = [file for file in selection.companions if file.path not in changed]
    uploads += [_companion(repository, file, contents.get(file.path)) for file in companions]
    uploads += [small_file(path, content) for path, content in changed.items() if content is not None]
    if CHAT_TEMPLATE in contents:
        repairs.append(f"{CHAT_TEMPLATE} is put into {TOKENIZER_CONFIG}, where Ollama reads it")
    numbers = count_numbers(shapes_of(headers.values()))
    vocabulary = sum(file.size for file in selection.companions if file.path == TOKENIZERS[0])
    quantization = findings.quantization
    converted = vocabulary + numbers.size(CONVERTED_TO)
    result = converted if quantization is None else vocabulary + numbers.size(quantization)
    return Plan(
        name,
        repository,
        Format.SAFETENSORS,
        f"Ollama converts {findings.architecture}",
        tuple(uploads),
        quantization=quantization,
        converter=Converter.OLLAMA,
        template_source=modelfile.source,
        template_exact=modelfile.exact,
        settings=modelfile.settings,
        repairs=tuple(repairs),
        warnings=(*findings.warnings, *tokenizer.warnings, *modelfile.warnings),
        result_size=result,
        made_size=result if quantization in (None, CONVERTED_TO) else converted + result,
        offers=tuple(Offer(offered, vocabulary + numbers.size(offered)) for offered in findings.offered),
    )


def _changed(
    repository: str,
    selection: Selection,
    contents: Mapping[str, bytes],
    findings: Findings,
    tokenizer: TokenizerFiles,
    modelfile: Modelfile,
) -> tuple[dict[str, bytes | None], list[str]]:
    """What is sent instead of a small file, None for one that is left out, and what was cleaned up for that.

    Raises Refusal for what is no JSON.
    """
    changed = dict(tokenizer.changed)
    if modelfile.tokenizer_config is not None:
        changed[TOKENIZER_CONFIG] = modelfile.tokenizer_config
    # As text: to Python 2048.0 is 2048, to Ollama it is no whole number.
    if json.dumps(findings.config) != json.dumps(json_object(f"{repository}/{CONFIG}", contents[CONFIG])):
        changed[CONFIG] = json.dumps(findings.config).encode()
    mended = dict(contents) | {path: content for path, content in changed.items() if content is not None}
    repairs = []
    left_out = {path for path, content in changed.items() if content is None}
    sent = ({file.path for file in selection.companions} | changed.keys()) - left_out
    for path in sorted(sent & mended.keys()):
        if not path.endswith(".json"):
            continue
        if path not in tokenizer.read:
            # Ollama would say so after the download.
            json_value(f"{repository}/{path}", mended[path])
        if (clean := _clean_json(mended[path])) is not None:
            changed[path] = clean
            repairs.append(f"{path} written as JSON that Ollama reads: without a byte order mark and NaN")
    return changed, repairs


def _weights(
    repository: Repository, file: RepositoryFile, header: Header, content: bytes | None, edits: Mapping[str, Edit]
) -> Upload:
    if edits:
        recipe = Recipe(
            (
                Literal(edited(header.content, edits)),
                compared(f"{repository.id}/{file.path}", file, header.size, header.content.__eq__),
                Range(file, header.size, file.size),
            )
        )
        return weight_upload(repository, file.path, recipe)
    if content is not None:
        made = small_file(file.path, content)
        digest = made.digest or ""
        return replace(made, bars=(Bar(digest, file.size),), stretches=(Stretch(digest, file.size, file.size),))
    return weight_file(repository, file.path, file)


def edited(header: bytes, edits: Mapping[str, Edit]) -> bytes:
    """A file's header with tensors renamed, reshaped or left out; what it says of the data behind it stays true."""
    made = {}
    for name, field in json.loads(header[LENGTH_BYTES:]).items():
        edit = edits.get(name, Edit(name))
        if edit.name is not None:
            made[edit.name] = field if edit.shape is None else field | {"shape": edit.shape}
    text = json.dumps(made, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _clean_json(content: bytes) -> bytes | None:
    """What Go's decoder reads: without a byte order mark, NaN or Infinity; None where it is so already."""
    strange: list[Any] = [BYTE_ORDER_MARK] if content.startswith(BYTE_ORDER_MARK) else []
    if not strange and b"NaN" not in content and b"Infinity" not in content:
        return None
    value = json.loads(content.decode("utf-8-sig"), parse_constant=strange.append)
    return json.dumps(value).encode() if strange else None


def _companion(repository: Repository, file: RepositoryFile, content: bytes | None) -> Upload:
    if content is not None:
        return small_file(file.path, content)
    return replace(weight_file(repository, file.path, file), bars=(), stretches=())


def shapes_of(headers: Iterable[Header]) -> Iterator[Shape]:
    for header in headers:
        for name, tensor in header.tensors.items():
            yield Shape(name, tensor.elements, tensor.shape[-1] if len(tensor.shape) > 1 else 0)
