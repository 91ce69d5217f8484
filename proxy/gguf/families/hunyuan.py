"""Tencent's HunYuan models, dense and with experts. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.families.common_keys import ANY_SILU
from proxy.gguf.families.common_tensors import ATTENTION, EMBEDDING_AND_OUTPUT, HUNYUAN_EXPERTS, LAYER, MLP, NORMS
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Rule
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, Pairs
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import TokenizerFiles, is_id

_CONTEXT = 262144
"""The context of the published models, whatever config.json has as max_position_embeddings."""


def _basic(config: ModelConfig) -> Pairs:
    """In some config.json num_experts is 1, which means a dense model."""
    dense = replace(config, fields={key: value for key, value in config.fields.items() if key != "num_experts"})
    for write in BASIC:
        yield from write(dense)


def _rope(config: ModelConfig) -> Pairs:
    """HunYuan's `dynamic` scaling is its own: alpha increases the base, independent of the length of the text."""
    rope = ModelConfig(config.rope)
    if rope.find("rope_type") != "dynamic":
        return
    base, positions, alpha = rope.number("rope_theta"), config.count("max_position_embeddings"), rope.number("alpha")
    size = config.head_size
    if base != 10000 or positions not in (32768, _CONTEXT) or not 1 <= alpha <= 10000 or size <= 2:  # noqa: PLR2004
        raise CannotConvert(f"config.json has a rope scaling of the type dynamic with {shown(config.rope)}")
    yield "rope.freq_base", Field.float32(base * alpha ** (size / (size - 2)))
    yield "rope.scaling.type", Field.string("none")
    yield "rope.scaling.factor", Field.float32(1)
    yield "rope.scaling.original_context_length", Field.uint32(_CONTEXT)
    yield "context_length", Field.uint32(_CONTEXT)


def _end_tokens(config: ModelConfig, files: TokenizerFiles) -> Pairs:
    """config.json has the token that ends a text; in generation_config.json the one that ends a turn comes first."""
    end_of_text = config.optional_count("eod_token_id")
    if end_of_text is not None:
        yield "eos_token_id", Field.uint32(end_of_text)
    end_tokens = files.generation.get("eos_token_id")
    if isinstance(end_tokens, list) and len(end_tokens) > 1 and is_id(end_tokens[0]):
        yield "eot_token_id", Field.uint32(end_tokens[0])
    yield from _begin_token(files, _START_OF_TEXT)


_START_OF_TEXT, _BEGIN = 1, 2
"""The places of `<|startoftext|>` and `<|bos|>` among the special tokens, which follow those of a hy.tiktoken."""


def _begin_token(files: TokenizerFiles, place: int) -> Pairs:
    """As in llama.cpp's converter: config.json has the number of another token. Nothing puts it before a text."""
    if files.tiktoken is not None and not files.tokenizer:
        yield "bos_token_id", Field.uint32(files.tiktoken_size + place)


_ATTENTION: Mapping[str, str] = {
    **ATTENTION,
    LAYER + "self_attn.query_layernorm": "blk.{}.attn_q_norm",
    LAYER + "self_attn.key_layernorm": "blk.{}.attn_k_norm",
}
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    **ANY_SILU,
    **dict.fromkeys(("attention_bias", "mlp_bias", "use_cla", "use_mla", "add_classification_head"), (False, None)),
    **dict.fromkeys(("position_embedding_xdrope", "group_limited_greedy"), (False, None)),
    **dict.fromkeys(("use_qk_norm", "use_rotary_pos_emb"), (True, None)),
    "norm_type": ("rms", "hf_rms", "fused", None),
}
"""The same for all: no layer uses K and V of another one, and each head of Q and K has a norm."""
_UNUSED = frozenset(
    (
        *("cla_share_factor", "dense_list", "pool_type", "org_vocab_size", "pad_id", "num_media_embeds"),
        *("im_newline_id", "mask_init_id", "text_start_id", "text_end_id", "video_start_id", "video_end_id"),
        *("anyres_pooling_size", "vit_input_resolution", "vit_mapping_type", "vit_norm_type", "vit_patch", "vit_token"),
    )
)
"""Settings of what the models with text alone do not have. They have no `vit_type`."""


