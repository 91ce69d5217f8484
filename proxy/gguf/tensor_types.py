"""The type that llama.cpp's quantizer gives each tensor of a file type: by names, shapes and metadata alone. Pure.

This is `llama_tensor_get_type` of src/llama-quant.cpp in b10488, without an importance matrix.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple

from proxy.gguf.config import CannotConvert
from proxy.gguf.header import ARCHITECTURE, Field
from proxy.gguf.tensors import BLOCKS, TensorInfo, TensorType, shown

F16, Q4_0, Q5_0, Q5_1, Q8_0 = TensorType.F16, TensorType.Q4_0, TensorType.Q5_0, TensorType.Q5_1, TensorType.Q8_0
Q3_K, Q4_K, Q5_K, Q6_K = TensorType.Q3_K, TensorType.Q4_K, TensorType.Q5_K, TensorType.Q6_K
IQ3_S, IQ4_NL, IQ4_XS = TensorType.IQ3_S, TensorType.IQ4_NL, TensorType.IQ4_XS


@dataclass(frozen=True, slots=True)
class FileType:
    """`number` is what `general.file_type` says, `default` what a tensor becomes that no rule names."""

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
"""File types that no quantizer makes without an importance matrix, and the nearest that needs none."""

_KEEP_THEIR_TYPE = (
    *("_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj"),
    *("ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight"),
    *(f"time_mix_{letter}{number}.weight" for letter in "wva" for number in "012"),
    *("time_mix_first.weight", "time_mix_g1.weight", "time_mix_g2.weight", "time_mix_lerp_fused.weight"),
    *("time_mix_decay_w1.weight", "time_mix_decay_w2.weight"),
    *("attn_rel_b.weight", ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_"),
    *(".rel_pos", ".patch_embd", ".patch_merger", "a.rvq.codebook", "mm.a.code_embd"),
)
"""What the names of matrices hold that are not quantized."""

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
"""The first of these that a name holds says what the tensor is, as far as the rules ask."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the rules read of a model; heads are those of the first layer."""

    architecture: str
    blocks: int
    heads: int = 0
    kv_heads: int = 0
    experts: int = 0

    @classmethod
    def of(cls, metadata: Mapping[str, Field]) -> "ModelFacts":
        """Raises CannotConvert where a count is missing or is none."""
        name = metadata[ARCHITECTURE].value if ARCHITECTURE in metadata else None
        if not isinstance(name, str):
            raise CannotConvert(f"the metadata has no {ARCHITECTURE}")
        heads = _count(metadata, f"{name}.attention.head_count", 0)
        return cls(
            name,
            _count(metadata, f"{name}.block_count", None),
            heads,
            _count(metadata, f"{name}.attention.head_count_kv", heads),
            _count(metadata, f"{name}.expert_count", 0),
        )

    @property
    def shared(self) -> int:
        """How many heads of the queries have one of the values in common."""
        return self.heads // self.kv_heads if self.kv_heads else 0

    @property
    def is_70b(self) -> bool:
        """Whether llama.cpp calls the model's size so."""
        if self.architecture == "llama":
            return self.blocks == 80 and self.heads != self.kv_heads  # noqa: PLR2004
        return _LAYERS_OF_70B.get(self.architecture) == self.blocks

    @property
    def has_8_experts(self) -> bool:
        return self.experts == 8  # noqa: PLR2004


_LAYERS_OF_70B = {"qwen2": 80, "olmo": 80, "deci": 80, "jais2": 68}


def _count(metadata: Mapping[str, Field], key: str, default: int | None) -> int:
    """A number, or the first layer's where each layer has its own."""
    value = metadata[key].value if key in metadata else default
    if isinstance(value, list) and value:
        value = value[0]
    if type(value) is not int or value < 0:
        raise CannotConvert(f"the metadata has {key} = {shown(value)}, which is no count")
    return value


class _Place(NamedTuple):
    """A tensor is number `at` of the `total` of its part in the model."""

    at: int
    total: int
    facts: ModelFacts

    def within(self, parts: int) -> bool:
        """Whether it is in the first of so many equal parts."""
        return self.at < self.total // parts

    @property
    def needs_more(self) -> bool:
        """In the first eighth, in the last, and every third between them."""
        return self.within(8) or self.at >= 7 * self.total // 8 or (self.at - self.total // 8) % 3 == 2  # noqa: PLR2004

    @property
    def many_share(self) -> bool:
        return self.facts.shared >= 4  # noqa: PLR2004


_Choices = Mapping[str, Callable[[_Place], TensorType]]
"""By the file type; the default of one that is missing stays."""

