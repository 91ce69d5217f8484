"""What llama.cpp's loader wants of a GGUF: numbers that fit each other, and tensors that fit the numbers. Pure.

A config.json that does not fit its weights would make a file that `/api/create` takes with `success` and that then
cannot be loaded. The names of the sizes, and who wants what, are those of `load_hparams` (src/llama-model.cpp at
b10488) and of each architecture's `load_arch_tensors` (src/models).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from proxy.gguf.config import MOST_BLOCKS, CannotConvert
from proxy.gguf.families.common_tensors import SHARED_EXPERT_STEMS
from proxy.gguf.header import Field
from proxy.gguf.tensors import TensorInfo, TensorName

_SHAPES: Mapping[str, str] = {
    "token_embd": "n_embd n_vocab",
    "token_embd_norm": "n_embd",
    "position_embd": "n_embd n_ctx",
    "token_types": "n_embd n_types",
    "output": "n_embd n_vocab",
    "output_norm": "n_embd",
    "rope_freqs": "n_rot/2",
    "rope_factors_long": "n_rot/2",
    "rope_factors_short": "n_rot/2",
    "attn_norm": "n_embd",
    "attn_norm_2": "n_embd",
    "attn_q": "n_embd n_q",
    "attn_k": "n_embd n_k",
    "attn_v": "n_embd n_v",
    "attn_qkv": "n_embd n_qkv",
    "attn_q_norm": "n_embd_head",
    "attn_k_norm": "n_embd_head",
    "attn_output": "n_q n_embd",
    "attn_output_norm": "n_embd",
    "layer_output_norm": "n_embd",
    "attn_sinks": "n_head",
    "post_attention_norm": "n_embd",
    "ffn_norm": "n_embd",
    "ffn_gate": "n_embd n_ff",
    "ffn_up": "n_embd n_ff",
    "ffn_down": "n_ff n_embd",
    "post_ffw_norm": "n_embd",
    "ffn_gate_inp": "n_embd n_expert",
    "exp_probs_b": "n_expert",
    "ffn_gate_exps": "n_embd n_ff_exp n_expert",
    "ffn_up_exps": "n_embd n_ff_exp n_expert",
    "ffn_down_exps": "n_ff_exp n_embd n_expert",
    "ffn_gate_inp_shexp": "n_embd",
    "ffn_gate_shexp": "n_embd n_ff_shexp",
    "ffn_up_shexp": "n_embd n_ff_shexp",
    "ffn_down_shexp": "n_ff_shexp n_embd",
    "shortconv.conv": "l_cache n_embd_conv",
    "shortconv.in_proj": "n_embd 3n_embd_conv",
    "shortconv.out_proj": "n_embd_conv n_embd",
}
"""By a tensor's name without the block's number and the end, the row's length first. A bias has the sizes behind it."""

