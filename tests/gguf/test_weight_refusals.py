"""Weights that are refused: quantized, incomplete, unknown, or of other sizes than config.json has."""

import json

import numpy as np
import pytest

from proxy.gguf.conversion import ModelDescription, convert
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.tensors import GgufError
from proxy.planning.safetensors import Tensor
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.repository import HIDDEN, Weights
from tests.gguf.writing import plan, plan_of
from tests.kit.tiny_conversions import edited_weights, plan_with, repository, small_files


def test_unknown_tensor_is_refused() -> None:
    def more(weights: Weights) -> None:
        weights.add("model.layers.0.self_attn.surprise.weight", 4, 4)

    with pytest.raises(CannotConvert, match="surprise"):
        plan(edited_weights("llama", more))


@pytest.mark.parametrize("shape", [None, (4, 256, 16), (4, 256, 15), (4, 128, 32)])
def test_mxfp4_blocks_without_their_scales_are_refused(shape: tuple[int, ...] | None) -> None:
    def other(weights: Weights) -> None:
        scales = weights.tensors.pop("model.layers.1.mlp.experts.down_proj_scales")
        if shape is not None:
            weights.tensors["model.layers.1.mlp.experts.down_proj_scales"] = np.resize(scales, shape)

    if shape == (4, 256, 16):
        assert plan(edited_weights("gpt_oss", other))
        return
    with pytest.raises(CannotConvert, match=r"down_proj_blocks has the shape \[4, 256, 16, 16\], and its scales"):
        plan(edited_weights("gpt_oss", other))


def test_missing_expert_is_refused() -> None:
    def fewer(weights: Weights) -> None:
        del weights.tensors["model.layers.1.block_sparse_moe.experts.2.w1.weight"]

    with pytest.raises(CannotConvert, match="ffn_gate_exps"):
        plan(edited_weights("mixtral", fewer))


@pytest.mark.parametrize(
    ("name", "part", "becomes"),
    [
        ("llama", "model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down"),
        ("llama", "model.layers.0.input_layernorm.weight", "blk.0.attn_norm"),
        ("llama", "model.norm.weight", "output_norm"),
        ("llama", "lm_head.weight", "output.weight"),
        ("qwen3moe", "model.layers.1.mlp.gate.weight", "blk.1.ffn_gate_inp"),
        ("deepseek", "model.layers.1.mlp.shared_experts.up_proj.weight", "blk.1.ffn_up_shexp"),
    ],
)
def test_missing_tensor_is_refused(name: str, part: str, becomes: str) -> None:
    def fewer(weights: Weights) -> None:
        del weights.tensors[part]

    files = edited_weights(name, fewer)
    with pytest.raises(CannotConvert, match=becomes):
        plan(files)


