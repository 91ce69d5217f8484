"""Plans the GGUF of a projector: the encoders of images and sounds of a model, with their connectors. Pure.

llama.cpp loads it beside the text model (`--mmproj`), and Ollama as a layer of its own. Tensors and keys are those of
llama.cpp's converter (`--mmproj`, b11434), but for its texts of the model card, as in `conversion.py`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from proxy.gguf.apply_rules import apply
from proxy.gguf.cast import cast
from proxy.gguf.data_order import aligned, data_order
from proxy.gguf.description import describe, size_label
from proxy.gguf.families.rules import Copy, Rule, output_names
from proxy.gguf.header import Field, write_header
from proxy.gguf.ignored_keys import is_harmless
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.projectors.shapes import check_shapes
from proxy.gguf.projectors.tower import Tower
from proxy.gguf.requantize import QUANTIZATION_VERSION
from proxy.gguf.tensor_sources import (
    MATRIX,
    TYPES,
    FixedBytes,
    LocatedTensor,
    MatchedTensor,
    SourceRange,
    SourceTensor,
    Target,
)
from proxy.gguf.tensor_types import FILE_TYPES
from proxy.gguf.tensors import BLOCKS, TensorInfo, TensorType, lay_out, shown
from proxy.gguf.unpacking import unpack_weights

TYPES_OF_FILES = ("F16", "Q8_0", "BF16", "F32")
"""What a projector's matrices may be."""
_ENDS = (".weight", ".bias")
_NUMBER = re.compile(r"(?<![^.])(0|[1-9][0-9]{0,4})(?![^.])")
_KERNELS = (".patch_embd.weight", ".patch_merger.weight")
"""Kernels of convolutions: F16 in a file of F16, else F32."""
_SET_TYPE = "set pull.projector to {}"
_POSITIONS = ("v.position_embd.weight", "a.position_embd.weight")


class NoTowers(CannotConvert):
    """The weights have no tensor of any tower."""


@dataclass(frozen=True, slots=True)
class Projection:
    """A whole file: the header with its padding, then the pieces in order."""

    kinds: tuple[str, ...]
    """llama.cpp's names of the projectors."""
    header: bytes
    pieces: tuple[SourceRange | FixedBytes, ...]
    abilities: tuple[str, ...] = ()
    """`see` and `hear`."""
    warnings: tuple[str, ...] = ()
    """How llama.cpp's result differs from the authors' model."""

    @property
    def size(self) -> int:
        return len(self.header) + sum(piece.size for piece in self.pieces)


def project(
    towers: Sequence[Tower],
    config: Mapping[str, object],
    images: Mapping[str, object],
    weights: Mapping[str, Mapping[str, SourceTensor]],
    description: tuple[str, str],
) -> Projection:
    """Plan the projector of a repository. `images` is what preprocessor_config.json and processor_config.json say.

    `description` has the name of the repository, without its owner, and the type of the matrices, of TYPES_OF_FILES.
    Raises NoTowers, CannotConvert, or GgufError for a value that no GGUF can hold.
    """
    name, file_type = description
    keys: dict[str, Field] = {}
    targets: list[Target] = []
    caveats: list[str] = []
    towers = _present(towers, config)
    unpacked = unpack_weights(ModelConfig(config), weights)
    for tower in towers:
        located = _tensors_of(tower, unpacked)
        settings = tower.config(config, images)
        _check_settings(tower, settings)
        keys |= {f"clip.{key}": value for write in tower.keys for key, value in write(settings)}
        made = _targets(tower, settings, located)
        targets += [cast(target, _type(tower, target.info, file_type), _SET_TYPE) for target in made]
        caveats += filter(None, [tower.caveat(settings), *_unread(tower, config, settings)])
    infos = [target.info for target in targets]
    check_shapes(keys, infos, {key: shape for tower in towers for key, shape in tower.shapes.items()})
    metadata = {
        "general.architecture": Field.string("clip"),
        "general.type": Field.string("mmproj"),
        **describe(name, sum(info.numbers for info in infos), size_label(infos)),
        "general.file_type": Field.uint32(FILE_TYPES[file_type].number),
        "general.quantization_version": Field.uint32(QUANTIZATION_VERSION),
        **keys,
    }
    order = data_order(targets, list(weights))
    header = write_header(metadata, lay_out(target.info for target in order))
    kinds, abilities = tuple(tower.kind for tower in towers), tuple(tower.ability for tower in towers)
    return Projection(kinds, header, tuple(aligned(order)), abilities, tuple(caveats))


def _present(towers: Sequence[Tower], config: Mapping[str, object]) -> Sequence[Tower]:
    """The towers that config.json describes; all if it describes none, so that the first is refused."""
    return [tower for tower in towers if config.get(tower.section) is not None] or towers


def _check_settings(tower: Tower, settings: ModelConfig) -> None:
    for key, values in tower.accepted_values.items():
        if (value := settings.find(key)) not in values:
            raise CannotConvert(f"config.json has {tower.section}.{key} = {shown(value)}, unknown for {tower.kind}")


