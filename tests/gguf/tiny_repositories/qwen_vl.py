"""Qwen2-VL to Qwen3-VL."""

from tests.gguf.tiny_repositories.qwen import qwen3_weights
from tests.gguf.tiny_repositories.repository import EXPERTS, HIDDEN, MOE, TIED, Tiny, Weights, qwen2_weights
from tests.gguf.tiny_repositories.towers_qwen import QWEN2_5_VL_TOWER, QWEN2_VL_TOWER, TOKENS, qwen3_tower, seeing


def _transposed_experts(weights: Weights) -> None:
    weights.ends()
    size = weights.config["moe_intermediate_size"]
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, norms=(weights.head, weights.head))
        weights.linear(f"{layer}mlp.gate", EXPERTS, HIDDEN)
        weights.add(f"{layer}mlp.experts.gate_up_proj", EXPERTS, HIDDEN, 2 * size)
        weights.add(f"{layer}mlp.experts.down_proj", EXPERTS, size, HIDDEN)


_QWEN2 = {
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
    "use_sliding_window": False,
    "sliding_window": 32768,
    "max_window_layers": 28,
}
_QWEN3 = {
    "attention_bias": False,
    "head_dim": 64,
    "num_hidden_layers": 3,
    "rms_norm_eps": 1e-6,
    "rope_theta": 5000000,
    "rope_scaling": {"mrope_interleaved": True, "mrope_section": [12, 10, 10], "rope_type": "default"},
}
REPOSITORIES: dict[str, Tiny] = {
    "qwen2vl": Tiny(
        "Qwen2VLForConditionalGeneration",
        "qwen2_vl_text",
        qwen2_weights,
        seeing,
        {**_QWEN2, **TIED},
        part_of="qwen2_vl",
        prefix="model.",
        section="",
        towers=(QWEN2_VL_TOWER,),
    ),
    "qwen2_5_vl": Tiny(
        "Qwen2_5_VLForConditionalGeneration",
        "qwen2_5_vl_text",
        qwen2_weights,
        seeing,
        _QWEN2,
        part_of="qwen2_5_vl",
        prefix="model.",
        section="",
        towers=(QWEN2_5_VL_TOWER,),
    ),
    "qwen3vl": Tiny(
        "Qwen3VLForConditionalGeneration",
        "qwen3_vl_text",
        qwen3_weights,
        seeing,
        {**_QWEN3, **TIED},
        part_of="qwen3_vl",
        prefix="model.language_model.",
        towers=(qwen3_tower("qwen3_vl", TOKENS, deepstack=True),),
    ),
    "qwen3vlmoe": Tiny(
        "Qwen3VLMoeForConditionalGeneration",
        "qwen3_vl_moe_text",
        _transposed_experts,
        seeing,
        {
            **_QWEN3,
            **MOE,
            "moe_intermediate_size": 2 * HIDDEN,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        },
        part_of="qwen3_vl_moe",
        prefix="model.language_model.",
        towers=(qwen3_tower("qwen3_vl_moe", TOKENS, deepstack=True),),
    ),
}
