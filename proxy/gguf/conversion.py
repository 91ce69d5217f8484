"""Plans the conversion of safetensors to a GGUF: its header, and its data as byte ranges of the source. Pure.

A plan reads no tensor data, and each transform works piece by piece, so a GGUF can be written while its source is
downloaded. Tensors and keys are those of llama.cpp's converter, but for its sampling values and its texts of the model
card: Ollama has parameters and a license beside the GGUF, where a new value moves no weights. The family or the
vocabulary gives the reason for each other deliberate difference.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple

from proxy.gguf.cast import cast
from proxy.gguf.config_checks import check_settings
from proxy.gguf.data_order import aligned, data_order
from proxy.gguf.description import describe, size_label
from proxy.gguf.draft import DraftRequest, has_draft, with_draft
from proxy.gguf.families import FAMILIES
from proxy.gguf.families.common_tensors import DENSE
from proxy.gguf.families.family import Family
from proxy.gguf.header import Field, write_header
from proxy.gguf.keeping import FILE_TYPE, NVFP4, Fallback, choose, try_to_keep
from proxy.gguf.loadable import check_loadable
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.requantize import QUANTIZATION_VERSION
from proxy.gguf.single_numbers import write_numbers
from proxy.gguf.special_tokens import name_for_loader
from proxy.gguf.targets import plan_targets
from proxy.gguf.tensor_sources import MATRIX, FixedBytes, SourceRange, SourceTensor, Target
from proxy.gguf.tensor_types import FILE_TYPES, ModelFacts, quantized_types
from proxy.gguf.tensors import GgufError, TensorInfo, TensorName, TensorType, lay_out, padding, shown
from proxy.gguf.tokenizer_files import TokenizerFiles
from proxy.gguf.transforms import WIDTHS
from proxy.gguf.unpacking import packed_forms, unpack_weights
from proxy.gguf.unread_keys import check_unread_keys
from proxy.gguf.vocabulary import WITHOUT_BOS, write_vocabulary
from proxy.gguf.wordpiece import CASED, UNCASED

AGAIN = frozenset((TensorType.MXFP4,))
"""The types of the GGUF's tensors that may stay as the repository has them, or be quantized again."""


class Nvfp4(NamedTuple):
    """Whether the matrices of a repository that has NVFP4 can stay so."""

    problem: str
    """Why not; empty if they can."""
    size: int
    """Bytes of the GGUF in which they stay; 0 if they cannot."""
    other_header: int
    """Bytes of the header of a GGUF in which they do not stay."""


class Pooling(IntEnum):
    """How the vectors of a text's tokens become one vector; the numbers are llama.cpp's (llama.h)."""

    MEAN = 1
    CLS = 2
    LAST = 3


@dataclass(frozen=True, slots=True)
class Conversion:
    """A whole file: the header with its padding, then the pieces in order."""

    architecture: str
    pre_tokenizer: str
    """llama.cpp's name, or the tokenizer's name if that implies how it splits a text."""
    rope_scaling: str
    """llama.cpp's name; empty without scaling."""
    header: bytes
    pieces: tuple[SourceRange | FixedBytes, ...]
    in_file_order: bool
    """Whether the pieces read each file once, from start to end."""
    tensors: tuple[TensorInfo, ...]
    sources: tuple[TensorInfo, ...]
    """The tensors before quantization."""
    facts: ModelFacts
    quantization: str
    """Of the file: one of FILE_TYPES, or NVFP4."""
    stored_as: tuple[str, ...] = ()
    """How the repository stores weights that it has quantized and that do not stay so, such as `FP8`."""
    nvfp4: Nvfp4 | None = None
    """None if the repository has no matrices in NVFP4."""
    warnings: tuple[str, ...] = ()
    """How llama.cpp's result differs from the authors' model."""
    draft_layers: int = 0
    """How many layers for multi-token prediction the GGUF has."""
    draft_problem: str = ""
    """Why such layers were left out although they were asked for; empty if the repository has none."""

    @property
    def size(self) -> int:
        return len(self.header) + sum(piece.size for piece in self.pieces)

    @property
    def parameters(self) -> int:
        return sum(tensor.numbers for tensor in self.sources)


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """Metadata from outside config.json."""

    name: str
    """The repository's, without its owner."""
    chat_template: str | None = None
    adds_bos: bool | None = None
    """Whether llama.cpp puts BOS before each text; None leaves it to the tokenizer files."""
    sample: str = ""
    """A conversation as the chat template renders it."""
    pooling: Pooling | None = None
    """Set for an embedding model."""
    draft: DraftRequest | None = None
    """Set if layers for multi-token prediction are to be kept."""


