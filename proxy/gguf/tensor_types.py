"""The type of each tensor in a quantized file, as llama-quantize chooses it from names, shapes and metadata. Pure.

This is `llama_tensor_get_type` of src/llama-quant.cpp at b10488, without an importance matrix.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from proxy.gguf.header import ARCHITECTURE, Field
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.tensors import BLOCKS, TensorInfo, TensorType, shown

F16, Q4_0, Q5_0, Q5_1, Q8_0 = TensorType.F16, TensorType.Q4_0, TensorType.Q5_0, TensorType.Q5_1, TensorType.Q8_0
Q3_K, Q4_K, Q5_K, Q6_K = TensorType.Q3_K, TensorType.Q4_K, TensorType.Q5_K, TensorType.Q6_K
IQ3_S, IQ4_NL, IQ4_XS = TensorType.IQ3_S, TensorType.IQ4_NL, TensorType.IQ4_XS


@dataclass(frozen=True, slots=True)
class FileType:
    """`number` is the value of `general.file_type`. `default` is the type of tensors without a rule of their own."""

    number: int
    default: TensorType


FILE_TYPES: Mapping[str, FileType] = {
    "F32": FileType(0, TensorType.F32),
    "F16": FileType(1, F16),
    "BF16": FileType(32, TensorType.BF16),
    "Q8_0": FileType(7, Q8_0),
    "Q6_K": FileType(18, Q6_K),
    "Q5_K_M": FileType(17, Q5_K),
    "Q5_K_S": FileType(16, Q5_K),
    "Q5_1": FileType(9, Q5_1),
    "Q5_0": FileType(8, Q5_0),
    "Q4_K_M": FileType(15, Q4_K),
    "Q4_K_S": FileType(14, Q4_K),
    "Q4_1": FileType(3, TensorType.Q4_1),
    "Q4_0": FileType(2, Q4_0),
    "IQ4_NL": FileType(25, IQ4_NL),
    "IQ4_XS": FileType(30, IQ4_XS),
    "IQ3_M": FileType(27, IQ3_S),
    "IQ3_S": FileType(26, IQ3_S),
    "Q3_K_L": FileType(13, Q3_K),
    "Q3_K_M": FileType(12, Q3_K),
    "Q3_K_S": FileType(11, Q3_K),
    "Q2_K": FileType(10, TensorType.Q2_K),
    "TQ1_0": FileType(36, TensorType.TQ1_0),
    "TQ2_0": FileType(37, TensorType.TQ2_0),
    "MXFP4_MOE": FileType(38, TensorType.MXFP4),
}

NEED_IMPORTANCE: Mapping[str, str] = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K_S"), "Q2_K"),
    **dict.fromkeys(("IQ3_XXS", "IQ3_XS"), "Q3_K_S"),
}
"""File types that need an importance matrix, and for each the nearest that does not."""

_KEEP_THEIR_TYPE = (
    *("_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj"),
    *("ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight"),
    *(f"time_mix_{letter}{number}.weight" for letter in "wva" for number in "012"),
    *("time_mix_first.weight", "time_mix_g1.weight", "time_mix_g2.weight", "time_mix_lerp_fused.weight"),
    *("time_mix_decay_w1.weight", "time_mix_decay_w2.weight"),
    *("attn_rel_b.weight", ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_"),
    *(".rel_pos", ".patch_embd", ".patch_merger", "a.rvq.codebook", "mm.a.code_embd"),
)
"""Parts of the names of matrices that are not quantized."""

_NEVER_QUANTIZED = ("position_embd.weight", "token_types.weight")
_MATRIX = 2

_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
_Part = Literal["output", "embedding", "value", "key", "attention output", "up", "gate", "down", "other"]
_PARTS: Sequence[tuple[str, _Part]] = (
    ("attn_qkv.weight", "value"),
    ("attn_kv_b.weight", "value"),
    ("attn_v.weight", "value"),
    ("attn_k.weight", "key"),
    ("attn_output.weight", "attention output"),
    ("ffn_up", "up"),
    ("ffn_gate", "gate"),
    ("ffn_down", "down"),
)
"""What a tensor is for the rules: the first entry whose text is in the tensor's name."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The facts about a model that the rules use. Head counts are those of the first layer."""

    architecture: str
    blocks: int
    """Each as often as it runs: llama.cpp counts the layers of all loops (`n_layer_all`)."""
    heads: int = 0
    kv_heads: int = 0
    experts: int = 0

    @classmethod
    def of(cls, metadata: Mapping[str, Field]) -> "ModelFacts":
        """Raises CannotConvert if a value is missing or is not a count."""
        name = metadata[ARCHITECTURE].value if ARCHITECTURE in metadata else None
        if not isinstance(name, str):
            raise CannotConvert(f"the metadata has no {ARCHITECTURE}")
        heads = _count(metadata, f"{name}.attention.head_count", 0)
        return cls(
            name,
            _count(metadata, f"{name}.block_count", None) * max(_count(metadata, f"{name}.num_loops", 1), 1),
            heads,
            _count(metadata, f"{name}.attention.head_count_kv", heads),
            _count(metadata, f"{name}.expert_count", 0),
        )

    @property
    def queries_per_value(self) -> int:
        """The number of query heads that share one key/value head (grouped-query attention)."""
        return self.heads // self.kv_heads if self.kv_heads else 0

    @property
    def is_70b(self) -> bool:
        """Whether llama.cpp treats the model as a 70B."""
        if self.architecture == "llama":
            return self.blocks == 80 and self.heads != self.kv_heads  # noqa: PLR2004
        return _LAYERS_OF_70B.get(self.architecture) == self.blocks

    @property
    def has_8_experts(self) -> bool:
        return self.experts == 8  # noqa: PLR2004


