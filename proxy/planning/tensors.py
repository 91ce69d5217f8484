"""Which tensors an architecture has, by which names, and which of a repository's are left out. Pure.

Too few or too many make a model that does not load, although Ollama says `success` (v0.24.0, v0.33.0-rc2).
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")
ATTENTION = tuple(f"self_attn.{part}_proj.weight" for part in "qkvo")
FEED_FORWARD = tuple(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down"))
USELESS = re.compile(r".*(rotary_emb\.inv_freq|\.masked_bias|(input|activation|output|k|v)_scale)")
"""What follows from the configuration, and scales of activations, which are not quantized."""
FREQUENCIES = ".self_attn.rotary_emb.inv_freq"
MIXTRAL = "MixtralForCausalLM"
NO_HEAD_DIM = ("Qwen2ForCausalLM", "Phi3ForCausalLM")
"""Whose converters divide the hidden size by the heads, whatever config.json says."""


@dataclass(frozen=True, slots=True)
class Family:
    """What every layer has, and what stands outside of the layers."""

    layer: tuple[str, ...]
    optional: tuple[str, ...] = ("lm_head.weight",)
    useless: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()
    outside: tuple[str, ...] = ("model.embed_tokens.weight", "model.norm.weight")

    def required(self, config: Mapping[str, Any]) -> Iterator[str]:
        yield from self.outside
        experts = config["num_local_experts"] if self.experts else 0
        for number in range(config["num_hidden_layers"]):
            for name in self.layer:
                yield f"model.layers.{number}.{name}"
            for expert in range(experts):
                for name in self.experts:
                    yield f"model.layers.{number}.{name.format(expert)}"


def expected_shape(name: str, architecture: str, config: Mapping[str, Any]) -> tuple[int, ...] | None:
    """What llama.cpp will insist on; None for a tensor of a shape that nothing here decides."""
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = None if architecture in NO_HEAD_DIM else config.get("head_dim")
    head = head or hidden // heads
    keys = (config.get("num_key_value_heads") or heads) * head
    queries, rows = heads * head, config["vocab_size"]
    shapes: Mapping[str, tuple[int, ...]] = {
        **dict.fromkeys(("embed_tokens.weight", "lm_head.weight"), (rows, hidden)),
        "q_proj.weight": (queries, hidden),
        "q_proj.bias": (queries,),
        "o_proj.weight": (hidden, queries),
        **dict.fromkeys(("k_proj.weight", "v_proj.weight"), (keys, hidden)),
        **dict.fromkeys(("k_proj.bias", "v_proj.bias"), (keys,)),
        **dict.fromkeys(("gate_proj.weight", "up_proj.weight", "w1.weight", "w3.weight"), (inner, hidden)),
        **dict.fromkeys(("down_proj.weight", "w2.weight"), (hidden, inner)),
        "qkv_proj.weight": (queries + 2 * keys, hidden),
        "gate_up_proj.weight": (2 * inner, hidden),
        "q_norm.weight": (head,),
        "k_norm.weight": (head,),
        "norm.weight": (hidden,),
        "gate.weight": (config.get("num_local_experts", 0), hidden),
    }
    end = ".".join(name.split(".")[-2:])
    return (hidden,) if end.endswith("layernorm.weight") else shapes.get(end)


_LLAMA = Family((*NORMS, *ATTENTION, *FEED_FORWARD))
_GEMMA = Family(_LLAMA.layer, optional=(), useless=("lm_head.weight",))
_GEMMA2 = Family(
    (*_LLAMA.layer, "pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight"),
    optional=(),
    useless=("lm_head.weight",),
)

FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "GemmaForCausalLM": _GEMMA,
    "Gemma2ForCausalLM": _GEMMA2,
    "Gemma3ForCausalLM": Family(
        (*_GEMMA2.layer, "self_attn.q_norm.weight", "self_attn.k_norm.weight"),
        optional=(),
        useless=("lm_head.weight",),
    ),
    "Qwen2ForCausalLM": Family((*_LLAMA.layer, *(f"self_attn.{part}_proj.bias" for part in "qkv"))),
    "Phi3ForCausalLM": Family(
        (
            *NORMS,
            *("self_attn.qkv_proj.weight", "self_attn.o_proj.weight"),
            *("mlp.gate_up_proj.weight", "mlp.down_proj.weight"),
        )
    ),
    MIXTRAL: Family(
        (*NORMS, *ATTENTION, "block_sparse_moe.gate.weight"),
        experts=tuple(f"block_sparse_moe.experts.{{}}.w{number}.weight" for number in (1, 2, 3)),
    ),
}

_LLAMAS, _QWENS = FAMILIES["LlamaForCausalLM"].layer, FAMILIES["Qwen2ForCausalLM"].layer
_NORMED = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
WITH_EYES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "Gemma3ForConditionalGeneration": ("language_model.model.", FAMILIES["Gemma3ForCausalLM"].layer),
    "Mistral3ForConditionalGeneration": ("language_model.model.", _LLAMAS),
    "Qwen2_5_VLForConditionalGeneration": ("model.", _QWENS),
    "Qwen3VLForConditionalGeneration": ("model.language_model.", (*_LLAMAS, *_NORMED)),
}
"""Where the layers of the text are, and what each has."""
GEMMA3_EYES = "Gemma3ForConditionalGeneration"


def missing_text(architecture: str, config: Mapping[str, Any], names: Collection[str]) -> str | None:
    """A tensor that a model which sees should have for what it reads, and has not."""
    prefix, layer = WITH_EYES.get(architecture, ("", ()))
    present = {name for name in names if name.startswith(prefix)}
    if not any(name.startswith(f"{prefix}layers.") for name in present):
        return None
    text = config.get("text_config")
    layers = (text if isinstance(text, Mapping) else config).get("num_hidden_layers")
    numbers = range(layers if isinstance(layers, int) else 0)
    within = (f"{prefix}layers.{number}.{name}" for number in numbers for name in layer)
    outside = (f"{prefix}embed_tokens.weight", f"{prefix}norm.weight")
    if architecture == GEMMA3_EYES and not any(name.startswith("vision_tower.") for name in names):
        return "vision_tower.*"
    return next((name for name in (*outside, *within) if name not in present), None) if layer else None


# How transformers wrote these before it gave all of them a `model.` of their own, and what the converter knows.
_VISION = (("model.vision_tower.", "vision_tower."), ("model.multi_modal_projector.", "multi_modal_projector."))
OLDER_NAMES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "Qwen2_5_VLForConditionalGeneration": (("model.language_model.", "model."), ("model.visual.", "visual.")),
    "Gemma3ForConditionalGeneration": (("model.language_model.", "language_model.model."), *_VISION),
    "Mistral3ForConditionalGeneration": (
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        *_VISION,
    ),
    "BertModel": (("bert.", ""), ("0.auto_model.", "")),
}


def ollamas_name(name: str, architecture: str, *, bare: bool) -> str:
    """What a tensor has to be called for the converter; `bare` is a model that was saved without its head."""
    if architecture == MIXTRAL:
        # The converter takes w2 for w3 and w3 for w2, in every release.
        name = re.sub(r"\.w([23])\.", lambda found: f".w{5 - int(found[1])}.", name)
    if bare and not name.startswith(("model.", "lm_head.")):
        return f"model.{name}"
    for older, known in OLDER_NAMES.get(architecture, ()):
        if name.startswith(older):
            return known + name.removeprefix(older)
    return name
