"""The rules that make GGUF tensors from the tensors of the weights; proxy/gguf/apply_rules.py applies them. Pure.

Names of GGUF tensors have no `.weight` or `.bias` at the end; the rule adds the ending of the source tensor. `{}`
stands for each number in the source's name. A `Size` is a number that depends on config.json.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from proxy.gguf.model_config import ModelConfig
from proxy.gguf.tensors import TensorName

Size = Callable[[ModelConfig], int]


@dataclass(frozen=True, slots=True)
class Copy:
    """The unchanged tensor under another name."""

    name: str
    keeps_type: bool = False
    """Also where llama.cpp's converter makes F32 of such a tensor for other families."""


@dataclass(frozen=True, slots=True)
class Permuted:
    """Q or K rows, permuted from transformers' half-split RoPE order to llama.cpp's interleaved one.

    RoPE rotates the first `rotated` rows of each head, or all of them if this is None. The other rows stay.
    """

    name: str
    heads: Size
    rotated: Size | None = None


@dataclass(frozen=True, slots=True)
class PermutedHeads:
    """The same for layers that differ in their number of heads. A head has `size` rows."""

    name: str
    size: Size


@dataclass(frozen=True, slots=True)
class AddOne:
    """A norm weight to which transformers adds 1 when it applies the norm; llama.cpp expects the sum."""

    name: str


@dataclass(frozen=True, slots=True)
class Stacked:
    """`count` tensors, whose names differ only in the last number, stacked into one."""

    name: str
    count: Size
    keeps_mxfp4: bool = False
    """Matrices that are stored in MXFP4 stay so, as in llama.cpp's converter."""


@dataclass(frozen=True, slots=True)
class Split:
    """Splits a tensor by rows into `parts`: name and number of rows. In a stack of matrices each matrix is split."""

    parts: tuple[tuple[str, Size], ...]


@dataclass(frozen=True, slots=True)
class Transposed:
    """Transposes each matrix, after a split by columns into `parts`: name and number of columns."""

    parts: tuple[tuple[str, Size], ...]


@dataclass(frozen=True, slots=True)
class MergedQkv:
    """Fused Q, K and V, from an order by group to all Q heads first, then all K heads, then all V heads.

    Each of the `groups` has its share of the Q `heads`, and one K and one V head.
    """

    name: str
    groups: Size
    heads: Size


@dataclass(frozen=True, slots=True)
class Ungrouped:
    """Parts that are fused group by group, from an order by group to an order by part.

    `tensors` are the results: name and, for each of its parts, the number of rows in one group.
    """

    groups: Size
    tensors: tuple[tuple[str, tuple[Size, ...]], ...]


@dataclass(frozen=True, slots=True)
class SplitQkv:
    """Fused Q, K and V in groups, as in MergedQkv, split into three tensors. Q and K are also Permuted.

    Each group has `kv_heads` heads of K, and of V.
    """

    query: str
    key: str
    value: str
    groups: Size
    heads: Size
    kv_heads: Size = lambda _: 1


@dataclass(frozen=True, slots=True)
class Reshaped:
    """The tensor as F32 in another shape, in PyTorch's order of dimensions. `name` is complete, with its ending.

    `exponential` replaces each number x by exp(x) if it is 1, and by -exp(x) if it is -1. `offset` is added to each.
    `softplus` replaces it by log(1 + exp(x)).
    """

    name: str
    shape: Callable[[ModelConfig, tuple[int, ...]], tuple[int, ...]]
    exponential: Literal[-1, 0, 1] = 0
    offset: float = 0.0
    softplus: bool = False


@dataclass(frozen=True, slots=True)
class Scaled:
    """A matrix whose rows are multiplied by factors. Each share is a number of rows and the factors, applied in order.

    A single share covers all rows, whatever its number.
    """

    name: str
    shares: Callable[[ModelConfig], tuple[tuple[int, tuple[float, ...]], ...]]


@dataclass(frozen=True, slots=True)
class Halved:
    """A matrix, divided by 2 once for each `period` layers before its own; a period of 0 is none."""

    name: str
    period: Size


@dataclass(frozen=True, slots=True)
class RowsFrom:
    """The tensor without the rows before `first`."""

    name: str
    first: Size