_FUSED_MLP = {"ffn_up": "n_embd 2n_ff"}
_NORMS_OF_ALL_HEADS = {"attn_q_norm": "n_q", "attn_k_norm": "n_k"}
_NORMS_OF_EACH_HEAD = {"attn_q_norm": "n_embd_head n_head", "attn_k_norm": "n_embd_head n_head_kv"}
_MAMBA = {
    "ssm_in": "n_embd 2d_inner",
    "ssm_conv1d": "d_conv d_inner",
    "ssm_x": "d_inner dt_rank+2d_state",
    "ssm_dt": "dt_rank d_inner",
    "ssm_dt_norm": "dt_rank",
    "ssm_b_norm": "d_state",
    "ssm_c_norm": "d_state",
    "ssm_a": "d_state d_inner",
    "ssm_d": "d_inner",
    "ssm_out": "d_inner n_embd",
}
_MAMBA_2 = {
    "ssm_in": "n_embd d_in_proj",
    "ssm_conv1d": "d_conv d_mixed",
    "ssm_dt": "dt_rank",
    "ssm_a": "1 dt_rank",
    "ssm_d": "1 dt_rank",
    "ssm_norm": "d_inner/n_group n_group",
    "ssm_out": "d_inner n_embd",
}
_INPUTS_OF_LAYERS = {
    "per_layer_token_embd": "n_layer*n_embd_pl n_vocab",
    "per_layer_model_proj": "n_embd n_layer*n_embd_pl",
    "per_layer_proj_norm": "n_embd_pl",
    "inp_gate": "n_embd n_embd_pl",
    "proj": "n_embd_pl n_embd",
    "post_norm": "n_embd",
}
_DELTA_NET = {
    "attn_q": "n_embd 2n_q",
    "attn_qkv": "n_embd d_mixed",
    "attn_gate": "n_embd d_inner",
    "ssm_conv1d": "d_conv d_mixed",
    "ssm_dt": "dt_rank",
    "ssm_a": "dt_rank",
    "ssm_ba": "n_embd 2dt_rank",
    "ssm_beta": "n_embd dt_rank",
    "ssm_alpha": "n_embd dt_rank",
    "ssm_norm": "d_state",
    "ssm_out": "dt_rank*d_state n_embd",
}
_OF_ARCHITECTURE: Mapping[str, Mapping[str, str]] = {
    "chatglm": _FUSED_MLP,
    "command-r": _NORMS_OF_EACH_HEAD,
    "deepseek2": {
        "attn_q": "n_embd n_q_mla",
        "attn_q_a": "n_embd q_lora_rank",
        "attn_q_a_norm": "q_lora_rank",
        "attn_q_b": "q_lora_rank n_q_mla",
        "attn_kv_a_mqa": "n_embd kv_lora_rank+n_rot",
        "attn_kv_a_norm": "kv_lora_rank",
        "attn_k_b": "n_embd_head_mla-n_rot kv_lora_rank n_head",
        "attn_v_b": "kv_lora_rank n_embd_head_v_mla n_head",
        "attn_output": "n_o_mla n_embd",
    },
    "falcon-h1": _MAMBA_2,
    "gemma3n": {
        **_INPUTS_OF_LAYERS,
        "altup_proj": "n_embd n_embd 3",
        "altup_unembd_proj": "n_embd n_embd 3",
        "altup_correct_coef": "4 4",
        "altup_correct_scale": "n_embd",
        "altup_predict_coef": "4 16",
        "altup_router": "n_embd 4",
        "altup_router_norm": "n_embd",
        "laurel_l": "n_embd 64",
        "laurel_r": "64 n_embd",
        "laurel_post_norm": "n_embd",
    },
    "gemma4": {
        **_INPUTS_OF_LAYERS,
        "layer_output_scale": "1",
        "pre_ffw_norm_2": "n_embd",
        "post_ffw_norm_1": "n_embd",
        "post_ffw_norm_2": "n_embd",
        "ffn_gate_inp.scale": "n_embd",
        "ffn_gate_up_exps": "n_embd 2n_ff_exp n_expert",
        "ffn_down_exps.scale": "n_expert",
    },
    "gemma-embedding": {"dense_2": "n_embd n_dense", "dense_3": "n_dense n_embd"},
    "glm4": _FUSED_MLP,
    "granitehybrid": _MAMBA_2,
    "jamba": _MAMBA,
    "jina-bert-v2": {"attn_q_norm": "n_embd", "attn_k_norm": "n_embd"},
    "llama4": {
        "ffn_gate_shexp": "n_embd n_ff_exp",
        "ffn_up_shexp": "n_embd n_ff_exp",
        "ffn_down_shexp": "n_ff_exp n_embd",
    },
    "mamba": _MAMBA,
    "modern-bert": _FUSED_MLP,
    "nemotron_h": _MAMBA_2,
    "nemotron_h_moe": {
        **_MAMBA_2,
        "ffn_up_exps": "n_latent n_ff_exp n_expert",
        "ffn_down_exps": "n_ff_exp n_latent n_expert",
        "ffn_latent_down": "n_embd n_latent",
        "ffn_latent_up": "n_latent n_embd",
    },
    "olmo2": _NORMS_OF_ALL_HEADS,
    "olmoe": _NORMS_OF_ALL_HEADS,
    "phi3": _FUSED_MLP,
    "qwen35": _DELTA_NET,
    "qwen35moe": _DELTA_NET,
    "qwen3next": _DELTA_NET,
    "stablelm": _NORMS_OF_EACH_HEAD,
}

_HEADS_MAKE_THE_EMBEDDING = frozenset(
    (
        *("bailingmoe2", "bloom", "cohere2", "command-r", "deepseek", "exaone4", "falcon", "gptneox", "internlm2"),
        *(
            "chatglm",
            "bert",
            "eurobert",
            "jamba",
            "jina-bert-v2",
            "lfm2",
            "lfm2moe",
            "modern-bert",
            "nemotron",
            "nomic-bert",
            "nomic-bert-moe",
            "olmo",
            "olmo2",
            "olmoe",
            "phi2",
            "phi3",
            "qwen2",
            "qwen2moe",
            "stablelm",
            "starcoder2",
        ),
    )
)
"""Architectures in which all heads together have to be as wide as the embedding."""