_LAYERS_OF_70B = {"qwen2": 80, "olmo": 80, "deci": 80, "jais2": 68}


def _count(metadata: Mapping[str, Field], key: str, default: int | None) -> int:
    """A count; the first layer's, if each layer has its own."""
    value = metadata[key].value if key in metadata else default
    if isinstance(value, list) and value:
        value = value[0]
    if type(value) is not int or value < 0:
        raise CannotConvert(f"the metadata has {key} = {shown(value)}, which is no count")
    return value


@dataclass(frozen=True, slots=True)
class _Position:
    """A tensor's `index` among the `total` tensors for the same part of the model."""

    index: int
    total: int
    facts: ModelFacts

    def in_first(self, parts: int) -> bool:
        """Whether it is in the first of `parts` equal parts."""
        return self.index < self.total // parts

    @property
    def needs_more_bits(self) -> bool:
        """The first eighth, the last eighth, and every third in between (`use_more_bits` of llama.cpp)."""
        eighth = self.total // 8
        return self.in_first(8) or self.index >= 7 * self.total // 8 or (self.index - eighth) % 3 == 2  # noqa: PLR2004

    @property
    def is_widely_shared(self) -> bool:
        return self.facts.queries_per_value >= 4  # noqa: PLR2004


_Choices = Mapping[str, Callable[[_Position], TensorType]]
"""By file type. A file type without an entry keeps its default."""

_VALUES: _Choices = {
    "Q2_K": lambda it: Q4_K if it.is_widely_shared else Q3_K,
    "Q3_K_M": lambda it: Q5_K if it.index < 2 else Q4_K,  # noqa: PLR2004
    "Q3_K_L": lambda _: Q5_K,
    "Q4_K_S": lambda it: Q5_K if it.index < 4 else Q4_K,  # noqa: PLR2004
    "Q4_K_M": lambda it: Q6_K if it.needs_more_bits else Q4_K,
    "Q5_K_M": lambda it: Q6_K if it.needs_more_bits else Q5_K,
    "IQ4_NL": lambda it: Q5_K if it.is_widely_shared else IQ4_NL,
    "IQ4_XS": lambda it: Q5_K if it.is_widely_shared else IQ4_XS,
    "IQ3_S": lambda it: Q4_K if it.is_widely_shared else IQ3_S,
    "IQ3_M": lambda _: Q4_K,
}
_DOWN: _Choices = {
    "Q2_K": lambda _: Q3_K,
    "Q3_K_M": lambda it: Q5_K if it.in_first(16) else Q4_K,
    "Q3_K_L": lambda _: Q5_K,
    "Q4_K_S": lambda it: Q5_K if it.in_first(8) else Q4_K,
    "Q4_K_M": lambda it: Q6_K if it.needs_more_bits else Q4_K,
    "Q5_K_M": lambda it: Q6_K if it.needs_more_bits else Q5_K,
    "IQ4_NL": lambda it: Q5_K if it.in_first(8) else IQ4_NL,
    "IQ4_XS": lambda it: Q5_K if it.in_first(8) else IQ4_XS,
    "IQ3_M": lambda it: Q4_K if it.in_first(8) or (it.facts.has_8_experts and it.needs_more_bits) else IQ3_S,
}
_FALCON_DOWN: _Choices = {
    **_DOWN,
    "Q3_K_M": lambda it: Q5_K if it.in_first(16) else Q4_K if it.needs_more_bits else Q3_K,
    "Q3_K_L": lambda _: Q4_K,
    "Q4_K_S": lambda _: Q4_K,
    "Q4_K_M": lambda it: Q6_K if it.in_first(16) else Q5_K if it.needs_more_bits else Q4_K,
}
_ATTENTION_OUTPUT = {"Q2_K": Q3_K, "Q3_K_M": Q4_K, "Q3_K_L": Q5_K, "IQ3_M": Q4_K}
_FALCON_ATTENTION_OUTPUT = {"Q3_K_L": Q4_K}
_ATTENTION_OUTPUT_WITH_8_EXPERTS = dict.fromkeys(
    ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_M"), Q5_K
)

