"""IBM's Bamba: layers of attention among layers of Mamba 2, with Granite's architecture in llama.cpp. Pure."""

from collections.abc import Mapping

from proxy.gguf.families.common_keys import ANY_SILU, check_unlimited_steps
from proxy.gguf.families.common_tensors import ATTENTION, LAYER
from proxy.gguf.families.family import Family
from proxy.gguf.families.mamba import MAMBA2_SHAPES, mamba2_tensors
from proxy.gguf.families.rules import Permuted, Rule, stems_of
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, Pairs, count, number
from proxy.gguf.model_config import CannotConvert, ModelConfig

_MAMBA = mamba2_tensors(LAYER + "mamba.")


def _rotated(config: ModelConfig) -> int:
    """How many numbers of a head RoPE rotates: half of them, whatever config.json has."""
    return config.head_size // 2


# llama.cpp's converter permutes whole heads, so that llama.cpp rotates numbers that do not belong together.
_ATTENTION: Mapping[str, Rule | str] = {
    **ATTENTION,
    LAYER + "self_attn.q_proj": Permuted("blk.{}.attn_q", lambda config: config.heads, _rotated),
    LAYER + "self_attn.k_proj": Permuted("blk.{}.attn_k", lambda config: config.kv_heads, _rotated),
}


def _attention_layers(config: ModelConfig) -> set[int]:
    layers = config.find("attn_layer_indices")
    if not isinstance(layers, list) or not all(type(layer) is int and 0 <= layer < config.blocks for layer in layers):
        raise CannotConvert(f"config.json has no attn_layer_indices of {config.blocks} layers")
    return set(layers)


def _absent_tensors(config: ModelConfig, layer: int | None) -> Mapping[str, bool]:
    if layer is None:
        return {}
    return dict.fromkeys(stems_of(_MAMBA if layer in _attention_layers(config) else _ATTENTION), False)


def _layers(config: ModelConfig) -> Pairs:
    """In llama.cpp a layer without K and V heads has Mamba instead of attention."""
    attention = _attention_layers(config)
    kv_heads = [config.kv_heads if layer in attention else 0 for layer in range(config.blocks)]
    yield "attention.head_count_kv", Field.array(ValueType.INT32, kv_heads)
    yield "ssm.inner_size", Field.uint32(config.count("mamba_expand") * config.hidden)


def _rope(config: ModelConfig) -> Pairs:
    size, stated = _rotated(config), config.optional_count("attn_rotary_emb")
    if stated not in (None, size):
        raise CannotConvert(f"config.json has attn_rotary_emb = {stated}, but transformers rotates {size}")
    yield "rope.dimension_count", Field.uint32(size)
    yield "rope.scaling.finetuned", Field.boolean(True)


BAMBA = Family(
    "granitehybrid",
    {
        "model.embed_tokens": "token_embd",
        "model.final_layernorm": "output_norm",
        "lm_head": "output",
        **_ATTENTION,
        **_MAMBA,
        LAYER + "input_layernorm": "blk.{}.attn_norm",
        LAYER + "pre_ff_layernorm": "blk.{}.ffn_norm",
        LAYER + "feed_forward.gate_proj": "blk.{}.ffn_gate",
        LAYER + "feed_forward.up_proj": "blk.{}.ffn_up",
        LAYER + "feed_forward.down_proj": "blk.{}.ffn_down",
    },
    (
        *BASIC,
        VOCABULARY_SIZE,
        _layers,
        _rope,
        count("ssm.conv_kernel", "mamba_d_conv", required=True),
        count("ssm.state_size", "mamba_d_state", required=True),
        count("ssm.group_count", "mamba_n_groups", required=True),
        count("ssm.time_step_rank", "mamba_n_heads", required=True),
        number("attention.layer_norm_rms_epsilon", "rms_norm_eps", required=True),
        check_unlimited_steps,
    ),
    tokenizers=("sentencepiece", "bpe"),
    defaults={
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "mamba_n_heads": 128,
        "mamba_n_groups": 1,
        "mamba_d_state": 256,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
    },
    rope_types=frozenset({"default"}),
    optional_biases=frozenset(),
    accepted_values={
        **ANY_SILU,
        "head_dim": (None,),
        "partial_rotary_factor": (0.5, None),
        "mamba_expand": (2,),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "mamba_proj_bias": (False, None),
        "mamba_conv_bias": (True, None),
    },
    # The inner size divided by the number of heads, training, and names for attn_layer_indices that are not read.
    harmless_keys=frozenset({"mamba_d_head", "z_loss_coefficient", "layer_types", "layers_block_type"}),
    absent_tensors=_absent_tensors,
    shapes=MAMBA2_SHAPES,
)
