"""Families that share little with others: EXAONE 3, GLM, InternLM 2, Nemotron, StableLM, StarCoder 2. Pure."""

from dataclasses import replace

from proxy.gguf.config import ModelConfig, finite
from proxy.gguf.families.parts import (
    ANY_SILU,
    ATTENTION,
    ATTENTION_BIAS,
    BOTH_BIASES,
    ENDS,
    LAYER,
    LLAMA_ROPES,
    MLP,
    NORMS,
    UNTIED,
    head_dim,
    rope_frequencies,
    usual_heads,
    window_ignored,
)
from proxy.gguf.families.rules import QKV, AddOne, Family, SplitQkv, Stacked
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import (
    BASIC,
    FEED_FORWARD,
    VOCABULARY_SIZE,
    Pairs,
    count,
    flag,
    number,
    partial_head_dimensions,
    partial_rope_dimensions,
    rope_base,
)
from proxy.gguf.sentencepiece import adds_dummy_prefix
from proxy.gguf.tokenizer_files import TokenizerFiles, read_added_tokens_decoder

GLM = Family(
    "chatglm",
    {
        **ENDS,
        **NORMS,
        **ATTENTION,
        LAYER + "mlp.gate_up_proj": "blk.{}.ffn_up",
        LAYER + "mlp.down_proj": "blk.{}.ffn_down",
    },
    # llama.cpp's converter looks for these under ChatGLM's names, and takes others where it finds none.
    (
        count("context_length", "max_position_embeddings", required=True),
        count("embedding_length", "hidden_size", required=True),
        FEED_FORWARD,
        count("block_count", "num_hidden_layers", required=True),
        count("attention.head_count", "num_attention_heads", required=True),
        count("attention.head_count_kv", "num_key_value_heads", required=True),
        number("attention.layer_norm_rms_epsilon", "rms_norm_eps", required=True),
        usual_heads,
        partial_head_dimensions,
        rope_base,
    ),
    defaults={
        "max_position_embeddings": 131072,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1.5625e-7,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "head_dim": 128,
        "attention_bias": True,
    },
    flags=ATTENTION_BIAS,
    ropes=frozenset({"default"}),
    only=ANY_SILU,
    specials={"eos": "<|endoftext|>", "eot": "<|user|>", "unk": "<|endoftext|>"},
)

GLM4 = replace(
    GLM,
    architecture="glm4",
    tensors={
        **GLM.tensors,
        LAYER + "post_self_attn_layernorm": "blk.{}.post_attention_norm",
        LAYER + "post_mlp_layernorm": "blk.{}.post_ffw_norm",
    },
    hyperparameters=(*BASIC, partial_head_dimensions),
    ropes=frozenset({"default", "linear", "dynamic", "yarn"}),
    specials={**GLM.specials, "bos": "<|endoftext|>"},
)