_FALLBACKS: Mapping[TensorType, TensorType] = {
    IQ4_XS: IQ4_NL,
    IQ3_S: IQ4_NL,
    TensorType.Q2_K: Q4_0,
    Q3_K: Q4_0,
    TensorType.TQ1_0: Q4_0,
    TensorType.TQ2_0: Q4_0,
    Q4_K: Q5_0,
    Q5_K: Q5_1,
    Q6_K: Q8_0,
}
"""Replacements for types with blocks of 256 numbers, if rows do not fill them. If rows do not fill 32 either: F16."""

_OLLAMA_OVERRIDES: Mapping[str, Sequence[tuple[str, TensorType]]] = {
    "deepseek2": [(r"(attn_k_b|attn_q_a|attn_q_b|attn_v_b|attn_kv_a_mqa)\.weight$", Q8_0)],
    "glm4": [(r"^(token_embd|output)\.weight$", F16)],
    "glmocr": [(r"^(token_embd|output)\.weight$", F16)],
    "gemma3n": [(r"^per_layer_token_embd\.weight$", F16)],
    "qwen35": [(r"^blk\.[0-9]+\.nextn\.eh_proj\.weight$", Q8_0)],
    "qwen35moe": [(r"^blk\.[0-9]+\.nextn\.eh_proj\.weight$", Q8_0)],
}
"""Types that Ollama 0.33 requests from llama-quantize for Q4_K_S and Q4_K_M: `llamaQuantizeArgs` in
server/quantization.go."""


def quantized_types(
    file_type: str,
    facts: ModelFacts,
    tensors: Iterable[TensorInfo],
    *,
    as_ollama: bool = False,
    again: Collection[int] = (),
) -> dict[str, TensorType]:
    """The type of each tensor, in llama.cpp's order, which may differ from the file's.

    `as_ollama` makes some tensors of a few architectures more precise, as Ollama 0.33 does. Quantized tensors of the
    types in `again` are quantized once more. Raises CannotConvert where llama-quantize refuses, which is for others.
    """
    if file_type not in FILE_TYPES:
        raise CannotConvert(_unknown(file_type))
    ordered = sorted(tensors, key=lambda tensor: (_layer(tensor.name), tensor.name))
    overrides = _OLLAMA_OVERRIDES.get(facts.architecture, ()) if as_ollama and file_type in ("Q4_K_S", "Q4_K_M") else ()
    rules = _Rules(file_type, facts, [tensor.name for tensor in ordered])
    default, types = FILE_TYPES[file_type].default, {}
    for tensor in ordered:
        if not is_quantized(tensor):
            types[tensor.name] = TensorType(tensor.type)
        elif BLOCKS[default][0] == 1:
            types[tensor.name] = default
        else:
            override = next((kind for pattern, kind in overrides if re.search(pattern, tensor.name)), None)
            types[tensor.name] = _fitting(tensor, rules.choose(tensor) if override is None else override)
        if BLOCKS[tensor.type][0] > 1 and types[tensor.name] != tensor.type and tensor.type not in again:
            raise CannotConvert(f"{tensor.name} is {already_quantized(tensor.type)}")
    return types


def already_quantized(kind: int) -> str:
    return f"{TensorType(kind).name} already, which is not quantized a second time"


def is_quantized(tensor: TensorInfo) -> bool:
    """Whether a quantizer changes a tensor. Other tensors keep their type, even for the file types F32, F16, BF16."""
    name = tensor.name
    return (
        _dimensions(tensor) >= _MATRIX
        and name.endswith("weight")
        and name not in _NEVER_QUANTIZED
        and not any(part in name for part in _KEEP_THEIR_TYPE)
    )