HUNYUAN = Family(
    "hunyuan-dense",
    {**EMBEDDING_AND_OUTPUT, **NORMS, **_ATTENTION, **MLP},
    (_basic, _rope),
    tokenizers=("bpe", "tiktoken"),
    defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0},
    rope_types=frozenset({"default", "dynamic"}),
    optional_biases=frozenset(),
    accepted_values={**_NEUTRAL, "num_experts": (1, None)},
    harmless_keys=_UNUSED,
    vocabulary=_end_tokens,
)

_MOE: Mapping[str, Rule | str] = {
    **HUNYUAN_EXPERTS,
    LAYER + "mlp.gate.wg": "blk.{}.ffn_gate_inp",
}


def _alike(config: ModelConfig, key: str) -> int | None:
    """The value of all layers, which may be a list; None if config.json has none."""
    value = config.find(key)
    values = value if isinstance(value, list) else [value]
    if (isinstance(value, list) and len(values) != config.blocks) or len(set(map(str, values))) != 1:
        raise CannotConvert(f"config.json has {key} = {shown(value)}, and llama.cpp expects the same for all layers")
    return None if value is None else ModelConfig({key: values[0]}).positive(key)


def _experts(config: ModelConfig) -> Pairs:
    """All experts have the size of the MLP, whatever their size is called."""
    size, used, shared = (_alike(config, key) for key in ("moe_intermediate_size", "moe_topk", "num_shared_expert"))
    mlp = config.positive("intermediate_size")
    if size not in (mlp, None):
        raise CannotConvert(f"config.json has moe_intermediate_size = {size}, but intermediate_size = {mlp}")
    if used is None or used < 2:  # noqa: PLR2004
        raise CannotConvert(
            f"config.json has moe_topk = {used}: a single expert has another weight in its authors' code than in "
            "transformers and llama.cpp"
        )
    if shared not in (1, None):
        raise CannotConvert(f"config.json has num_shared_expert = {shared}, which only its authors' code reads")
    yield "expert_used_count", Field.uint32(used)
    yield "expert_feed_forward_length", Field.uint32(mlp)
    yield "expert_shared_feed_forward_length", Field.uint32(mlp)
    yield "expert_shared_count", Field.uint32(1)


def _check_head_size(config: ModelConfig) -> Pairs:
    """The authors' code divides the embedding by the number of heads, and transformers reads `head_dim`."""
    authors = config.optional_count("attention_head_dim")
    if authors not in (config.head_size, None):
        raise CannotConvert(f"config.json has attention_head_dim = {authors} for heads of {config.head_size} numbers")
    yield from ()


def _moe_begin_token(_: ModelConfig, files: TokenizerFiles) -> Pairs:
    yield from _begin_token(files, _BEGIN)


HUNYUAN_MOE = Family(
    "hunyuan-moe",
    {**EMBEDDING_AND_OUTPUT, **NORMS, **_ATTENTION, **_MOE},
    (*BASIC, _experts, _check_head_size, _rope),
    tokenizers=("bpe", "tiktoken"),
    defaults=HUNYUAN.defaults,
    key_aliases={"num_experts_per_tok": "moe_topk"},
    rope_types=HUNYUAN.rope_types,
    optional_biases=frozenset(),
    accepted_values={
        **_NEUTRAL,
        **dict.fromkeys(("use_mixed_mlp_moe", "norm_topk_prob"), (True, None)),
        "moe_layer_num_skipped": (0, None),
        **dict.fromkeys(("n_group", "topk_group", "routed_scaling_factor"), (1, None)),
    },
    # Which tokens an expert leaves out when it has too many, in training.
    harmless_keys=_UNUSED | {"moe_drop_tokens", "moe_random_routing_dropped_token"},
    vocabulary=_moe_begin_token,
)
