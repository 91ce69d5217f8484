"""InternLM 3, which is built like Llama. Pure."""

from proxy.gguf.families.common_keys import ANY_SILU
from proxy.gguf.families.family import Family
from proxy.gguf.families.llama import LLAMA_BIASES, LLAMA_KEYS, LLAMA_TENSORS
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs
from proxy.gguf.model_config import ModelConfig
from proxy.gguf.sentencepiece import adds_dummy_prefix
from proxy.gguf.tokenizer_files import TokenizerFiles, read_added_tokens_decoder


def _tokenizer_keys(_: ModelConfig, files: TokenizerFiles) -> Pairs:
    """`<|im_end|>` ends a turn if it is a special token, whatever config.json names.

    tokenizer.model alone decides about spaces: `add_prefix_space`, which llama.cpp's converter writes, is only for
    decoding.
    """
    adds_space = adds_dummy_prefix(files.model or b"")
    if not adds_space or isinstance(files.config.get("add_prefix_space"), bool):
        yield "add_space_prefix", Field.boolean(adds_space)
    for token_id, token in read_added_tokens_decoder(files):
        if token["content"] == "<|im_end|>" and token.get("special"):
            yield "eos_token_id", Field.uint32(token_id)


INTERNLM3 = Family(
    "llama",
    LLAMA_TENSORS,
    LLAMA_KEYS,
    tokenizers=("sentencepiece",),
    defaults={"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "num_key_value_heads": 2},
    # The authors' code knows no other types.
    rope_types=frozenset({"default", "linear", "dynamic"}),
    has_transformers_class=False,
    optional_biases=LLAMA_BIASES,
    tensor_flags={
        "qkv_bias": frozenset({"attn_q.bias", "attn_k.bias", "attn_v.bias"}),
        "bias": frozenset({"attn_output.bias", "ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"}),
    },
    accepted_values=ANY_SILU,
    vocabulary=_tokenizer_keys,
)