def _dimensions(tensor: TensorInfo) -> int:
    """The number of dimensions; trailing dimensions of length 1 do not count."""
    return max((number for number, length in enumerate(tensor.shape, 1) if length > 1), default=1)


def _layer(name: str) -> int:
    match = re.match(r"blk\.([0-9]+)", name)
    return int(match[1]) if match else -1


def _part(name: str) -> _Part:
    if name == "output.weight":
        return "output"
    return "embedding" if name in _EMBEDDINGS else next((part for text, part in _PARTS if text in name), "other")


class _Rules:
    """Chooses types. Its calls must follow llama.cpp's order, because the rules count the tensors of each part."""

    def __init__(self, file_type: str, facts: ModelFacts, names: Iterable[str]) -> None:
        self._file_type = file_type
        self._facts = facts
        self._default = FILE_TYPES[file_type].default
        self._is_falcon = facts.architecture == "falcon"
        parts = [_part(name) for name in names]
        self._tied = "output" not in parts
        self._values = parts.count("value")
        self._seen: Counter[_Part] = Counter()

    def choose(self, tensor: TensorInfo) -> TensorType:
        """The type by the rules, which may not fit the length of the tensor's rows."""
        part = _part(tensor.name)
        if part == "output" or (part == "embedding" and self._tied):
            return self._output(tensor)
        if self._default is TensorType.MXFP4:
            return self._mxfp4(tensor, part)
        index = self._seen[part]
        self._seen[part] += 1
        if part == "embedding":
            return Q4_K if self._file_type in ("TQ1_0", "TQ2_0") else self._default
        if self._facts.has_8_experts and part in ("value", "key"):
            return Q8_0
        if part == "value":
            kind = self._chosen(_VALUES, index, self._values)
            return Q5_K if self._facts.is_70b and kind in (Q3_K, Q4_K) else kind
        if part == "attention output":
            return self._attention_output()
        if part in ("up", "gate", "down"):
            index = self._layer(tensor.name, index)
        if part == "down":
            return self._chosen(_FALCON_DOWN if self._is_falcon else _DOWN, index, self._facts.blocks)
        return self._default

    def _output(self, tensor: TensorInfo) -> TensorType:
        if self._is_falcon or self._default in (TensorType.MXFP4, Q8_0) or not _divides(self._default, tensor):
            return Q8_0
        return Q6_K

    def _mxfp4(self, tensor: TensorInfo, part: _Part) -> TensorType:
        """MXFP4 for stacks of experts. BailingMoE 3 also stacks matrices of its attention, which are not experts."""
        stacked = prod(tensor.shape[2:3]) > 1
        if self._facts.architecture == "bailingmoe3":
            stacked = stacked and part in ("up", "gate", "down")
        return TensorType.MXFP4 if stacked else Q8_0

    def _attention_output(self) -> TensorType:
        by_type = _ATTENTION_OUTPUT_WITH_8_EXPERTS if self._facts.has_8_experts else _ATTENTION_OUTPUT
        return (_FALCON_ATTENTION_OUTPUT if self._is_falcon else by_type).get(self._file_type, self._default)

    def _layer(self, name: str, index: int) -> int:
        """The index, or in models with experts the layer in the name: experts in separate tensors would count twice."""
        if self._facts.experts <= 1:
            return index
        layer = _layer(name)
        if not 0 <= layer < self._facts.blocks:
            raise CannotConvert(f"the tensor {shown(name)} is in none of the model's {self._facts.blocks} layers")
        return layer

    def _chosen(self, choices: _Choices, index: int, total: int) -> TensorType:
        choose = choices.get(self._file_type)
        return choose(_Position(index, total, self._facts)) if choose else self._default


def _divides(kind: TensorType, tensor: TensorInfo) -> bool:
    return tensor.shape[0] % BLOCKS[kind][0] == 0


def _fitting(tensor: TensorInfo, kind: TensorType) -> TensorType:
    if _divides(kind, tensor):
        return kind
    if kind not in _FALLBACKS:
        raise CannotConvert(
            f"the tensor {shown(tensor.name)} has rows of {tensor.shape[0]}, no multiple of {kind.name}'s "
            f"{BLOCKS[kind][0]}: ask for F16, BF16 or F32"
        )
    fallback = _FALLBACKS[kind]
    return fallback if _divides(fallback, tensor) else F16


def _unknown(file_type: str) -> str:
    if nearest := NEED_IMPORTANCE.get(file_type):
        return f"{file_type} needs an importance matrix: ask for {nearest}"
    return f"the type {shown(file_type)} is unknown; ask for one of {', '.join(FILE_TYPES)}"