_VALUES: _Choices = {
    "Q2_K": lambda it: Q4_K if it.many_share else Q3_K,
    "Q3_K_M": lambda it: Q5_K if it.at < 2 else Q4_K,  # noqa: PLR2004
    "Q3_K_L": lambda _: Q5_K,
    "Q4_K_S": lambda it: Q5_K if it.at < 4 else Q4_K,  # noqa: PLR2004
    "Q4_K_M": lambda it: Q6_K if it.needs_more else Q4_K,
    "Q5_K_M": lambda it: Q6_K if it.needs_more else Q5_K,
    "IQ4_NL": lambda it: Q5_K if it.many_share else IQ4_NL,
    "IQ4_XS": lambda it: Q5_K if it.many_share else IQ4_XS,
    "IQ3_S": lambda it: Q4_K if it.many_share else IQ3_S,
    "IQ3_M": lambda _: Q4_K,
}
_DOWN: _Choices = {
    "Q2_K": lambda _: Q3_K,
    "Q3_K_M": lambda it: Q5_K if it.within(16) else Q4_K,
    "Q3_K_L": lambda _: Q5_K,
    "Q4_K_S": lambda it: Q5_K if it.within(8) else Q4_K,
    "Q4_K_M": lambda it: Q6_K if it.needs_more else Q4_K,
    "Q5_K_M": lambda it: Q6_K if it.needs_more else Q5_K,
    "IQ4_NL": lambda it: Q5_K if it.within(8) else IQ4_NL,
    "IQ4_XS": lambda it: Q5_K if it.within(8) else IQ4_XS,
    "IQ3_M": lambda it: Q4_K if it.within(8) or (it.facts.has_8_experts and it.needs_more) else IQ3_S,
}
_DOWN_OF_FALCON: _Choices = {
    **_DOWN,
    "Q3_K_M": lambda it: Q5_K if it.within(16) else Q4_K if it.needs_more else Q3_K,
    "Q3_K_L": lambda _: Q4_K,
    "Q4_K_S": lambda _: Q4_K,
    "Q4_K_M": lambda it: Q6_K if it.within(16) else Q5_K if it.needs_more else Q4_K,
}
_ATTENTION_OUTPUT = {"Q2_K": Q3_K, "Q3_K_M": Q4_K, "Q3_K_L": Q5_K, "IQ3_M": Q4_K}
_ATTENTION_OUTPUT_OF_FALCON = {"Q3_K_L": Q4_K}
_ATTENTION_OUTPUT_OF_8_EXPERTS = dict.fromkeys(
    ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_M"), Q5_K
)

