"""A repository of safetensors as a GGUF: its header, and the recipe of its data out of byte ranges. Pure.

Nothing of a tensor is read to plan it, and what is transformed goes through in pieces, so a GGUF can be written while
its source comes in. The tensors and keys are those of llama.cpp's converter; where they differ on purpose, the family
or the vocabulary says why.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

from proxy.gguf.config import CannotConvert, Config
from proxy.gguf.families import FAMILIES
from proxy.gguf.families.rules import Absorbed, Copy, Family, Grouped, Raised, Rule, Split, Stacked, Turned
from proxy.gguf.header import Field, Kind, write_header
from proxy.gguf.tensors import TensorInfo, TensorType, lay_out, padding, shown
from proxy.gguf.transforms import WIDTHS, Transform, chained, increased, interleaved, transposed, widened
from proxy.gguf.vocabulary import write_vocabulary

BLOCK = "blk."
_TYPES = {"F32": TensorType.F32, "F16": TensorType.F16, "BF16": TensorType.BF16}
_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}
_QUANTIZATION_VERSION = 2
_ALWAYS_F32 = ("ffn_gate_inp", "ffn_gate_inp_shexp", "position_embd", "token_types")
"""Matrices that llama.cpp keeps in F32, by the last part of their names; its norms and vectors are too."""
_NOT_NEEDED = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")
_MATRIX, _CUBE = 2, 3
_SUFFIXES = ("weight", "bias")
_SAMPLING = {
    "top_k": ("top_k", False),
    "top_p": ("top_p", True),
    "min_p": ("min_p", True),
    "temperature": ("temp", True),
    "penalty_last_n": ("penalty_last_n", False),
    "penalty_repeat": ("penalty_repeat", True),
}
"""Keys of generation_config.json, and after `general.sampling.` those of a GGUF; which are fractions."""


class Source(Protocol):
    """A tensor in a safetensors file: offsets count from the file's start."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes from offset `start` up to `stop` of a file. `becomes` is how many a `transform` makes of them."""

    path: str
    start: int
    stop: int
    transform: Transform | None = None
    becomes: int | None = None

    @property
    def size(self) -> int:
        return self.stop - self.start if self.becomes is None else self.becomes


@dataclass(frozen=True, slots=True)
class Made:
    """Bytes that stand in no file: a calculated tensor, or the zeros behind one that is not aligned."""

    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)


