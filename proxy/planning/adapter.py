"""A PEFT LoRA adapter: its configuration, and its conversion to a GGUF for Ollama. Pure.

Ollama's own converter (convert/convert_llama_adapter.go, tried with v0.24 and v0.33) makes wrong adapters: it does not
permute the rows of q_proj and k_proj as its converted Llamas have them, and scrambles their lora_A. It also refuses an
`lora_alpha` of 16.0, ignores `use_rslora` and `alpha_pattern`, and a one-dimensional tensor crashes the whole server. A
finished GGUF is stored unchanged, so a later fix of that converter does not affect ours.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.errors import Refusal
from proxy.gguf.header import Field, write_header
from proxy.gguf.model_config import as_integer
from proxy.gguf.tensors import TensorInfo, TensorType, lay_out, padding
from proxy.gguf.transforms import Transform, interleave, multiply
from proxy.planning.json_files import UPLOAD_AGAIN, json_object
from proxy.planning.recipe import Literal, Range, Recipe, verify_header
from proxy.planning.safetensors import SafetensorsHeader, Tensor
from proxy.sources.base import RepositoryFile

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_GGUF = "adapter.gguf"
"""The file name in the `adapters` of /api/create: Ollama recognises a GGUF by the end of the name."""

_ARCHITECTURES = {"LlamaForCausalLM": "llama", "Gemma2ForCausalLM": "gemma2", "Qwen2ForCausalLM": "qwen2"}
_PERMUTED = "llama"
"""The converters of Ollama and llama.cpp permute the rows of q_proj and k_proj in this architecture."""
_TYPES = {"F32": TensorType.F32, "F16": TensorType.F16, "BF16": TensorType.BF16}
_MATRIX = 2
_BASE_KEEPING_INITS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")
"""Values of `init_lora_weights` that leave the base's weights unchanged; pissa, olora, corda, loftq and lora_ga change
them."""
_FEATURES = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "kasa_config": "KaSA",
    "arrow_config": "Arrow routing",
    "lora_bias": "a bias in LoRA",
    "modules_to_save": "fully trained modules",
    "trainable_token_indices": "fully trained tokens",
    "layer_replication": "repeated layers",
    "alora_invocation_tokens": "invocation tokens",
}
"""Settings that make the adapter more than B * A, as texts for errors."""
_PEFT = "0.21"
"""The version of PEFT whose settings are known here."""
_SETTINGS = frozenset(
    (
        *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "r", "target_modules", "target_parameters", "exclude_modules", "lora_alpha"),
        *("lora_dropout", "fan_in_fan_out", "bias", "use_rslora", "init_lora_weights", "layers_to_transform"),
        *("layers_pattern", "rank_pattern", "alpha_pattern", "megatron_config", "megatron_core", "loftq_config"),
        *("eva_config", "corda_config", "lora_ga_config", "velora_config", "qalora_group_size", "monteclora_config"),
        *("runtime_config", "ensure_weight_tying", *_FEATURES),
    )
)
"""The fields of PEFT's LoraConfig. A finished adapter calculates B * A whatever the values of those that are not read
here: they belong to training, or choose the modules that the weights name anyway."""

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99})*")
_PATTERN = re.compile(r"\^?[A-Za-z0-9_.]+")
_NAME = re.compile(
    r"(?:base_model\.model\.)?"
    r"(?P<module>model\.layers\.(?P<layer>0|[1-9][0-9]{0,3})\.(?:self_attn\.[qkvo]|mlp\.(?:gate|up|down))_proj)"
    r"\.lora_(?P<half>[AB])(?:\.default)?\.weight"
)
_MERGE = "merge it into its base model (PEFT: merge_and_unload) and pull the merged model"
_MAX_ALPHA = 1e6


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The parts of adapter_config.json that the conversion needs."""

    base: str
    """ORG/REPO of the base model."""
    revision: str | None
    alpha: float
    alpha_pattern: Mapping[str, float]
    """Alpha for modules whose name ends with the key."""
    rank_stabilized: bool = False
    """rsLoRA: the scale is alpha / sqrt(rank), not alpha / rank."""
    warnings: tuple[str, ...] = ()

    def alpha_of(self, module: str, rank: int) -> float:
        """llama.cpp divides this by the rank, and gets PEFT's scale of B·A for the module."""
        alpha = _match_pattern(self.alpha_pattern, module, self.alpha)
        return alpha * math.sqrt(rank) if self.rank_stabilized else alpha


