"""What a pull will do, decided from the repository's listing and small files alone: pure, no I/O."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.config import ModelSettings, Quantization
from proxy.errors import Refusal
from proxy.pull.recipe import Literal, Range, Recipe
from proxy.pull.reference import ModelReference
from proxy.sources.base import Repository, RepositoryFile

INDEX = "model.safetensors.index.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
# What Ollama's converter reads beside the weights (convert/, v0.24 and v0.33).
COMPANIONS = (
    "config.json",
    *TOKENIZERS,
    TOKENIZER_CONFIG,
    "generation_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "processor_config.json",
    "modules.json",
    "1_Pooling/config.json",
)
WEIGHTS = re.compile(r"(model|consolidated)[^/]*\.safetensors")
READABLE_BYTES = 64 * 1024 * 1024
"""What one pull may hold in memory: the Hub puts every file above 10 MiB into Git LFS, which gives it a SHA-256."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The files of a repository that a pull needs."""

    weights: tuple[RepositoryFile, ...]
    companions: tuple[RepositoryFile, ...]
    chat_template: RepositoryFile | None

    @property
    def to_read(self) -> tuple[RepositoryFile, ...]:
        """What has to be read before there is a plan: files without a known SHA-256, and what is rewritten."""
        files = (*self.weights, *self.companions)
        small = [file for file in files if file.sha256 is None or file.path == TOKENIZER_CONFIG]
        return (*small, *([self.chat_template] if self.chat_template else []))


@dataclass(frozen=True, slots=True)
class Upload:
    """One blob that Ollama has to hold. `content` is set where the proxy has the bytes already."""

    path: str
    size: int
    digest: str
    file: RepositoryFile
    is_weights: bool
    content: bytes | None = None

    @property
    def recipe(self) -> Recipe:
        part = Literal(self.content) if self.content is not None else Range(self.file, 0, self.size)
        return Recipe((part,), self.digest)


@dataclass(frozen=True, slots=True)
class Plan:
    """A pull from here on: nothing later looks at the name or the listing again."""

    name: str
    repository: Repository
    quantization: Quantization
    uploads: tuple[Upload, ...]
    template_source: str
    settings: ModelSettings

    @property
    def weights(self) -> tuple[Upload, ...]:
        return tuple(upload for upload in self.uploads if upload.is_weights)


def is_native(reference: ModelReference, files: Sequence[RepositoryFile]) -> bool:
    """Whether Ollama pulls this by itself: a GGUF repository, or a GGUF that the tag names in a mixed one."""
    ggufs = [file.path for file in files if file.path.lower().endswith(".gguf")]
    if any(file.path == INDEX or WEIGHTS.fullmatch(file.path) for file in files):
        return any(_names_gguf(reference.tag, path) for path in ggufs)
    return bool(ggufs)


def _names_gguf(tag: str, path: str) -> bool:
    """Whether a tag is a GGUF's file name or its whole quantization label: Q4_K is not Q4_K_M or UD-Q4_K_XL."""
    name = path.rpartition("/")[2]
    if tag.upper() == name.upper():
        return True
    label = rf"(?<![A-Z0-9_])(?<!UD-){re.escape(tag.upper())}(?![A-Z0-9_])"
    return tag.lower() != "latest" and re.search(label, path.upper().removesuffix(".GGUF")) is not None


def choose_quantization(tag: str, default: Quantization) -> Quantization:
    """Read a tag of safetensors. Raises Refusal for what Ollama cannot quantize to."""
    if tag.lower() == "latest":
        return default
    try:
        return Quantization(tag)
    except ValueError:
        raise Refusal(
            f"Ollama cannot quantize to {tag!r}; pull with one of these tags: {', '.join(Quantization)} "
            f"(none means {default})"
        ) from None


def choose_files(repository: Repository, index: bytes | None) -> Selection:
    """The weights of one family, exactly as the index names them, and the companions that Ollama reads.

    Raises Refusal for a repository that cannot become a model, and for an unsafe path in it.
    """
    files = {file.path: file for file in repository.files}
    if index is not None:
        weights = _indexed_weights(repository.id, files, index)
    else:
        weights = _weights_by_name(repository.id, files)
    companions = tuple(files[path] for path in COMPANIONS if path in files)
    for file in (*weights, *companions):
        _check_path(repository.id, file.path)
    if "config.json" not in files:
        raise Refusal(f"{repository.id} has no config.json, which says what architecture the weights are")
    if not any(path in files for path in TOKENIZERS):
        raise Refusal(f"{repository.id} has no tokenizer: Ollama needs one of {' and '.join(TOKENIZERS)}")
    return Selection(weights, companions, files.get(CHAT_TEMPLATE))


