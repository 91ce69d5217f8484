"""A PEFT LoRA adapter: what its files say, and the GGUF that it becomes for Ollama. Pure.

Ollama has a converter of its own, but it leaves the rows of q_proj and k_proj in an order that its converted Llamas do
not have and scrambles their lora_A, so that what the adapter changes there is random; it refuses an `lora_alpha` of
16.0, ignores `use_rslora` and `alpha_pattern`, and a one-dimensional tensor ends the whole server (ran: v0.24, v0.33;
convert/convert_llama_adapter.go). A GGUF it stores as it is, and no later repair of that converter can undo ours.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.errors import Refusal
from proxy.gguf.config import as_integer
from proxy.gguf.header import Field, write_header
from proxy.gguf.tensors import TensorInfo, TensorType, lay_out, padding
from proxy.gguf.transforms import Transform, interleave, multiply
from proxy.planning.recipe import Literal, Range, Recipe, verify_header
from proxy.planning.safetensors import SafetensorsHeader, Tensor
from proxy.sources.base import RepositoryFile

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_GGUF = "adapter.gguf"
"""What the made file is called in the `adapters` of /api/create: Ollama goes by the end of the name."""

_ARCHITECTURES = {"LlamaForCausalLM": "llama", "Gemma2ForCausalLM": "gemma2", "Qwen2ForCausalLM": "qwen2"}
_PERMUTED = "llama"  # Ollama's and llama.cpp's converters reorder the rows of its q_proj and k_proj.
_TYPES = {"F32": TensorType.F32, "F16": TensorType.F16, "BF16": TensorType.BF16}
_MATRIX = 2
_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin a training that leave the base's own weights as they are; pissa, olora, corda and loftq do not."""

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99})*")
_PATTERN = re.compile(r"\^?[A-Za-z0-9_.]+")
_NAME = re.compile(
    r"(?:base_model\.model\.)?"
    r"(?P<module>model\.layers\.(?P<layer>0|[1-9][0-9]{0,3})\.(?:self_attn\.[qkvo]|mlp\.(?:gate|up|down))_proj)"
    r"\.lora_(?P<half>[AB])(?:\.default)?\.weight"
)
_MERGE = "merge it into its base model (PEFT: merge_and_unload) and pull the merged model"
_MOST_ALPHA = 1e6


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """`base` is ORG/REPO, at `revision` where the adapter names one."""

    base: str
    revision: str | None
    alpha: float
    alpha_pattern: Mapping[str, float]
    by_root_of_rank: bool = False

    def alpha_of(self, module: str, rank: int) -> float:
        """What llama.cpp has to divide by the rank to get PEFT's scale of B·A for this module."""
        alpha = _matched(self.alpha_pattern, module, self.alpha)
        return alpha * math.sqrt(rank) if self.by_root_of_rank else alpha


@dataclass(frozen=True, slots=True)
class AdapterBase:
    """What has to be known of the model that an adapter changes; `architecture` is the GGUF's name of it."""

    architecture: str
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_size: int

    @property
    def projections(self) -> dict[str, tuple[str, int, int]]:
        """By PEFT's name: the GGUF's, then the rows and the columns of the weight."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        return {
            "q_proj": ("attn_q", queries, self.hidden),
            "k_proj": ("attn_k", keys, self.hidden),
            "v_proj": ("attn_v", keys, self.hidden),
            "o_proj": ("attn_output", self.hidden, queries),
            "gate_proj": ("ffn_gate", self.feed_forward, self.hidden),
            "up_proj": ("ffn_up", self.feed_forward, self.hidden),
            "down_proj": ("ffn_down", self.hidden, self.feed_forward),
        }

    def permuted_heads(self, projection: str) -> int | None:
        heads = {"q_proj": self.heads, "k_proj": self.kv_heads}
        return heads.get(projection) if self.architecture == _PERMUTED else None


@dataclass(frozen=True, slots=True)
class _Half:
    """One of the two matrices of a module; PEFT changes the module's weight by a scale times B times A."""

    name: str
    module: str
    layer: int
    is_a: bool
    tensor: Tensor

    @property
    def projection(self) -> str:
        return self.module.rpartition(".")[2]

    @property
    def rank(self) -> int:
        return self.tensor.shape[0 if self.is_a else 1]


def read_adapter_config(where: str, content: bytes) -> AdapterConfig:
    """Read adapter_config.json; `where` says whose. Raises Refusal for what cannot work with Ollama."""
    fields = _Fields.read(where, content)
    _check_features(where, fields)
    return AdapterConfig(
        base=_base(where, fields.get("base_model_name_or_path")),
        revision=_revision(where, fields.get("revision")),
        alpha=_alpha(where, "lora_alpha", fields.get("lora_alpha")),
        alpha_pattern=_alpha_pattern(where, fields.get("alpha_pattern") or {}),
        by_root_of_rank=bool(fields.get("use_rslora")),
    )


