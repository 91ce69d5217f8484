"""Nanbeige 4.2, which runs its layers several times. Pure."""

from proxy.gguf.families.common_keys import ANY_SILU, LLAMA_ROPES, rope_frequencies
from proxy.gguf.families.family import Family
from proxy.gguf.families.llama import LLAMA_DEFAULTS, LLAMA_KEYS, LLAMA_TENSORS, llama_vocabulary
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, flag
from proxy.gguf.model_config import MAX_BLOCKS, CannotConvert, ModelConfig


def _loops(config: ModelConfig) -> Pairs:
    loops = config.optional_count("num_loops") or 1
    if config.blocks * loops > MAX_BLOCKS:
        raise CannotConvert(f"config.json has num_loops = {loops} of {config.blocks} layers, more than llama.cpp runs")
    if config.find("kv_channels") not in (None, config.head_size):
        raise CannotConvert(f"config.json has another kv_channels than heads of {config.head_size}")
    yield "num_loops", Field.uint32(loops)


NANBEIGE = Family(
    "nanbeige",
    LLAMA_TENSORS,
    (*LLAMA_KEYS, _loops, flag("skip_loop_final_norm", "skip_loop_final_norm", default=False)),
    tokenizers=("sentencepiece", "bpe"),
    defaults=LLAMA_DEFAULTS,
    computed_tensors=rope_frequencies,
    rope_types=LLAMA_ROPES - {"yarn", "llama3"},
    optional_biases=frozenset(),
    # What the authors' code can do and no published model does, nor llama.cpp.
    accepted_values={
        **ANY_SILU,
        **dict.fromkeys(("attention_bias", "mlp_bias", "qk_layernorm"), (False, None)),
        **dict.fromkeys(("enable_double_loop_split", "loop_share_kv"), (False, None)),
        **dict.fromkeys(("enable_hyper_connection", "enable_mhc", "enable_h_res_identity"), (False, None)),
        **dict.fromkeys(("enable_depth_attention", "ngram_insert_all_layers"), (False, None)),
        **dict.fromkeys(("insert_ngram_layer_idx", "loop_loss_weights"), ([], None)),
        "emb_neighbor_num": (None,),
        "loop_middle_layers": (None,),
    },
    # They belong to what is off.
    harmless_keys=frozenset(
        {
            *("ngram_fused_mode", "emb_split_num", "emb_tp_num", "ngram_vocab_size_ratio", "ngram_mod_force_prime"),
            *("ngram_embedding_hidden_size", "ngram_compressed_tokenizer", "skip_ngram_for_input"),
            *(
                "ngram_layer_downproject_size",
                "num_residual_streams",
                "mhc_sinkhorn_iterations",
                "mhc_init_gating_factor",
            ),
            *("depth_attention_stride", "depth_attention_recent_window", "depth_attention_static_anchor_once"),
        }
    ),
    has_transformers_class=False,
    vocabulary=llama_vocabulary,
)
