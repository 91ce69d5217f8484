"""Whether this Ollama makes a working model of a safetensors repository: refused, repaired or taken as it is. Pure.

Ollama itself finds out after the download, or says `success` all the same, or ends (v0.24.0, v0.33.0-rc2).
"""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from proxy.config import Quantization
from proxy.errors import Refusal
from proxy.gguf.families import FAMILIES as KNOWN_HERE
from proxy.planning import fp8
from proxy.planning.capabilities import ANY_WEIGHTS, CONVERTS, GGUF_ONLY, LAST_CONVERTER, NEVER, ROW, RUNS, Capabilities
from proxy.planning.repairs import FRACTIONS, drop_quantization, fit_config, repair_config
from proxy.planning.safetensors import FLOATS, Header, Tensor
from proxy.planning.tensors import (
    FAMILIES,
    FREQUENCIES,
    MIXTRAL,
    USELESS,
    expected_shape,
    missing_text,
    ollamas_name,
)
from proxy.planning.weights import CONFIG, INDEX, NotConvertible, Selection

# Bert's converter leaves it out, so its type does not matter.
SKIPPED = ("embeddings.position_ids",)
PACKED = ("gptq", "awq", "bitsandbytes", "bitnet", "hqq", "eetq", "aqlm", "quanto", "torchao", "higgs", "vptq", "spqr")
GPT_OSS = "GptOssForCausalLM"
BERT = "BertModel"
NOMIC = ("NomicBertModel", "NomicBertMoEModel")
NOMIC_ATTENTION = "encoder.layer.0.attention.self.qkv.weight"
"""As the converter knows it: what nomic-ai calls Wqkv ends v0.24 at the first text."""
MLLAMA = "MllamaForConditionalGeneration"
NEEDS_PREPROCESSOR = (
    "Qwen3VLForConditionalGeneration",
    "Qwen3VLMoeForConditionalGeneration",
    "GlmOcrForConditionalGeneration",
)
PREPROCESSOR = "preprocessor_config.json"
USUAL_NAMES = re.compile(r"model(-.*-of-.*)?\.safetensors")
MOST = 2**31 - 1
OPTIONAL = (
    *("num_key_value_heads", "head_dim", "sliding_window", "vocab_size"),
    *("n_layers", "n_layer", "n_head", "n_embd"),
)


class Edit(NamedTuple):
    """What a tensor is called in the uploaded file, and its shape there; None leaves either, or the tensor, out."""

    name: str | None
    shape: tuple[int, ...] | None = None


@dataclass(slots=True)
class Findings:
    """How the repository becomes a model. `quantization` None leaves the type; `edits` are by file and tensor.

    `rows` is how many tokens the weights know, where that is known. `offered` are the quantizations that there are.
    """

    architecture: str
    config: dict[str, Any]
    quantization: str | None
    repairs: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    edits: dict[str, dict[str, Edit]] = field(default_factory=dict)
    rows: int | None = None
    offered: tuple[str, ...] = ()


def judge(
    repository: str, config: Mapping[str, Any], tag: str, default: Quantization, capabilities: Capabilities
) -> Findings:
    """What config.json alone tells. Raises Refusal, or NotConvertible where another form of the model would work."""
    where = f"{repository}/{CONFIG}"
    names = config.get("architectures")
    architecture = architecture_of(where, config)
    _check_architecture(where, architecture, capabilities)
    quantized = config.get("quantization_config") or config.get("quantization") or {}
    method = str(quantized.get("quant_method", "")).lower() if isinstance(quantized, dict) else ""
    if method in PACKED:
        raise NotConvertible(
            f"{where}: the weights are quantized already ({method}), in a form that Ollama cannot read: it converts "
            "F32, F16 and BF16; pull the repository that they were quantized from"
        )
    quantization = choose_quantization(tag, default, capabilities, architecture)
    offered = () if architecture == GPT_OSS else capabilities.quantizations
    found = Findings(architecture, deepcopy(dict(config)), quantization, offered=offered)
    if isinstance(names, str):
        found.config["architectures"] = [names]
        found.repairs.append("config.json: architectures written as a list")
    found.repairs += repair_config(found.config, architecture)
    _check_numbers(where, found.config, architecture)
    found.warnings += _rope_warnings(found.config, architecture)
    return found