@pytest.mark.parametrize(
    ("name", "missing", "tensor"),
    [
        ("llama", "self_attn.q_proj", r"blk\.0\.attn_q\.weight"),
        ("qwen2moe", "shared_expert.up_proj", r"blk\.0\.ffn_up_shexp\.weight"),
        ("granitemoeshared", "shared_mlp.output_linear", r"blk\.0\.ffn_down_shexp\.weight"),
        ("granitehybrid", "mamba.in_proj", r"blk\.0\.ssm_in\.weight"),
        ("jamba", "mamba.dt_proj.bias", r"blk\.0\.ssm_dt\.bias"),
        ("qwen3_next", "linear_attn.in_proj_qkvz", r"blk\.0\.attn_gate\.weight"),
        ("qwen3_5", "linear_attn.A_log", r"blk\.0\.ssm_a"),
        ("qwen3_5", "linear_attn.in_proj_z", r"blk\.0\.attn_gate\.weight"),
        ("qwen3_5", "self_attn.q_norm", r"blk\.1\.attn_q_norm\.weight"),
        ("qwen3_5moe", "shared_expert_gate", r"blk\.0\.ffn_gate_inp_shexp\.weight"),
        ("falcon_h1", "self_attn.k_proj", r"blk\.0\.attn_k\.weight"),
        ("bloom", "mlp.dense_4h_to_h.bias", r"blk\.0\.ffn_down\.bias"),
        ("bloom", "word_embeddings_layernorm", r"token_embd_norm\.bias, token_embd_norm\.weight"),
        ("deepseek2", "self_attn.q_proj", r"blk\.0\.attn_q\.weight"),
        ("lfm2", "conv.in_proj", r"blk\.0\.shortconv\.in_proj\.weight"),
        ("lfm2", "self_attn.k_layernorm", r"blk\.1\.attn_k_norm\.weight"),
        ("lfm2moe", "expert_bias", r"blk\.2\.exp_probs_b\.bias"),
        ("gpt_oss", "self_attn.sinks", r"blk\.0\.attn_sinks\.weight"),
        ("gpt_oss", "mlp.router.bias", r"blk\.0\.ffn_gate_inp\.bias"),
        ("gpt_oss", "down_proj_blocks", r"blk\.0\.ffn_down_exps\.weight"),
        ("deepseek3", "self_attn.q_b_proj", r"blk\.0\.attn_q_b\.weight"),
        ("nemotron_h", "mixer.conv1d.bias", r"blk\.0\.ssm_conv1d\.bias"),
        ("nemotron_h", "mixer.k_proj", r"blk\.2\.attn_k\.weight"),
        ("nemotron_h_moe", "e_score_correction_bias", r"blk\.1\.exp_probs_b\.bias"),
        ("nemotron_h_latent", "fc1_latent_proj", r"blk\.1\.ffn_latent_down\.weight"),
        ("llama4", "shared_expert.up_proj", r"blk\.0\.ffn_up_shexp\.weight"),
        ("llama4", "experts.gate_up_proj", r"blk\.0\.ffn_gate_exps\.weight"),
    ],
)
def test_tensor_missing_in_every_layer_is_refused(name: str, missing: str, tensor: str) -> None:
    def fewer(weights: Weights) -> None:
        for key in [key for key in weights.tensors if missing in key]:
            del weights.tensors[key]

    with pytest.raises(CannotConvert, match=f"nothing that becomes {tensor}"):
        plan(edited_weights(name, fewer))


def test_leftover_quantization_config_is_accepted() -> None:
    """Weights of F32, F16 and BF16 are plain, whatever config.json has."""
    left = {"quantization_config": {"quant_method": "compressed-tensors"}}
    assert plan_with("llama", left).header == plan(repository("llama")).header


def test_packed_weights_are_refused_for_their_quantization() -> None:
    """A method that nobody can read exactly."""
    weights = {"model.safetensors": {"model.layers.0.self_attn.q_proj.W_q": Tensor("U8", (16, 16), 0, 256)}}
    config = {**json.loads(repository("llama")["config.json"]), "quantization_config": {"quant_method": "hqq"}}
    with pytest.raises(CannotConvert, match=r"quantized already \('hqq'\)"):
        convert(config, {}, weights, ModelDescription("x"))


def test_quantized_weights_are_refused() -> None:
    weights = {"model.safetensors": {"model.embed_tokens.weight": Tensor("F8_E4M3", (16, 16), 0, 256)}}
    config = json.loads(repository("llama")["config.json"])
    with pytest.raises(CannotConvert, match="F8_E4M3"):
        convert(config, {}, weights, ModelDescription("x"))


