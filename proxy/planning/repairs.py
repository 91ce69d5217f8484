"""What Ollama's converter cannot read in a config.json although it is right, written so that it can. Pure.

Each repair changes the configuration in place and says what it did, or None where there is nothing to mend. They were
run on v0.24.0 and v0.33.0-rc2 with tiny models: the same answers as of a repository that needs no repair.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from proxy.planning.safetensors import Tensor

# What its structs call uint32 (convert/*.go): Go's JSON decoder takes 4 there, but neither 4.0 nor 4e0.
WHOLE_NUMBERS = {
    *("vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "head_dim", "sliding_window"),
    *("max_position_embeddings", "original_max_position_embeddings", "n_positions", "n_ctx"),
    *("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "n_layers", "n_layer", "n_head", "n_embd"),
    *("num_experts", "num_local_experts", "num_experts_per_tok", "patch_size", "image_size"),
}
FRACTIONS = {"rms_norm_eps", "rope_theta", "rope_local_base_freq", "factor", "low_freq_factor", "high_freq_factor"}
# The defaults of transformers' own classes for keys that it may leave out, and Ollama takes for 0.
DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "LlamaForCausalLM": {"rms_norm_eps": 1e-6},
    "Qwen2ForCausalLM": {"rms_norm_eps": 1e-6, "rope_theta": 10000.0},
    "Phi3ForCausalLM": {"rms_norm_eps": 1e-5, "rope_theta": 10000.0},
    "MixtralForCausalLM": {"rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "num_experts_per_tok": 2},
    "GemmaForCausalLM": {"rms_norm_eps": 1e-6},
    "Gemma2ForCausalLM": {"rms_norm_eps": 1e-6, "sliding_window": 4096},
    "Gemma3ForCausalLM": {"rms_norm_eps": 1e-6, "sliding_window": 4096},
}
ORIGINAL = "original_max_position_embeddings"
PHI3_ORIGINAL = 4096
"""What transformers takes where nothing says it."""
QUANTIZATIONS = ("quantization_config", "quantization", "compression_config")
MOST_HEAD = 4096
"""No attention head of any model is larger."""
NO_CAP = 1e4
"""So high that it changes nothing."""
QWEN_VISION = ("Qwen2_5_VLForConditionalGeneration", "Qwen3VLForConditionalGeneration", "Qwen3NextForCausalLM")
QWEN_ROPES = (None, "", "yarn", "mrope", "default")
MISTRAL3, MINISTRAL3 = "Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"

Config = dict[str, Any]
Repair = Callable[[Config, str], str | None]


def repair_config(config: Config, architecture: str) -> Iterator[str]:
    """Make every repair that this configuration needs by itself."""
    for repair in _REPAIRS:
        if text := repair(config, architecture):
            yield f"config.json: {text}"


def fit_config(config: Config, architecture: str, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Take from the shapes of the tensors of a text model what is missing, or is another number there.

    `tensors` has all that the architecture needs.
    """
    embedding = tensors.get("model.embed_tokens.weight")
    if embedding is not None and config.get("vocab_size") != embedding.shape[0]:
        config["vocab_size"] = embedding.shape[0]
        yield f"config.json: vocab_size set to {embedding.shape[0]}, which the embedding has"
    heads, fused = config.get("num_attention_heads"), tensors.get("model.layers.0.self_attn.qkv_proj.weight")
    if isinstance(heads, int) and fused is not None and config.get("num_key_value_heads") is None:
        config["num_key_value_heads"] = (fused.shape[0] * heads // config["hidden_size"] - heads) // 2
        yield f"config.json: num_key_value_heads set to {config['num_key_value_heads']}, as qkv_proj has them"
    query, key = (tensors.get(f"model.layers.0.self_attn.{part}_proj.weight") for part in "qk")
    if not isinstance(heads, int) or query is None or key is None:
        return
    if config.get("num_key_value_heads") is None and query.shape[0] % heads == 0:
        config["num_key_value_heads"] = key.shape[0] * heads // query.shape[0]
        yield f"config.json: num_key_value_heads set to {config['num_key_value_heads']}, as k_proj has them"
    if architecture.startswith("Gemma") and config.get("head_dim") is None:
        config["head_dim"] = query.shape[0] // heads
        yield f"config.json: head_dim set to {config['head_dim']}, as q_proj has it"


def drop_quantization(config: Config) -> Iterator[str]:
    """For a model without FP8: whatever these say is of no use, and the converter may not be able to parse it."""
    for scope in _scopes(config, "text_config"):
        for key in QUANTIZATIONS:
            if scope.get(key) and not _is_plain(scope[key]):
                del scope[key]
                yield f"config.json: {key} left out, which describes no tensor here"


def _is_plain(quantization: Any) -> bool:
    """Whether it has nothing that has a type of its own in the converter."""
    return isinstance(quantization, dict) and not quantization.keys() & {"config_groups", "weight_block_size"}


def _scopes(config: Config, *keys: str) -> Iterator[Config]:
    yield config
    for key in keys:
        if isinstance(scope := config.get(key), dict):
            yield scope


def _whole_numbers(config: Config, _: str) -> str | None:
    mended = []
    for scope in _scopes(config, "text_config", "vision_config", "rope_scaling"):
        for key, value in scope.items():
            number = _number(value) if key in WHOLE_NUMBERS or key in FRACTIONS else value
            if key in WHOLE_NUMBERS and isinstance(number, float) and number.is_integer():
                number = int(number)
            if type(number) is not type(value):
                mended.append(key)
                scope[key] = number
    return f"{', '.join(mended)} written as numbers that Ollama reads" if mended else None


def _number(value: Any) -> Any:
    """Also one that stands in quotes."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _nested_text(config: Config, architecture: str) -> str | None:
    """Transformers nests the text model of Qwen2.5-VL since 4.52; the converter looks for it at the top."""
    text = config.get("text_config")
    if architecture != "Qwen2_5_VLForConditionalGeneration" or not isinstance(text, dict) or "hidden_size" in config:
        return None
    for key, value in text.items():
        config.setdefault(key, value)
    return "text_config written at the top level too"


def _rope_parameters(config: Config, _: str) -> str | None:
    """Transformers 5 writes `rope_parameters`, which most converters do not know: they would take a theta of 10000."""
    mended = False
    for scope in _scopes(config, "text_config"):
        parameters = scope.get("rope_parameters")
        if not isinstance(parameters, dict) or scope.get("rope_theta") is not None:
            continue
        # Gemma 3 has one set for each kind of layer.
        parts = {kind: found for kind, found in parameters.items() if isinstance(found, dict)}
        whole = parts.get("full_attention", parameters)
        if (theta := whole.get("rope_theta")) is not None:
            scope["rope_theta"], mended = theta, True
        if (local := parts.get("sliding_attention", {}).get("rope_theta")) is not None:
            scope["rope_local_base_freq"] = local
        scaling = {key: value for key, value in whole.items() if key != "rope_theta" and not isinstance(value, dict)}
        if scope.get("rope_scaling") is None and scaling.keys() - {"rope_type", "type", "partial_rotary_factor"}:
            scope["rope_scaling"], mended = scaling, True
    return "rope_theta and rope_scaling taken out of rope_parameters" if mended else None


def _rope_type(config: Config, _: str) -> str | None:
    """Some converters read `type`, some `rope_type`; files have the one or the other."""
    mended = False
    for scope in _scopes(config, "text_config"):
        scaling = scope.get("rope_scaling")
        if not isinstance(scaling, dict):
            continue
        for key, other in (("type", "rope_type"), ("rope_type", "type")):
            if key not in scaling and isinstance(scaling.get(other), str):
                scaling[key], mended = scaling[other], True
    return "rope_scaling's type written as rope_type and as type" if mended else None


def _defaults(config: Config, architecture: str) -> str | None:
    missing = {key: value for key, value in DEFAULTS.get(architecture, {}).items() if config.get(key) is None}
    config.update(missing)
    return f"{', '.join(f'{key} {value:g}' for key, value in missing.items())} added, the default" if missing else None


def _gemma2_caps(config: Config, architecture: str) -> str | None:
    """Left out they have transformers' defaults, null is none at all; Ollama would cap all at 0."""
    if architecture != "Gemma2ForCausalLM":
        return None
    mended = []
    for key, default in (("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)):
        if config.get(key) is None:
            config[key] = NO_CAP if key in config else default
            mended.append(f"{key} {config[key]:g}")
    return f"{' and '.join(mended)} added" if mended else None


def _qwen2_rope(config: Config, architecture: str) -> str | None:
    """A `factor` is parsed in no form that then loads, and an unknown type ends the whole server."""
    scaling = config.get("rope_scaling")
    if not isinstance(scaling, dict):
        return None
    if architecture in QWEN_VISION and (scaling.get("factor") is not None or scaling.get("type") not in QWEN_ROPES):
        sections = scaling.get("mrope_section")
        known = {"type": "mrope", "rope_type": "mrope", "mrope_section": sections}
        config["rope_scaling"] = known if sections else None
        return "rope_scaling's factor left out, which Ollama cannot read: no longer context by it"
    if architecture != "Qwen2ForCausalLM":
        return None
    config["rope_scaling"] = None
    length, kind = scaling.get("original_max_position_embeddings"), scaling.get("type")
    beyond = f" beyond {length!s:.50} tokens" if length else ""
    return f"rope_scaling {kind!s:.50} left out, which Ollama's Qwen2 cannot read: no longer context by it{beyond}"


def _phi3_rope(config: Config, architecture: str) -> str | None:
    """Without factors its tensors of factors are empty, and the model does not load: ones change nothing."""
    scaling = config.get("rope_scaling")
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if architecture != "Phi3ForCausalLM":
        return None
    if isinstance(scaling, dict) and (scaling.get("type") not in (None, "default") or scaling.get("long_factor")):
        return None
    if not isinstance(heads, int) or not isinstance(hidden, int) or not 1 <= heads <= hidden <= heads * MOST_HEAD:
        return None
    ones = [1.0] * (hidden // heads // 2)
    config["rope_scaling"] = {"short_factor": ones, "long_factor": ones}
    return "rope_scaling with factors of 1, without which Ollama's Phi-3 does not load"


def _phi3_context(config: Config, architecture: str) -> str | None:
    """Transformers 5 moves it into the scaling, and the converter divides by the one at the top level."""
    scaling = config.get("rope_scaling")
    if architecture != "Phi3ForCausalLM" or config.get(ORIGINAL) is not None or not isinstance(scaling, dict):
        return None
    length = scaling.get(ORIGINAL)
    config[ORIGINAL] = length if type(length) is int else PHI3_ORIGINAL
    return f"{ORIGINAL} {config[ORIGINAL]} written at the top level"


def _mistral3_rope(config: Config, architecture: str) -> str | None:
    """Its converter divides by the factor of `rope_parameters`, which older files do not have."""
    text = config if architecture == MINISTRAL3 else config.get("text_config")
    if architecture not in (MISTRAL3, MINISTRAL3) or not isinstance(text, dict):
        return None
    parameters = text.get("rope_parameters")
    kind = parameters.get("rope_type") if isinstance(parameters, dict) and parameters.get("factor") else None
    if kind not in (None, "default"):
        return None
    theta = text.get("rope_theta") or 1e9
    text["rope_parameters"] = {"rope_type": "linear", "factor": 1.0, "rope_theta": theta}
    where = "rope_parameters" if text is config else "text_config.rope_parameters"
    return f"{where} added, which Ollama's Mistral 3 needs"


def _gemma3n_sizes(config: Config, architecture: str) -> str | None:
    """One number for each layer; Ollama before 0.30 reads only one for all."""
    text = config.get("text_config")
    sizes = text.get("intermediate_size") if isinstance(text, dict) else None
    if architecture != "Gemma3nForConditionalGeneration" or not isinstance(sizes, list):
        return None
    if not sizes or any(size != sizes[0] for size in sizes):
        return None
    text["intermediate_size"] = sizes[0]  # type: ignore[index]
    return "text_config.intermediate_size written as one number, the same for all layers"


def _quantization(config: Config, _: str) -> str | None:
    """What is no object in its place cannot be parsed."""
    odd = [key for key in (*QUANTIZATIONS, "rope_scaling") if not isinstance(config.get(key), dict | None)]
    for key in odd:
        del config[key]
    return f"{' and '.join(odd)} left out, which is no object" if odd else None


_REPAIRS: tuple[Repair, ...] = (
    _nested_text,
    _whole_numbers,
    _rope_parameters,
    _rope_type,
    _defaults,
    _gemma2_caps,
    _qwen2_rope,
    _phi3_rope,
    _phi3_context,
    _mistral3_rope,
    _gemma3n_sizes,
    _quantization,
)
