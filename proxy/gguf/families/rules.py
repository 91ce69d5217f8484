"""What a family of models declares: the rules for its tensors, and all else that its GGUF needs. Pure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy.gguf.config import CannotConvert, ModelConfig
from proxy.gguf.hyperparameters import BASIC, Pairs, Writer
from proxy.gguf.tensors import TensorName
from proxy.gguf.tokenizer_files import TokenizerFiles

Size = Callable[[ModelConfig], int]

QKV = frozenset({"attn_q", "attn_k", "attn_v"})
_OLD_ENDS = {".gamma": ".weight", ".beta": ".bias"}
"""What norms had before PyTorch, as transformers still reads them."""
DENSE = ("dense_2", "dense_3")
"""The matrices behind the pooling, by the folders that sentence-transformers has them in."""
SHARED_MATRICES = frozenset({"ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"})
"""Those of the experts that every token goes through."""


@dataclass(frozen=True, slots=True)
class Copy:
    """The tensor under another name."""

    name: str


@dataclass(frozen=True, slots=True)
class Permuted:
    """Q or K, whose rows transformers keeps in the order of its own rope: two halves a head."""

    name: str
    heads: Size


@dataclass(frozen=True, slots=True)
class AddOne:
    """A norm that transformers applies with 1 added to each number."""

    name: str


@dataclass(frozen=True, slots=True)
class Stacked:
    """One tensor of those that differ only in the last number of their names, of which there are `count`."""

    name: str
    count: Size


@dataclass(frozen=True, slots=True)
class Split:
    """Several tensors by rows: each part's name and its rows; of three dimensions those of each matrix."""

    parts: tuple[tuple[str, Size], ...]


@dataclass(frozen=True, slots=True)
class Transposed:
    """Matrices with rows for columns, perhaps several side by side: each part's name, and its columns."""

    parts: tuple[tuple[str, Size], ...]


@dataclass(frozen=True, slots=True)
class MergedQkv:
    """Fused Q, K and V in groups of heads: all Q first, then all K, then all V. Rows of one head stay together.

    `groups` is how many there are; each has as many Q as the group's size says, and one K and V.
    """

    name: str
    groups: Size
    heads: Size


@dataclass(frozen=True, slots=True)
class Ungrouped:
    """Fused parts in `groups`: the first part of all groups, then the second of all, and so on.

    They become several tensors, each with a name and its parts, of which the rows in one group are told.
    """

    groups: Size
    tensors: tuple[tuple[str, tuple[Size, ...]], ...]


@dataclass(frozen=True, slots=True)
class SplitQkv:
    """The same as three tensors, of which Q and K are turned too."""

    query: str
    key: str
    value: str
    groups: Size
    heads: Size


@dataclass(frozen=True, slots=True)
class Reshaped:
    """A tensor of F32 in another shape, which begins with the most rows, under its whole name.

    `exponential` makes the negative exponential of each number.
    """

    name: str
    shape: Callable[[ModelConfig, tuple[int, ...]], tuple[int, ...]]
    exponential: bool = False


@dataclass(frozen=True, slots=True)
class Scaled:
    """A matrix whose rows are multiplied with factors, one after the other: how many rows, and with which.

    A single share is of all rows, however many it says.
    """

    name: str
    shares: Callable[[ModelConfig], tuple[tuple[int, tuple[float, ...]], ...]]


@dataclass(frozen=True, slots=True)
class RowsFrom:
    """The rows from `first` on."""

    name: str
    first: Size


