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
    *("num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("num_experts", "num_local_experts", "num_experts_per_tok", "patch_size", "image_size"),
}
# The defaults of transformers' own classes for keys that it may leave out, and Ollama takes for 0.
DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "LlamaForCausalLM": {"rms_norm_eps": 1e-6},
    "Qwen2ForCausalLM": {"rms_norm_eps": 1e-6, "rope_theta": 10000.0},
    "Phi3ForCausalLM": {"rms_norm_eps": 1e-5, "rope_theta": 10000.0},
    "MixtralForCausalLM": {"rms_norm_eps": 1e-5, "rope_theta": 1000000.0},
    "GemmaForCausalLM": {"rms_norm_eps": 1e-6},
    "Gemma2ForCausalLM": {"rms_norm_eps": 1e-6, "sliding_window": 4096},
    "Gemma3ForCausalLM": {"rms_norm_eps": 1e-6, "sliding_window": 4096},
}
NO_CAP = 1e4
"""So high that it changes nothing."""
QWEN_VISION = ("Qwen2_5_VLForConditionalGeneration", "Qwen3VLForConditionalGeneration", "Qwen3NextForCausalLM")
MISTRAL3 = "Mistral3ForConditionalGeneration"

Config = dict[str, Any]
Repair = Callable[[Config, str], str | None]


def repair_config(config: Config, architecture: str) -> Iterator[str]:
    """Make every repair that this configuration needs by itself."""
    for repair in _REPAIRS:
        if text := repair(config, architecture):
            yield f"config.json: {text}"


def fit_config(config: Config, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Take from the shapes of the tensors of a text model what is missing, or is another number there."""
    embedding = tensors.get("model.embed_tokens.weight")
    if embedding is not None and config.get("vocab_size") != embedding.shape[0]:
        config["vocab_size"] = embedding.shape[0]
        yield f"config.json: vocab_size set to {embedding.shape[0]}, which the embedding has"
    heads = config.get("num_attention_heads")
    query, key = (tensors.get(f"model.layers.0.self_attn.{part}_proj.weight") for part in "qk")
    if not isinstance(heads, int) or query is None or key is None:
        return
    if config.get("num_key_value_heads") is None and query.shape[0] % heads == 0:
        config["num_key_value_heads"] = key.shape[0] * heads // query.shape[0]
        yield f"config.json: num_key_value_heads set to {config['num_key_value_heads']}, as k_proj has them"
    if "model.layers.0.self_attn.q_norm.weight" in tensors and config.get("head_dim") is None:
        config["head_dim"] = query.shape[0] // heads
        yield f"config.json: head_dim set to {config['head_dim']}, as q_proj has it"


def _scopes(config: Config, *keys: str) -> Iterator[Config]:
    yield config
    for key in keys:
        if isinstance(scope := config.get(key), dict):
            yield scope


def _whole_numbers(config: Config, _: str) -> str | None:
    mended = []
    for scope in _scopes(config, "text_config", "vision_config", "rope_scaling"):
        for key, value in scope.items():
            if key in WHOLE_NUMBERS and isinstance(value, float) and value.is_integer():
                mended.append(key)
                scope[key] = int(value)
    return f"{', '.join(mended)} written as whole numbers" if mended else None


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
    if architecture in QWEN_VISION and scaling.pop("factor", None) is not None:
        return "rope_scaling's factor left out, which Ollama cannot read: no longer context by it"
    if architecture != "Qwen2ForCausalLM":
        return None
    config["rope_scaling"] = None
    length, kind = scaling.get("original_max_position_embeddings"), scaling.get("type")
    beyond = f" beyond {length} tokens" if length else ""
    return f"rope_scaling {kind} left out, which Ollama's Qwen2 cannot read: no longer context by it{beyond}"


def _phi3_rope(config: Config, architecture: str) -> str | None:
    """Without factors its tensors of factors are empty, and the model does not load: ones change nothing."""
    scaling = config.get("rope_scaling")
    kind = scaling.get("type") if isinstance(scaling, dict) else None
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if architecture != "Phi3ForCausalLM" or kind not in (None, "default"):
        return None
    if not isinstance(heads, int) or not isinstance(hidden, int) or heads < 1:
        return None
    ones = [1.0] * (hidden // heads // 2)
    config["rope_scaling"] = {"short_factor": ones, "long_factor": ones}
    return "rope_scaling with factors of 1, without which Ollama's Phi-3 does not load"


def _mistral3_rope(config: Config, architecture: str) -> str | None:
    """Its converter divides by the factor of `rope_parameters`, which older files do not have."""
    text = config.get("text_config")
    if architecture != MISTRAL3 or not isinstance(text, dict) or text.get("rope_parameters"):
        return None
    theta = text.get("rope_theta") or 1e9
    text["rope_parameters"] = {"rope_type": "linear", "factor": 1.0, "rope_theta": theta}
    return "text_config.rope_parameters added, which Ollama's Mistral 3 needs"


def _gemma3n_sizes(config: Config, architecture: str) -> str | None:
    """One number for each layer; Ollama before 0.30 reads only one for all."""
    text = config.get("text_config")
    sizes = text.get("intermediate_size") if isinstance(text, dict) else None
    if architecture != "Gemma3nForConditionalGeneration" or not isinstance(sizes, list) or len(set(sizes)) != 1:
        return None
    text["intermediate_size"] = sizes[0]  # type: ignore[index]
    return "text_config.intermediate_size written as one number, the same for all layers"


def _quantization(config: Config, _: str) -> str | None:
    """What is no object in its place cannot be parsed."""
    odd = [key for key in ("quantization_config", "quantization") if not isinstance(config.get(key) or {}, dict)]
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
    _mistral3_rope,
    _gemma3n_sizes,
    _quantization,
)
