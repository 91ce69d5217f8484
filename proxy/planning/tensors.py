"""Which tensors an architecture has, by which names, and which of a repository's are left out. Pure.

Too few or too many make a model that does not load, although Ollama says `success` (v0.24.0, v0.33.0-rc2).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from proxy.planning.capabilities import NEWEST, Capabilities

NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")
ATTENTION = tuple(f"self_attn.{part}_proj.weight" for part in "qkvo")
FEED_FORWARD = tuple(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down"))
USELESS = re.compile(r".*(rotary_emb\.inv_freq|\.masked_bias|(input|activation|output|k|v)_scale)")
"""What follows from the configuration, and scales of activations, which are not quantized."""
MIXTRAL = "MixtralForCausalLM"


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


def ollamas_name(name: str, architecture: str, capabilities: Capabilities, *, bare: bool) -> str:
    """What a tensor has to be called for the converter; `bare` is a model that was saved without its head."""
    if architecture == MIXTRAL and capabilities.version <= NEWEST:
        # The converter takes w2 for w3 and w3 for w2, in every release so far.
        name = re.sub(r"\.w([23])\.", lambda found: f".w{5 - int(found[1])}.", name)
    if bare and not name.startswith(("model.", "lm_head.")):
        return f"model.{name}"
    for older, known in OLDER_NAMES.get(architecture, ()):
        if name.startswith(older):
            return known + name.removeprefix(older)
    return name