@dataclass(frozen=True, slots=True)
class Conversion:
    """A whole file: the header's bytes with their padding, then the pieces in order.

    `in_file_order` says whether the pieces go through each file once, from its beginning.
    """

    architecture: str
    header: bytes
    pieces: tuple[Piece | Made, ...]
    in_file_order: bool

    @property
    def size(self) -> int:
        return len(self.header) + sum(piece.size for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Description:
    """What the GGUF says of itself beyond config.json; `chat_template` is the chosen one."""

    name: str
    license: str | None = None
    chat_template: str | None = None
    generation: Mapping[str, object] | None = None
    """The fields of generation_config.json."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a source tensor lies."""

    path: str
    name: str
    source: Source

    @property
    def rows(self) -> int:
        return self.source.shape[0] if self.source.shape else 0

    @property
    def row(self) -> int:
        """The bytes of one row."""
        return (self.source.stop - self.source.start) // self.rows if self.rows else 0

    def piece(self, first: int = 0, last: int | None = None, row: int | None = None) -> Piece:
        """The rows from `first` up to `last`."""
        row = self.row if row is None else row
        start = self.source.start + first * row
        return Piece(self.path, start, self.source.stop if last is None else self.source.start + last * row)


@dataclass(frozen=True, slots=True)
class _Target:
    """A tensor of the GGUF and what it is made of; `shape` begins with the length of a row."""

    info: TensorInfo
    pieces: tuple[Piece | Made, ...]
    sources: int = 1

    @property
    def block(self) -> int | None:
        name = self.info.name
        return int(name.split(".")[1]) if name.startswith(BLOCK) else None


def convert(
    config: Mapping[str, object],
    files: Mapping[str, bytes],
    weights: Mapping[str, Mapping[str, Source]],
    description: Description,
    *,
    for_ollama_quantizer: bool = False,
    for_ollama_quantizer_below_0_30: bool = False,
) -> Conversion:
    """Plan the GGUF of a repository. `files` are the tokenizer's by path, `weights` the tensors by path and name.

    The data keeps the order of the source where no tensor is made of several. For the quantizer of Ollama before 0.30
    the header lists the tensors by block instead, as Ollama's own converter does, since it hands out the precise types
    in this order; such a file can be quantized, but not loaded. A file of F32 says that it is of F16 for any quantizer
    of Ollama's, which takes F32's number, 0, for none: "quantization is only supported for F16, BF16 and F32 models".

    Raises CannotConvert, or GgufError for a value that no GGUF can hold.
    """
    family = _family(config)
    settings = family.config(config)
    _check_settings(family, settings)
    targets = _targets(family, settings, weights)
    order = _data_order(targets, list(weights))
    file_type, quantized = _file_type(weights), for_ollama_quantizer or for_ollama_quantizer_below_0_30
    in_order = all(target.sources == 1 for target in targets)
    metadata = {
        **_general(family, description, [target.info for target in targets]),
        "general.file_type": Field.uint32(max(file_type, quantized and _FILE_TYPES["F16"])),
        "general.quantization_version": Field.uint32(_QUANTIZATION_VERSION),
        **_hyperparameters(family, settings),
        **write_vocabulary(family, settings, files, description.chat_template),
    }
    placed = lay_out(target.info for target in order)
    listed = sorted(placed, key=_ollama_order) if for_ollama_quantizer_below_0_30 else placed
    pieces: list[Piece | Made] = []
    for target in order:
        pieces += target.pieces
        if gap := padding(target.info.size):
            pieces.append(Made(bytes(gap)))
    return Conversion(family.architecture, write_header(metadata, listed), tuple(pieces), in_order)


def _family(config: Mapping[str, object]) -> Family:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise CannotConvert(f"config.json has the unknown architecture {shown(name)}")
    return family


def _check_settings(family: Family, config: Config) -> None:
    kind = config.rope.get("rope_type", "default")
    if kind is not None and (not isinstance(kind, str) or kind not in family.ropes):
        raise CannotConvert(f"config.json has a rope scaling of the type {shown(kind)}, unknown for this architecture")
    if config.find("quantization_config"):
        raise CannotConvert("config.json has a quantization_config: these weights are quantized already")
    for key, values in family.only.items():
        if config.find(key) not in values:
            raise CannotConvert(f"config.json has {key} = {shown(config.find(key))}, unknown for this architecture")
    uneven = config.find("head_dim") is None and config.hidden % config.heads
    if uneven or config.heads % config.kv_heads or config.head_size % 2 or not config.head_size:
        raise CannotConvert(
            f"config.json has hidden_size = {config.hidden}, num_attention_heads = {config.heads}, "
            f"num_key_value_heads = {config.kv_heads} and heads of {config.head_size}, which do not fit each other"
        )


def _hyperparameters(family: Family, config: Config) -> dict[str, Field]:
    fields = {}
    for write in family.hyperparameters:
        for key, field in write(config):
            fields[f"{family.architecture}.{key}"] = field
    return fields


def _general(family: Family, description: Description, infos: Sequence[TensorInfo]) -> dict[str, Field]:
    fields = {"general.architecture": Field.string(family.architecture), "general.type": Field.string("model")}
    for key, (name, fraction) in _SAMPLING.items():
        value = (description.generation or {}).get(key)
        if isinstance(value, int | float) and type(value) in ((int, float) if fraction else (int,)):
            kind = Kind.FLOAT32 if fraction else Kind.INT32
            fields[f"general.sampling.{name}"] = Field.of(kind, value)
    fields["general.name"] = Field.string(description.name)
    fields["general.size_label"] = Field.string(_size_label(infos))
    if description.license is not None:
        fields["general.license"] = Field.string(description.license)
    return fields


def _file_type(weights: Mapping[str, Mapping[str, Source]]) -> int:
    """After the first matrix by path and name."""
    for path in sorted(weights):
        for _, tensor in sorted(weights[path].items()):
            if len(tensor.shape) >= _MATRIX and tensor.dtype in _FILE_TYPES:
                return _FILE_TYPES[tensor.dtype]
    return _FILE_TYPES["F32"]


def _size_label(infos: Sequence[TensorInfo]) -> str:
    """As `1.2B`, or with the number of experts as `8x1.2B`: of one expert and all that they share."""
    shared = expert = counts = stacks = 0
    for info in infos:
        size = prod(info.shape)
        if "_exps." in info.name:
            expert += size // info.shape[-1]
            counts += info.shape[-1]
            stacks += 1
        else:
            shared += size
    label = _rounded(shared + expert)
    return f"{counts // stacks}x{label}" if stacks else label


def _rounded(parameters: int) -> str:
    for limit, factor, suffix in ((1e12, 1e-12, "T"), (1e9, 1e-9, "B"), (1e6, 1e-6, "M"), (-1.0, 1e-3, "K")):
        if parameters > limit:
            value = parameters * factor
            digits = max(2 - len(str(round(value)).lstrip("0")), 0)
            return f"{value:.{digits}f}{suffix}"
    raise AssertionError


def _targets(family: Family, config: Config, weights: Mapping[str, Mapping[str, Source]]) -> list[_Target]:
    stacks: dict[str, dict[int, _Place]] = {}
    rules: dict[str, Stacked] = {}
    targets = [_made(name, content) for name, content in family.made(config).items()]
    for path, tensors in weights.items():
        for name, source in tensors.items():
            if name.endswith(_NOT_NEEDED) or (config.tied and name.startswith("lm_head.")):
                continue
            place = _Place(path, name, source)
            if family.extra_layers and _layer(name) >= config.blocks:
                continue
            rule, numbers, suffix = _rule(family, place)
            if numbers and numbers[0] >= config.blocks:
                raise CannotConvert(f"{name} is of a layer that num_hidden_layers = {config.blocks} does not count")
            if isinstance(rule, Stacked):
                whole = rule.name.format(numbers[0]) + suffix
                rules[whole] = rule
                stacks.setdefault(whole, {})[numbers[1]] = place
            else:
                targets += _apply(rule, config, place, numbers, suffix)
    targets += [_stack(name, rules[name].count(config), places) for name, places in stacks.items()]
    _check_complete(config, [target.info.name for target in targets])
    return targets


def _rule(family: Family, place: _Place) -> tuple[Rule, list[int], str]:
    """The family's rule for a tensor, the numbers in its name, and the end that its new name has."""
    if place.source.dtype not in _TYPES:
        raise CannotConvert(f"{place.name} is of the type {place.source.dtype}, not one of {', '.join(_TYPES)}")
    parts = place.name.split(".")
    numbers = [int(part) for part in parts if _is_number(part)]
    stem, _, end = ".".join("{}" if _is_number(part) else part for part in parts).rpartition(".")
    rule = family.tensors.get(stem) if end in _SUFFIXES else None
    if rule is None and (rule := family.tensors.get(f"{stem}.{end}")) is not None:
        # transformers 5's experts and DeepSeek's router have parameters that are of no layer.
        end = "bias" if end.endswith("bias") else "weight"
    if rule is None or prod(place.source.shape) == 0:
        raise CannotConvert(f"the tensor {shown(place.name)} is unknown for this architecture")
    return Copy(rule) if isinstance(rule, str) else rule, numbers, f".{end}"


def _layer(name: str) -> int:
    """The first number in a name; -1 for none."""
    return next((int(part) for part in name.split(".") if _is_number(part)), -1)


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdecimal() and len(part) < 6  # noqa: PLR2004 - no model has as many of anything


def _apply(rule: Rule, config: Config, place: _Place, numbers: list[int], suffix: str) -> list[_Target]:
    shape = place.source.shape
    match rule:
        case Copy(name):
            return [_target(name.format(*numbers) + suffix, shape, place, [place.piece()])]
        case Raised(name) if suffix == ".bias":
            return [_target(name.format(*numbers) + suffix, shape, place, [place.piece()])]
        case Raised(name):
            info = TensorInfo(name.format(*numbers) + suffix, shape[::-1], TensorType.F32)
            return [
                _Target(info, (replace(place.piece(), transform=increased(place.source.dtype), becomes=info.size),))
            ]
        case Turned(name, heads):
            rows = _rows_of_head(place, heads(config))
            return [_target(name.format(*numbers) + suffix, shape, place, [place.piece()], turned=rows)]
        case Split(parts):
            return _split(parts, config, place, numbers, suffix)
        case Grouped(name):
            pieces = list(_grouped(place, rule.groups(config), rule.heads(config)))
            return [_target(name.format(*numbers) + suffix, shape, place, pieces)]
        case Absorbed(key, value):
            return _absorbed(config, place, key.format(*numbers) + suffix, value.format(*numbers) + suffix)
        case Stacked():
            raise AssertionError


def _target(
    name: str, shape: Sequence[int], place: _Place, pieces: Sequence[Piece], turned: int | None = None
) -> _Target:
    """A tensor that keeps its type, or becomes F32 where llama.cpp wants that; `turned` is how many rows a head has."""
    dtype = place.source.dtype
    wide = _is_wide(name, shape)
    steps: list[Transform] = []
    if turned is not None:
        steps.append(interleaved(place.row, turned))
    if wide and dtype != "F32":
        steps.append(widened(dtype))
    info = TensorInfo(name, tuple(reversed(shape)), TensorType.F32 if wide else _TYPES[dtype])
    factor = WIDTHS["F32"] // WIDTHS[dtype] if wide else 1
    transform = chained(steps)
    if transform is not None:
        pieces = [replace(piece, transform=transform, becomes=piece.size * factor) for piece in pieces]
    return _Target(info, tuple(pieces), len(pieces))


def _is_wide(name: str, shape: Sequence[int]) -> bool:
    stem, _, end = name.rpartition(".")
    return (
        len(shape) < _MATRIX or name.endswith("_norm.weight") or end != "weight" or stem.split(".")[-1] in _ALWAYS_F32
    )


def _made(name: str, content: bytes) -> _Target:
    return _Target(TensorInfo(name, (len(content) // 4,), TensorType.F32), (Made(content),))


def _rows_of_head(place: _Place, heads: int) -> int:
    if not heads or place.rows % (2 * heads):
        raise CannotConvert(f"{place.name} has {place.rows} rows, which {heads} heads cannot share")
    return place.rows // heads


def _split(
    parts: Sequence[tuple[str, object]], config: Config, place: _Place, numbers: list[int], suffix: str
) -> list[_Target]:
    """By rows, of each matrix where there are several."""
    shape = place.source.shape
    matrices = shape[0] if len(shape) == _CUBE else 1
    rows = shape[-2] if len(shape) >= _MATRIX else shape[0]
    sizes = [size(config) for _, size in parts if callable(size)]
    if sum(sizes) != rows or len(shape) > _CUBE:
        raise CannotConvert(f"{place.name} has the shape {list(shape)}, not {' + '.join(map(str, sizes))} rows")
    row = (place.source.stop - place.source.start) // (matrices * rows)
    made, first = [], 0
    for (name, _), size in zip(parts, sizes, strict=True):
        pieces = [place.piece(at * rows + first, at * rows + first + size, row) for at in range(matrices)]
        part = (*shape[:-2], size, *shape[-1:]) if len(shape) >= _MATRIX else (size,)
        target = _target(name.format(*numbers) + suffix, part, place, pieces)
        made.append(replace(target, sources=matrices))
        first += size
    return made


def _grouped(place: _Place, groups: int, heads: int) -> Iterator[Piece]:
    """`groups` of heads, each its Q and then one K and one V: the Q of all, the K of all, the V of all."""
    each = heads // groups if groups else 0
    if not each or heads % groups or place.rows % (groups * (each + 2)):
        raise CannotConvert(f"{place.name} has {place.rows} rows, which {heads} heads in {groups} groups cannot share")
    size = place.rows // (groups * (each + 2))
    for first, last in ((0, each), (each, each + 1), (each + 1, each + 2)):
        for group in range(groups):
            start = group * (each + 2)
            yield place.piece((start + first) * size, (start + last) * size)


def _absorbed(config: Config, place: _Place, key: str, value: str) -> list[_Target]:
    heads, rank = config.heads, place.source.shape[-1]
    keys, values = config.positive("qk_nope_head_dim"), config.positive("v_head_dim")
    if len(place.source.shape) != _MATRIX or place.rows != heads * (keys + values):
        raise CannotConvert(
            f"{place.name} has the shape {list(place.source.shape)}, not {heads} heads of {keys + values}"
        )
    width, each = WIDTHS[place.source.dtype], keys + values
    kind = _TYPES[place.source.dtype]
    key_pieces = [
        replace(place.piece(head * each, head * each + keys), transform=transposed(keys, rank, width))
        for head in range(heads)
    ]
    value_pieces = [place.piece(head * each + keys, (head + 1) * each) for head in range(heads)]
    return [
        _Target(TensorInfo(key, (keys, rank, heads), kind), tuple(key_pieces), heads),
        _Target(TensorInfo(value, (rank, values, heads), kind), tuple(value_pieces), heads),
    ]


def _stack(name: str, count: int, places: Mapping[int, _Place]) -> _Target:
    if len(places) != count or max(places) >= count:
        raise CannotConvert(f"{name} is made of {count} tensors, but {len(places)} are there")
    ordered = [places[number] for number in range(count)]
    first = ordered[0].source
    for place in ordered:
        if (place.source.shape, place.source.dtype) != (first.shape, first.dtype):
            raise CannotConvert(f"{place.name} differs from {ordered[0].name} in shape or type")
    return _target(name, (count, *first.shape), ordered[0], [place.piece() for place in ordered])


def _check_complete(config: Config, names: Iterable[str]) -> None:
    """A shard that is missing would make a file that cannot be loaded."""
    blocks: dict[int, set[str]] = {number: set() for number in range(config.blocks)}
    others = set()
    for name in names:
        if name.startswith(BLOCK):
            _, block, rest = name.split(".", 2)
            if not rest.startswith(("ffn_", "exp_probs")):  # layers with experts differ from those without
                blocks[int(block)].add(rest)
        else:
            others.add(name)
    wanted = {"token_embd.weight", "output_norm.weight"} if "output_norm.weight" in others else {"token_embd.weight"}
    if not config.tied:
        wanted.add("output.weight")
    if missing := wanted - others:
        raise CannotConvert(f"the weights have nothing that becomes {', '.join(sorted(missing))}")
    everything = set().union(*blocks.values())
    for number, found in blocks.items():
        if found != everything or not found:
            lacking = min(everything - found, default="attn_q.weight")
            raise CannotConvert(f"the weights have nothing that becomes {BLOCK}{number}.{lacking}")


def _data_order(targets: Sequence[_Target], paths: Sequence[str]) -> list[_Target]:
    places = {path: number for number, path in enumerate(paths)}

    def source(target: _Target) -> tuple[int, int]:
        first = target.pieces[0]
        return (places[first.path], first.start) if isinstance(first, Piece) else (-1, 0)

    if all(target.sources == 1 for target in targets):
        return sorted(targets, key=source)
    # Experts lie scattered over a file; block by block their ranges stay near each other.
    return sorted(targets, key=lambda target: (target.block is None, target.block or 0, *source(target)))


def _ollama_order(info: TensorInfo) -> tuple[bool, int, str]:
    """By block and name, those of no block behind (fs/ggml/gguf.go, WriteGGUF of v0.24)."""
    block = int(info.name.split(".")[1]) if info.name.startswith(BLOCK) else None
    return block is None, block or 0, info.name
