"""Families of 2025 and 2026 that have no file of their own."""

import numpy as np

from tests.gguf.tiny_repositories.byte_level import tekken_tokens
from tests.gguf.tiny_repositories.repository import HEAD, LLAMA3_ROPE, Tiny, Weights


def _apertus(weights: Weights) -> None:
    """Each layer has other numbers for its activation."""
    weights.ends()
    for number, layer in enumerate(weights.layers()):
        weights.norms(layer, "attention_layernorm", "feedforward_layernorm")
        weights.attention(layer, norms=(HEAD, HEAD))
        weights.mlp(layer, gate=False)
        for name, value in (("alpha_n", (-0.5,)), ("alpha_p", (0.25,)), ("beta", 0.5), ("eps", -1e-6)):
            weights.tensors[f"{layer}mlp.act_fn.{name}"] = np.array(value, np.float32) * np.float32(1 + number)


REPOSITORIES: dict[str, Tiny] = {
    "apertus": Tiny(
        "ApertusForCausalLM",
        "apertus",
        _apertus,
        tekken_tokens,
        {"hidden_act": "xielu", "rope_scaling": {**LLAMA3_ROPE, "factor": 8.0}, "rope_theta": 12e6},
    ),
}