SIZES = {
    *("hidden_size", "intermediate_size", "moe_intermediate_size", "vocab_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "kv_lora_rank", "q_lora_rank", "v_head_dim"),
    *("num_experts", "num_local_experts", "n_routed_experts", "mamba_d_state", "mamba_d_conv", "state_size"),
    *("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim"),
    *("linear_conv_kernel_dim", "shared_expert_intermediate_size"),
}
NOT_READ = {
    ("bloom", "intermediate_size"),
    ("phi2", "intermediate_size"),
    ("phi2", "num_key_value_heads"),
    # Without a dense layer and a shared expert.
    *((name, "intermediate_size") for name in ("qwen2moe", "qwen3moe", "qwen3moe_v5")),
    *((name, "intermediate_size") for name in ("nemotron_h_latent", "nemotron_h_moe")),
    # The number of the tokenizer's pieces decides.
    *((name, "vocab_size") for name in ("camembert", "nomic_bert_moe")),
    # The compressed cache has one head.
    *((name, "num_key_value_heads") for name in ("deepseek2", "deepseek3", "glm4moelite", "glm4moelite_v5")),
    *((name, "num_key_value_heads") for name in ("deepseek32", "glm_dsa", "kimi_k2", "mistral4_eyes")),
    # Neither kind of layer has heads of this size.
    ("kimi_linear", "head_dim"),
    # Without a state space.
    *(("granite4", key) for key in SIZES if key.startswith("mamba_")),
    # Without a dense layer.
    ("bailingmoe", "intermediate_size"),
    *((name, "intermediate_size") for name in ("mellum", "qwen3_next", "qwen3_next_v5", "solar_open")),
    # Q, K and V have the same shapes with any number of heads.
    *((name, "num_attention_heads") for name in ("gptneox", "modern_bert", "modern_bert_v5", "phi2", "roberta")),
    *((name, "num_attention_heads") for name in ("deci", "deci_alike", "jina_bert", "jina_bert_code")),
    *((name, "num_attention_heads") for name in ("baichuan_7b", "baichuan_13b", "camembert", "plamo")),
    # Another key has it: of each layer, of the heads of Q that share one of K, and of a head.
    ("laguna", "num_attention_heads"),
    ("plamo", "num_key_value_heads"),
    ("rwkv6", "num_attention_heads"),
    # Further layers are only for training.
    *((name, "num_hidden_layers") for name in ("bailingmoe2", "deepseek3", "glm4moe", "glm4moelite", "glm4moelite_v5")),
    *((name, "num_hidden_layers") for name in ("deepseek32", "dots1", "kimi_k2", "ling3", "solar_open")),
    *((name, "num_hidden_layers") for name in ("ling3_limits", "step35")),
}
"""Keys with a size that the weights cannot contradict."""


def _sizes_of(name: str) -> dict[str, int]:
    """The keys of a repository's config.json with a size that the weights can contradict, and their first values."""
    sizes = {key: value for key, value in REPOSITORIES[name].config().items() if key in SIZES and value}
    first = {key: value[0] if isinstance(value, list) else value for key, value in sizes.items()}
    return {key: value for key, value in first.items() if (name, key) not in NOT_READ}


@pytest.mark.parametrize("name", [name for name, tiny in sorted(REPOSITORIES.items()) if not tiny.part_of])
def test_any_size_that_differs_from_the_weights_is_refused(name: str) -> None:
    """`/api/create` would answer `success` for a file that cannot be loaded."""
    files, weights = small_files(name)
    config = json.loads(files["config.json"])
    for key, size in _sizes_of(name).items():
        other = size // 2 or 2
        with pytest.raises(GgufError):
            plan_of({**files, "config.json": json.dumps(config | {key: other}).encode()}, weights)


@pytest.mark.parametrize(("name", "matrix"), [("qwen2", "self_attn.o_proj"), ("olmo2", "mlp.down_proj")])
def test_bias_that_llama_cpp_does_not_load_is_refused(name: str, matrix: str) -> None:
    def more(weights: Weights) -> None:
        for layer in range(2):
            weights.tensors[f"model.layers.{layer}.{matrix}.bias"] = np.zeros(HIDDEN, np.float32)

    with pytest.raises(CannotConvert, match=r"\.bias, which llama\.cpp does not load"):
        plan(edited_weights(name, more))


@pytest.mark.parametrize("name", ["model.layers.{}.mlp.up_proj.weight", "model.layers.00.mlp.up_proj.weight"])
def test_layer_numbers_in_names_are_exact(name: str) -> None:
    def other(weights: Weights) -> None:
        weights.tensors[name] = weights.tensors.pop("model.layers.0.mlp.up_proj.weight")

    with pytest.raises(CannotConvert, match="up_proj"):
        plan(edited_weights("llama", other))


def test_weights_of_another_family_are_refused() -> None:
    """Ollama would answer `success`, and fail when it loads the model."""
    files = dict(repository("smollm3"))
    config = json.loads(files["config.json"]) | {"architectures": ["Qwen3ForCausalLM"]}
    with pytest.raises(CannotConvert, match=r"nothing that becomes blk\.0\.attn_k_norm"):
        plan(files | {"config.json": json.dumps(config).encode()})
