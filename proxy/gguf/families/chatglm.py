"""GLM-4 of 2024 in the form of its authors' own code, whose name is still ChatGLM. Pure."""

from dataclasses import replace

from proxy.gguf.families.family import Family
from proxy.gguf.families.glm import GLM
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, rope_base
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tokenizer_files import TokenizerFiles, read_added_tokens_decoder

_LAYER = "transformer.encoder.layers.{}."
_ROPE_BASE = 10000


def _rope_base(config: ModelConfig) -> Pairs:
    yield "rope.freq_base", Field.float32(_ROPE_BASE * config.number("rope_ratio"))


def _tokens(_: ModelConfig, files: TokenizerFiles) -> Pairs:
    """The ids of the special tokens, by their texts. config.json has several ends.

    Raises CannotConvert for ChatGLM 2 and 3. Their special tokens `sop` and `eop` stand only for themselves in their
    authors' code, which does not look for them in texts; llama.cpp finds them within words, such as people.
    """
    if files.model is not None:
        raise CannotConvert(
            "ChatGLM 2 and 3 get other tokens than from their authors: llama.cpp finds the special tokens sop and eop "
            "within words, such as people; GLM-4 is converted"
        )
    ids = {token["content"]: token_id for token_id, token in read_added_tokens_decoder(files)}
    for key, text in (("eos", "<|endoftext|>"), ("eot", "<|user|>"), ("unknown", "<|endoftext|>")):
        if text in ids and not files.tokenizer:
            yield f"{key}_token_id", Field.uint32(ids[text])


CHATGLM: Family = replace(
    GLM,
    tensors={
        "transformer.embedding.word_embeddings": "token_embd",
        "transformer.encoder.final_layernorm": "output_norm",
        "transformer.output_layer": "output",
        _LAYER + "input_layernorm": "blk.{}.attn_norm",
        _LAYER + "self_attention.query_key_value": "blk.{}.attn_qkv",
        _LAYER + "self_attention.dense": "blk.{}.attn_output",
        _LAYER + "post_attention_layernorm": "blk.{}.ffn_norm",
        _LAYER + "mlp.dense_h_to_4h": "blk.{}.ffn_up",
        _LAYER + "mlp.dense_4h_to_h": "blk.{}.ffn_down",
    },
    hyperparameters=(*(writer for writer in GLM.hyperparameters if writer is not rope_base), _rope_base),
    tokenizers=("bpe", "tiktoken", "sentencepiece"),
    vocabulary=_tokens,
    key_aliases={
        "num_layers": "num_hidden_layers",
        "seq_length": "max_position_embeddings",
        "ffn_hidden_size": "intermediate_size",
        "multi_query_group_num": "num_key_value_heads",
        "layernorm_epsilon": "rms_norm_eps",
        "kv_channels": "head_dim",
        "padded_vocab_size": "vocab_size",
    },
    # ChatGLMConfig of the authors' configuration_chatglm.py.
    defaults={
        "num_hidden_layers": 28,
        "vocab_size": 65024,
        "hidden_size": 4096,
        "intermediate_size": 13696,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "head_dim": 128,
        "rope_ratio": 1,
        "partial_rotary_factor": 0.5,
    },
    tensor_flags={"add_qkv_bias": frozenset({"attn_qkv.bias"})},
    optional_biases=frozenset({"attn_qkv"}),
    accepted_values={
        **dict.fromkeys(("rmsnorm", "post_layer_norm", "original_rope"), (True, None)),
        "multi_query_attention": (True,),
        **dict.fromkeys(("add_bias_linear", "apply_residual_connection_post_layernorm"), (False, None)),
        "quantization_bit": (0, None),
        "pre_seq_len": (None,),
    },
    # In which types and kernels it is calculated, and the prefix, which needs `pre_seq_len`.
    harmless_keys=frozenset(
        {
            *("apply_query_key_layer_scaling", "attention_softmax_in_fp32", "bias_dropout_fusion"),
            *("fp32_residual_connection", "prefix_projection"),
        }
    ),
    has_transformers_class=False,
    # Frequencies that follow from config.json.
    skipped_prefixes=("transformer.rotary_pos_emb.",),
)