def _unread(tower: Tower, config: Mapping[str, object], settings: ModelConfig) -> Iterator[str]:
    """A warning for a key of the tower's object that nothing has read."""
    known = settings.read_keys | tower.accepted_values.keys() | tower.harmless_keys
    own = config.get(tower.section)
    for key, value in own.items() if isinstance(own, dict) else ():
        if tower.key_aliases.get(key, key) not in known and not is_harmless(key) and value and value != 1:
            yield f"config.json has {tower.section}.{key} = {shown(value)}, unknown for {tower.kind}"


def _tensors_of(tower: Tower, weights: Mapping[str, Mapping[str, SourceTensor]]) -> list[LocatedTensor]:
    """The tower's tensors, under the names that its rules use."""
    located = []
    for path, tensors in weights.items():
        for source_name, source in tensors.items():
            name = source_name
            for start, inside in tower.prefix_aliases.items():
                if name.startswith(start):
                    name = inside + name.removeprefix(start)
                    break
            if name.startswith(tower.skipped_prefixes):
                continue
            if name.startswith(tower.prefixes) or name in tower.tensors:
                located.append(LocatedTensor(path, name, source))
    if not any(one.name.startswith(tower.prefixes) for one in located):
        raise NoTowers(f"the weights have no tensor whose name begins with {' or '.join(tower.prefixes)}")
    return located


def _targets(tower: Tower, config: ModelConfig, tensors: Iterable[LocatedTensor]) -> list[Target]:
    targets: list[Target] = []
    for tensor in tensors:
        rule, matched = _match(tower, config, tensor)
        targets += apply(rule, config, matched)
    _check_complete(tower, config, [target.info.name for target in targets])
    return targets


def _match(tower: Tower, config: ModelConfig, tensor: LocatedTensor) -> tuple[Rule, MatchedTensor]:
    """The rule for a tensor. Raises CannotConvert if there is none."""
    if tensor.dtype not in TYPES:
        raise CannotConvert(f"{shown(tensor.name)} is of the type {tensor.dtype}, not one of {', '.join(TYPES)}")
    end = next((end for end in _ENDS if tensor.name.endswith(end)), "")
    for stem, suffix in ((tensor.name.removesuffix(end), end), (tensor.name, "")):
        layer = _NUMBER.search(stem)
        for key, numbers in ((stem, ()), (_NUMBER.sub("{}", stem, count=1), (int(layer[1]),) if layer else ())):
            if (rule := tower.tensors.get(key)) is not None:
                in_gguf = _renumbered(tower, config, key, numbers)
                matched = MatchedTensor(tensor.path, tensor.name, tensor.source, in_gguf, suffix)
                return Copy(rule) if isinstance(rule, str) else rule, matched
    raise CannotConvert(f"the tensor {shown(tensor.name)} is unknown for {tower.kind}")


def _renumbered(tower: Tower, config: ModelConfig, key: str, numbers: tuple[int, ...]) -> tuple[int, ...]:
    """The number in the GGUF for that in a name of the weights."""
    if key not in tower.numbers:
        return numbers
    inside = tower.numbers[key](config)
    if numbers[0] >= len(inside):
        raise CannotConvert(f"the weights have {key.format(*numbers)}, but config.json has only {len(inside)} of them")
    return (inside[numbers[0]],)


def _check_complete(tower: Tower, config: ModelConfig, names: Iterable[str]) -> None:
    """Raises CannotConvert for a tensor that is missing, comes twice, or that llama.cpp would not load.

    Of a layer's biases either all are there or none.
    """
    made = list(names)
    present, absent = set(made), tower.absent_tensors(config)
    if len(made) != len(present):
        raise CannotConvert(f"two tensors of the weights become {next(one for one in made if made.count(one) > 1)}")
    for key, rule in tower.tensors.items():
        for name in output_names(key, rule):
            numbers = tower.numbers[key](config) if key in tower.numbers else range(config.blocks)
            weights = {name.format(number) for number in (numbers if "{}" in name else (0,))}
            if name.removesuffix(".weight") in absent:
                if surplus := weights & present:
                    raise CannotConvert(f"the weights have what becomes {min(surplus)}, against config.json")
                continue
            if name.removesuffix(".weight") not in tower.optional_tensors and (missing := weights - present):
                raise CannotConvert(f"the weights have nothing that becomes {min(missing)}")
            biases = {one.removesuffix("weight") + "bias" for one in weights} & present
            if biases and name.removesuffix(".weight") in tower.without_bias:
                raise CannotConvert(f"the weights have {min(biases)}, which llama.cpp does not load for {tower.kind}")
            if biases and len(biases) != len(weights & present):
                raise CannotConvert(f"the weights have {min(biases)}, but not this bias of all layers")


def _type(tower: Tower, info: TensorInfo, file_type: str) -> TensorType:
    """The type that llama.cpp's converter gives a tensor (ModelBase.prepare_tensors)."""
    name, wanted = info.name, TensorType[file_type]
    if len(info.shape) < MATRIX or name.endswith("_norm.weight"):
        return TensorType.F32
    for kind, patterns in ((TensorType.F32, tower.f32), (TensorType.F16, tower.f16)):
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            return kind
    if any(kernel in name for kernel in _KERNELS):
        return TensorType.F16 if wanted is TensorType.F16 else TensorType.F32
    if name in _POSITIONS or not name.endswith(".weight"):
        return TensorType.F32
    return wanted if info.shape[0] % BLOCKS[wanted][0] == 0 else TensorType.F16
