"""Values in the config.json of a mixture of experts that are refused; each error names the key."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from proxy.gguf.model_config import CannotConvert
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.repository import YARN, YARN_4
from tests.gguf.writing import plan
from tests.kit.tiny_conversions import plan_with

_PARTIAL = {"rope_type": "default", "rope_theta": 20000.0, "partial_rotary_factor": 0.5}


def _step_window(**change: Any) -> dict[str, Any]:
    return {"attention_other_setting": {**REPOSITORIES["step35"].change["attention_other_setting"], **change}}


def _dbrx_experts(**change: Any) -> dict[str, Any]:
    return {"ffn_config": {**REPOSITORIES["dbrx"].change["ffn_config"], **change}}


@pytest.mark.parametrize(
    ("name", "config", "named"),
    [
        ("hunyuan_moe", {"moe_intermediate_size": [512, 256]}, r"moe_intermediate_size = \[512, 256\]"),
        ("hunyuan_moe", {"moe_intermediate_size": [512]}, r"moe_intermediate_size = \[512\]"),
        ("hunyuan_moe", {"moe_intermediate_size": 256}, "moe_intermediate_size = 256, but intermediate_size = 512"),
        ("hunyuan_moe", {"moe_topk": [2, 1]}, "moe_topk"),
        ("hunyuan_moe", {"moe_topk": 1}, "moe_topk = 1: a single expert"),
        ("hunyuan_moe", {"moe_topk": [True, True]}, "moe_topk"),
        ("hunyuan_moe", {"num_shared_expert": 2}, "num_shared_expert = 2"),
        ("hunyuan_moe", {"num_experts": [4, 4]}, r"experts = \[4, 4\]"),
        ("hunyuan_moe", {"norm_topk_prob": False}, "norm_topk_prob"),
        ("hunyuan_moe", {"routed_scaling_factor": 2.0}, "routed_scaling_factor"),
        ("hunyuan_moe", {"n_group": 2}, "n_group"),
        ("hunyuan_moe", {"moe_layer_num_skipped": 1}, "moe_layer_num_skipped"),
        ("hunyuan_moe", {"use_mixed_mlp_moe": False}, "use_mixed_mlp_moe"),
        ("hunyuan_moe", {"use_qk_norm": False}, "use_qk_norm"),
        ("hunyuan_moe", {"use_mla": True}, "use_mla"),
        ("hunyuan_moe", {"attention_head_dim": 64}, "attention_head_dim = 64 for heads of 128"),
        ("glm4moe", {"attention_bias": False}, "attention_bias"),
        ("kimi_k2", {"rope_scaling": YARN_4 | {"beta_fast": 2, "mscale": 1, "mscale_all_dim": 1}}, "beta_fast = 2"),
        ("kimi_k2", {"rope_scaling": YARN_4 | {"beta_slow": 2, "mscale": 1, "mscale_all_dim": 1}}, "beta_slow = 2"),
        ("sarvam", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("sarvam", {"num_shared_experts": 2}, "num_shared_experts"),
        ("sarvam", {"score_function": "softmax"}, "score_function"),
        ("sarvam", {"use_qk_norm": False}, "use_qk_norm"),
        ("sarvam", {"use_qkv_bias": True}, "use_qkv_bias"),
        ("sarvam", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("hy_v3", {"mlp_layer_types": ["sparse"] * 3}, "blk.0.exp_probs_b"),
        ("hy_v3", {"mlp_layer_types": ["dense", "dense", "sparse"]}, "blk.1.ffn_down"),
        ("hy_v3", {"num_shared_experts": 1}, "ffn_gate_shexp|ffn_up_shexp|ffn_down_shexp"),
        ("hy_v3", {"route_norm": False}, "route_norm"),
        ("mellum", {"mlp_layer_types": ["dense", "sparse", "sparse"]}, "mlp_layer_types with a dense layer"),
        ("mellum", {"norm_topk_prob": False}, "norm_topk_prob"),
        ("mellum", {"layer_types": None}, "layer_types"),
        ("mellum", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope_parameters"),
        ("mellum", {"rope_parameters": None, "rope_theta": 5e5}, "rope_parameters"),
        ("step35", {"layer_types": ["full_attention"] * 5}, "layer_types of one kind"),
        ("step35", {"layer_types": ["full_attention", "sliding_attention"]}, "no layer_types for 5 layers"),
        ("step35", {"moe_layers_enum": "1,2,3,4"}, "blk.1.exp_probs_b"),
        ("step35", {"moe_layers_enum": "2,x"}, "moe_layers_enum"),
        ("step35", {"moe_layers_enum": None}, "moe_layers_enum"),
        ("step35", {"rope_theta": 1e4}, "rope_theta"),
        ("step35", {"rope_theta": [2e4, 5e3, 5e3, 2e4, 1e4]}, "rope_theta"),
        ("step35", {"partial_rotary_factors": [0.5, 1.0, 1.0, 0.5, 0.5]}, "partial_rotary_factors"),
        ("step35", {"yarn_only_types": None}, "rope scaling for layers with a window"),
        ("step35", {"rope_scaling": YARN_4}, "yarn"),
        ("step35", _step_window(num_attention_heads=4), "attn_gate|attn_q"),
        ("step35", _step_window(head_dim=32), "another head_dim in attention_other_setting"),
        ("step35", _step_window(attention_type="full_attention"), "swa_attention_type"),
        ("step35", {"use_head_wise_attn_gate": False}, "use_head_wise_attn_gate"),
        ("step35", {"use_moe_router_bias": False}, "use_moe_router_bias"),
        ("step35", {"moe_router_activation": "softmax"}, "moe_router_activation"),
        ("step35", {"use_rope_layers": [True, False]}, "use_rope_layers"),
        ("step35", {"swiglu_limits": [-1.0]}, "swiglu_limits"),
        ("step35", {"swiglu_limits_shared": 7.0}, "swiglu_limits_shared"),
        ("step35", {"sink": True}, "sink"),
        ("mimo_v2", {"hybrid_layer_pattern": [0, 1, 1, 1, 1]}, "blk.3.attn_sinks"),
        ("mimo_v2", {"hybrid_layer_pattern": [0, 1]}, "hybrid_layer_pattern"),
        ("mimo_v2", {"layer_types": ["full_attention"] * 5}, "hybrid_layer_pattern"),
        ("mimo_v2", {"moe_layer_freq": [1] * 5}, "blk.0.exp_probs_b"),
        ("mimo_v2", {"swa_head_dim": 64}, "swa_head_dim"),
        ("mimo_v2", {"swa_num_key_value_heads": 2}, "attn_k.weight is to have the shape"),
        ("mimo_v2", {"swa_num_key_value_heads": 3}, "3 of K and V in layers with a window"),
        ("mimo_v2", {"add_full_attention_sink_bias": True}, "add_full_attention_sink_bias"),
        ("mimo_v2", {"routed_scaling_factor": 2.5}, "routed_scaling_factor"),
        ("mimo_v2", {"n_group": 2}, "n_group"),
        ("mimo_v2_v5", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope_parameters"),
        (
            "mimo_v2_v5",
            {"rope_parameters": {"full_attention": _PARTIAL, "sliding_attention": {**_PARTIAL, "rope_type": "yarn"}}},
            "sliding_attention",
        ),
        (
            "mimo_v2_v5",
            {
                "rope_parameters": {
                    "full_attention": _PARTIAL,
                    "sliding_attention": {**_PARTIAL, "partial_rotary_factor": 0.25},
                }
            },
            "another partial_rotary_factor",
        ),
        ("bailingmoe", {"norm_head": True}, "norm_head"),
        ("bailingmoe", {"first_k_dense_replace": 1}, "first_k_dense_replace"),
        ("bailingmoe", {"num_experts_per_tok": 1}, "num_experts_per_tok"),
        ("bailingmoe", {"multi_gate": True}, "multi_gate"),
        ("bailingmoe", {"num_shared_experts": 1}, "shexp"),
        ("arctic", {"moe_layer_frequency": 2}, "moe_layer_frequency"),
        ("arctic", {"parallel_attn_mlp_res": False}, "parallel_attn_mlp_res"),
        ("arctic", {"num_experts_per_tok": 1}, "num_experts_per_tok"),
        ("cohere2_moe", {"shared_expert_combination_strategy": "sum"}, "shared_expert_combination_strategy"),
        ("cohere2_moe", {"prefix_dense_sliding_window_pattern": 2}, "prefix_dense_sliding_window_pattern"),
        ("cohere2_moe", {"expert_selection_fn": "sqrtsoftplus"}, "expert_selection_fn"),
        ("cohere2_moe", {"mlp_layer_types": ["sparse", "dense", *["sparse"] * 3]}, "mlp_layer_types"),
        ("cohere2_moe", {"prefix_dense_intermediate_size": None}, "ffn_gate.weight is to have the shape"),
        ("cohere2_moe", {"attention_bias": True}, "attention_bias"),
        ("cohere2_moe", {"sliding_window": None}, "sliding_window"),
        ("smallthinker", {"rope_layout": [0, 1]}, "rope_layout"),
        ("smallthinker", {"rope_layout": None}, "rope_layout"),
        ("smallthinker", {"sliding_window_layout": [1, 1]}, "sliding_window_layout"),
        ("smallthinker", {"moe_enable_secondary_experts": True}, "moe_enable_secondary_experts"),
        ("smallthinker_windows", {"sliding_window_size": 2048}, "sliding_window_size"),
        ("smallthinker_windows", {"sliding_window_layout": [1, 1, 1, 0, 1]}, "sliding_window_layout"),
        ("glm4moelite", {"mlp_layer_types": ["sparse", "dense"]}, "mlp_layer_types"),
        ("glm4moelite", {"mlp_layer_types": ["dense"]}, "layer_types"),
        ("glm4moelite", {"mlp_layer_types": ["sparse", "sparse"]}, "blk.0.ffn_down_exps"),
        ("glm4moelite", {"scoring_func": "softmax"}, "scoring_func"),
        ("glm4moelite", {"rope_interleave": False}, "rope_interleave"),
        ("glm4moelite", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("glm4moelite", {"attention_bias": True}, "attention_bias"),
        ("ernie4_5moe", {"moe_layer_interval": 2}, "moe_layer_interval"),
        ("deepseek3", {"rope_interleave": False}, "rope_interleave"),
        ("deepseek3", {"topk_method": "group_limited_greedy"}, "group_limited_greedy"),
        ("deepseek2", {"rope_scaling": YARN_4 | {"mscale": 1.0, "mscale_all_dim": 0.707}}, "another mscale"),
        ("deepseek3", {"rope_scaling": YARN_4}, "without mscale_all_dim"),
        ("deepseek32", {"rope_scaling": YARN_4 | {"mscale": 0.7, "mscale_all_dim": 0.7}}, "mscale = 0.7"),
        ("deepseek32", {"indexer_rope_interleave": True}, "indexer_rope_interleave"),
        ("deepseek32", {"index_head_dim": 128}, "index_head_dim = 128 and qk_rope_head_dim = 32"),
        ("deepseek32", {"index_n_heads": 4}, "indexer.attn_q_b.weight is to have the shape"),
        ("deepseek32", {"q_lora_rank": None}, "no q_lora_rank"),
        ("deepseek32", {"layer_types": ["sliding_attention", "indexed_attention"]}, "layer_types"),
        ("glm_dsa", {"indexer_rope_interleave": False}, "indexer_rope_interleave"),
        ("glm_dsa", {"indexer_types": ["shared", "full", "full", "full"]}, "first layer without an indexer"),
        ("glm_dsa", {"indexer_types": ["full"] * 4}, r"blk.1.indexer"),
        ("glm_dsa", {"indexer_types": ["full", "shared"]}, "no layer_types for 4 layers"),
        ("glm_dsa", {"scoring_func": "softmax"}, "scoring_func"),
        ("glm_dsa", {"rope_scaling": YARN_4 | {"mscale": 1.0, "mscale_all_dim": 1.0}}, "type 'yarn'"),
        ("glm_dsa", {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}, "blk.1.exp_probs_b"),
        ("deepseek4", {"compress_ratios": None}, "compress_ratios = None"),
        ("deepseek4", {"compress_ratios": [0, 4, 128]}, "compress_ratios"),
        ("deepseek4", {"compress_ratios": [0, 4, 64, 4]}, "compress_ratios"),
        ("deepseek4", {"compress_ratios": [0, 128, 128, 0, 4]}, "no 4 in compress_ratios"),
        ("deepseek4", {"compress_ratios": [0, 4, 4, 4]}, r"blk.2.indexer"),
        ("deepseek4", {"compress_ratios": [4, 4, 128, 4]}, r"blk.0.attn_compressor|blk.0.indexer"),
        ("deepseek4", {"layer_types": ["sliding_attention"] * 4}, "layer_types"),
        ("deepseek4", {"mlp_layer_types": ["moe"] * 4}, "mlp_layer_types"),
        ("deepseek4", {"compress_rates": {"compressed_sparse_attention": 8}}, "compress_rates"),
        ("deepseek4", {"compress_rate_hca": 64}, "compress_rate_hca = 64"),
        ("deepseek4", {"partial_rotary_factor": 0.25}, "partial_rotary_factor"),
        ("deepseek4", {"qk_rope_head_dim": 31}, "qk_rope_head_dim = 31"),
        ("deepseek4", {"qk_rope_head_dim": 256}, "qk_rope_head_dim = 256"),
        ("deepseek4", {"index_head_dim": 96}, "index_head_dim = 96"),
        ("deepseek4", {"index_topk": 0}, "index_topk = 0"),
        ("deepseek4", {"hc_mult": 2}, "hc_mult = 2"),
        ("deepseek4", {"hc_sinkhorn_iters": 0}, "hc_sinkhorn_iters = 0"),
        ("deepseek4", {"num_hash_layers": 1}, r"blk.1.(exp_probs_b|ffn_gate_tid2eid)"),
        ("deepseek4", {"num_hash_layers": 5}, "num_hash_layers = 5"),
        ("deepseek4", {"n_shared_experts": 2}, "n_shared_experts = 2"),
        ("deepseek4", {"norm_topk_prob": False}, "norm_topk_prob = False"),
        ("deepseek4", {"scoring_func": "sigmoid"}, "scoring_func = 'sigmoid'"),
        ("deepseek4", {"topk_method": "greedy"}, "topk_method"),
        ("deepseek4", {"intermediate_size": 512}, "intermediate_size = 512"),
        ("deepseek4", {"swiglu_limit": 0}, "swiglu_limit = 0"),
        ("deepseek4", {"o_groups": 3}, "o_groups = 3"),
        ("deepseek4", {"o_groups": 4}, "attn_output_a"),
        ("deepseek4", {"mlp_bias": True}, "mlp_bias"),
        ("deepseek4", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("deepseek4", {"rope_scaling": YARN_4 | {"attention_factor": 1.2}}, "attention_factor = 1.2"),
        ("deepseek4", {"rope_scaling": YARN_4 | {"mscale": 0.7}}, "mscale = 0.7"),
        ("deepseek4", {"rope_scaling": YARN_4 | {"beta_fast": 16}}, "beta_fast = 16"),
        ("deepseek4", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "type 'linear'"),
        ("deepseek4", {"rope_scaling": None, "rope_parameters": {"main": {}, "compress": {}}}, "rope_parameters"),
        ("deepseek4_bf16", {"expert_dtype": "fp4"}, "experts in MXFP4"),
        ("deepseek4_bf16", {"quantization_config": {"expert_dtype": "fp4"}}, "experts in MXFP4"),
        ("deepseek3", {"rope_scaling": YARN_4 | {"mscale": 1.0, "mscale_all_dim": 0}}, "without mscale_all_dim"),
        ("deepseek3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "type 'linear'"),
        ("deepseek2", {"rope_scaling": YARN_4 | {"beta_fast": 16}}, "beta_fast = 16"),
        ("olmoe", {"num_key_value_heads": 2}, "num_key_value_heads"),
        ("llama4", {"no_rope_layers": [1, 1, 1, 1, 0]}, "no_rope_layers"),
        ("llama4", {"layer_types": ["full_attention"] * 5}, "layer_types"),
        ("llama4", {"moe_layers": [1, 3]}, "moe_layers"),
        ("llama4", {"use_qk_norm": False}, "use_qk_norm = False with 4 experts"),
        ("llama4", {"attention_chunk_size": None}, "attention_chunk_size"),
        ("llama4", {"attention_chunk_size": 4096}, "attention_chunk_size"),
        ("llama4", {"attn_temperature_tuning": False}, "attn_temperature_tuning"),
        ("llama4", {"attn_scale": 0.2}, "attn_scale"),
        ("llama4", {"floor_scale": 4096}, "floor_scale"),
        ("llama4", {"attention_bias": True}, "attention_bias"),
        ("llama4", {"num_local_experts": 0, "num_experts_per_tok": 0}, "num_local_experts"),
        ("llama4", {"interleave_moe_layer_step": 2, "moe_layers": None}, "experts in layer 0"),
        ("llama4", {"intermediate_size": 256}, "gate_up_proj"),
        ("llama4", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ("gpt_oss", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ("gpt_oss", {"sliding_window": None}, "sliding_window"),
        ("gpt_oss", {"swiglu_limit": 5.0}, "swiglu_limit"),
        ("gpt_oss", {"attention_bias": False}, "attention_bias"),
        ("gpt_oss", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("gpt_oss", {"rope_scaling": None}, "rope scaling of the type 'default'"),
        ("gpt_oss", {"rope_scaling": {**YARN, "factor": None}}, "factor"),
        ("gpt_oss", {"rope_scaling": {**YARN, "attention_factor": 1.5}}, "attention_factor"),
        ("gpt_oss", {"rope_scaling": {**YARN, "beta_fast": 16.0}}, "beta_fast"),
        ("gpt_oss", {"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ("gpt_oss", {"quantization_config": "mxfp4"}, "quantization_config"),
        ("gpt_oss", {"quantization_config": None}, "_blocks' is of the type U8"),
        ("gpt_oss_v5", {"quantization_config": {"quant_method": "mxfp4"}}, "_proj' is unknown"),
        ("gemma4_moe", {"enable_moe_block": False, "num_experts": None, "top_k_experts": None}, "blk.0.ffn_"),
        ("dbrx", {"attn_config": ["clip_qkv"]}, "attn_config = .*, which is not an object"),
        ("dbrx", {"attn_config": {"kv_n_heads": 2, "rope_theta": 20000.0}}, "no clip_qkv"),
        ("dbrx", {"attn_config": {"clip_qkv": 1.5, "kv_n_heads": 2}}, "no rope_theta"),
        ("dbrx", {"hidden_size": 512}, "d_model = 256, and hidden_size = 512"),
        ("dbrx", _dbrx_experts(ffn_act_fn={"name": "gelu"}), "ffn_act_fn"),
        ("dbrx", _dbrx_experts(moe_normalize_expert_weights=None), "moe_normalize_expert_weights = None"),
        ("dbrx", {"auto_map": {"AutoModel": "m.M"}, **_dbrx_experts(moe_gate="relu")}, "ffn_config.moe_gate = 'relu'"),
        ("dbrx", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "another rope_theta"),
    ],
)
def test_config_of_a_mixture_is_refused(name: str, config: Mapping[str, Any], named: str) -> None:
    with pytest.raises(CannotConvert, match=named):
        plan_with(name, config)


def test_no_q_lora_rank_needs_the_layers_of_deepseek_v2_lite() -> None:
    lite = REPOSITORIES["deepseek2"]
    few = replace(lite, change={**lite.change, "num_hidden_layers": 2, "first_k_dense_replace": 1})
    with pytest.raises(CannotConvert, match="no q_lora_rank and 2 layers"):
        plan(few.files())


@pytest.mark.parametrize("name", ["deepseek3", "mistral4_eyes"])
def test_q_lora_rank_with_the_layers_of_deepseek_v2_lite(name: str) -> None:
    """llama.cpp's loader looks for the tensors of V2-Lite (deepseek2.cpp)."""
    tiny = REPOSITORIES[name]
    many = replace(tiny, change={**tiny.change, "num_hidden_layers": 27, "first_k_dense_replace": 26})
    with pytest.raises(CannotConvert, match="q_lora_rank = 256 and 27 layers"):
        plan(many.files())