@dataclass(frozen=True, slots=True)
class MlaKvB:
    """DeepSeek's fused K and V of the compressed cache: K turned over head by head, and V, each a tensor of heads."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Deinterleaved:
    """Several tensors, to which the columns are dealt out in turn, as rows where each expert has a matrix of its own.

    GPT-OSS has the gate's number beside the other's, and multiplies from the left.
    """

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mxfp4Experts:
    """Several tensors of MXFP4, to which the rows are dealt out in turn; another tensor has the scales."""

    names: tuple[str, ...]
    scales: str


@dataclass(frozen=True, slots=True)
class Auxiliary:
    """A tensor that another one is made with."""


@dataclass(frozen=True, slots=True)
class Unused:
    """A tensor for which llama.cpp has no place; the family tells what that changes."""


@dataclass(frozen=True, slots=True)
class StackedExperts:
    """`count` matrices, one below the other. With `transposed` the rows of each become its columns."""

    name: str
    count: Size
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class Padded:
    """A matrix, and below it its first row again until there are so many rows."""

    name: str
    rows: Size


@dataclass(frozen=True, slots=True)
class Reordered:
    """What `rule` makes of a tensor, with its `heads` in another order: the first of each group, the second of each, …

    `size` is how many rows a head has, and `before` how many rows come before the heads. With `across` each row is
    made of the heads, and `size` counts numbers.
    """

    rule: "Copy | Reshaped"
    groups: Size
    heads: Size
    size: Size
    before: Size = lambda _: 0
    across: bool = False


Rule = (
    Copy
    | Permuted
    | AddOne
    | Stacked
    | Split
    | Transposed
    | MergedQkv
    | SplitQkv
    | Reshaped
    | Scaled
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
)


def made_by(key: str, rule: Rule | str) -> Iterator[str]:
    """The tensors that a rule makes, with a layer's number left open."""
    end = ".bias" if key.endswith("bias") else ".weight"
    match rule:
        case Reshaped(name):
            yield name
        case Split(parts) | Transposed(parts) | Ungrouped(_, parts):
            yield from (name + end for name, _ in parts)
        case Reordered(inner):
            yield from made_by(key, inner)
        case SplitQkv(query, key, value):
            yield from (query + end, key + end, value + end)
        case MlaKvB(key, value):
            yield from (key + end, value + end)
        case Deinterleaved(names) | Mxfp4Experts(names):
            yield from (name + end for name in names)
        case Auxiliary() | Unused():
            pass
        case str(name):
            yield name + end
        case (
            Copy()
            | Permuted()
            | AddOne()
            | Stacked()
            | MergedQkv()
            | Scaled()
            | RowsFrom()
            | StackedExperts()
            | Padded()
        ):
            yield rule.name + end


def stems_of(rules: Mapping[str, Rule | str]) -> frozenset[str]:
    """The names of the tensors that they make, without layer and end."""
    return frozenset(TensorName.of(name.format(0)).stem for key, rule in rules.items() for name in made_by(key, rule))


@dataclass(frozen=True, slots=True)
class TextPart:
    """What a model of several kinds has of text: its settings stand in config.json's `text_config`."""

    names: Mapping[str, str]
    """How the names of its tensors begin, and how they would in a model of text alone."""
    left_out: tuple[str, ...]
    """How the names of the other tensors begin."""
    lost: str
    """What the model cannot do without them."""