def architecture_of(where: str, config: Mapping[str, Any]) -> str:
    """Raises NotConvertible where there is none."""
    names = config.get("architectures")
    architecture = names if isinstance(names, str) else names[0] if isinstance(names, list) and names else None
    if not isinstance(architecture, str) or not architecture.isidentifier():
        raise NotConvertible(f"{where} names no architecture, so Ollama does not know what the weights are")
    return architecture


def choose_quantization(tag: str, default: Quantization, capabilities: Capabilities, architecture: str) -> str | None:
    """Read a tag of safetensors. Raises Refusal for what this Ollama cannot quantize to."""
    if architecture == GPT_OSS:
        if tag.lower() != "latest":
            raise Refusal(
                f"the weights are MXFP4 already, which {capabilities.ollama} cannot quantize to {tag!r}; "
                "pull without a tag"
            )
        return None
    quantization = capabilities.quantization(default if tag.lower() == "latest" else tag)
    if quantization is None:
        offered = ", ".join(capabilities.quantizations)
        raise Refusal(
            f"{capabilities.ollama} cannot quantize to {tag!r}; pull with one of these tags: {offered} "
            f"(none means {default})"
        )
    return quantization


def check_weights(
    repository: str,
    selection: Selection,
    headers: Mapping[str, Header],
    found: Findings,
    capabilities: Capabilities,
) -> None:
    """Add to what was found what the headers of the weight files tell. Raises Refusal, which names file and tensor."""
    if capabilities.version < ANY_WEIGHTS and (odd := [path for path in headers if not USUAL_NAMES.fullmatch(path)]):
        raise NotConvertible(
            f"{repository}: {capabilities.ollama} does not read weights by the name of {odd[0]}; Ollama {ANY_WEIGHTS} "
            "or newer does"
        )
    tensors = _kept_tensors(repository, selection, headers, found, capabilities)
    if found.architecture != GPT_OSS and all(tensor.dtype != fp8.TYPE for tensor in tensors.values()):
        found.repairs += drop_quantization(found.config)
    if found.architecture in FAMILIES:
        _check_family(repository, tensors, found)
        found.repairs += fit_config(found.config, found.architecture, tensors)
        _check_shapes(repository, tensors, found)
        found.rows = found.config["vocab_size"]
    if missing := missing_text(found.architecture, found.config, tensors):
        raise Refusal(
            f"{repository} has no tensor {missing}, which {found.architecture} needs; its upload is incomplete"
        )
    if found.architecture in NOMIC and NOMIC_ATTENTION not in tensors:
        raise NotConvertible(
            f"{repository} has no tensor {NOMIC_ATTENTION}, by which name Ollama's {found.architecture} knows it"
        )
    if found.architecture == GPT_OSS and not any(name.endswith("_blocks") for name in tensors):
        raise NotConvertible(f"{repository}: {found.architecture} converts only from MXFP4 weights, and these are not")
    if found.architecture in NEEDS_PREPROCESSOR and all(file.path != PREPROCESSOR for file in selection.companions):
        raise Refusal(f"{repository} has no {PREPROCESSOR}, without which Ollama does not convert {found.architecture}")
    _fit_quantization(repository, tensors, found, capabilities)


def _check_architecture(where: str, architecture: str, capabilities: Capabilities) -> None:
    since = CONVERTS.get(architecture, NEVER)
    if capabilities.converts(architecture):
        if architecture == MLLAMA and capabilities.runs_llama_server:
            raise NotConvertible(
                f"{where}: {capabilities.ollama} converts {architecture}, but cannot run what it makes"
            )
    elif (known := KNOWN_HERE.get(architecture)) and not capabilities.runs(known.architecture):
        version = RUNS[known.architecture]
        raise NotConvertible(
            f"{where}: {capabilities.ollama} does not run {architecture}; Ollama {version} or newer does"
        )
    elif known:
        raise NotConvertible(
            f"{where}: {capabilities.ollama} does not convert {architecture}, but this proxy does: set "
            "pull.converter to auto"
        )
    elif capabilities.version >= GGUF_ONLY:
        raise NotConvertible(
            f"{where}: this proxy does not know {architecture}, and {capabilities.ollama} converts nothing itself, as "
            f"no Ollama from {GGUF_ONLY} on does"
        )
    elif since is not NEVER:
        raise NotConvertible(
            f"{where}: {capabilities.ollama} cannot convert {architecture}; Ollama {since} can, up to {LAST_CONVERTER}"
        )
    else:
        raise NotConvertible(f"{where}: neither this proxy nor any Ollama converts {architecture}")


