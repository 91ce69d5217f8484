"""InternLM 2. Pure."""

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED
from proxy.gguf.families.common_tensors import LAYER
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import SplitQkv
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs
from proxy.gguf.model_config import ModelConfig
from proxy.gguf.sentencepiece import adds_dummy_prefix
from proxy.gguf.tokenizer_files import TokenizerFiles, read_added_tokens_decoder


def _tokenizer_keys(_config: ModelConfig, files: TokenizerFiles) -> Pairs:
    """`<|im_end|>` ends a turn if the tokenizer has it, whatever config.json names."""
    yield "add_space_prefix", Field.boolean(adds_dummy_prefix(files.model or b""))
    added = [*read_added_tokens_decoder(files), *((token["id"], token) for token in files.added_tokens)]
    for token_id, token in added:
        if token["content"] == "<|im_end|>":
            yield "eos_token_id", Field.uint32(token_id)


INTERNLM2 = Family(
    "internlm2",
    {
        "model.tok_embeddings": "token_embd",
        "model.norm": "output_norm",
        "output": "output",
        LAYER + "attention_norm": "blk.{}.attn_norm",
        LAYER + "ffn_norm": "blk.{}.ffn_norm",
        LAYER + "attention.wqkv": SplitQkv(
            "blk.{}.attn_q",
            "blk.{}.attn_k",
            "blk.{}.attn_v",
            lambda config: config.kv_heads,
            lambda config: config.heads,
        ),
        LAYER + "attention.wo": "blk.{}.attn_output",
        LAYER + "feed_forward.w1": "blk.{}.ffn_gate",
        LAYER + "feed_forward.w2": "blk.{}.ffn_down",
        LAYER + "feed_forward.w3": "blk.{}.ffn_up",
    },
    tokenizers=("sentencepiece",),
    defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0},
    optional_biases=frozenset(),
    has_transformers_class=False,
    accepted_values={**ANY_SILU, **UNTIED, "bias": (False, None)},
    vocabulary=_tokenizer_keys,
    added_from_json=True,
    unused_piece_prefix="[UNUSED",
    heads_fill_embedding=True,
)