def _nemotron_rope(config: ModelConfig) -> Pairs:
    share = finite("config.json has partial_rotary_factor", config.rope.get("partial_rotary_factor"))
    yield "rope.dimension_count", Field.uint32(int(share * config.hidden) // config.heads)
    factor = config.find("factor") or config.rope.get("factor")
    if factor is None:
        yield "rope.scaling.type", Field.string("none")
    else:
        yield "rope.scaling.type", Field.string("linear")
        yield "rope.scaling.factor", Field.float32(finite("config.json has factor", factor))


def _nemotron_tokens(_config: ModelConfig, _files: TokenizerFiles) -> Pairs:
    yield "padding_token_id", Field.uint32(0)
    yield "unknown_token_id", Field.uint32(1)


NEMOTRON = Family(
    "nemotron",
    {
        **ENDS,
        **ATTENTION,
        "model.norm": AddOne("output_norm"),
        LAYER + "input_layernorm": AddOne("blk.{}.attn_norm"),
        LAYER + "post_attention_layernorm": AddOne("blk.{}.ffn_norm"),
        LAYER + "mlp.up_proj": "blk.{}.ffn_up",
        LAYER + "mlp.down_proj": "blk.{}.ffn_down",
    },
    (
        *BASIC,
        head_dim,
        VOCABULARY_SIZE,
        number("attention.layer_norm_epsilon", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
        _nemotron_rope,
    ),
    tokenizers=("sentencepiece",),
    defaults={
        "max_position_embeddings": 4096,
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
    },
    ropes=frozenset({"default", "linear"}),
    biases=frozenset({"output_norm", "attn_norm", "ffn_norm"}),
    optional_biases=QKV | {"attn_output", "ffn_up", "ffn_down"},
    flags=BOTH_BIASES,
    only={**UNTIED, "hidden_act": ("relu2", None)},
    vocabulary=_nemotron_tokens,
)

STABLELM = Family(
    "stablelm",
    {
        **ENDS,
        **NORMS,
        **ATTENTION,
        **MLP,
        LAYER + "self_attn.q_layernorm.norms.{}": Stacked("blk.{}.attn_q_norm", lambda config: config.heads),
        LAYER + "self_attn.k_layernorm.norms.{}": Stacked("blk.{}.attn_k_norm", lambda config: config.kv_heads),
    },
    (
        count("context_length", "max_position_embeddings", required=True),
        count("embedding_length", "hidden_size", required=True),
        count("block_count", "num_hidden_layers", required=True),
        count("feed_forward_length", "intermediate_size", required=True),
        partial_rope_dimensions,
        count("attention.head_count", "num_attention_heads", required=True),
        count("attention.head_count_kv", "num_key_value_heads", required=True),
        flag("use_parallel_residual", "use_parallel_residual", default=True),
        number("attention.layer_norm_epsilon", "layer_norm_eps", "norm_eps", required=True),
    ),
    defaults={
        "max_position_embeddings": 4096,
        "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 0.25,
        "use_parallel_residual": False,
        "num_key_value_heads": 32,
    },
    # Neither a rope's base nor its scaling is written: llama.cpp takes 10000.
    ropes=frozenset({"default"}),
    optional=frozenset({"ffn_norm", "attn_q_norm", "attn_k_norm"}),
    biases=frozenset({"output_norm", "attn_norm"}),
    optional_biases=QKV | {"ffn_norm"},
    flags={
        "use_qkv_bias": frozenset({"attn_q.bias", "attn_k.bias", "attn_v.bias"}),
        "qk_layernorm": frozenset({"attn_q_norm.weight", "attn_k_norm.weight"}),
    },
    only={**ANY_SILU, **UNTIED, "rope_theta": (10000, None)},
)


def _internlm2_tokens(_config: ModelConfig, files: TokenizerFiles) -> Pairs:
    """A turn ends with `<|im_end|>` where there is one, whatever is named."""
    yield "add_space_prefix", Field.boolean(adds_dummy_prefix(files.model or b""))
    added = [*read_added_tokens_decoder(files), *((token["id"], token) for token in files.added_tokens)]
    for place, token in added:
        if token["content"] == "<|im_end|>":
            yield "eos_token_id", Field.uint32(place)


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
    in_transformers=False,
    only={**ANY_SILU, **UNTIED, "bias": (False, None)},
    vocabulary=_internlm2_tokens,
    added_from_json=True,
    unused_pieces="[UNUSED",
)

STARCODER2 = Family(
    "starcoder2",
    {
        **ENDS,
        **NORMS,
        **ATTENTION,
        LAYER + "mlp.c_fc": "blk.{}.ffn_up",
        LAYER + "mlp.c_proj": "blk.{}.ffn_down",
    },
    defaults={
        "max_position_embeddings": 4096,
        "norm_epsilon": 1e-5,
        "num_key_value_heads": 2,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    },
    biases=frozenset({"output_norm", "attn_norm", "attn_output", "ffn_norm", "ffn_up", "ffn_down"}),
    only={"hidden_act": ("gelu_pytorch_tanh", "gelu", None), "use_bias": (True, None)},
    told=window_ignored,
)

_EXAONE = "transformer.h.{}."


def _whole_or_part(config: ModelConfig) -> Pairs:
    share = finite("config.json has partial_rotary_factor", config.rope.get("partial_rotary_factor", 1.0))
    yield "rope.dimension_count", Field.uint32(int(share * (config.hidden // config.heads)))


EXAONE = Family(
    "exaone",
    {
        "transformer.wte": "token_embd",
        "transformer.ln_f": "output_norm",
        "lm_head": "output",
        _EXAONE + "ln_1": "blk.{}.attn_norm",
        _EXAONE + "ln_2": "blk.{}.ffn_norm",
        _EXAONE + "attn.attention.q_proj": "blk.{}.attn_q",
        _EXAONE + "attn.attention.k_proj": "blk.{}.attn_k",
        _EXAONE + "attn.attention.v_proj": "blk.{}.attn_v",
        _EXAONE + "attn.attention.out_proj": "blk.{}.attn_output",
        _EXAONE + "mlp.c_fc_0": "blk.{}.ffn_gate",
        _EXAONE + "mlp.c_fc_1": "blk.{}.ffn_up",
        _EXAONE + "mlp.c_proj": "blk.{}.ffn_down",
    },
    # llama.cpp's converter forgets what its loader wants for this family: the norms' epsilon under this name.
    (*BASIC, number("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", required=True), _whole_or_part),
    made=rope_frequencies,
    ropes=LLAMA_ROPES,
    optional_biases=frozenset(),
    in_transformers=False,
    only={"activation_function": ("silu",)},
)
