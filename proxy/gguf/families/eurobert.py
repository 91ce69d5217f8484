"""EuroBERT: an encoder that embeds texts, built like Llama. Pure."""

from proxy.gguf.families.bert import BIDIRECTIONAL
from proxy.gguf.families.common_keys import ANY_SILU, head_dim, no_rope_scaling
from proxy.gguf.families.common_tensors import ATTENTION, BARE_PREFIXES, MLP, NORMS
from proxy.gguf.families.family import Family
from proxy.gguf.hyperparameters import BASIC

EURO_BERT = Family(
    "eurobert",
    {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        **NORMS,
        **ATTENTION,
        **MLP,
    },
    (*BASIC, head_dim, BIDIRECTIONAL, no_rope_scaling),
    defaults={"max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 10000.0},
    accepted_values={**ANY_SILU, "attention_bias": (False, None), "mlp_bias": (False, None)},
    # Keys of the tokenizer and of a classifier.
    harmless_keys=frozenset({"bos_token", "eos_token", "mask_token", "pad_token", "clf_pooling"}),
    rope_types=frozenset({"default"}),
    optional_biases=frozenset(),
    prefix_aliases=BARE_PREFIXES,
    embeds=True,
    heads_fill_embedding=True,
)
