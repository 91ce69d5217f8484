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
from tests.gguf.tiny_repositories.repository import YARN, YARN_4
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.gguf.writing import plan
from tests.kit.tiny_conversions import plan_with, repository


def _yarn(**change: Any) -> dict[str, Any]:
    return {"rope_parameters": {**MINISTRAL3["rope_parameters"], **change}}


def _longrope(**change: Any) -> dict[str, Any]:
    return {"rope_parameters": {**REPOSITORIES["phi3_v5"].change["rope_parameters"], **change}}


def _two_ropes(local: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"rope_parameters": {"full_attention": {**YARN_4, "rope_theta": 5e4}, "sliding_attention": local}}


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
        ("phi3", {"rope_scaling": {"type": "longrope"}}, "'longrope' without a long_factor"),
        ("phi3_v5", _longrope(rope_type="default"), "'default' with a long_factor"),
        ("phi3_v5", _longrope(factor=4.0), "factor = 4.0, in a context 2 times"),
        ("phi3_v5", _longrope(long_factor=[1.0]), "no 32 numbers in long_factor"),
        ("phi4", {"head_dim": 32}, "head_dim"),
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
        ("maincoder", {"use_qk_norm": False}, "use_qk_norm"),
        ("maincoder", {"intermediate_size_mlp": 1024}, "intermediate_size_mlp"),
        ("nanbeige", {"loop_loss_weights": [0.5]}, "loop_loss_weights"),
        ("nanbeige", {"num_loops": 500}, "num_loops = 500 of 2 layers"),
        ("nanbeige", {"enable_mhc": True}, "enable_mhc"),
        ("nanbeige", {"emb_neighbor_num": 3}, "emb_neighbor_num"),
        ("nanbeige", {"kv_channels": 64}, "kv_channels"),
        ("pangu", {"bias": False}, "bias"),
        ("glm", {"rope_scaling": YARN}, "yarn"),
        ("glm", {"head_dim": 32}, "head_dim"),
        ("internlm2", {"bias": True}, "bias"),
        ("internlm2", {"num_key_value_heads": 1}, "wqkv"),
        ("minicpm3", {"scale_emb": 10}, "scale_emb"),
        ("minicpm3", {"scale_depth": None}, "scale_depth"),
        ("minicpm3", {"dim_model_base": 128}, "dim_model_base"),
        ("minicpm3", {"v_head_dim": 32}, "v_head_dim = 32"),
        ("minicpm3", {"num_key_value_heads": 2}, "2 heads of K and V"),
        ("minicpm3", {"rope_theta": 20000.0}, "rope_theta = 20000.0"),
        ("minicpm3", {"q_lora_rank": None}, "no q_lora_rank"),
        ("minicpm3", {"max_position_embeddings": 4096}, "original_max_position_embeddings = 2048 in a context of 4096"),
        ("llama", {"rope_scaling": YARN_4 | {"attention_factor": 1.0}}, "multiplies attention with 1.0000"),
        ("qwen3", {"rope_parameters": YARN_4 | {"mscale": 1.0, "mscale_all_dim": 1.0}}, "multiplies attention"),
        ("qwen3", {"rope_parameters": YARN_4 | {"beta_fast": 16}}, "beta_fast = 16"),
        ("qwen3", {"rope_parameters": YARN_4 | {"beta_slow": 2}}, "beta_slow = 2"),
        ("qwen3", {"rope_parameters": YARN_4 | {"truncate": False}}, "truncate = False"),
        ("olmo3_v5", _two_ropes({"rope_type": "default", "rope_theta": 1e4}), "another rope_theta"),
        ("olmo3_v5", _two_ropes({"rope_type": "yarn", "rope_theta": 5e4}), "sliding_attention"),
        ("olmo3_v5", _two_ropes({"rope_type": "default"}), "freq_base_swa"),
        ("olmo3_v5", _two_ropes(None), "freq_base_swa"),
        ("mellum", _two_ropes({"rope_type": "default", "rope_theta": 1e4}), "another rope_theta"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers"),
        ("cohere2", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ("cohere2", {"sliding_window_pattern": 2}, "layer_types"),
        ("cohere", {"use_qk_norm": True}, "use_qk_norm"),
        ("cohere", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("cohere", {"rope_theta": None}, "rope_theta"),
        ("cohere2", {"tie_word_embeddings": False}, "tie_word_embeddings"),
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
        # config.json contradicts the weights.
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