_FOR_OTHER_ROWS: Mapping[TensorType, TensorType] = {
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
"""What stands in for a type whose blocks of 256 numbers do not divide a row; where its 32 do not either, F16 does."""

_OF_OLLAMA: Mapping[str, Sequence[tuple[str, TensorType]]] = {
    "deepseek2": [(r"(attn_k_b|attn_q_a|attn_q_b|attn_v_b|attn_kv_a_mqa)\.weight$", Q8_0)],
    "glm4": [(r"^(token_embd|output)\.weight$", F16)],
    "glmocr": [(r"^(token_embd|output)\.weight$", F16)],
    "gemma3n": [(r"^per_layer_token_embd\.weight$", F16)],
    "qwen35": [(r"^blk\.[0-9]+\.nextn\.eh_proj\.weight$", Q8_0)],
    "qwen35moe": [(r"^blk\.[0-9]+\.nextn\.eh_proj\.weight$", Q8_0)],
}
"""What Ollama 0.33 asks llama-quantize for in Q4_K_S and Q4_K_M (`llamaQuantizeArgs`, server/quantization.go)."""


def quantized_types(
    file_type: str, facts: ModelFacts, tensors: Iterable[TensorInfo], *, as_ollama: bool = False
) -> dict[str, TensorType]:
    """The type of each tensor, in llama.cpp's order, which is not the file's.

    With `as_ollama` some tensors of a few architectures are more precise, as Ollama 0.33 has them. Raises CannotConvert
    where llama-quantize refuses.
    """
    if file_type not in FILE_TYPES:
        raise CannotConvert(_unknown(file_type))
    by_order = sorted(tensors, key=lambda tensor: (_layer(tensor.name), tensor.name))
    overrides = _OF_OLLAMA.get(facts.architecture, ()) if as_ollama and file_type in ("Q4_K_S", "Q4_K_M") else ()
    rules = _Rules(file_type, facts, [tensor.name for tensor in by_order])
    default, types = FILE_TYPES[file_type].default, {}
    for tensor in by_order:
        if not is_quantized(tensor):
            types[tensor.name] = TensorType(tensor.type)
        elif BLOCKS[default][0] == 1:
            types[tensor.name] = default
        else:
            asked = next((kind for pattern, kind in overrides if re.search(pattern, tensor.name)), None)
            types[tensor.name] = _fitting(tensor, rules.choose(tensor) if asked is None else asked)
        if BLOCKS[tensor.type][0] > 1 and types[tensor.name] != tensor.type:
            raise CannotConvert(f"{tensor.name} is {quantized_already(tensor.type)}")
    return types


def quantized_already(kind: int) -> str:
    return f"{TensorType(kind).name} already, which is not quantized a second time"


def is_quantized(tensor: TensorInfo) -> bool:
    """Whether a quantizer touches a tensor. What it does not keeps its type: also as F32, F16 or BF16 are asked for."""
    name = tensor.name
    return (
        _dimensions(tensor) >= _MATRIX
        and name.endswith("weight")
        and name not in _NEVER_QUANTIZED
        and not any(part in name for part in _KEEP_THEIR_TYPE)
    )


def _dimensions(tensor: TensorInfo) -> int:
    """Those behind which there are only ones do not count."""
    return max((at for at, length in enumerate(tensor.shape, 1) if length > 1), default=1)


def _layer(name: str) -> int:
    found = re.match(r"blk\.([0-9]+)", name)
    return int(found[1]) if found else -1


def _part(name: str) -> _Part:
    if name == "output.weight":
        return "output"
    return "embedding" if name in _EMBEDDINGS else next((part for text, part in _PARTS if text in name), "other")


class _Rules:
    """Goes through the tensors in llama.cpp's order and counts them."""

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
        """The type by the rules, whatever the tensor's rows are."""
        part = _part(tensor.name)
        if part == "output" or (part == "embedding" and self._tied):
            return self._output(tensor)
        if self._default is TensorType.MXFP4:
            return self._mxfp4(tensor, part)
        at = self._seen[part]
        self._seen[part] += 1
        if part == "embedding":
            return Q4_K if self._file_type in ("TQ1_0", "TQ2_0") else self._default
        if self._facts.has_8_experts and part in ("value", "key"):
            return Q8_0
        if part == "value":
            kind = self._chosen(_VALUES, at, self._values)
            return Q5_K if self._facts.is_70b and kind in (Q3_K, Q4_K) else kind
        if part == "attention output":
            return self._attention_output()
        if part in ("up", "gate", "down"):
            at = self._layer(tensor.name, at)
        if part == "down":
            return self._chosen(_DOWN_OF_FALCON if self._is_falcon else _DOWN, at, self._facts.blocks)
        return self._default

    def _output(self, tensor: TensorInfo) -> TensorType:
        if self._is_falcon or self._default in (TensorType.MXFP4, Q8_0) or not _divides(self._default, tensor):
            return Q8_0
        return Q6_K

    def _mxfp4(self, tensor: TensorInfo, part: _Part) -> TensorType:
        """BailingMoE 3 has matrices of its attention stacked, which are no experts."""
        stacked = prod(tensor.shape[2:3]) > 1
        if self._facts.architecture == "bailingmoe3":
            stacked = stacked and part in ("up", "gate", "down")
        return TensorType.MXFP4 if stacked else Q8_0

    def _attention_output(self) -> TensorType:
        by_type = _ATTENTION_OUTPUT_OF_8_EXPERTS if self._facts.has_8_experts else _ATTENTION_OUTPUT
        return (_ATTENTION_OUTPUT_OF_FALCON if self._is_falcon else by_type).get(self._file_type, self._default)

    def _layer(self, name: str, at: int) -> int:
        """Experts that are stored one by one lie scattered: where there are any, the name says the layer."""
        if self._facts.experts <= 1:
            return at
        layer = _layer(name)
        if not 0 <= layer < self._facts.blocks:
            raise CannotConvert(f"the tensor {shown(name)} is in none of the model's {self._facts.blocks} layers")
        return layer

    def _chosen(self, choices: _Choices, at: int, total: int) -> TensorType:
        choose = choices.get(self._file_type)
        return choose(_Place(at, total, self._facts)) if choose else self._default


def _divides(kind: TensorType, tensor: TensorInfo) -> bool:
    return tensor.shape[0] % BLOCKS[kind][0] == 0


def _fitting(tensor: TensorInfo, kind: TensorType) -> TensorType:
    if _divides(kind, tensor):
        return kind
    if kind not in _FOR_OTHER_ROWS:
        raise CannotConvert(
            f"the tensor {shown(tensor.name)} has rows of {tensor.shape[0]}, no multiple of {kind.name}'s "
            f"{BLOCKS[kind][0]}: ask for F16, BF16 or F32"
        )
    other = _FOR_OTHER_ROWS[kind]
    return other if _divides(other, tensor) else F16


def _unknown(file_type: str) -> str:
    if nearest := NEED_IMPORTANCE.get(file_type):
        return f"{file_type} needs an importance matrix: ask for {nearest}"
    return f"matrices become {', '.join(FILE_TYPES)} here, not {shown(file_type)}"
