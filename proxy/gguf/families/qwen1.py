"""The first Qwen, of 2023. Pure."""

from proxy.gguf.families.common_keys import UNTIED, check_equal_heads
from proxy.gguf.families.family import Family
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, Pairs, number
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tokenizer_files import TokenizerFiles, is_id

_LAYER = "transformer.h.{}."


def _context(config: ModelConfig) -> int:
    """Beyond `seq_length` the authors' code changes RoPE's base and scales Q, and llama.cpp does neither."""
    length = config.positive("max_position_embeddings")
    changes = [config.flag(key, default=True) for key in ("use_dynamic_ntk", "use_logn_attn")]
    return min(length, config.positive("seq_length")) if any(changes) else length


def _context_length(config: ModelConfig) -> Pairs:
    yield "context_length", Field.uint32(_context(config))


def _short_context(config: ModelConfig) -> str | None:
    length = _context(config)
    if length == config.positive("max_position_embeddings"):
        return None
    return (
        f"its context is {length} tokens: beyond them its authors' code changes RoPE and attention (use_dynamic_ntk, "
        "use_logn_attn), and llama.cpp has neither"
    )


def _check_head_size(config: ModelConfig) -> Pairs:
    size = config.positive("kv_channels")
    if size * config.heads != config.hidden:
        raise CannotConvert(f"config.json has kv_channels = {size}, unknown for this architecture")
    yield from ()


_SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def _end_of_text(config: ModelConfig, files: TokenizerFiles) -> Pairs:
    """The first of the special tokens, which follow those of qwen.tiktoken: all that config.json does not name."""
    end = Field.uint32(files.tiktoken_size)
    yield "unknown_token_id", end
    if not any(is_id(config.find(f"{name}_token_id")) for name in _SPECIAL):
        yield "bos_token_id", end
        yield "eos_token_id", end


QWEN1 = Family(
    "qwen",
    {
        "transformer.wte": "token_embd",
        "transformer.ln_f": "output_norm",
        "lm_head": "output",
        _LAYER + "ln_1": "blk.{}.attn_norm",
        _LAYER + "attn.c_attn": "blk.{}.attn_qkv",
        _LAYER + "attn.c_proj": "blk.{}.attn_output",
        _LAYER + "ln_2": "blk.{}.ffn_norm",
        _LAYER + "mlp.w1": "blk.{}.ffn_up",
        _LAYER + "mlp.w2": "blk.{}.ffn_gate",
        _LAYER + "mlp.c_proj": "blk.{}.ffn_down",
    },
    (
        *BASIC,
        _context_length,
        number("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", required=True),
        _check_head_size,
        check_equal_heads,
    ),
    tokenizers=("tiktoken",),
    key_aliases={"rotary_emb_base": "rope_theta"},
    # QWenConfig of the authors' configuration_qwen.py.
    defaults={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 8192,
        "layer_norm_epsilon": 1e-6,
        "kv_channels": 128,
        "rope_theta": 10000,
    },
    rope_types=frozenset({"default"}),
    accepted_values={
        **UNTIED,
        **dict.fromkeys(("no_bias", "scale_attn_weights"), (True, None)),
        "rotary_pct": (1, None),
        "use_cache_quantization": (False, None),
    },
    # In which types the authors' code calculates, and dropout.
    harmless_keys=frozenset(
        {"bf16", "fp16", "fp32", "softmax_in_fp32", "use_cache_kernel", "attn_dropout_prob", "emb_dropout_prob"}
    ),
    has_transformers_class=False,
    required_biases=frozenset({"attn_qkv"}),
    optional_biases=frozenset(),
    heads_fill_embedding=True,
    # The two halves of the MLP count as one.
    shapes={"ffn_up": "n_embd n_ff/2", "ffn_gate": "n_embd n_ff/2", "ffn_down": "n_ff/2 n_embd"},
    vocabulary=_end_of_text,
    caveat=_short_context,
)
