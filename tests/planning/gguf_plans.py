"""Plans of GGUFs, and the blobs that their recipes make."""

import hashlib
from collections.abc import Mapping, Sequence

from proxy.config.sections import NO_SETTINGS, ModelSettings
from proxy.config.values import Quantization
from proxy.gguf.header import GgufHeader, read_header
from proxy.gguf.requantize import TransformedRange, requantize
from proxy.planning.capabilities import capabilities_of
from proxy.planning.gguf_files import choose_gguf, choose_projector
from proxy.planning.gguf_plan import plan_gguf
from proxy.planning.modelfile import Modelfile
from proxy.planning.plan import Plan, PlanRequest
from proxy.planning.recipe import Recipe
from proxy.sources.base import RepositoryFile
from tests.kit.assembling import assembled
from tests.planning.listings import Listing

OLD, NEW = "0.24.0", "0.33.0"


def listed(files: Mapping[str, bytes], *, hashed: bool = True) -> Listing:
    return Listing(
        tuple(
            RepositoryFile(path, len(content), hashlib.sha256(content).hexdigest() if hashed else None)
            for path, content in files.items()
        )
    )


def planned(
    files: Mapping[str, bytes],
    tag: str = "latest",
    version: str = OLD,
    *,
    settings: ModelSettings = NO_SETTINGS,
    hashed: bool = True,
    seen: Mapping[str, bytes] | None = None,
) -> Plan:
    """`seen`: the files that the headers are read from, if they are not the ones that arrive later."""
    repository = listed(files, hashed=hashed)
    choice = choose_gguf(repository.id, repository.files, tag, Quantization.Q4_K_M)
    headers = [read_header((seen or files)[file.path], size=file.size) for file in choice.model.files]
    projector = choose_projector(choice.model, repository.files)
    name = f"hf.co/acme/model:{tag}"
    modelfile = Modelfile(settings, "config" if settings.template is not None else "gguf", None)
    request = PlanRequest(name, repository, settings, capabilities_of(version))
    return plan_gguf(request, choice, headers, projector, modelfile)


def assemble(recipe: Recipe, files: Mapping[str, bytes]) -> bytes:
    """The blob that the engine makes from the files."""
    chunks = [files[span.file.path][span.start : span.stop] for span in recipe.spans(100_000)]
    return assembled(recipe, chunks, "acme/model")


def read(content: bytes) -> GgufHeader:
    return read_header(content, size=len(content))


def hex_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def requantized(contents: Sequence[bytes], quantization: str) -> bytes:
    """The expected blob, with each tensor quantized in one piece."""
    quantized = requantize([read(content) for content in contents], quantization)
    whole = [quantized.header]
    for content, pieces in zip(contents, quantized.parts, strict=True):
        for piece in pieces:
            if isinstance(piece, TransformedRange):
                source = content[piece.start : piece.stop]
                whole.append(piece.transform.change(source) if piece.transform else source)
            else:
                whole.append(bytes(piece.size))
    return b"".join(whole)