@dataclass(frozen=True, slots=True)
class MlaKvB:
    """`kv_b_proj` of DeepSeek's multi-head latent attention, split into K, transposed head by head, and V."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Deinterleaved:
    """Splits interleaved columns: column i goes to tensor i modulo `len(names)`. An expert's matrix is also transposed.

    In GPT-OSS the columns of gate and up alternate, and inputs are multiplied from the left.
    """

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mxfp4Experts:
    """Splits interleaved rows of MXFP4 blocks: row i goes to tensor i modulo `len(names)`. `scales` is a tensor."""

    names: tuple[str, ...]
    scales: str


@dataclass(frozen=True, slots=True)
class Auxiliary:
    """A tensor that is only read together with another one."""


@dataclass(frozen=True, slots=True)
class Unused:
    """A tensor that llama.cpp cannot load. The family's caveat names the effect."""


@dataclass(frozen=True, slots=True)
class StackedExperts:
    """`count` matrices that one matrix has below each other; `transposed` transposes each."""

    name: str
    count: Size
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class Numbers32:
    """Whole numbers from 0 up to `count`, of 32 or 64 bits, in 32 bits."""

    name: str
    count: Size


@dataclass(frozen=True, slots=True)
class Padded:
    """A matrix, extended to `rows` rows with copies of its first row."""

    name: str
    rows: Size


@dataclass(frozen=True, slots=True)
class Reordered:
    """The result of `rule` with its heads in another order: the first head of each group, then the second of each, …

    A head has `size` rows, and `before` rows precede the heads. With `across` the heads lie side by side in each row,
    and `size` and `before` count columns.
    """

    rule: "Copy | Reshaped"
    groups: Size
    heads: Size
    size: Size
    before: Size = lambda _: 0
    across: bool = False


@dataclass(frozen=True, slots=True)
class AlsoFirst:
    """The unchanged tensor, and in the first layer also under the name `first`."""

    name: str
    first: str


@dataclass(frozen=True, slots=True)
class ByLayer:
    """The unchanged tensor. `has_second` says by config.json and the layer which of the two `names` it gets."""

    names: tuple[str, str]
    has_second: Callable[[ModelConfig, int], bool]


@dataclass(frozen=True, slots=True)
class Named:
    """The unchanged tensor. `name` is complete, with its ending."""

    name: str


@dataclass(frozen=True, slots=True)
class Frames:
    """The kernels of a convolution over images and time, one tensor for each moment: its shape is [output channels,
    input channels, moments, height, width]. `names` are complete, with their endings.
    """

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Patches:
    """A matrix for the pixels of a square, `side` on each side, red, green and blue of each in a row.

    It becomes the kernels of a convolution: [output channels, 3, side, side].
    """

    name: str
    side: Size


@dataclass(frozen=True, slots=True)
class OneRow:
    """Row `number` of a matrix, as F32. `name` is complete."""

    name: str
    number: Size


Rule = (
    Copy
    | AlsoFirst
    | ByLayer
    | Permuted
    | PermutedHeads
    | AddOne
    | Stacked
    | Split
    | Transposed
    | MergedQkv
    | SplitQkv
    | Reshaped
    | Scaled
    | Halved
    | RowsFrom
    | MlaKvB
    | Deinterleaved
    | Mxfp4Experts
    | Auxiliary
    | Unused
    | StackedExperts
    | Padded
    | Ungrouped
    | Reordered
    | Numbers32
    | Frames
    | Named
    | Patches
    | OneRow
)


def output_names(key: str, rule: Rule | str) -> Iterator[str]:
    """The names of the tensors that a rule makes, with `{}` for the number of the layer."""
    ending = ".bias" if key.endswith("bias") else ".weight"
    match rule:
        case Reshaped(name) | Named(name) | OneRow(name):
            yield name
        case Frames(names):
            yield from names
        case Split(parts) | Transposed(parts) | Ungrouped(_, parts):
            yield from (name + ending for name, _ in parts)
        case Reordered(inner):
            yield from output_names(key, inner)
        case SplitQkv(query, key, value):
            yield from (query + ending, key + ending, value + ending)
        case MlaKvB(key, value):
            yield from (key + ending, value + ending)
        case Deinterleaved(names) | Mxfp4Experts(names) | ByLayer(names):
            yield from (name + ending for name in names)
        case Auxiliary() | Unused():
            pass
        case str(name):
            yield name + ending
        case AlsoFirst(name, first):
            yield from (name + ending, first + ending)
        case (
            Copy()
            | Permuted()
            | PermutedHeads()
            | AddOne()
            | Stacked()
            | MergedQkv()
            | Scaled()
            | Halved()
            | RowsFrom()
            | StackedExperts()
            | Padded()
            | Numbers32()
            | Patches()
        ):
            yield rule.name + ending


def stems_of(rules: Mapping[str, Rule | str]) -> frozenset[str]:
    """The names of the tensors that the rules make, without layer and ending."""
    return frozenset(
        TensorName.of(name.format(0)).stem for key, rule in rules.items() for name in output_names(key, rule)
    )
