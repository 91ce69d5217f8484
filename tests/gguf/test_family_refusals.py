"""Values in the config.json of one family that are refused; each error names the key."""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from proxy.gguf.families import FAMILIES
from proxy.gguf.model_config import CannotConvert
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.llama import MINISTRAL3
from tests.gguf.tiny_repositories.recent import deci_block
from tests.gguf.tiny_repositories.repository import YARN
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.gguf.writing import plan
from tests.kit.tiny_conversions import plan_with, repository

YARN_4 = {"rope_type": "yarn", "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}


def _yarn(**change: Any) -> dict[str, Any]:
    return {"rope_parameters": {**MINISTRAL3["rope_parameters"], **change}}


def _longrope(**change: Any) -> dict[str, Any]:
    return {"rope_parameters": {**REPOSITORIES["phi3_v5"].change["rope_parameters"], **change}}


_PARTIAL = {"rope_type": "default", "rope_theta": 20000.0, "partial_rotary_factor": 0.5}


def _two_ropes(local: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"rope_parameters": {"full_attention": {**YARN_4, "rope_theta": 5e4}, "sliding_attention": local}}


def _step_window(**change: Any) -> dict[str, Any]:
    return {"attention_other_setting": {**REPOSITORIES["step35"].change["attention_other_setting"], **change}}


def _dbrx_experts(**change: Any) -> dict[str, Any]:
    return {"ffn_config": {**REPOSITORIES["dbrx"].change["ffn_config"], **change}}


def _blocks(layer: int, **parts: Mapping[str, Any]) -> dict[str, Any]:
    """The layers of the tiny DeciLM; one of them with other values in these parts."""
    blocks = [dict(block) for block in REPOSITORIES["deci"].change["block_configs"]]
    blocks[layer] |= {name: {**blocks[layer][name], **part} for name, part in parts.items()}
    return {"block_configs": blocks}


def _alike(group: int | None, size: float | None) -> list[dict[str, Any]]:
    first, *_ = REPOSITORIES["deci_alike"].change["block_configs"]
    return [first, deci_block(group, size)]


@pytest.mark.parametrize(
    ("name", "config", "named"),
    [
        ("gpt2", {"activation_function": "relu"}, "activation_function"),
        ("gpt2", {"n_positions": 256}, r"position_embd.weight is to have the shape \[256, 256\]"),
        ("gpt2", {"n_inner": 512}, "h.0.mlp.c_fc.weight has the shape"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
        ("gpt2", {"tie_word_embeddings": False}, "output.weight"),
        ("starcoder", {"multi_query": False}, "multi_query"),
        ("mpt", {"attn_config": "alibi"}, "attn_config"),
        ("mpt", {"attn_config": {"alibi": False}}, "alibi = False"),
        ("mpt", {"attn_config": {"alibi_bias_max": 0}}, "alibi_bias_max = 0"),
        ("mpt", {"attn_config": {"attn_type": "multiquery_attention"}}, "attn_type"),
        ("mpt", {"attn_config": {"kv_n_heads": 2}}, "kv_n_heads = 2"),
        ("mpt", {"attn_config": {"prefix_lm": True}}, "prefix_lm"),
        ("mpt", {"attn_config": {"qk_ln": True}}, "qk_ln"),
        ("mpt", {"attn_config": {"rope": True}}, "rope = True"),
        ("mpt", {"attn_config": {"softmax_scale": 0.5}}, "softmax_scale"),
        ("mpt", {"layer_norm_epsilon": 1e-4}, "layer_norm_epsilon"),
        ("mpt", {"logit_scale": "inv_sqrt_d_model"}, "logit_scale"),
        ("mpt", {"no_bias": False}, "no_bias"),
        ("mpt", {"norm_type": "rmsnorm"}, "norm_type"),
        ("internlm3", {"rope_scaling": YARN}, "yarn"),
        ("internlm3", {"qkv_bias": False}, "qkv_bias"),
        ("orion", {"rope_theta": 50000.0}, "rope_theta"),
        ("orion", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
        ("orion", {"attention_bias": True}, "attention_bias"),
        ("falcon", {"new_decoder_architecture": False}, "ln_(attn|mlp)"),
        ("falcon_7b", {"new_decoder_architecture": True, "num_kv_heads": 1, "alibi": True}, "alibi"),
        ("falcon_7b", {"multi_query": False}, "multi_query"),
        ("falcon_7b", {"bias": True}, "bias"),
        ("falcon_rw", {"n_head_kv": None}, "multi_query"),
        ("falcon_rw", {"parallel_attn": None}, "parallel_attn"),
        ("falcon_rw", {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection"),
        ("stablelm_epoch", {"rope_theta": 50000.0}, "rope_theta"),
        ("stablelm_epoch", {"rotary_scaling_factor": 2.0}, "rotary_scaling_factor"),
        ("stablelm_epoch", {"use_qkv_bias": False}, "use_qkv_bias"),
        ("baichuan_7b", {"architectures": ["BaichuanForCausalLM"]}, "of Baichuan with ALiBi, .* only 40 layers"),
        ("baichuan_13b", {"architectures": ["BaiChuanForCausalLM"]}, "of Baichuan with RoPE, .* only 32 layers"),
        ("baichuan_13b", {"z_loss_weight": 0}, "Baichuan 2"),
        ("baichuan_7b", {"vocab_size": 125696}, "Baichuan 2"),
        ("baichuan_7b", {"num_key_value_heads": 2}, "num_key_value_heads"),
        ("baichuan_7b", {"rope_theta": 50000.0}, "rope_theta"),
        ("hunyuan", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "alpha"),
        ("hunyuan", {"rope_theta": 20000.0}, "dynamic"),
        ("hunyuan", {"max_position_embeddings": 2048}, "dynamic"),
        ("hunyuan", {"num_experts": 2}, "num_experts"),
        ("hunyuan", {"use_cla": True}, "use_cla"),
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
        ("jais2", {"attention_bias": False}, "attention_bias"),
        ("jais2", {"hidden_act": "silu"}, "hidden_act"),
        ("jais2", {"mlp_bias": False}, "mlp_bias"),
        ("jais2", {"num_key_value_heads": 2}, "num_key_value_heads"),
        ("qwen1", {"kv_channels": 32}, "kv_channels"),
        ("qwen1", {"no_bias": False}, "no_bias"),
        ("qwen1", {"num_key_value_heads": 2}, "num_key_value_heads"),
        ("qwen1", {"rotary_pct": 0.5}, "rotary_pct"),
        ("qwen1", {"seq_length": None}, "seq_length"),
        ("qwen1", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("qwen1", {"use_cache_quantization": True}, "use_cache_quantization"),
        ("qwen1", {"use_dynamic_ntk": 1}, "use_dynamic_ntk"),
        ("qwen1", {"visual": {"layers": 48}}, "visual"),
        ("chatglm", {"add_bias_linear": True}, "add_bias_linear"),
        ("chatglm", {"add_qkv_bias": False}, "add_qkv_bias"),
        ("chatglm", {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm"),
        ("chatglm", {"kv_channels": 32}, "head_dim"),
        ("chatglm", {"multi_query_attention": False}, "multi_query_attention"),
        ("chatglm", {"num_hidden_layers": 3}, "num_layers"),
        ("chatglm", {"original_rope": False}, "original_rope"),
        ("chatglm", {"post_layer_norm": False}, "post_layer_norm"),
        ("chatglm", {"pre_seq_len": 128}, "pre_seq_len"),
        ("chatglm", {"quantization_bit": 4}, "quantization_bit"),
        ("chatglm", {"rmsnorm": False}, "rmsnorm"),
        ("chatglm", {"vision_config": {"hidden_size": 8}}, "vision_config"),
        ("glm4moe", {"attention_bias": False}, "attention_bias"),
        ("phi3", {"rope_scaling": {"type": "longrope"}}, "'longrope' without a long_factor"),
        ("phi3_v5", _longrope(rope_type="default"), "'default' with a long_factor"),
        ("phi3_v5", _longrope(factor=4.0), "factor = 4.0, in a context 2 times"),
        ("phi3_v5", _longrope(long_factor=[1.0]), "no 32 numbers in long_factor"),
        ("phi4", {"head_dim": 32}, "head_dim"),
        ("kimi_k2", {"rope_scaling": YARN_4 | {"beta_fast": 2, "mscale": 1, "mscale_all_dim": 1}}, "beta_fast = 2"),
        ("kimi_k2", {"rope_scaling": YARN_4 | {"beta_slow": 2, "mscale": 1, "mscale_all_dim": 1}}, "beta_slow = 2"),
        ("plamo", {"n_shared_head": 3}, "8 heads of 32 in 3 groups"),
        ("plamo", {"n_shared_head": 8}, "blk.0.attn_k"),
        ("plamo", {"rope_theta": 20000.0}, "rope_theta"),
        ("plamo", {"head_dim": 64}, "8 heads of 64"),
        ("plamo", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("plamo3", {"rope_scaling_factor": 4}, "rope_scaling_factor"),
        ("plamo3", {"scale_embedding": True}, "scale_embedding"),
        ("plamo3", {"attention_bias": True}, "attention_bias"),
        ("plamo3", {"hidden_activation": "geglu"}, "hidden_activation"),
        ("plamo3", {"sliding_window": 16}, "window_size, or several"),
        ("plamo3", {"window_size": None}, "window_size, or several"),
        ("plamo3", {"sliding_window": [12, None, 12]}, "sliding_window_pattern"),
        ("plamo3", {"rope_theta": None}, "rope.freq_base"),
        ("sarvam", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("sarvam", {"num_shared_experts": 2}, "num_shared_experts"),
        ("sarvam", {"score_function": "softmax"}, "score_function"),
        ("sarvam", {"use_qk_norm": False}, "use_qk_norm"),
        ("sarvam", {"use_qkv_bias": True}, "use_qkv_bias"),
        ("sarvam", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("xverse", {"max_position_embeddings": 16384}, "16384 and no rope_theta"),
        ("xverse", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
        ("xverse", {"quantization_bit": 4}, "quantization_bit"),
        ("xverse", {"head_dim": 32}, "head_dim = 32"),
        ("xverse", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("apertus", {"attention_bias": True}, "attention_bias"),
        ("apertus", {"hidden_act": "silu"}, "hidden_act"),
        ("apertus", {"rope_scaling": None}, "neither rope_scaling nor rope_parameters"),
        ("deci", {"block_configs": None}, "no block_configs for 5 layers"),
        ("deci", _blocks(0, attention={"n_heads_in_group": 3}), "n_heads_in_group = 3"),
        ("deci", _blocks(0, attention={"window_length": 8}), "window_length"),
        ("deci", _blocks(0, attention={"no_op": True}), "no_op"),
        ("deci", _blocks(1, attention={"no_op": False, "replace_with_linear": True}), "replace_with_linear"),
        ("deci", _blocks(0, ffn={"ffn_mult": None, "no_op": True}), "without an ffn in layer 0"),
        ("deci", _blocks(0, ffn={"ffn_mult": "1"}), "ffn_mult"),
        ("deci", _blocks(0, ffn={"intermediate_size": 512}), "intermediate_size"),
        ("deci", _blocks(1, attention={"n_heads_in_group": 1, "no_op": False}), "blk.1.attn_"),
        ("deci", _blocks(0, attention={"n_heads_in_group": 4}), "attn_k.weight is to have the shape"),
        ("deci", {"head_dim": 32}, "head_dim"),
        ("deci_alike", {"block_configs": _alike(None, None)}, "without an ffn in layer 1"),
        ("talkie", {"rms_norm_eps": 1e-5}, "rms_norm_eps"),
        ("talkie", {"num_key_value_heads": 2}, "attn_k.weight is to have the shape"),
        ("talkie", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("hy_v3", {"mlp_layer_types": ["sparse"] * 3}, "blk.0.exp_probs_b"),
        ("hy_v3", {"mlp_layer_types": ["dense", "dense", "sparse"]}, "blk.1.ffn_down"),
        ("hy_v3", {"num_shared_experts": 1}, "ffn_gate_shexp|ffn_up_shexp|ffn_down_shexp"),
        ("hy_v3", {"route_norm": False}, "route_norm"),
        ("maincoder", {"use_qk_norm": False}, "use_qk_norm"),
        ("maincoder", {"intermediate_size_mlp": 1024}, "intermediate_size_mlp"),
        ("mellum", {"mlp_layer_types": ["dense", "sparse", "sparse"]}, "mlp_layer_types with a dense layer"),
        ("mellum", {"norm_topk_prob": False}, "norm_topk_prob"),
        ("mellum", {"layer_types": None}, "layer_types"),
        ("mellum", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope_parameters"),
        ("mellum", {"rope_parameters": None, "rope_theta": 5e5}, "rope_parameters"),
        ("mellum", _two_ropes({"rope_type": "default", "rope_theta": 1e4}), "another rope_theta"),
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
        ("nanbeige", {"loop_loss_weights": [0.5]}, "loop_loss_weights"),
        ("nanbeige", {"num_loops": 500}, "num_loops = 500 of 2 layers"),
        ("nanbeige", {"enable_mhc": True}, "enable_mhc"),
        ("nanbeige", {"emb_neighbor_num": 3}, "emb_neighbor_num"),
        ("nanbeige", {"kv_channels": 64}, "kv_channels"),
        ("pangu", {"bias": False}, "bias"),
        ("smallthinker", {"rope_layout": [0, 1]}, "rope_layout"),
        ("smallthinker", {"rope_layout": None}, "rope_layout"),
        ("smallthinker", {"sliding_window_layout": [1, 1]}, "sliding_window_layout"),
        ("smallthinker", {"moe_enable_secondary_experts": True}, "moe_enable_secondary_experts"),
        ("smallthinker_windows", {"sliding_window_size": 2048}, "sliding_window_size"),
        ("smallthinker_windows", {"sliding_window_layout": [1, 1, 1, 0, 1]}, "sliding_window_layout"),
        ("glm", {"rope_scaling": YARN}, "yarn"),
        ("glm", {"head_dim": 32}, "head_dim"),
        ("glm4moelite", {"mlp_layer_types": ["sparse", "dense"]}, "mlp_layer_types"),
        ("glm4moelite", {"mlp_layer_types": ["dense"]}, "layer_types"),
        ("glm4moelite", {"mlp_layer_types": ["sparse", "sparse"]}, "blk.0.ffn_down_exps"),
        ("glm4moelite", {"scoring_func": "softmax"}, "scoring_func"),
        ("glm4moelite", {"rope_interleave": False}, "rope_interleave"),
        ("glm4moelite", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("glm4moelite", {"attention_bias": True}, "attention_bias"),
        ("ernie4_5moe", {"moe_layer_interval": 2}, "moe_layer_interval"),
        ("internlm2", {"bias": True}, "bias"),
        ("internlm2", {"num_key_value_heads": 1}, "wqkv"),
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
        ("minicpm3", {"scale_emb": 10}, "scale_emb"),
        ("minicpm3", {"scale_depth": None}, "scale_depth"),
        ("minicpm3", {"dim_model_base": 128}, "dim_model_base"),
        ("minicpm3", {"v_head_dim": 32}, "v_head_dim = 32"),
        ("minicpm3", {"num_key_value_heads": 2}, "2 heads of K and V"),
        ("minicpm3", {"rope_theta": 20000.0}, "rope_theta = 20000.0"),
        ("minicpm3", {"q_lora_rank": None}, "no q_lora_rank"),
        ("minicpm3", {"max_position_embeddings": 4096}, "original_max_position_embeddings = 2048 in a context of 4096"),
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
        ("llama", {"rope_scaling": YARN_4 | {"attention_factor": 1.0}}, "multiplies attention with 1.0000"),
        ("qwen3", {"rope_parameters": YARN_4 | {"mscale": 1.0, "mscale_all_dim": 1.0}}, "multiplies attention"),
        ("qwen3", {"rope_parameters": YARN_4 | {"beta_fast": 16}}, "beta_fast = 16"),
        ("qwen3", {"rope_parameters": YARN_4 | {"beta_slow": 2}}, "beta_slow = 2"),
        ("qwen3", {"rope_parameters": YARN_4 | {"truncate": False}}, "truncate = False"),
        ("deepseek2", {"rope_scaling": YARN_4 | {"beta_fast": 16}}, "beta_fast = 16"),
        ("olmo3_v5", _two_ropes({"rope_type": "default", "rope_theta": 1e4}), "another rope_theta"),
        ("olmo3_v5", _two_ropes({"rope_type": "yarn", "rope_theta": 5e4}), "sliding_attention"),
        ("olmo3_v5", _two_ropes({"rope_type": "default"}), "freq_base_swa"),
        ("olmo3_v5", _two_ropes(None), "freq_base_swa"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers"),
        ("cohere2", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ("cohere2", {"sliding_window_pattern": 2}, "layer_types"),
        ("cohere", {"use_qk_norm": True}, "use_qk_norm"),
        ("cohere", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("cohere", {"rope_theta": None}, "rope_theta"),
        ("cohere2", {"tie_word_embeddings": False}, "tie_word_embeddings"),
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
        ("ministral3", _yarn(mscale=0.5), "mscale = 0.5"),
        ("ministral3", _yarn(mscale=None), "mscale = None"),
        ("ministral3", _yarn(attention_factor=1.2), "attention_factor"),
        ("ministral3", _yarn(truncate=False), "truncate"),
        ("ministral3", _yarn(partial_rotary_factor=0.5), "partial_rotary_factor"),
        ("ministral3", _yarn(beta_slow=0), "beta_slow"),
        ("ministral3", _yarn(llama_4_scaling_beta=None), "llama_4_scaling_beta"),
        ("ministral3", _yarn(original_max_position_embeddings=0), "original_max_position_embeddings"),
        ("ministral3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "default"),
        ("ministral3", {"sliding_window": 1024}, "sliding_window = 1024"),
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
        # config.json contradicts the weights.
        ("gpt_oss", {"quantization_config": None}, "_blocks' is of the type U8"),
        ("gpt_oss_v5", {"quantization_config": {"quant_method": "mxfp4"}}, "_proj' is unknown"),
        ("gemma3n", {"laurel_rank": 32}, "laurel_rank"),
        ("gemma3n", {"final_logit_softcapping": 20.0}, "final_logit_softcapping"),
        ("gemma3n", {"altup_correct_scale": False}, "altup_correct_scale"),
        ("gemma3n", {"activation_sparsity_pattern": None}, "activation_sparsity_pattern"),
        ("gemma3n", {"activation_sparsity_pattern": [0.5] * 5}, "activation_sparsity_pattern"),
        ("gemma3n", {"layer_types": ["full_attention"] * 5}, "layer_types"),
        ("gemma3n", {"num_kv_shared_layers": 2}, "num_kv_shared_layers"),
        ("gemma3n", {"intermediate_size": [512, 512, 512, 512, 256]}, "intermediate_size"),
        ("gemma3n", {"intermediate_size": None}, "intermediate_size"),
        ("gemma3n", {"vocab_size": 500}, "of which 500 rows are wanted"),
        ("gemma3n", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}, "linear"),
        ("gemma4", {"num_kv_shared_layers": 2}, "num_kv_shared_layers"),
        ("gemma4", {"num_kv_shared_layers": 5}, "num_kv_shared_layers"),
        ("gemma4", {"num_global_key_value_heads": 3}, "3 of K and V"),
        ("gemma4", {"num_experts": 4}, "enable_moe_block"),
        ("gemma4", {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2}, "ffn_down_exps"),
        ("gemma4", {"hidden_size_per_layer_input": 256}, "per_layer_model_proj"),
        ("gemma4", {"attention_k_eq_v": False}, "blk.2.attn_v"),
        ("gemma4", {"use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
        ("gemma4", {"per_layer_config": {"1": {"head_dim": 128}}}, "per_layer_config"),
        ("gemma4", {"per_layer_config": {"2": {"head_dim": 128}, "5": {"head_dim": 64}}}, "per_layer_config"),
        ("gemma4", {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e6}}, "rope.freq_base_swa"),
        ("gemma4_moe", {"enable_moe_block": False, "num_experts": None, "top_k_experts": None}, "blk.0.ffn_"),
        *(
            ("qwen3_next_v5", {"rope_parameters": {"rope_type": "default", key: value}}, key)
            for key, value in (("attention_factor", 1.5), ("mscale", 0.7), ("beta_fast", 16), ("truncate", False))
        ),
        # With too large or too small sections, llama.cpp leaves numbers unrotated.
        *(
            ("qwen3_5moe", {"rope_scaling": {"mrope_section": sections}}, "mrope_section")
            for sections in ([11, 11], [0, 0, 0], [30, 30, 30], [6, 5, 5.0], "6, 5, 5")
        ),
        ("distil_bert", {"activation": "relu"}, "activation = 'relu'"),
        ("distil_bert", {"hidden_size": 512}, "dim = 256, and hidden_size = 512"),
        ("llama_bidirectional", {"pooling": "last"}, "pooling = 'last'"),
        ("llama_bidirectional", {"is_causal": True}, "is_causal = True"),
        ("neo_bert", {"dim_head": 32}, "dim_head = 32"),
        ("neo_bert", {"ngpt": True}, "ngpt = True"),
        ("neo_bert", {"rope": False}, "rope = False"),
        ("neo_bert", {"embedding_rms_norm": True}, "embedding_rms_norm = True"),
        ("neo_bert", {"intermediate_size": 780}, "ffn_up.weight is to have the shape"),
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
def test_config_of_a_family_is_refused(name: str, config: Mapping[str, Any], named: str) -> None:
    with pytest.raises(CannotConvert, match=named):
        plan_with(name, config)


@pytest.mark.parametrize(
    ("kind", "partial", "named"),
    [
        ("proportional", {"partial_rotary_factor": 2.0}, "partial_rotary_factor"),
        ("proportional", {"factor": 2.0}, "factor"),
        ("default", {}, "default"),
    ],
)
def test_rope_of_gemma_4_is_refused(kind: str, partial: Mapping[str, Any], named: str) -> None:
    ropes = json.loads(repository("gemma4")["config.json"])["rope_parameters"]
    ropes["full_attention"] = {"rope_type": kind, "rope_theta": 1e6, **partial}
    with pytest.raises(CannotConvert, match=named):
        plan_with("gemma4", {"rope_parameters": ropes})


@pytest.mark.parametrize(
    ("kinds", "named"),
    [(["full_attention"] * 6, "layer_types"), (["full_attention", "sliding_attention"] * 3, "first is full_attention")],
)
def test_order_of_windows_in_gemma_4_is_refused(kinds: list[str], named: str) -> None:
    tiny = REPOSITORIES["gemma4"]
    change = {**tiny.change, "layer_types": [*kinds[:-1], "full_attention"]}
    files = dict(replace(tiny, change=change).files())
    files["config.json"] = dump({**json.loads(files["config.json"]), "layer_types": kinds})
    with pytest.raises(CannotConvert, match=named):
        plan(files)


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


@pytest.mark.parametrize(
    ("tokens", "rank", "refused"),
    [(128256, None, False), (128256, 256, True), (128000, None, True), (128000, 256, False)],
)
def test_q_lora_rank_with_the_layers_and_tokens_of_kanana_2(tokens: int, rank: int | None, *, refused: bool) -> None:
    """llama.cpp's loader reads it for other models with 48 layers (deepseek2.cpp)."""
    change = {"num_hidden_layers": 48, "vocab_size": tokens, "q_lora_rank": rank}
    family = FAMILIES["DeepseekV3ForCausalLM"]
    config = family.config({**REPOSITORIES["deepseek3"].config(), **change})
    with pytest.raises(CannotConvert, match="48 layers") if refused else nullcontext():
        for writer in family.hyperparameters:
            list(writer(config))