@dataclass(frozen=True, slots=True)
class AdapterBase:
    """The shape of the model that an adapter changes."""

    architecture: str
    """llama.cpp's name."""
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_size: int

    @property
    def projections(self) -> dict[str, tuple[str, int, int]]:
        """For PEFT's name of each projection: the name in the GGUF, and the rows and columns of the weight."""
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
class _LoraTensor:
    """lora_A or lora_B of a module. PEFT adds scale * B * A to the weight of the module."""

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
    """Reads adapter_config.json; `where` names it in errors. Raises Refusal for an adapter that Ollama cannot use."""
    fields = _Fields.read(where, content)
    _check_features(where, fields)
    return AdapterConfig(
        base=_base(where, fields.get("base_model_name_or_path")),
        revision=_revision(where, fields.get("revision")),
        alpha=_alpha(where, "lora_alpha", fields.get("lora_alpha")),
        alpha_pattern=_alpha_pattern(where, fields.get("alpha_pattern") or {}),
        rank_stabilized=bool(fields.get("use_rslora")),
        warnings=tuple(_unknown_settings(where, fields)),
    )


def read_adapter_base(where: str, content: bytes) -> AdapterBase:
    """Reads the base model's config.json. Raises Refusal for a model that Ollama supports no adapters for."""
    fields = _Fields.read(where, content)
    names = fields.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or name not in _ARCHITECTURES:
        raise Refusal(
            f"{where} has the architecture {name!r:.100}; adapters work with {', '.join(_ARCHITECTURES)} only; {_MERGE}"
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
        raise Refusal(f"{where} has the odd head size {base.head_size}; use another base model")
    return base


def adapter_recipe(
    where: str, file: RepositoryFile, header: SafetensorsHeader, config: AdapterConfig, base: AdapterBase
) -> Recipe:
    """Makes the GGUF adapter from adapter_model.safetensors, which is read once, from the first byte to the last.

    Raises Refusal if Ollama would create a model that it cannot load, or that answers differently.
    """
    lora_tensors = [_lora_tensor(where, name, tensor, base) for name, tensor in header.tensors.items()]
    lora_tensors.sort(key=lambda lora: lora.tensor.start)
    alphas = {module: config.alpha_of(module, rank) for module, rank in _ranks(where, lora_tensors).items()}
    [(alpha, _)] = Counter(alphas.values()).most_common(1)
    converted = [_convert(lora, alphas[lora.module] / alpha, base) for lora in lora_tensors]
    infos = lay_out(info for info, _ in converted)
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
    for lora, info, (_, transform) in zip(lora_tensors, infos, converted, strict=True):
        parts.append(Range(file, lora.tensor.start, lora.tensor.stop, transform))
        parts.append(Literal(bytes(padding(info.size))))
    return Recipe(tuple(parts))


@dataclass(frozen=True, slots=True)
class _Fields:
    """A JSON object in which a missing field and null mean the same."""

    where: str
    values: Mapping[str, Any]

    @classmethod
    def read(cls, where: str, content: bytes) -> "_Fields":
        return cls(where, json_object(where, content))

    def get(self, name: str) -> Any:
        return self.values.get(name)

    def count(self, name: str, default: int | None = None) -> int:
        value = default if self.get(name) is None else as_integer(self.get(name))
        if type(value) is not int or value < 1:
            raise Refusal(
                f"{self.where} has {name} = {value!r:.100}, which must be a whole number above 0; ask its owner to "
                "correct it"
            )
        return value


def _check_features(where: str, fields: _Fields) -> None:
    peft_type = fields.get("peft_type")
    if peft_type != "LORA":
        raise Refusal(f"{where} has peft_type = {peft_type!r:.100}; Ollama supports LORA adapters only; {_MERGE}")
    init = fields.get("init_lora_weights")
    if init not in _BASE_KEEPING_INITS:
        raise Refusal(
            f"{where} has init_lora_weights = {init!r:.100}, so its training changed the base model too; ask its owner "
            "for an adapter that was converted to plain LoRA"
        )
    for name, feature in _FEATURES.items():
        if fields.get(name):
            raise Refusal(f"{where} sets {name}: Ollama does not support adapters with {feature}; {_MERGE}")
    if fields.get("bias") not in (None, "none"):
        bias = fields.get("bias")
        raise Refusal(f"{where} has bias = {bias!r:.100}: Ollama's adapters cannot change biases; {_MERGE}")


def _unknown_settings(where: str, fields: _Fields) -> Iterator[str]:
    """PEFT ignores a setting that it does not know, so one that has an effect comes from a newer PEFT."""
    unknown = sorted(name for name, value in fields.values.items() if value and name not in _SETTINGS)
    if unknown:
        yield (
            f"{where} sets {', '.join(unknown)[:100]}, which PEFT {_PEFT} does not have: a newer PEFT may calculate "
            "something else with it"
        )


def _base(where: str, name: object) -> str:
    if not name:
        raise Refusal(
            f"{where} names no base model in base_model_name_or_path; ask its owner to name it there, or {_MERGE}"
        )
    if not isinstance(name, str) or not _REPOSITORY.fullmatch(name):
        raise Refusal(
            f"{where} names {name!r:.200} as its base model, which is not a repository such as ORG/REPO, but perhaps a "
            f"path on its owner's machine; ask the owner to correct base_model_name_or_path, or {_MERGE}"
        )
    return name


def _revision(where: str, revision: object) -> str | None:
    if revision is None:
        return None
    if not isinstance(revision, str) or not _REVISION.fullmatch(revision):
        raise Refusal(
            f"{where} names the revision {revision!r:.100} of its base model, which is not valid; ask its owner to "
            "correct it"
        )
    return revision


def _alpha(where: str, name: str, value: object) -> float:
    # llama.cpp treats an alpha of 0 as missing, and scales by 1 (llama-adapter.h, get_scale).
    if type(value) not in (int, float) or not 0 < abs(value) <= _MAX_ALPHA:  # type: ignore[arg-type]
        raise Refusal(
            f"{where} has {name} = {value!r:.100}, which must be a number up to {_MAX_ALPHA:.0f} and not 0; ask its "
            "owner to correct it"
        )
    return float(value)  # type: ignore[arg-type]


def _alpha_pattern(where: str, pattern: object) -> Mapping[str, float]:
    # PEFT uses the keys as regular expressions; a hostile one could keep a core busy for hours.
    if not isinstance(pattern, dict) or not all(_PATTERN.fullmatch(key) for key in pattern):
        raise Refusal(f"{where} has an alpha_pattern whose keys are not plain module names; {_MERGE}")
    return {key: _alpha(where, f"alpha_pattern[{key!r}]", value) for key, value in pattern.items()}


def _match_pattern(pattern: Mapping[str, float], module: str, default: float) -> float:
    """As PEFT: the first key that the module's name ends with decides."""
    for key, value in pattern.items():
        if module == key.removeprefix("^") or module.endswith(f".{key}"):
            return value
    return default


def _lora_tensor(where: str, name: str, tensor: Tensor, base: AdapterBase) -> _LoraTensor:
    match = _NAME.fullmatch(name)
    if match is None:
        raise Refusal(
            f"{where} holds {name!r:.200}; Ollama's adapters can change only the projections of attention and "
            f"feed-forward layers, by lora_A and lora_B; {_MERGE}"
        )
    if tensor.dtype not in _TYPES:
        raise Refusal(f"{where} holds {name} as {tensor.dtype}; an adapter must be {', '.join(_TYPES)}; {_MERGE}")
    lora = _LoraTensor(name, match["module"], int(match["layer"]), match["half"] == "A", tensor)
    _, rows, columns = base.projections[lora.projection]
    size = columns if lora.is_a else rows
    if lora.layer >= base.layers or len(tensor.shape) != _MATRIX or tensor.shape[lora.is_a] != size or lora.rank < 1:
        raise Refusal(
            f"{where} has {name} in the shape {list(tensor.shape)}, which does not fit the base model: "
            f"base_model_name_or_path in {ADAPTER_CONFIG} names another model than the adapter was trained on; ask its "
            "owner to correct it"
        )
    return lora


def _ranks(where: str, lora_tensors: Sequence[_LoraTensor]) -> dict[str, int]:
    """The rank of each module. Raises Refusal unless each module has exactly one lora_A and one lora_B of one rank."""
    pairs: dict[str, list[_LoraTensor]] = {}
    for lora in lora_tensors:
        pairs.setdefault(lora.module, []).append(lora)
    if not pairs:
        raise Refusal(f"{where} holds no tensors; {UPLOAD_AGAIN}")
    for module, pair in pairs.items():
        if sorted(lora.is_a for lora in pair) != [False, True] or pair[0].rank != pair[1].rank:
            present = ", ".join(f"{lora.name} {list(lora.tensor.shape)}" for lora in pair)
            raise Refusal(
                f"{where} has no matching pair of lora_A and lora_B for {module}, but {present}; {UPLOAD_AGAIN}"
            )
    return {module: pair[0].rank for module, pair in pairs.items()}


def _convert(lora: _LoraTensor, factor: float, base: AdapterBase) -> tuple[TensorInfo, Transform | None]:
    """The tensor in the GGUF, and the transform of its bytes.

    A GGUF has one alpha for all modules: lora_A is multiplied by `factor` where a module has another alpha.
    """
    tensor = lora.tensor
    tensor_type, transform = _TYPES[tensor.dtype], None
    heads = base.permuted_heads(lora.projection)
    if lora.is_a and factor != 1:
        tensor_type, transform = TensorType.F32, multiply(tensor.dtype, factor)
    elif not lora.is_a and heads:
        row_bytes = (tensor.stop - tensor.start) // tensor.shape[0]
        transform = interleave(row_bytes, tensor.shape[0] // heads)
    name = f"blk.{lora.layer}.{base.projections[lora.projection][0]}.weight.lora_{'a' if lora.is_a else 'b'}"
    return TensorInfo(name, tensor.shape[::-1], tensor_type), transform