def _check_numbers(where: str, config: Mapping[str, Any], architecture: str) -> None:
    """What is missing here ends the whole server, or makes a model that does not load."""
    wanted = ["num_hidden_layers", "hidden_size", "num_attention_heads"]
    if architecture in FAMILIES:
        wanted += ["intermediate_size", "max_position_embeddings"]
    elif architecture not in NOMIC:
        return
    for key in [*wanted, "num_local_experts", "num_experts_per_tok"] if architecture == MIXTRAL else wanted:
        value = config.get(key)
        if type(value) is not int or not 1 <= value <= MOST:
            raise Refusal(f"{where} has no usable {key} ({value!r:.100}), without which Ollama makes no {architecture}")
    for key in OPTIONAL:
        value = config.get(key)
        if value is not None and (type(value) is not int or not 0 <= value <= MOST):
            raise Refusal(f"{where} has no usable {key} ({value!r:.100}): it is no whole number")
    scaling = config.get("rope_scaling")
    for key, value in (*config.items(), *(scaling.items() if isinstance(scaling, dict) else ())):
        if key in FRACTIONS and value is not None and type(value) not in (int, float):
            raise Refusal(f"{where} has no usable {key} ({value!r:.100}): it is no number")
    if architecture == "Phi3ForCausalLM":
        scaling = config.get("rope_scaling")
        factors = scaling.get("long_factor") if isinstance(scaling, dict) else None
        expected = config["hidden_size"] // config["num_attention_heads"] // 2
        kind = scaling.get("type", "longrope") if isinstance(scaling, dict) else None
        if kind not in ("longrope", "su") or not isinstance(factors, list) or len(factors) != expected:
            raise NotConvertible(f"{where} has a rope_scaling ({kind}) of which Ollama's Phi-3 makes no working model")


def _rope_warnings(config: Mapping[str, Any], architecture: str) -> Iterator[str]:
    scaling = config.get("rope_scaling")
    kind = scaling.get("rope_type") if isinstance(scaling, dict) else None
    if architecture == "LlamaForCausalLM" and kind not in (None, "default", "linear", "llama3"):
        yield (
            f"Ollama does not apply the rope_scaling {kind!s:.50}: answers to long contexts will be worse than the "
            "authors'"
        )


def _kept_tensors(
    repository: str,
    selection: Selection,
    headers: Mapping[str, Header],
    found: Findings,
    capabilities: Capabilities,
) -> dict[str, Tensor]:
    """Every tensor of the model by the name that Ollama gets to see; what is left out or renamed becomes an edit."""
    weight_map = selection.weight_map
    if weight_map is not None:
        _check_index(f"{repository}/{INDEX}", weight_map, headers)
    bare = found.architecture in FAMILIES and any(
        "embed_tokens.weight" in header.tensors for header in headers.values()
    )
    family = FAMILIES.get(found.architecture)
    useless = family.useless if family else ()
    kept: dict[str, Tensor] = {}
    places: dict[str, str] = {}
    dropped, renamed = [], []
    for path, header in headers.items():
        edits = found.edits.setdefault(path, {})
        for name, tensor in header.tensors.items():
            known = ollamas_name(name, found.architecture, bare=bare)
            elsewhere = weight_map is not None and weight_map.get(name, path) != path
            frequencies = name.endswith(FREQUENCIES)
            if elsewhere or frequencies or (family and (USELESS.fullmatch(name) or known in useless)):
                edits[name] = Edit(None)
                dropped.append(name)
                continue
            if known in kept:
                raise Refusal(
                    f"{repository}: {places[known]} and {path} both have the tensor {name}, and no {INDEX} says "
                    "which is right; the upload mixes two models"
                )
            if known != name:
                edits[name] = Edit(known)
                renamed.append(name)
            kept[known], places[known] = tensor, path
        found.edits[path] = edits
        _check_types(f"{repository}/{path}", header, found, capabilities)
    if dropped:
        found.repairs.append(f"{len(dropped)} tensors left out that Ollama has no place for, such as {min(dropped)}")
    if renamed:
        found.repairs.append(f"{len(renamed)} tensors renamed for Ollama's converter, such as {min(renamed)}")
    return kept