@dataclass(frozen=True, slots=True)
class Family:
    """`architecture` is llama.cpp's name. A rule that is only a name is a Copy."""

    architecture: str
    tensors: Mapping[str, Rule | str]
    hyperparameters: tuple[Writer, ...] = BASIC
    tokenizers: tuple[str, ...] = ("bpe",)
    """The kinds that llama.cpp's converter looks for, in its order: `sentencepiece`, `merged pieces`, `bpe`,
    `wordpiece`, `unigram`."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    made: Callable[[ModelConfig], Mapping[str, bytes]] = lambda _: {}
    """Tensors of F32 in one dimension that are calculated from the config."""
    ropes: frozenset[str] = frozenset({"default", "linear", "dynamic", "yarn"})
    """Kinds of scaling that reach the file, or change nothing within the original context."""
    only: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Keys of config.json that llama.cpp takes to have one of these values, whatever they say."""
    flags: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Keys of config.json without which transformers leaves these tensors out, by their names in a layer of the GGUF.
    It takes biases that are missing for zeros, and any other tensor that is missing for random."""
    harmless: frozenset[str] = frozenset()
    """Keys of config.json that transformers' class has, and that change nothing in what is calculated here."""
    in_transformers: bool = True
    """Whether transformers has a class for it, which ignores what it does not know; else the repository brings one."""
    vocabulary: Callable[[ModelConfig, TokenizerFiles], Pairs] = lambda _config, _files: iter(())
    """What else is written of the tokenizer; it overrules the rest."""
    specials: Mapping[str, str] = field(default_factory=dict)
    """Special tokens that llama.cpp's converter knows by their text, by kind."""
    added_from_json: bool = False
    """Auxiliary a tokenizer.model, the added tokens of tokenizer.json count too, and only what is marked is special."""
    control: frozenset[str] = frozenset()
    """Added tokens of a byte-level BPE that are special, whether or not the tokenizer marks them."""
    unused_pieces: str | None = None
    """How the pieces of a tokenizer.model begin that stand for nothing."""
    optional: frozenset[str] = frozenset()
    """Tensors of a layer, by their names in the GGUF, that not every model of the family has."""
    shapes: Mapping[str, str] = field(default_factory=dict)
    """Those that llama.cpp takes in several shapes, as proxy/gguf/loadable.py has them."""
    biases: frozenset[str] = frozenset()
    """Tensors, by their names in the GGUF, that llama.cpp loads with a bias only."""
    optional_biases: frozenset[str] = QKV
    """Tensors that may have a bias; others may not."""
    skipped: tuple[str, ...] = ()
    """How the names of tensors begin that only help in training."""
    own_yarn: bool = False
    """llama.cpp reads of yarn's attention what it does not for others; the family's writers check it."""
    yarn_keys: frozenset[str] = frozenset()
    """Keys of a yarn's ramp that llama.cpp reads, or the family tells, which for others have to be the usual ones."""
    keeps_output: bool = False
    """An output among the weights counts, even where config.json says that the embeddings are it: transformers 5 ties
    only what is alike."""
    local_rope: bool = False
    """Layers with a window have another rope than those that see all."""
    extra_layers: bool = False
    """Layers beyond those counted only help in training, and are left out."""
    absent: Callable[[ModelConfig, int | None], Mapping[str, bool]] | None = None
    """By a layer's number, None for what is of no layer: tensors that the config leaves out, by their names in the
    GGUF, and whether llama.cpp takes no harm where they are there. Where this is None, the tensors say what a layer is.
    """
    of: "Callable[[ModelConfig], Family] | None" = None
    """Which family it is by the config, where models of several have this name."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """How the names of tensors begin in some repositories, and what is there instead in the rules."""
    told: Callable[[ModelConfig], str | None] = lambda _: None
    """What a person should know where llama.cpp calculates not quite the authors' model."""
    revision: int = 2
    """Raised when another file is made of the same repository: models of an older one are made anew."""
    embeds: bool = False
    """It makes vectors of texts, and answers nothing."""
    kept: str | None = None
    """The `quant_method` of weights that may be quantized already, and then stay as they are."""
    text: TextPart | None = None
    """Set where only a part of the model is made."""

    def config(self, fields: Mapping[str, Any]) -> ModelConfig:
        """Raises CannotConvert where config.json has no settings for text, and should."""
        if self.text is None:
            return ModelConfig({**self.defaults, **fields})
        text = fields.get("text_config")
        if not isinstance(text, dict):
            raise CannotConvert("config.json has no text_config")
        # transformers 5 goes by what stands outside, whatever the text says of itself.
        tied = {key: value for key, value in {**self.defaults, **fields}.items() if key == "tie_word_embeddings"}
        return ModelConfig({**self.defaults, **fields, **text, **tied})

    def name_of(self, tensor: str) -> str | None:
        """What a tensor of the weights would be called in a model of text alone; None for one that is left out."""
        name = tensor
        for begins, instead in (self.text.names if self.text else self.renamed).items():
            if tensor.startswith(begins):
                name = instead + tensor.removeprefix(begins)
                break
        for end, instead in _OLD_ENDS.items():
            name = name.removesuffix(end) + instead if name.endswith(end) else name
        left_out = (*self.skipped, *(self.text.left_out if self.text else ()))
        return None if name.startswith(left_out) or tensor.startswith(left_out) else name