def read_adapter_base(where: str, content: bytes) -> AdapterBase:
    """Read the base model's config.json. Raises Refusal for a model whose adapters Ollama does not take."""
    fields = _Fields.read(where, content)
    names = fields.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or name not in _ARCHITECTURES:
        raise Refusal(
            f"{where} is of the architecture {name!r:.100}; an adapter can be used with {', '.join(_ARCHITECTURES)} "
            f"only; {_MERGE}"
        )
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    base = AdapterBase(
        architecture=_ARCHITECTURES[name],
        layers=fields.count("num_hidden_layers"),
        hidden=hidden,
        feed_forward=fields.count("intermediate_size"),
        heads=heads,
        kv_heads=fields.count("num_key_value_heads", heads),
        head_size=fields.count("head_dim", hidden // heads),
    )
    if base.head_size % 2:
        raise Refusal(f"{where} has heads of {base.head_size} numbers, which cannot be halved; use another base model")
    return base


def adapter_recipe(
    where: str, file: RepositoryFile, header: SafetensorsHeader, config: AdapterConfig, base: AdapterBase
) -> Recipe:
    """The GGUF adapter made of adapter_model.safetensors, which is read once from its first byte to its last.

    Raises Refusal where Ollama would create a model that it cannot load, or that says something else.
    """
    halves = [_half(where, name, tensor, base) for name, tensor in header.tensors.items()]
    halves.sort(key=lambda half: half.tensor.start)
    alphas = {module: config.alpha_of(module, rank) for module, rank in _ranks(where, halves).items()}
    [(alpha, _)] = Counter(alphas.values()).most_common(1)
    made = [_made(half, alphas[half.module] / alpha, base) for half in halves]
    infos = lay_out(info for info, _ in made)
    metadata = {
        "general.architecture": Field.string(base.architecture),
        "general.type": Field.string("adapter"),
        "adapter.type": Field.string("lora"),
        "adapter.lora.alpha": Field.float32(alpha),
    }
    parts: list[Literal | Range] = [
        Literal(write_header(metadata, infos)),
        verify_header(where, file, header.size, header.content.__eq__),
    ]
    for half, info, (_, transform) in zip(halves, infos, made, strict=True):
        parts.append(Range(file, half.tensor.start, half.tensor.stop, transform))
        parts.append(Literal(bytes(padding(info.size))))
    return Recipe(tuple(parts))


@dataclass(frozen=True, slots=True)
class _Fields:
    """A JSON object from outside; a missing field and null are the same."""

    where: str
    values: Mapping[str, Any]

    @classmethod
    def read(cls, where: str, content: bytes) -> "_Fields":
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise Refusal(f"{where} is not JSON ({error}); ask its owner to upload it again") from error
        if not isinstance(values, dict):
            raise Refusal(f"{where} is not a JSON object; ask its owner to upload it again")
        return cls(where, values)

    def get(self, name: str) -> Any:
        return self.values.get(name)

    def count(self, name: str, default: int | None = None) -> int:
        value = default if self.get(name) is None else as_integer(self.get(name))
        if type(value) is not int or value < 1:
            raise Refusal(
                f"{self.where} has {name} = {value!r:.100}, where a number above 0 is needed; correct it there"
            )
        return value


def _check_features(where: str, fields: _Fields) -> None:
    kind = fields.get("peft_type")
    if kind != "LORA":
        raise Refusal(f"{where} is of the type {kind!r:.100}; Ollama takes only LORA adapters; {_MERGE}")
    start = fields.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise Refusal(
            f"{where} began its training with init_lora_weights = {start!r:.100}, which changed the base model too; "
            "ask its owner for an adapter that was converted to plain LoRA"
        )
    for name, what in (
        ("use_dora", "DoRA"),
        ("use_qalora", "QALoRA"),
        ("lora_bias", "a bias in LoRA"),
        ("modules_to_save", "modules that were trained whole"),
        ("trainable_token_indices", "tokens that were trained whole"),
        ("layer_replication", "repeated layers"),
        ("alora_invocation_tokens", "activation by certain tokens"),
    ):
        if fields.get(name):
            raise Refusal(f"{where} says {name}: Ollama has no adapters with {what}; {_MERGE}")
    if fields.get("bias") not in (None, "none"):
        raise Refusal(f"{where} says bias = {fields.get('bias')!r:.100}: Ollama's adapters change no biases; {_MERGE}")


def _base(where: str, name: object) -> str:
    if not name:
        raise Refusal(
            f"{where} names no base model in base_model_name_or_path; ask its owner to name it there, or {_MERGE}"
        )
    if not isinstance(name, str) or not _REPOSITORY.fullmatch(name):
        raise Refusal(
            f"{where} names {name!r:.200} as its base model, which is no repository like ORG/REPO but perhaps a "
            f"place on its owner's machine; ask the owner to correct base_model_name_or_path, or {_MERGE}"
        )
    return name


def _revision(where: str, revision: object) -> str | None:
    if revision is None:
        return None
    if not isinstance(revision, str) or not _REVISION.fullmatch(revision):
        raise Refusal(
            f"{where} names the revision {revision!r:.100} of its base model, which cannot be one; correct it"
        )
    return revision


def _alpha(where: str, name: str, value: object) -> float:
    # llama.cpp takes an alpha of 0 for none at all, and scales by 1 (llama-adapter.h, get_scale).
    if type(value) not in (int, float) or not 0 < abs(value) <= _MOST_ALPHA:  # type: ignore[arg-type]
        raise Refusal(f"{where} has {name} = {value!r:.100}, which is no strength that an adapter can have; correct it")
    return float(value)  # type: ignore[arg-type]


def _alpha_pattern(where: str, pattern: object) -> Mapping[str, float]:
    # PEFT takes the keys for regular expressions; one from outside could keep a core busy for hours.
    if not isinstance(pattern, dict) or not all(_PATTERN.fullmatch(key) for key in pattern):
        raise Refusal(f"{where} has an alpha_pattern with more than plain names of modules in it; {_MERGE}")
    return {key: _alpha(where, f"alpha_pattern[{key!r}]", value) for key, value in pattern.items()}


def _matched(pattern: Mapping[str, float], module: str, default: float) -> float:
    """As PEFT chooses: by the first key that the module's name ends with."""
    for key, value in pattern.items():
        if module == key.removeprefix("^") or module.endswith(f".{key}"):
            return value
    return default


def _half(where: str, name: str, tensor: Tensor, base: AdapterBase) -> _Half:
    match = _NAME.fullmatch(name)
    if match is None:
        raise Refusal(
            f"{where} holds {name!r:.200}; Ollama's adapters can change the projections of attention and feed-forward "
            f"layers only, by lora_A and lora_B; {_MERGE}"
        )
    if tensor.dtype not in _TYPES:
        raise Refusal(f"{where} holds {name} as {tensor.dtype}; an adapter can be {', '.join(_TYPES)} only; {_MERGE}")
    half = _Half(name, match["module"], int(match["layer"]), match["half"] == "A", tensor)
    _, rows, columns = base.projections[half.projection]
    fixed = columns if half.is_a else rows
    if half.layer >= base.layers or len(tensor.shape) != _MATRIX or tensor.shape[half.is_a] != fixed or half.rank < 1:
        raise Refusal(
            f"{where} has {name} in the shape {list(tensor.shape)}, which does not fit the base model: "
            f"base_model_name_or_path in {ADAPTER_CONFIG} names another model than the adapter was trained on; ask its "
            "owner to correct it"
        )
    return half


def _ranks(where: str, halves: Sequence[_Half]) -> dict[str, int]:
    """The rank of each module. Raises Refusal where a module has anything but one lora_A and one lora_B to it."""
    pairs: dict[str, list[_Half]] = {}
    for half in halves:
        pairs.setdefault(half.module, []).append(half)
    if not pairs:
        raise Refusal(f"{where} holds no tensors; ask its owner to upload it again")
    for module, pair in pairs.items():
        if sorted(half.is_a for half in pair) != [False, True] or pair[0].rank != pair[1].rank:
            found = ", ".join(f"{half.name} {list(half.tensor.shape)}" for half in pair)
            raise Refusal(
                f"{where} has no matching pair of lora_A and lora_B for {module}, but {found}; ask its owner to upload "
                "it again"
            )
    return {module: pair[0].rank for module, pair in pairs.items()}


def _made(half: _Half, factor: float, base: AdapterBase) -> tuple[TensorInfo, Transform | None]:
    """The tensor in the GGUF, and what makes its bytes. A GGUF has one alpha for all: lora_A takes what differs."""
    tensor = half.tensor
    kind, transform = _TYPES[tensor.dtype], None
    heads = base.permuted_heads(half.projection)
    if half.is_a and factor != 1:
        kind, transform = TensorType.F32, multiply(tensor.dtype, factor)
    elif not half.is_a and heads:
        row = (tensor.stop - tensor.start) // tensor.shape[0]
        transform = interleave(row, tensor.shape[0] // heads)
    name = f"blk.{half.layer}.{base.projections[half.projection][0]}.weight.lora_{'a' if half.is_a else 'b'}"
    return TensorInfo(name, tensor.shape[::-1], kind), transform
