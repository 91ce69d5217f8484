"""OrionStar's Orion: Llama's structure, with LayerNorm. Pure."""

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED, check_head_size, model_space_prefix
from proxy.gguf.families.common_tensors import ATTENTION, EMBEDDING_AND_OUTPUT, MLP, NORMS
from proxy.gguf.families.family import Family
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import FEED_FORWARD, always, count, number

ORION = Family(
    "orion",
    {**EMBEDDING_AND_OUTPUT, **NORMS, **ATTENTION, **MLP},
    (
        always("tensor_data_layout", Field.string("Meta AI original pth")),
        count("context_length", "max_sequence_length", "max_position_embeddings", "model_max_length", required=True),
        count("embedding_length", "hidden_size", required=True),
        count("block_count", "num_hidden_layers", required=True),
        FEED_FORWARD,
        count("attention.head_count", "num_attention_heads", required=True),
        lambda config: iter([("attention.head_count_kv", Field.uint32(config.kv_heads))]),
        # The authors' code gives this epsilon to LayerNorm.
        number("attention.layer_norm_epsilon", "rms_norm_eps", required=True),
        check_head_size,
    ),
    tokenizers=("sentencepiece",),
    has_transformers_class=False,
    # llama.cpp's converter writes neither base nor scaling, and its loader assumes a base of 10000.
    rope_types=frozenset({"default"}),
    required_biases=frozenset({"output_norm", "attn_norm", "ffn_norm"}),
    optional_biases=frozenset(),
    accepted_values={**ANY_SILU, **UNTIED, "rope_theta": (10000, None), "attention_bias": (False, None)},
    vocabulary=model_space_prefix,
    heads_fill_embedding=True,
)