def check_readable(repository: str, files: Sequence[RepositoryFile]) -> None:
    """Raises Refusal where files that have to be read whole are too large for that."""
    if sum(file.size for file in files) > READABLE_BYTES:
        largest = max(files, key=lambda file: file.size)
        raise Refusal(
            f"{repository}/{largest.path} has {largest.size} bytes and would have to be read into memory; only a file "
            f"in Git LFS, whose SHA-256 is known beforehand, may have more than {READABLE_BYTES} bytes"
        )


def make_plan(
    reference: ModelReference,
    repository: Repository,
    quantization: Quantization,
    selection: Selection,
    contents: Mapping[str, bytes],
    settings: ModelSettings,
) -> Plan:
    """Put the plan together; `contents` holds what `selection.to_read` asked for, by path."""
    rewritten, template_source = _fold_template(repository.id, contents, settings)
    uploads = [_upload(file, contents.get(file.path), is_weights=True) for file in selection.weights]
    uploads += [
        _upload(file, rewritten if file.path == TOKENIZER_CONFIG else contents.get(file.path), is_weights=False)
        for file in selection.companions
    ]
    if rewritten is not None and TOKENIZER_CONFIG not in contents:
        made = RepositoryFile(TOKENIZER_CONFIG, len(rewritten))
        uploads.append(_upload(made, rewritten, is_weights=False))
    return Plan(reference.name, repository, quantization, tuple(uploads), template_source, settings)


def _weights_by_name(repository: str, files: Mapping[str, RepositoryFile]) -> tuple[RepositoryFile, ...]:
    # All that is uploaded is converted, so two families together make a model that cannot load (v0.24).
    for pattern in ("model", r"model-\d+-of-\d+", "model[^/]*", "consolidated[^/]*"):
        family = [files[path] for path in sorted(files) if re.fullmatch(rf"{pattern}\.safetensors", path)]
        if family:
            return tuple(family)
    raise Refusal(
        f"{repository} has no safetensors weights in its top folder (model*.safetensors); look for a repository of "
        "the same model that has them, or for its GGUF"
    )


def _indexed_weights(repository: str, files: Mapping[str, RepositoryFile], index: bytes) -> tuple[RepositoryFile, ...]:
    where = f"{repository}/{INDEX}"
    weight_map = _json_object(where, index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise Refusal(f"{where} names no shards: it has no weight_map")
    for shard in weight_map.values():
        _check_path(where, shard)
    shards = set(weight_map.values())
    if missing := sorted(shard for shard in shards if shard not in files):
        raise Refusal(f"{where} names {missing[0]}, which the repository does not have; its upload is incomplete")
    if nested := sorted(shard for shard in shards if "/" in shard or not shard.endswith(".safetensors")):
        raise Refusal(f"{where} names {nested[0]}; Ollama reads only *.safetensors in the top folder")
    return tuple(files[shard] for shard in sorted(shards))


def _check_path(where: str, path: object) -> None:
    """A path from outside becomes part of URLs with our token and of file names at Ollama."""
    if (
        not isinstance(path, str)
        or "\\" in path
        or not path.isprintable()
        or any(part in ("", ".", "..") for part in path.split("/"))
    ):
        raise Refusal(f"{where} names an unsafe file, {path!r}; nothing of this repository is fetched")


def _fold_template(repository: str, contents: Mapping[str, bytes], settings: ModelSettings) -> tuple[bytes | None, str]:
    """tokenizer_config.json as it is uploaded, and where the chat template comes from.

    Ollama's converter never reads chat_template.jinja, which newer repositories have instead.
    """
    original = contents.get(TOKENIZER_CONFIG)
    config = _json_object(f"{repository}/{TOKENIZER_CONFIG}", original) if original is not None else {}
    jinja = contents.get(CHAT_TEMPLATE)
    if jinja is not None:
        try:
            config["chat_template"] = jinja.decode()
        except UnicodeDecodeError as error:
            raise Refusal(f"{repository}/{CHAT_TEMPLATE} is not UTF-8 text") from error
        rewritten: bytes | None = json.dumps(config).encode()
    else:
        rewritten = original
    if settings.template is not None:
        return rewritten, "config"
    if jinja is not None:
        return rewritten, CHAT_TEMPLATE
    return rewritten, TOKENIZER_CONFIG if config.get("chat_template") else "none"


def _json_object(where: str, content: bytes) -> dict[str, Any]:
    try:
        # Not orjson: it would round a `model_max_length` of 10**30, which many repositories have.
        value = json.loads(content)
    except ValueError as error:
        raise Refusal(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Refusal(f"{where} is not a JSON object")
    return value


def _upload(file: RepositoryFile, content: bytes | None, *, is_weights: bool) -> Upload:
    if content is None:
        return Upload(file.path, file.size, f"sha256:{file.sha256}", file, is_weights)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return Upload(file.path, len(content), digest, file, is_weights, content)