def _check_index(where: str, weight_map: Mapping[str, str], headers: Mapping[str, Header]) -> None:
    for name, shard in weight_map.items():
        if name not in headers[shard].tensors:
            raise Refusal(f"{where} says that {shard} has the tensor {name}, but it has not; its upload is damaged")


def _check_types(where: str, header: Header, found: Findings, capabilities: Capabilities) -> None:
    edits = found.edits[where.rpartition("/")[2]]
    fp8_tensors = []
    for name, tensor in header.tensors.items():
        left_out = name in edits and edits[name].name is None
        if tensor.dtype in FLOATS or name.endswith(SKIPPED) or left_out:
            continue
        if tensor.dtype == fp8.TYPE and capabilities.takes_fp8:
            fp8_tensors.append(name)
        elif not (tensor.dtype == "U8" and found.architecture == GPT_OSS):
            raise NotConvertible(
                f"{where}: {name} is of the type {tensor.dtype}, which {capabilities.ollama} cannot read: it converts "
                f"F32, F16 and BF16{', and FP8 in blocks' if capabilities.takes_fp8 else ''}; pull the repository that "
                "it was quantized from"
            )
    for scale, shape in fp8.check(where, header.tensors, fp8_tensors, found.config, found.repairs):
        edits[scale] = Edit(edits[scale].name if scale in edits else scale, shape)


def _check_family(repository: str, tensors: Mapping[str, Tensor], found: Findings) -> None:
    family = FAMILIES[found.architecture]
    required: set[str] = set()
    for name in family.required(found.config):
        if name not in tensors:
            raise Refusal(
                f"{repository} has no tensor {name}, which {found.architecture} needs; its upload is incomplete, "
                f"or {CONFIG} is another model's"
            )
        if not tensors[name].shape or not tensors[name].elements:
            raise Refusal(f"{repository}: the tensor {name} has no rows; its upload is damaged")
        required.add(name)
    scales = {scale for name in required for scale in fp8.scales_of(name)}
    if extra := tensors.keys() - required - scales - set(family.optional):
        raise NotConvertible(
            f"{repository} has the tensor {min(extra)}, which Ollama's {found.architecture} has no place for: the "
            "model would not load"
        )


def _check_shapes(repository: str, tensors: Mapping[str, Tensor], found: Findings) -> None:
    for name, tensor in tensors.items():
        # Mixtral's experts have each other's names by now, and once more their own.
        own = ollamas_name(name, found.architecture, bare=False)
        expected = expected_shape(own, found.architecture, found.config)
        if expected is not None and tensor.shape != expected:
            raise Refusal(
                f"{repository}: {name} has the shape {list(tensor.shape)}, but by {CONFIG} it has {list(expected)}; "
                f"the upload is damaged, or {CONFIG} is another model's"
            )


def _fit_quantization(
    repository: str, tensors: Mapping[str, Tensor], found: Findings, capabilities: Capabilities
) -> None:
    """Where `quantize` would do something else than it says."""
    packed = [name for name, tensor in tensors.items() if tensor.dtype == fp8.TYPE]
    scales = {scale for name in packed for scale in fp8.scales_of(name)}
    matrices = {name: tensor for name, tensor in tensors.items() if len(tensor.shape) > 1 and name not in scales}
    wanted = found.quantization
    if warnings := capabilities.warnings_of(wanted):
        if wanted == "BF16" and all(tensor.dtype == "BF16" for tensor in matrices.values()):
            found.quantization = None
            found.repairs.append(f"no quantization: the weights are BF16, and {capabilities.ollama} would spoil one")
        else:
            found.warnings += warnings
    if wanted in ("F32", "F16", "BF16", None) or not capabilities.runs_llama_server:
        return
    if found.architecture not in (*FAMILIES, BERT):
        return
    for name, tensor in matrices.items():
        if tensor.dtype in (*FLOATS, fp8.TYPE) and tensor.shape[-1] % ROW:
            raise Refusal(
                f"{repository}: {name} has rows of {tensor.shape[-1]} numbers, which {capabilities.ollama} cannot "
                f"quantize to {wanted} (they must be a multiple of {ROW}); pull it as F16"
            )
