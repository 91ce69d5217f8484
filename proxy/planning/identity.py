"""Identities of plans: two plans with the same identities make the same model. Pure."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import msgspec
import orjson

from proxy import __version__
from proxy.gguf.families import FAMILIES
from proxy.gguf.header import Incomplete, read_header
from proxy.gguf.projectors import TOWERS
from proxy.gguf.tensors import GgufError
from proxy.planning.plan import Plan, Upload
from proxy.planning.recipe import Literal, Range
from proxy.sources.base import Repository, RepositoryFile

UNKNOWN = "?"
"""`made_by` of a model that a version of the proxy without this field recorded."""
REDUNDANT_SETTINGS = ("revision", "template_file", "name")
"""The commit, the template and the name of the model already identify these."""


def upload_identity(repository: Repository, upload: Upload) -> str:
    """Identifies the bytes of a blob: its digest if that is known before the transfer, else a digest of its recipe."""
    match upload.recipe.parts:
        case (Literal(content),):
            return f"sha256:{hashlib.sha256(content).hexdigest()}"
        case (Range(file, 0, stop, None),) if stop == file.size and file.sha256:
            return f"sha256:{file.sha256}"
        case parts:
            return digest_of_value(_parts(repository, parts))


def data_identity(repository: Repository, upload: Upload) -> str | None:
    """Identifies the tensor data of a GGUF that the proxy makes, without its metadata; None for any other blob.

    The tensors' names, types and places count too: a transform depends on them, and `transform_id` does not name them.
    Reads the whole header, so it takes up to 0.1 s for a large vocabulary.
    """
    match upload.recipe.parts:
        case (Literal(content), _, *_):
            pass
        case _:
            return None
    try:
        tensors = read_header(content).tensors
    except (GgufError, Incomplete):
        return None
    infos = [[tensor.name, tensor.shape, tensor.type, tensor.offset] for tensor in tensors]
    return digest_of_value(["data", infos, _parts(repository, upload.recipe.parts[1:])])


def _parts(repository: Repository, parts: Iterable[Literal | Range]) -> list[list[Any]]:
    """Bytes that are only read do not count."""
    return [_part(repository, part) for part in parts if part.size or _is_beside(part)]


def _is_beside(part: Literal | Range) -> bool:
    return isinstance(part, Range) and part.beside is not None


def _part(repository: Repository, part: Literal | Range) -> list[Any]:
    if isinstance(part, Literal):
        return [hashlib.sha256(part.content).hexdigest()]
    span = [_file(repository, part.file), part.start, part.stop]
    if part.transform is None:
        return span
    # Without a transform_id the transform may depend on the whole commit and on this version's code.
    inputs = [part.transform_id] if part.transform_id else [repository.id, repository.commit, __version__]
    return [*span, part.size, *inputs]


def _file(repository: Repository, file: RepositoryFile) -> str:
    return file.sha256 or file.git_sha1 or f"{repository.id} {repository.commit} {file.path}"


def family_revision(architecture: str) -> str:
    """The family and the revision of its conversion code, such as `LlamaForCausalLM 3`.

    `architecture` is the first in config.json's `architectures`. A new revision makes a different file. With towers
    it has their revision too: `Gemma3ForConditionalGeneration 2.1`.
    """
    towers = sum(tower.output_version for tower in TOWERS.get(architecture, ()))
    return f"{architecture} {FAMILIES[architecture].output_version}{f'.{towers}' if towers else ''}"


def outdated_reason(made_by: str) -> str | None:
    """Why the next pull makes an unchanged model again; None if it keeps the model."""
    if made_by == UNKNOWN:
        return "an earlier version of the proxy pulled it, which left some conversions to Ollama"
    architecture, _, _ = made_by.partition(" ")
    if architecture not in FAMILIES or family_revision(architecture) == made_by:
        return None
    return f"this version of the proxy converts {architecture} better"


def weights_identity(plan: Plan) -> str:
    """Identifies the weights alone: template, system text, parameters and license do not count."""
    uploads = sorted([upload.path, upload_identity(plan.repository, upload)] for upload in plan.uploads)
    return digest_of_value([uploads, plan.quantization, plan.base.name.casefold() if plan.base else None])


def settings_identity(plan: Plan) -> str:
    """Identifies what a model has beside its weights: template, system text, parameters, license."""
    settings = msgspec.to_builtins(plan.settings)
    return digest_of_value({key: value for key, value in settings.items() if key not in REDUNDANT_SETTINGS})


def with_known_digests(plan: Plan, digest_of: Callable[[str], str | None]) -> Plan:
    """Fills in the digests of blobs that an earlier pull made. `digest_of` looks a digest up by identity."""

    def with_digest(upload: Upload) -> Upload:
        if upload.digest is not None or (digest := digest_of(upload_identity(plan.repository, upload))) is None:
            return upload
        return replace(upload, recipe=replace(upload.recipe, digest=digest))

    base = plan.base
    if base is not None and base.plan is not None:
        base = replace(base, plan=with_known_digests(base.plan, digest_of))
    return replace(plan, uploads=tuple(with_digest(upload) for upload in plan.uploads), base=base)


def digest_of_value(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()