_EXPERTS = frozenset({"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"})
_MIXED_LAYERS = frozenset({"gemma4", "jamba", "nemotron_h_moe", "nomic-bert-moe"})
"""Where the tensors say which layers have experts."""


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What the loader calculates from the metadata."""

    architecture: str
    metadata: Mapping[str, Field]

    def has(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self.metadata

    def read(self, key: str, default: int = 0, block: int | None = None) -> int:
        field = self.metadata.get(f"{self.architecture}.{key}")
        value = default if field is None else field.value
        return int(value[block or 0] if isinstance(value, list) else value)

    @property
    def token_types(self) -> int:
        field = self.metadata.get("tokenizer.ggml.token_type_count")
        return field.value if field is not None and isinstance(field.value, int) else 0

    def of(self, block: int | None) -> Mapping[str, int]:
        """By their names in the loader; None for what is of no block."""
        read = self.read
        n_embd, n_head, n_ff = (
            read("embedding_length"),
            read("attention.head_count", 0, block),
            read("feed_forward_length", 0, block),
        )
        n_head_kv = read("attention.head_count_kv", n_head, block)
        # Layers that see a window only may have heads of their own.
        window = "_swa" if block is not None and read("attention.sliding_window_pattern", 0, block) else ""
        n_embd_head = read("attention.key_length", n_embd // n_head if n_head else 0)
        n_embd_head = read(f"attention.key_length{window}", n_embd_head)
        n_q = n_embd_head * n_head
        n_v = read(f"attention.value_length{window}", read("attention.value_length", n_embd_head)) * n_head_kv
        n_k = n_embd_head * n_head_kv
        n_rot = read(f"rope.dimension_count{window}", read("rope.dimension_count", n_embd_head))
        n_ff_exp = read("expert_feed_forward_length", n_ff)
        n_embd_head_mla, n_embd_head_v_mla = read("attention.key_length_mla"), read("attention.value_length_mla")
        kv_lora_rank = read("attention.kv_lora_rank")
        d_inner, d_state, dt_rank = read("ssm.inner_size"), read("ssm.state_size"), read("ssm.time_step_rank")
        n_group, n_embd_pl = read("ssm.group_count", 1), read("embedding_length_per_layer_input")
        d_mixed = d_inner + 2 * n_group * d_state
        n_embd_conv = 0 if n_head_kv else n_embd
        return {
            "n_embd": n_embd,
            "n_vocab": self.metadata["tokenizer.ggml.tokens"].length,
            "n_ctx": read("context_length"),
            "n_types": self.token_types,
            "n_head": n_head,
            "n_head_kv": n_head_kv,
            "n_embd_head": n_embd_head,
            "n_q": n_q,
            "2n_q": 2 * n_q,
            "n_k": n_k,
            "n_v": n_v,
            "n_qkv": n_q + n_k + n_v,
            "n_rot": n_rot,
            "n_rot/2": n_rot // 2,
            "n_ff": n_ff,
            "2n_ff": 2 * n_ff,
            "2n_ff_exp": 2 * n_ff_exp,
            "n_embd_pl": n_embd_pl,
            "n_layer*n_embd_pl": read("block_count") * n_embd_pl,
            "n_expert": read("expert_count"),
            "n_ff_exp": n_ff_exp,
            "n_latent": read("moe_latent_size", n_embd),
            "n_ff_shexp": read("expert_shared_feed_forward_length", n_ff_exp * read("expert_shared_count")),
            "q_lora_rank": read("attention.q_lora_rank"),
            "kv_lora_rank": kv_lora_rank,
            "kv_lora_rank+n_rot": kv_lora_rank + n_rot,
            "n_embd_head_mla-n_rot": n_embd_head_mla - n_rot,
            "n_embd_head_v_mla": n_embd_head_v_mla,
            "n_q_mla": n_head * n_embd_head_mla,
            "n_o_mla": n_head * n_embd_head_v_mla,
            "d_conv": read("ssm.conv_kernel"),
            "d_inner": d_inner,
            "2d_inner": 2 * d_inner,
            "d_state": d_state,
            "dt_rank": dt_rank,
            "2dt_rank": 2 * dt_rank,
            "dt_rank*d_state": dt_rank * d_state,
            "dt_rank+2d_state": dt_rank + 2 * d_state,
            "n_group": n_group,
            "d_inner/n_group": d_inner // n_group if n_group else 0,
            "d_mixed": d_mixed,
            "d_in_proj": d_inner + d_mixed + dt_rank,
            "n_dense": read("dense_2_feat_out"),
            "l_cache": read("shortconv.l_cache"),
            "n_embd_conv": n_embd_conv,
            "3n_embd_conv": 3 * n_embd_conv,
        }


def check_loadable(
    architecture: str, metadata: Mapping[str, Field], tensors: Sequence[TensorInfo], shapes: Mapping[str, str]
) -> None:
    """Raises CannotConvert for the first number or tensor that the loader would not take.

    `shapes` are those that the architecture alone does not say.
    """
    sizes = _Sizes(architecture, metadata)
    _check_numbers(architecture, sizes)
    if architecture not in _MIXED_LAYERS:
        _check_experts(sizes, tensors)
    if every := sizes.read("full_attention_interval"):
        _check_recurrent(sizes.read("block_count"), every, tensors)
    shapes = {**_SHAPES, **_OF_ARCHITECTURE.get(architecture, {}), **shapes}
    of_block: dict[int | None, Mapping[str, int]] = {}
    for tensor in tensors:
        named = TensorName.of(tensor.name)
        if named.block not in of_block:
            of_block[named.block] = sizes.of(named.block)
        shape = shapes.get(named.rest) or shapes[named.stem]
        wanted = tuple(int(name) if name.isdecimal() else of_block[named.block][name] for name in shape.split())
        wanted = wanted[1:] or wanted if named.end == "bias" else wanted
        if _short(tensor.shape) != _short(wanted):
            raise CannotConvert(
                f"{tensor.name} is to have the shape {list(wanted)} by config.json, and has {list(tensor.shape)}"
            )


def _check_numbers(architecture: str, sizes: _Sizes) -> None:
    if not any(sizes.has(f"attention.layer_norm_{name}") for name in ("epsilon", "rms_epsilon")):
        raise CannotConvert("config.json has no epsilon for the norms")
    first = sizes.of(None)
    if architecture in _HEADS_MAKE_THE_EMBEDDING and first["n_q"] != first["n_embd"]:
        raise CannotConvert(
            f"config.json has heads that are {first['n_q']} wide together, and an embedding of {first['n_embd']}; "
            "llama.cpp takes both to be alike for this architecture"
        )
    if first["n_rot"] > first["n_embd_head"]:
        raise CannotConvert(f"config.json has a rope for {first['n_rot']} numbers of a head of {first['n_embd_head']}")
    experts, used = first["n_expert"], sizes.read("expert_used_count")
    groups, used_groups = sizes.read("expert_group_count"), sizes.read("expert_group_used_count")
    right = 0 < used <= experts and groups < experts if experts else used == groups == 0
    if not right or (groups > 1 and (experts % groups or not 0 < used_groups < groups)):
        raise CannotConvert(
            f"config.json has {experts} experts in {groups} groups, and uses {used} in {used_groups} groups of them, "
            "which llama.cpp does not load"
        )


def _check_experts(sizes: _Sizes, tensors: Iterable[TensorInfo]) -> None:
    """All layers behind the first dense ones have them, or every so many, or none; and those that are shared too."""
    stems: dict[int | None, set[str]] = {}
    for named in (TensorName.of(tensor.name) for tensor in tensors):
        stems.setdefault(named.block, set()).add(named.stem)
    first = sizes.of(None)
    dense = sizes.read("leading_dense_block_count") if first["n_expert"] else MOST_BLOCKS
    every = sizes.read("interleave_moe_layer_step", 1)
    for block in range(sizes.read("block_count")):
        is_dense = block < dense or (block + 1) % every
        wanted = set() if is_dense else _EXPERTS | (SHARED_EXPERT_STEMS if first["n_ff_shexp"] else set())
        has = {stem for stem in stems[block] if stem.endswith("exps")}
        if lacking := wanted - stems[block]:
            raise CannotConvert(f"the weights have nothing that becomes blk.{block}.{min(lacking)}.weight")
        if has and not wanted:
            raise CannotConvert(f"the weights have experts in layer {block}, and config.json none")


def _check_recurrent(blocks: int, every: int, tensors: Iterable[TensorInfo]) -> None:
    """One layer of `every` attends, and the others have a state."""
    recurrent = {named.block for named in (TensorName.of(tensor.name) for tensor in tensors) if named.stem == "ssm_a"}
    for block in range(blocks):
        if (block in recurrent) is ((block + 1) % every == 0):
            raise CannotConvert(f"layer {block} of the weights is not of the kind that config.json says it is")


def _short(shape: tuple[int, ...]) -> tuple[int, ...]:
    """As ggml sees it, to which a last size of 1 is none."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
