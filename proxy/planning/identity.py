"""By what a plan is recognised: equal where the same model comes of it. Pure."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import orjson

from proxy import __version__
from proxy.gguf.families import FAMILIES
from proxy.planning.plan import Plan, Upload
from proxy.planning.recipe import Literal, Range
from proxy.sources.base import Repository, RepositoryFile

UNKNOWN = "?"
"""Who made a model that an earlier version remembers."""
UNSEEN = ("revision", "template_file")
"""Settings that are in the commit and in the template."""


def upload_identity(repository: Repository, upload: Upload) -> str:
    """Equal for blobs of the same bytes: the digest where it is known beforehand, else one of how they are made."""
    match upload.recipe.parts:
        case (Literal(content),):
            return f"sha256:{hashlib.sha256(content).hexdigest()}"
        case (Range(file, 0, stop, None),) if stop == file.size and file.sha256:
            return f"sha256:{file.sha256}"
        case parts:
            return digest_of_value([_part(repository, part) for part in parts if part.size or _is_beside(part)])


def _is_beside(part: Literal | Range) -> bool:
    return isinstance(part, Range) and part.beside


def _part(repository: Repository, part: Literal | Range) -> list[Any]:
    if isinstance(part, Literal):
        return [hashlib.sha256(part.content).hexdigest()]
    span = [_file(repository, part.file), part.start, part.stop]
    if part.transform is None:
        return span
    # What a transform does is what it goes by, if need be all of the commit and this version's code.
    return [*span, part.size, *([part.of] if part.of else [repository.id, repository.commit, __version__])]


def _file(repository: Repository, file: RepositoryFile) -> str:
    return file.sha256 or file.git_sha1 or f"{repository.id} {repository.commit} {file.path}"


def maker_of(architecture: str) -> str:
    """Who makes a GGUF of a family, by the first of config.json's `architectures`: another one makes another file."""
    return f"{architecture} {FAMILIES[architecture].output_version}"


def why_anew(made_by: str) -> str | None:
    """Why the next pull does not leave a model as it is; None where it may."""
    if made_by == UNKNOWN:
        return "an earlier version of the proxy brought it, which left some conversions to Ollama"
    architecture, _, revision = made_by.partition(" ")
    family = FAMILIES.get(architecture)
    if family is None or str(family.output_version) == revision:
        return None
    return f"models of {architecture} are made in a better way now"


def weights_identity(plan: Plan) -> str:
    """Equal for plans whose weights are the same, whatever is beside them."""
    uploads = sorted([upload.path, upload_identity(plan.repository, upload)] for upload in plan.uploads)
    return digest_of_value([uploads, plan.quantization, plan.base.name.casefold() if plan.base else None])


def dressing_identity(plan: Plan) -> str:
    """Of what a model has beside its weights."""
    settings = msgspec.to_builtins(plan.settings)
    return digest_of_value({key: value for key, value in settings.items() if key not in UNSEEN})


def with_known_digests(plan: Plan, digest_of: Callable[[str], str | None]) -> Plan:
    """The plan with the digests of blobs that were made before, which `digest_of` finds by their identity."""

    def known(upload: Upload) -> Upload:
        if upload.digest is not None or (digest := digest_of(upload_identity(plan.repository, upload))) is None:
            return upload
        return replace(upload, recipe=replace(upload.recipe, digest=digest))

    base = plan.base
    if base is not None and base.plan is not None:
        base = replace(base, plan=with_known_digests(base.plan, digest_of))
    return replace(plan, uploads=tuple(known(upload) for upload in plan.uploads), base=base)


def digest_of_value(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()