def convert(
    config: Mapping[str, object],
    files: Mapping[str, bytes],
    weights: Mapping[str, Mapping[str, SourceTensor]],
    description: ModelDescription,
    *,
    quantization: str | Fallback | None = None,
) -> Conversion:
    """Plan the GGUF of a repository. `files` are the tokenizer files by path, `weights` the tensors by path and name.

    `quantization` is one of FILE_TYPES, or NVFP4 for a repository that has it (`keeping.py`); without it, matrices keep
    their type. The quantized file is bit by bit what llama-quantize makes of the unquantized one, with two exceptions:
    a few tensors get the higher precision that Ollama 0.33 gives them, and calculated tensors are rounded only once.
    The data keeps the order of the source unless a tensor is made of several. Layers for multi-token prediction that
    `description.draft` asks for, and that cannot be kept, are left out: `Conversion.draft_problem` has the reason.

    Raises CannotConvert, CannotKeep for NVFP4 that cannot stay, or GgufError for a value that no GGUF can hold.
    """
    model = _Model.read(config, description)
    names = (name for tensors in weights.values() for name in tensors)
    if description.draft is None or not has_draft(model.family, model.settings, names):
        return _convert(model, files, weights, description, quantization)
    try:
        with_layer = model._replace(family=with_draft(model.family, model.settings, description.draft))
        return _convert(with_layer, files, weights, description, quantization)
    except GgufError as error:
        problem = str(error)
    return replace(_convert(model, files, weights, description, quantization), draft_problem=problem)


class _Model(NamedTuple):
    """What config.json selects."""

    family: Family
    settings: ModelConfig
    """config.json with the family's defaults."""
    config: Mapping[str, object]

    @classmethod
    def read(cls, config: Mapping[str, object], description: ModelDescription) -> "_Model":
        names = config.get("architectures")
        name = names[0] if isinstance(names, list) and names else None
        family = FAMILIES.get(name) if isinstance(name, str) else None
        if family is None:
            raise CannotConvert(f"config.json has the unknown architecture {shown(name)}")
        # An embedding model needs no output matrix and may have none: its embeddings count as the output.
        settings = family.config(config if description.pooling is None else {**config, "tie_word_embeddings": True})
        return cls(family.resolve(settings), settings, config)


def _convert(
    model: _Model,
    files: Mapping[str, bytes],
    weights: Mapping[str, Mapping[str, SourceTensor]],
    description: ModelDescription,
    quantization: str | Fallback | None,
) -> Conversion:
    family, settings, config = model
    weights = unpack_weights(settings, weights)
    forms = packed_forms(weights)
    check_settings(family, settings, weights)
    targets = plan_targets(family, settings, weights)
    sources = tuple(target.info for target in targets)
    if family.keeps_experts(config) and all(source.type != TensorType.MXFP4 for source in sources):
        raise CannotConvert("config.json has experts in MXFP4 (FP4), and the weights have none")
    kept, problem = try_to_keep(family.architecture, forms, targets)
    quantization = choose(quantization, problem)
    file_type = quantization or _file_type(weights, sources)
    tokenizer = TokenizerFiles.read(files)
    metadata = {
        **_general(family, description, sources, FILE_TYPE if file_type == NVFP4 else FILE_TYPES[file_type].number),
        **_model_metadata(family, settings, tokenizer, description, sources),
        **dict(write_numbers(family, settings, weights)),
    }
    name = name_for_loader(str(metadata["general.name"].value), tokenizer, metadata["tokenizer.ggml.tokens"])
    metadata["general.name"] = Field.string(name)
    check_loadable(family, metadata, sources)
    caveats = [*filter(None, [family.caveat(settings)]), *family.tokenizer_caveats(tokenizer)]
    caveats += check_unread_keys(family, settings, config)
    facts = ModelFacts.of(metadata)
    targets = kept if quantization == NVFP4 else _quantized(targets, quantization, facts)
    scaling = metadata.get(f"{family.architecture}.rope.scaling.type")
    order = data_order(targets, list(weights))
    placed = lay_out(target.info for target in order)
    return Conversion(
        family.architecture,
        _pre_tokenizer(metadata),
        str(scaling.value) if scaling else "",
        write_header(metadata, placed),
        tuple(aligned(order)),
        all(target.is_in_order for target in targets),
        placed,
        sources,
        facts,
        file_type,
        _stored_as(forms, sources, targets),
        _nvfp4(metadata, kept, sources, problem) if NVFP4 in forms else None,
        tuple(caveats),
        family.draft_layers,
    )


