"""Keys of config.json that never change what a model calculates, whatever their values. Pure.

They belong to transformers' PreTrainedConfig (4.57 and 5.24), to training, or to tools that leave notes. A key that
only one family has stands in the family's declaration.
"""

from collections.abc import Mapping

_GROUPS: Mapping[str, tuple[str, ...]] = {
    "which class reads the file, and which tool wrote it": (
        *("architectures", "auto_map", "model_type", "tokenizer_class", "transformers_version", "_name_or_path"),
        *("name_or_path", "_commit_hash", "transformers.js_config", "text_config_dict"),
    ),
    "the type of the weights, which their headers give": ("dtype", "torch_dtype", "use_bfloat16"),
    "how transformers calculates the same result: kernels, chunks, types, caches, outputs": (
        *("attn_implementation", "_attn_implementation", "_attn_implementation_autoset"),
        *("_experts_implementation", "experts_implementation", "_flash_attn_2_enabled", "use_flash_attention"),
        *("use_flash_attn", "use_cache", "cache_implementation", "chunk_size_feed_forward", "pretraining_tp"),
        *("output_attentions", "output_hidden_states", "return_dict", "torchscript", "tf_legacy_loss"),
        *("residual_in_fp32", "use_mambapy", "use_associative_scan", "use_mamba_kernels", "num_logits_to_keep"),
        *("mamba_chunk_size", "mamba_ssm_dtype", "slow_but_exact", "calc_logits_for_entire_prompt"),
        *("tie_last_hidden_states",),
        *("gradient_checkpointing", "gradient_checkpointing_use_reentrant", "keys_to_ignore_at_inference"),
    ),
    "encoder-decoder models, which no family here is": (
        *("is_encoder_decoder", "is_decoder", "cross_attention_hidden_size", "tie_encoder_decoder"),
        *("decoder_start_token_id", "add_cross_attention"),
    ),
    "heads of classifiers": (
        *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params"),
        *("classifier_dropout", "classifier_activation", "classifier_bias", "classifier_pooling", "summary_type"),
    ),
    "how a text is sampled from logits, which generation_config.json decides": (
        *("max_length", "min_length", "max_new_tokens", "min_new_tokens", "do_sample", "early_stopping", "num_beams"),
        *("num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "min_p", "typical_p"),
        *("epsilon_cutoff", "eta_cutoff", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
        *("encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores", "prefix"),
        *("return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values"),
        *("exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"),
    ),
    "token ids; those with an effect are written with the vocabulary": (
        *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id", "cls_token_id"),
        *("mask_token_id", "image_token_id", "image_token_index", "video_token_id", "vision_start_token_id"),
        *("vision_end_token_id", "audio_token_id", "boi_token_id", "eoi_token_id", "unk_token", "eod_token_id"),
        *("im_start_id", "im_end_id", "vision_token_id"),
    ),
    "initial weights and training": (
        *("initializer_range", "initializer_factor", "embedding_initializer_range", "init_method", "init_std"),
        *("rescale_prenorm_residual", "time_step_floor", "time_step_init_scheme", "time_step_max", "time_step_min"),
        *("time_step_scale", "router_aux_loss_coef", "output_router_logits", "router_jitter_noise"),
        *("router_z_loss_coef", "aux_loss_alpha", "seq_aux", "ep_size", "z_loss_weight", "neftune_noise_alpha"),
        *("embd_pdrop", "emb_pdrop", "attn_pdrop", "resid_pdrop"),
        *("hidden_dropout_prob", "attention_probs_dropout_prob"),
        *("recompute", "use_recompute", "altup_coef_clip", "full_attn_mod", "mtp_loss_scaling_factor"),
    ),
    "layers that predict further tokens, which are left out": (
        *("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers", "mtp_use_dedicated_embeddings"),
    ),
    "notes of tools": ("unsloth_fixed", "unsloth_version", "axolotl_config", "tokenizer_model_max_length"),
}
HARMLESS = frozenset(key for keys in _GROUPS.values() for key in keys)
_PREFIXES, _SUFFIXES = ("unsloth_", "_unsloth_", "tokenizer_", "fuse_", "use_recompute"), ("_dropout",)

HARMLESS_IN_ROPE = frozenset({"type", "rope_type", "finetuned"})
"""Keys of a RoPE: its type, which is always checked, and a note."""


def is_harmless(key: str) -> bool:
    """`key` may be `object.key`, as in proxy/gguf/families/family.py."""
    key = key.rpartition(".")[2] if key not in HARMLESS else key
    return key in HARMLESS or key.startswith(_PREFIXES) or key.endswith(_SUFFIXES)
