"""Checks that llama.cpp's loader accepts a GGUF: consistent hyperparameters, and tensors that fit them. Pure.

Without these checks, a config.json that does not fit its weights would make a file that `/api/create` accepts with
`success`, but that cannot be loaded. The checks and the names of the sizes are those of `load_hparams`
(src/llama-model.cpp at b10488) and of each architecture's `load_arch_tensors` (src/models).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from proxy.gguf.families.common_tensors import SHARED_EXPERT_STEMS
from proxy.gguf.families.family import Family
from proxy.gguf.header import Field
from proxy.gguf.model_config import MAX_BLOCKS, CannotConvert
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
    "nextn.eh_proj": "2n_embd n_embd",
    "nextn.enorm": "n_embd",
    "nextn.hnorm": "n_embd",
    "nextn.shared_head_norm": "n_embd",
    "shortconv.conv": "l_cache n_embd_conv",
    "shortconv.in_proj": "n_embd 3n_embd_conv",
    "shortconv.out_proj": "n_embd_conv n_embd",
}
"""The shape for each stem of a tensor's name, the row's length first. A bias has the same shape without that length.

Families override and extend these with `shapes`."""

_GATE_AND_UP = frozenset({"ffn_gate_exps", "ffn_up_exps"})
"""`ffn_gate_up_exps` has both."""
_EXPERT_STEMS = _GATE_AND_UP | {"ffn_down_exps"}


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The sizes that the loader calculates from the metadata, under the loader's names."""

    architecture: str
    metadata: Mapping[str, Field]

    def has(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self.metadata

    def read(self, key: str, default: int = 0, block: int | None = None) -> int:
        field = self.metadata.get(f"{self.architecture}.{key}")
        value = default if field is None else field.value
        return int(value[block or 0] if isinstance(value, list) else value)

    def of(self, block: int | None) -> Mapping[str, int]:
        """The sizes in a block, or outside of the blocks for None."""
        attention = self._attention(block)
        latent = self._latent_attention(attention["n_head"], attention["n_rot"])
        return {
            **self._embedding(),
            **attention,
            **latent,
            **self._delta_net(attention, latent),
            **self._indexer(),
            **self._compression(block, attention),
            **self._feed_forward(block),
            **self._state_space(),
            **self._rwkv(block),
            **self._short_convolution(attention["n_head_kv"]),
        }

    def _embedding(self) -> dict[str, int]:
        n_embd, n_embd_pl = self.read("embedding_length"), self.read("embedding_length_per_layer_input")
        types = self.metadata.get("tokenizer.ggml.token_type_count")
        return {
            "n_embd": n_embd,
            "2n_embd": 2 * n_embd,
            "4n_embd": 4 * n_embd,
            "n_vocab": self.metadata["tokenizer.ggml.tokens"].length,
            "n_ctx": self.read("context_length"),
            "n_types": types.value if types is not None and isinstance(types.value, int) else 0,
            "n_embd_pl": n_embd_pl,
            "n_layer*n_embd_pl": self.read("block_count") * n_embd_pl,
            "n_latent": self.read("moe_latent_size", n_embd),
            "n_dense": self.read("dense_2_feat_out"),
        }

    def _attention(self, block: int | None) -> dict[str, int]:
        read = self.read
        n_head = read("attention.head_count", 0, block)
        n_head_kv = read("attention.head_count_kv", n_head, block)
        # Layers with a sliding window may have heads of another size.
        window = "_swa" if block is not None and read("attention.sliding_window_pattern", 0, block) else ""
        default = read("embedding_length") // n_head if n_head else 0
        n_embd_head, value_length = (
            read(f"attention.{part}_length{window}", read(f"attention.{part}_length", default))
            for part in ("key", "value")
        )
        n_rot = read(f"rope.dimension_count{window}", read("rope.dimension_count", n_embd_head))
        n_q, n_k, n_v = n_embd_head * n_head, n_embd_head * n_head_kv, value_length * n_head_kv
        return {
            "n_head": n_head,
            "n_head_kv": n_head_kv,
            "n_embd_head": n_embd_head,
            "n_q": n_q,
            "2n_q": 2 * n_q,
            "n_k": n_k,
            "n_v": n_v,
            "n_qkv": n_q + n_k + n_v,
            "n_kv_b": n_head * (n_embd_head - n_rot + value_length),
            "n_o": n_head * value_length,
            "n_rot": n_rot,
            "n_rot/2": n_rot // 2,
        }

    def _latent_attention(self, n_head: int, n_rot: int) -> dict[str, int]:
        """Sizes of DeepSeek's multi-head latent attention (MLA)."""
        key_length, value_length = self.read("attention.key_length_mla"), self.read("attention.value_length_mla")
        kv_lora_rank = self.read("attention.kv_lora_rank")
        return {
            "q_lora_rank": self.read("attention.q_lora_rank"),
            "kv_lora_rank": kv_lora_rank,
            "kv_lora_rank+n_rot": kv_lora_rank + n_rot,
            "n_embd_head_mla-n_rot": key_length - n_rot,
            "n_embd_head_v_mla": value_length,
            "n_q_mla": n_head * key_length,
            "n_o_mla": n_head * value_length,
        }

    def _delta_net(self, attention: Mapping[str, int], latent: Mapping[str, int]) -> dict[str, int]:
        """Sizes of Kimi's linear attention (KDA), and of Q and the output in layers with or without it."""
        size = self.read("kda.head_dim")
        heads, is_linear = attention["n_head"], size and not attention["n_head_kv"]
        return {
            "n_embd_head_kda": size,
            "n_kda": heads * size,
            "n_q_kda": heads * size if is_linear else latent["n_q_mla"],
            "n_o_kda": heads * size if is_linear else latent["n_o_mla"],
        }

    def _indexer(self) -> dict[str, int]:
        """Sizes of the indexer of DeepSeek's sparse attention."""
        heads, size = self.read("attention.indexer.head_count"), self.read("attention.indexer.key_length")
        return {
            "n_indexer_head": heads,
            "n_embd_indexer_head": size,
            "2n_embd_indexer_head": 2 * size,
            "n_q_indexer": heads * size,
        }

    def _compression(self, block: int | None, attention: Mapping[str, int]) -> dict[str, int]:
        """Sizes of DeepSeek V4's compressed attention and grouped output."""
        ratio = self.read("attention.compress_ratios", 0, block)
        groups, rank = self.read("attention.output_group_count"), self.read("attention.output_lora_rank")
        return {
            "n_ratio": ratio,
            # With the smallest ratio, the groups of tokens that become a key overlap.
            "n_compressed": attention["n_embd_head"] * (2 if ratio == 4 else 1),  # noqa: PLR2004
            "n_q/n_groups": attention["n_q"] // groups if groups else 0,
            "n_groups*o_lora_rank": groups * rank,
        }

    def _feed_forward(self, block: int | None) -> dict[str, int]:
        n_ff = self.read("feed_forward_length", 0, block)
        n_ff_exp = self.read("expert_feed_forward_length", n_ff)
        shared = n_ff_exp * self.read("expert_shared_count")
        return {
            "n_ff": n_ff,
            "2n_ff": 2 * n_ff,
            "n_ff/2": n_ff // 2,
            "n_ff_exp": n_ff_exp,
            "2n_ff_exp": 2 * n_ff_exp,
            "n_ff_shexp": self.read("expert_shared_feed_forward_length", shared),
            "n_expert": self.read("expert_count"),
            "n_expert_used": self.read("expert_used_count"),
        }

    def _state_space(self) -> dict[str, int]:
        d_inner, d_state = self.read("ssm.inner_size"), self.read("ssm.state_size")
        dt_rank, n_group = self.read("ssm.time_step_rank"), self.read("ssm.group_count", 1)
        d_mixed, dt_dim = d_inner + 2 * n_group * d_state, max(64, self.read("embedding_length") // 16)
        return {
            "d_conv": self.read("ssm.conv_kernel"),
            "d_inner": d_inner,
            "2d_inner": 2 * d_inner,
            "d_state": d_state,
            "dt_rank": dt_rank,
            "2dt_rank": 2 * dt_rank,
            "dt_rank*d_state": dt_rank * d_state,
            "dt_rank+2d_state": dt_rank + 2 * d_state,
            "dt_dim": dt_dim,
            "dt_dim+2d_state": dt_dim + 2 * d_state,
            "n_group": n_group,
            "d_inner/n_group": d_inner // n_group if n_group else 0,
            "d_mixed": d_mixed,
            "d_in_proj": d_inner + d_mixed + dt_rank,
        }

    def _rwkv(self, block: int | None) -> dict[str, int]:
        """In the first layer, llama.cpp expects values of another rank, which it does not use."""
        mix, n_wkv, n_embd = self.read("time_mix_extra_dim"), self.read("wkv.head_size"), self.read("embedding_length")
        iclr, value = self.read("attention.iclr_lora_rank"), self.read("attention.value_residual_mix_lora_rank")
        return {
            "n_lora_decay": self.read("attention.decay_lora_rank"),
            "n_lora_iclr": iclr,
            "n_lora_value": value if block else iclr,
            "n_lora_gate": self.read("attention.gate_lora_rank"),
            "n_mix": mix,
            "5n_mix": 5 * mix,
            "n_decay": self.read("time_decay_extra_dim"),
            "n_wkv": n_wkv,
            "n_embd/n_wkv": n_embd // n_wkv if n_wkv else 0,
        }

    def _short_convolution(self, n_head_kv: int) -> dict[str, int]:
        n_embd_conv = 0 if n_head_kv else self.read("embedding_length")
        return {
            "l_cache": self.read("shortconv.l_cache"),
            "n_embd_conv": n_embd_conv,
            "3n_embd_conv": 3 * n_embd_conv,
        }


def check_loadable(family: Family, metadata: Mapping[str, Field], tensors: Sequence[TensorInfo]) -> None:
    """Raises CannotConvert for the first hyperparameter or tensor that the loader would refuse."""
    sizes = _Sizes(family.architecture, metadata)
    _check_hyperparameters(sizes, heads_fill_embedding=family.heads_fill_embedding)
    if not family.has_mixed_layers:
        _check_experts(sizes, tensors)
    if interval := sizes.read("full_attention_interval"):
        _check_recurrent(sizes, interval, tensors)
    _check_shapes(sizes, tensors, {**_SHAPES, **family.shapes})


def _check_shapes(sizes: _Sizes, tensors: Iterable[TensorInfo], shapes: Mapping[str, str]) -> None:
    block_sizes: dict[int | None, Mapping[str, int]] = {}
    for tensor in tensors:
        name = TensorName.of(tensor.name)
        if name.block not in block_sizes:
            block_sizes[name.block] = sizes.of(name.block)
        size_names = shapes.get(name.rest) or shapes.get(name.stem)
        if size_names is None:
            raise CannotConvert(f"the shape that llama.cpp expects for {tensor.name} is unknown")
        expected = _evaluated(size_names, block_sizes[name.block])
        if name.end == "bias":
            expected = expected[1:] or expected
        if _without_trailing_ones(tensor.shape) != _without_trailing_ones(expected):
            raise CannotConvert(
                f"{tensor.name} is to have the shape {list(expected)} by config.json, and has {list(tensor.shape)}"
            )


def _evaluated(size_names: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(int(name) if name.isdecimal() else sizes[name] for name in size_names.split())


def _without_trailing_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape as ggml sees it: trailing dimensions of length 1 do not count."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _check_hyperparameters(sizes: _Sizes, *, heads_fill_embedding: bool) -> None:
    if not any(sizes.has(f"attention.layer_norm_{name}") for name in ("epsilon", "rms_epsilon")):
        raise CannotConvert("config.json has no epsilon for the norms")
    outer = sizes.of(None)
    if heads_fill_embedding and outer["n_q"] != outer["n_embd"]:
        raise CannotConvert(
            f"config.json has heads that are {outer['n_q']} wide together, and an embedding of {outer['n_embd']}; "
            "for this architecture llama.cpp needs them to be equal"
        )
    if outer["n_rot"] > outer["n_embd_head"]:
        raise CannotConvert(f"config.json has a rope for {outer['n_rot']} numbers of a head of {outer['n_embd_head']}")
    experts, used = outer["n_expert"], sizes.read("expert_used_count")
    groups, used_groups = sizes.read("expert_group_count"), sizes.read("expert_group_used_count")
    counts_fit = 0 < used <= experts and groups < experts if experts else used == groups == 0
    if not counts_fit or (groups > 1 and (experts % groups or not 0 < used_groups < groups)):
        raise CannotConvert(
            f"config.json has {experts} experts in {groups} groups, and uses {used} in {used_groups} groups of them, "
            "which llama.cpp does not load"
        )


def _check_experts(sizes: _Sizes, tensors: Iterable[TensorInfo]) -> None:
    """Checks that exactly the layers with experts by the metadata have their tensors, shared experts included."""
    stems: defaultdict[int | None, set[str]] = defaultdict(set)
    for name in (TensorName.of(tensor.name) for tensor in tensors):
        stems[name.block].update(_GATE_AND_UP if name.stem == "ffn_gate_up_exps" else {name.stem})
    outer = sizes.of(None)
    first = sizes.read("leading_dense_block_count") if outer["n_expert"] else MAX_BLOCKS
    interval = sizes.read("interleave_moe_layer_step", 1)
    expert_stems = _EXPERT_STEMS | (SHARED_EXPERT_STEMS if outer["n_ff_shexp"] else set())
    for block in range(sizes.read("block_count")):
        has_experts = block >= first and (block + 1) % interval == 0
        if has_experts and (missing := expert_stems - stems[block]):
            raise CannotConvert(f"the weights have nothing that becomes blk.{block}.{min(missing)}.weight")
        if not has_experts and any(stem.endswith("exps") for stem in stems[block]):
            raise CannotConvert(f"the weights have experts in layer {block}, and config.json none")


def _check_recurrent(sizes: _Sizes, interval: int, tensors: Iterable[TensorInfo]) -> None:
    """Checks that one layer of each `interval`, and a draft layer, has attention, and each other a state space."""
    names = [TensorName.of(tensor.name) for tensor in tensors]
    recurrent = {name.block for name in names if name.stem == "ssm_a"}
    blocks = sizes.read("block_count")
    first_draft = blocks - sizes.read("nextn_predict_layers")
    for block in range(blocks):
        is_recurrent, has_attention = block in recurrent, block >= first_draft or (block + 1) % interval == 0
        if is_recurrent is has_attention:
            actual, expected = ("a state space", "attention") if is_recurrent else ("attention", "a state space")
            raise CannotConvert(f"layer {block} of the weights has {actual}, but config.json expects {expected}")
