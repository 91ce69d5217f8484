"""Keys of config.json that no rule reads: known ones are ignored; any other is a warning or refused."""

from collections.abc import Mapping
from typing import Any

import pytest

from proxy.gguf.model_config import CannotConvert
from tests.gguf.changed_configs import OWN_CODE, changed, repository
from tests.gguf.tiny_repositories.repository import YARN
from tests.gguf.writing import plan_of

DEEPSEEK_NOTES = {
    **OWN_CODE,
    "seq_aux": True,
    "aux_loss_alpha": 0.001,
    "ep_size": 1,
    "pretraining_tp": 1,
    "num_nextn_predict_layers": 1,
}


NEWER = {"transformers_version": "99.0.0"}
"""The proxy does not ignore unknown keys of such a file."""


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        ("llama", {"pretraining_tp": 2, "mlp_bias": False, "unsloth_fixed": True, "neftune_noise_alpha": 5}),
        ("llama", {**OWN_CODE, "_flash_attn_2_enabled": True, "unsloth_version": "2025.1"}),
        ("llama", {"something_of_a_trainer": {"lr": 2e-5}, "max_sequence_length": 4096}),
        ("llama_f32", {**OWN_CODE, "rope_scaling": {"type": "dynamic", "factor": 2.0, "finetuned": True}}),
        ("mistral", {"attn_implementation": "flash_attention_2", "cross_attention_hidden_size": None}),
        ("mixtral", {"router_jitter_noise": 0.1, "output_router_logits": True, "router_aux_loss_coef": 0.02}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 28, "use_mrope": False}),
        ("qwen2moe", {"qkv_bias": True, "max_window_layers": 21, "shared_expert_intermediate_size": 512}),
        ("qwen3_next", {"router_aux_loss_coef": 0.001, "use_sliding_window": False}),
        ("qwen3_5", {"mtp_num_hidden_layers": 1, "mamba_ssm_dtype": "float32", "full_attention_interval": 4}),
        ("qwen3_5", {"mtp_num_hidden_layers": 2, "mtp_use_dedicated_embeddings": True, **NEWER}),
        ("qwen3_5_eyes", {"mamba_ssm_dtype": "float32", "output_gate_type": "swish", **NEWER}),
        ("gemma", {"hidden_act": "gelu", "hidden_activation": None}),
        ("gemma2", {"cache_implementation": "hybrid", "hidden_act": "gelu_pytorch_tanh"}),
        ("gemma3", {"cache_implementation": "hybrid", "use_bidirectional_attention": False}),
        ("phi2", {"embd_pdrop": 0.0, "resid_pdrop": 0.1, **OWN_CODE}),
        ("phi3", {**OWN_CODE, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attention_bias": False}),
        ("phi4", {**OWN_CODE, "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False}),
        ("deepseek", {**DEEPSEEK_NOTES, "attention_bias": False}),
        ("deepseek2", {**DEEPSEEK_NOTES, "topk_method": "greedy"}),
        ("deepseek3", {**DEEPSEEK_NOTES, "topk_method": "noaux_tc"}),
        ("deepseek32", {**DEEPSEEK_NOTES, "topk_method": "noaux_tc", "moe_layer_freq": 1}),
        ("glm_dsa", {
            **NEWER, "layer_types": ["indexed_attention"] * 4, "qk_head_dim": 96, "ep_size": 1, "pretraining_tp": 1,
            "index_share_for_mtp_iteration": True, "index_topk_freq": 4, "index_skip_topk_offset": 3,
        }),
        ("stablelm", {**OWN_CODE, "use_qkv_bias": True, "qk_layernorm": False, "hidden_dropout": 0.0}),
        ("falcon", {**OWN_CODE, "hidden_act": None, "multi_query": True, "parallel_attn": True, "hidden_dropout": 0.0}),
        ("falcon_7b", {**OWN_CODE, "hidden_act": None, "num_kv_heads": 71, "ffn_hidden_size": 1024}),
        ("falcon_rw", {**OWN_CODE, "attention_dropout": 0.0, "hidden_dropout": 0.0, "initializer_range": 0.02}),
        ("gptneox", {"hidden_dropout": 0.0, "classifier_dropout": 0.1, "rope_scaling": None}),
        ("bloom", {"masked_softmax_fusion": True, "offset_alibi": 100, "slow_but_exact": False, "unk_token_id": 0}),
        ("olmo2", {"attention_bias": False, "clip_qkv": None}),
        ("granite", {"attention_bias": False, "mlp_bias": False}),
        ("granitehybrid", {"init_method": "mup", "mamba_chunk_size": 256, "time_step_limit": [0.0, float("inf")]}),
        ("falcon_h1", {"mamba_d_head": 64, "mamba_expand": 2, "mamba_use_mlp": True, "num_logits_to_keep": 1}),
        ("falcon_h1", {"time_step_limit": [0.0, {"__float__": "Infinity"}], "attn_layer_indices": None}),
        ("internlm2", {**OWN_CODE, "attn_implementation": "eager", "pretraining_tp": 1}),
        ("minicpm", {**OWN_CODE, "mup_denominator": 32, "attention_bias": False, "head_dim": 64}),
        ("exaone_moe", {
            **OWN_CODE,
            "first_k_dense_replace": None, "first_last_k_dense_replace": 1, "num_nextn_predict_layers": 1,
            "is_moe_layer": [False, True, True, True, True], "topk_method": "noaux_tc",
        }),
        ("dots1", {**OWN_CODE, "scoring_func": "noaux_tc", "moe_layer_freq": 1, "use_sliding_window": False}),
        ("solar_open", {**OWN_CODE, "use_qk_norm": False, "attention_bias": False, "num_nextn_predict_layers": 1}),
        ("minimax_m2", {
            **OWN_CODE,
            "mlp_intermediate_size": 8192, "mtp_transformer_layers": 1, "num_mtp_modules": 3, "use_mtp": True,
            "layernorm_mlp_beta": 1.0, "partial_rotary_factor": 0.5, "shared_intermediate_size": 0,
        }),
        ("exaone", {**OWN_CODE, "embed_dropout": 0.0, "attention_dropout": 0.0}),
        ("bailingmoe2", {
            **OWN_CODE,
            "use_rmsnorm": True, "norm_head": False, "norm_softmax": False, "embedding_dropout": 0.0,
            "router_dtype": "fp32", "moe_router_enable_expert_bias": True, "output_dropout": 0.0,
            "num_nextn_predict_layers": 0, "mtp_loss_scaling_factor": 0,
        }),
        ("cohere", {"use_qk_norm": False, "logit_scale": 0.0625}),
        ("glm4", {"attention_bias": True, "use_cache": True}),
        ("hunyuan", {"add_classification_head": False, "cla_share_factor": 2, "norm_type": "rms", "use_cla": False}),
        ("hunyuan_moe", {
            **OWN_CODE,
            "add_classification_head": False, "anyres_pooling_size": 2, "cla_share_factor": 2, "class_num": 0,
            "dense_list": [256, 0], "eod_token_id": 127967, "group_limited_greedy": False, "im_end_id": 6,
            "im_newline_id": 12, "kv_lora_rank": None, "mask_init_id": 13, "mlp_bias": False, "moe_drop_tokens": False,
            "moe_layer_num_skipped": 0, "moe_random_routing_dropped_token": False, "n_group": None,
            "norm_topk_prob": True, "norm_type": "rms", "num_media_embeds": 257, "org_vocab_size": 128167,
            "pool_type": "last", "position_embedding_xdrope": False, "routed_scaling_factor": 1.0,
            "skip_cls_token": False, "text_end_id": 8, "text_start_id": 7, "use_cla": False, "use_mla": False,
            "video_end_id": 11, "video_start_id": 10, "vit_input_resolution": 224, "vit_mapping_type": "resampler",
            "vit_norm_type": "fused", "vit_patch": 1, "vit_path": None, "vit_token": 64, "vit_type": None,
        }),
        ("qwen1", {
            **OWN_CODE,
            "attn_dropout_prob": 0.0, "bf16": True, "emb_dropout_prob": 0.0, "fp16": False, "fp32": False,
            "onnx_safe": None, "softmax_in_fp32": False, "use_cache_kernel": False, "use_cache_quantization": False,
            "use_flash_attn": "auto", "tokenizer_class": "QWenTokenizer",
        }),
        ("chatglm", {**OWN_CODE, "attention_dropout": 0.0, "hidden_dropout": 0.0, "prefix_projection": False}),
        ("ernie4_5", {**OWN_CODE, "use_bias": False, "compression_ratio": 1.0, "use_rmsnorm": True, "fuse_ln": True}),
        ("ernie4_5moe", {**OWN_CODE, "moe_capacity": [64, 64, 64], "moe_gate": "topk", "moe_use_aux_free": True}),
        ("seed_oss", {"attention_out_bias": False, "mlp_bias": False, "residual_dropout": 0.1}),
        ("gpt_oss", {"swiglu_limit": 7.0, "experts_per_token": 2, "initial_context_length": 4096}),
        ("lfm2", {"block_use_swiglu": True, "block_dim": 256, "conv_dim": 256, "use_pos_enc": True, "num_heads": 4}),
        ("jamba", {**OWN_CODE, "use_mamba_kernels": True, "mamba_inner_layernorms": True, "num_logits_to_keep": 1}),
        ("llama4", {"router_jitter_noise": 0.0, "for_llm_compressor": False}),
        ("neo_bert", {
            "classifier_init_range": 0.02, "decoder_init_range": 0.02, "trust_remote_code": True,
            "kwargs": {"pretrained_model_name_or_path": "google-bert/bert-base-uncased", "trust_remote_code": True},
        }),
        ("dbrx", {**OWN_CODE, "emb_pdrop": 0.1, "resid_pdrop": 0.1, "output_router_logits": False}),
        ("distil_bert", {"qa_dropout": 0.1, "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": True}),
    ],
)  # fmt: skip
def test_harmless_keys_of_popular_repositories_are_ignored(name: str, notes: Mapping[str, Any]) -> None:
    """The keys are from their config.json, written from memory."""
    with_notes, unchanged = changed(name, notes), plan_of(*repository(name))
    assert with_notes.warnings == unchanged.warnings
    assert with_notes.tensors == unchanged.tensors


@pytest.mark.parametrize("value", [True, 2, 0.5, ["x"], {"a": 1}, "linear"])
def test_unknown_key_with_code_of_the_repository_is_refused(value: object) -> None:
    for name, code in (("llama", OWN_CODE), ("internlm2", {})):
        with pytest.raises(CannotConvert, match=r"attention_gate = .*, unknown for .*: the repository's own code"):
            changed(name, {**code, "attention_gate": value})
    with pytest.raises(CannotConvert, match=r"rope_parameters\.gate = "):
        changed("qwen2", {**OWN_CODE, "rope_scaling": {**YARN, "gate": value}})


@pytest.mark.parametrize("value", [None, False, 0, 1, 1.0, "", [], {}])
def test_unknown_key_that_is_off_or_neutral_is_ignored(value: object) -> None:
    assert (
        changed("internlm2", {**OWN_CODE, "attention_gate": value}).header == plan_of(*repository("internlm2")).header
    )


@pytest.mark.parametrize("code", [{}, {"auto_map": {"AutoTokenizer": "tokenization.T"}}, {"auto_map": None}])
def test_unknown_key_for_a_class_of_transformers_is_ignored(code: Mapping[str, Any]) -> None:
    result = changed("llama", {**code, "attention_gate": True, "transformers_version": "5.24.1"})
    assert (result.header, result.warnings) == (plan_of(*repository("llama")).header, ())


def test_unknown_key_from_newer_transformers_is_a_warning() -> None:
    (warning,) = changed("llama", {"attention_gate": True, "transformers_version": "5.31.0.dev0"}).warnings
    assert "attention_gate = True" in warning
    assert "5.31" in warning
    assert changed("llama", {"attention_gate": False, "transformers_version": "5.31.0"}).warnings == ()


def test_unknown_keys_in_text_config_are_checked() -> None:
    assert changed("gemma3_eyes", {"attention_gate": True}).warnings == ()
    with pytest.raises(CannotConvert, match="attention_gate"):
        changed("gemma3_eyes", {**OWN_CODE, "attention_gate": True})


def test_sparse_attention_of_minicpm_is_a_warning() -> None:
    (warning,) = changed("minicpm", {"sparse_config": {"dense_len": 8192, "topk": 64}}).warnings
    assert "beyond 8192 tokens" in warning
