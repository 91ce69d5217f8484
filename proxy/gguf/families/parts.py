"""Names of tensors and ways to write keys that many families share. Pure."""

from collections.abc import Mapping

from proxy.gguf.config import CannotConvert, Config
from proxy.gguf.families.rules import Rule, Size, Split, Stacked, Turned
from proxy.gguf.header import Field, Kind
from proxy.gguf.hyperparameters import Pairs, llama3_frequencies
from proxy.gguf.tokenizer_files import TokenizerFiles

ANY_SILU: Mapping[str, tuple[object, ...]] = {"hidden_act": ("silu", "swish", None)}
UNTIED: Mapping[str, tuple[object, ...]] = {"tie_word_embeddings": (False, None)}
"""For families that llama.cpp loads with an output of their own only."""

PLAIN_YARN: Mapping[str, tuple[object, ...]] = {
    "attention_factor": (None,),
    "mscale": (None,),
    "mscale_all_dim": (None,),
    "beta_fast": (32, None),
    "beta_slow": (1, None),
    "truncate": (True, None),
}
"""What Ollama's llama.cpp takes yarn to be, whatever a GGUF says (v0.33)."""

LAYER = "model.layers.{}."

ENDS: Mapping[str, str] = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}

ATTENTION: Mapping[str, str] = {
    LAYER + "self_attn.q_proj": "blk.{}.attn_q",
    LAYER + "self_attn.k_proj": "blk.{}.attn_k",
    LAYER + "self_attn.v_proj": "blk.{}.attn_v",
    LAYER + "self_attn.o_proj": "blk.{}.attn_output",
}

TURNED: Mapping[str, Rule | str] = {
    **ATTENTION,
    LAYER + "self_attn.q_proj": Turned("blk.{}.attn_q", lambda config: config.heads),
    LAYER + "self_attn.k_proj": Turned("blk.{}.attn_k", lambda config: config.kv_heads),
}

MLP: Mapping[str, str] = {
    LAYER + "mlp.gate_proj": "blk.{}.ffn_gate",
    LAYER + "mlp.up_proj": "blk.{}.ffn_up",
    LAYER + "mlp.down_proj": "blk.{}.ffn_down",
}

NORMS: Mapping[str, str] = {
    LAYER + "input_layernorm": "blk.{}.attn_norm",
    LAYER + "post_attention_layernorm": "blk.{}.ffn_norm",
}

HEAD_NORMS: Mapping[str, str] = {
    LAYER + "self_attn.q_norm": "blk.{}.attn_q_norm",
    LAYER + "self_attn.k_norm": "blk.{}.attn_k_norm",
}

POST_NORMS: Mapping[str, str] = {
    LAYER + "post_attention_layernorm": "blk.{}.post_attention_norm",
    LAYER + "post_feedforward_layernorm": "blk.{}.post_ffw_norm",
}


def experts(config: Config) -> int:
    return config.positive("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


ROUTED: Mapping[str, Rule | str] = {
    LAYER + "mlp.gate": "blk.{}.ffn_gate_inp",
    LAYER + "mlp.experts.{}.gate_proj": Stacked("blk.{}.ffn_gate_exps", experts),
    LAYER + "mlp.experts.{}.up_proj": Stacked("blk.{}.ffn_up_exps", experts),
    LAYER + "mlp.experts.{}.down_proj": Stacked("blk.{}.ffn_down_exps", experts),
}


def half_of(*names: str) -> Size:
    return lambda config: config.positive(*names)


FUSED_EXPERTS: Mapping[str, Rule | str] = {
    LAYER + "mlp.experts.gate_up_proj": Split(
        (
            ("blk.{}.ffn_gate_exps", half_of("moe_intermediate_size", "intermediate_size")),
            ("blk.{}.ffn_up_exps", half_of("moe_intermediate_size", "intermediate_size")),
        )
    ),
    LAYER + "mlp.experts.down_proj": "blk.{}.ffn_down_exps",
}
"""As transformers 5 saves them: all experts in one tensor."""

SHARED_EXPERTS: Mapping[str, str] = {
    LAYER + "mlp.shared_experts.gate_proj": "blk.{}.ffn_gate_shexp",
    LAYER + "mlp.shared_experts.up_proj": "blk.{}.ffn_up_shexp",
    LAYER + "mlp.shared_experts.down_proj": "blk.{}.ffn_down_shexp",
}


def same_shape(_: Config, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape


def flat_shape(_: Config, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A convolution's, which goes through each channel alone."""
    return (shape[0], *(size for size in shape[1:] if size != 1))


def rope_frequencies(config: Config) -> Mapping[str, bytes]:
    made = llama3_frequencies(config)
    return {} if made is None else {"rope_freqs.weight": made}


LLAMA_ROPES = frozenset({"default", "linear", "dynamic", "yarn", "llama3"})


def head_dim(config: Config) -> Pairs:
    """Where transformers fills `head_dim` in, so that llama.cpp writes it although config.json has none."""
    yield "attention.key_length", Field.uint32(config.head_size)
    yield "attention.value_length", Field.uint32(config.head_size)


def prefix_space(_: Config, files: TokenizerFiles) -> Pairs:
    if isinstance(files.config.get("add_prefix_space"), bool):
        yield "add_space_prefix", Field.boolean(files.config["add_prefix_space"])


def no_scaling(_: Config) -> Pairs:
    yield "rope.scaling.type", Field.string("none")


def sliding_layers(config: Config) -> Pairs:
    """Which layers see a window only, by `layer_types`, or by the place in a pattern."""
    window = config.optional_count("sliding_window")
    if window is None:
        return
    yield "attention.sliding_window", Field.uint32(window)
    kinds, blocks = config.find("layer_types"), config.blocks
    if kinds is None:
        every = config.positive("sliding_window_pattern")
        sliding = [bool((at + 1) % every) for at in range(blocks)]
    elif isinstance(kinds, list) and len(kinds) == blocks and set(map(str, kinds)) <= _LAYER_TYPES:
        sliding = [kind == "sliding_attention" for kind in kinds]
    else:
        raise CannotConvert(f"config.json has no layer_types for {blocks} layers")
    yield "attention.sliding_window_pattern", Field.array(Kind.BOOL, sliding)


_LAYER_TYPES = {"sliding_attention", "full_attention"}
