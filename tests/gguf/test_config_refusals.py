"""Values in config.json that are refused; each error names the key."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from proxy.gguf.model_config import CannotConvert
from tests.gguf.writing import plan
from tests.kit.tiny_conversions import plan_with, repository


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"architectures": ["GPT5ForCausalLM"]}, "GPT5ForCausalLM"),
        ({"architectures": None}, "architecture"),
        ({"hidden_size": "many"}, "hidden_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": 1}, "num_hidden_layers"),
        ({"num_hidden_layers": 3}, "blk.2"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"rope_scaling": {"type": "mrope", "factor": 2.0}}, "mrope"),
        ({"rope_scaling": {"type": "longrope"}}, "longrope"),
        ({"rope_scaling": {"type": "linear"}}, "linear"),
        (
            {
                "rope_scaling": None,
                "rope_parameters": {"full_attention": {}, "sliding_attention": {"rope_theta": 1.0}},
            },
            "sliding_attention",
        ),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"vocab_size": 10}, "vocab_size"),
        ({"vocab_size": 2**30}, "vocab_size"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_theta": 10**400}, "rope_theta"),
        ({"bos_token_id": 99999}, None),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
    ],
)
def test_config_is_refused(config: Mapping[str, Any], named: str | None) -> None:
    if named is None:
        assert plan_with("llama", config)
        return
    with pytest.raises(CannotConvert, match=named):
        plan_with("llama", config)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        (
            "llama",
            {"intermediate_size": 1024},
            r"ffn_gate\.weight is to have the shape \[256, 1024\] by config",
        ),
        ("llama", {"rms_norm_eps": None}, "no epsilon for the norms"),
        ("qwen2", {"head_dim": 32}, "heads that are 128 wide together, and an embedding of 256"),
        ("phi4", {"partial_rotary_factor": 1.5}, "a rope for 96 numbers of a head of 64"),
        ("mixtral", {"num_experts_per_tok": None}, "has 4 experts in 0 groups, and uses 0"),
        ("mixtral", {"num_experts_per_tok": 5}, "and uses 5 "),
        ("granite4", {"num_experts_per_tok": 1}, "has 0 experts in 0 groups, and uses 1 "),
        ("deepseek3", {"n_group": 3}, "has 4 experts in 3 groups"),
        ("deepseek3", {"topk_group": 2}, "uses 2 in 2 groups of them"),
        ("deepseek", {"first_k_dense_replace": 0}, r"nothing that becomes blk\.0\.ffn_down_exps"),
        ("deepseek", {"first_k_dense_replace": 2}, "experts in layer 1, and config.json none"),
        ("granite", {"logits_scaling": None}, "no logits_scaling"),
        ("llama", {"num_hidden_layers": 513}, "more than any model has"),
    ],
)
def test_config_that_llama_cpp_does_not_load_is_refused(name: str, change: Mapping[str, Any], reason: str) -> None:
    files = dict(repository(name))
    config = json.loads(files["config.json"]) | change
    with pytest.raises(CannotConvert, match=reason):
        plan(files | {"config.json": json.dumps(config).encode()})