def _quantized(targets: list[Target], quantization: str | None, facts: ModelFacts) -> list[Target]:
    if quantization is None:
        return targets
    infos = [target.info for target in targets]
    types = quantized_types(quantization, facts, infos, as_ollama=True, again=AGAIN)
    return [cast(target, types[target.info.name]) for target in targets]


def _stored_as(forms: Sequence[str], sources: Sequence[TensorInfo], targets: Sequence[Target]) -> tuple[str, ...]:
    """The forms of quantized weights that do not stay as they are."""
    types = {target.info.name: target.info.type for target in targets}
    changed = {TensorType(source.type).name for source in sources if source.type in AGAIN - {types[source.name]}}
    stay = {NVFP4} if TensorType.NVFP4 in types.values() else set()
    return tuple(sorted({*forms, *changed} - stay))


def _nvfp4(metadata: Mapping[str, Field], kept: Sequence[Target], sources: Sequence[TensorInfo], problem: str) -> Nvfp4:
    header, size = _sizes(metadata, [target.info for target in kept])
    return Nvfp4(problem, 0 if problem else header + size, _sizes(metadata, sources)[0])


def _sizes(metadata: Mapping[str, Field], infos: Iterable[TensorInfo]) -> tuple[int, int]:
    """The bytes of the header and of the data of a GGUF."""
    placed = lay_out(infos)
    return len(write_header(metadata, placed)), sum(info.size + padding(info.size) for info in placed)


def _model_metadata(
    family: Family,
    config: ModelConfig,
    files: TokenizerFiles,
    description: ModelDescription,
    infos: Sequence[TensorInfo],
) -> dict[str, Field]:
    metadata = {
        **_hyperparameters(family, config),
        **_dense(family, infos),
        **write_vocabulary(family, config, files, description.chat_template, description.sample),
    }
    if description.pooling is not None:
        metadata[f"{family.architecture}.pooling_type"] = Field.uint32(description.pooling)
    if description.adds_bos is not None and metadata["tokenizer.ggml.model"].value not in WITHOUT_BOS:
        metadata["tokenizer.ggml.add_bos_token"] = Field.boolean(description.adds_bos)
    return metadata


def _pre_tokenizer(metadata: Mapping[str, Field]) -> str:
    if metadata["tokenizer.ggml.model"].value != "bert":
        return str(metadata.get("tokenizer.ggml.pre", metadata["tokenizer.ggml.model"]).value)
    lowercase = metadata.get("tokenizer.ggml.normalizer.lowercase")
    return CASED if lowercase is not None and lowercase.value is False else UNCASED


def _hyperparameters(family: Family, config: ModelConfig) -> dict[str, Field]:
    fields = {}
    for write in family.hyperparameters:
        for key, value in write(config):
            fields[f"{family.architecture}.{key}"] = value
    return fields


def _dense(family: Family, infos: Iterable[TensorInfo]) -> dict[str, Field]:
    """The input and output sizes of the matrices after the pooling."""
    fields = {}
    for info in infos:
        stem = TensorName.of(info.name).stem
        if stem in DENSE:
            for end, size in zip(("in", "out"), info.shape, strict=True):
                fields[f"{family.architecture}.{stem}_feat_{end}"] = Field.uint32(size)
    return fields


def _general(
    family: Family, description: ModelDescription, infos: Sequence[TensorInfo], file_type: int
) -> dict[str, Field]:
    parameters = sum(info.numbers for info in infos)
    return {
        "general.architecture": Field.string(family.architecture),
        "general.type": Field.string("model"),
        **describe(description.name, parameters, size_label(infos)),
        "general.file_type": Field.uint32(file_type),
        "general.quantization_version": Field.uint32(QUANTIZATION_VERSION),
    }


def _file_type(weights: Mapping[str, Mapping[str, SourceTensor]], sources: Sequence[TensorInfo]) -> str:
    """MXFP4's if any tensor has this type, else the type of the first matrix by path and name."""
    if any(source.type == TensorType.MXFP4 for source in sources):
        return "MXFP4_MOE"
    for path in sorted(weights):
        for _, tensor in sorted(weights[path].items()):
            if len(tensor.shape) >= MATRIX and tensor.dtype in WIDTHS:
                return tensor.dtype
    return "F32"
