"""NVIDIA's Nemotron 3 and 4. Pure."""

from proxy.gguf.families.common_keys import UNTIED, head_dim
from proxy.gguf.families.common_tensors import ATTENTION, BOTH_BIASES, EMBEDDING_AND_OUTPUT, LAYER, QKV
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import AddOne
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, Pairs, number
from proxy.gguf.model_config import ModelConfig, finite
from proxy.gguf.tokenizer_files import TokenizerFiles


def _rope(config: ModelConfig) -> Pairs:
    rotary_factor = finite("config.json has partial_rotary_factor", config.rope.get("partial_rotary_factor"))
    yield "rope.dimension_count", Field.uint32(int(rotary_factor * config.hidden) // config.heads)
    factor = config.find("factor") or config.rope.get("factor")
    if factor is None:
        yield "rope.scaling.type", Field.string("none")
    else:
        yield "rope.scaling.type", Field.string("linear")
        yield "rope.scaling.factor", Field.float32(finite("config.json has factor", factor))


def _special_token_ids(_config: ModelConfig, _files: TokenizerFiles) -> Pairs:
    yield "padding_token_id", Field.uint32(0)
    yield "unknown_token_id", Field.uint32(1)


NEMOTRON = Family(
    "nemotron",
    {
        **EMBEDDING_AND_OUTPUT,
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
        _rope,
    ),
    tokenizers=("sentencepiece",),
    defaults={
        "max_position_embeddings": 4096,
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
    },
    rope_types=frozenset({"default", "linear"}),
    required_biases=frozenset({"output_norm", "attn_norm", "ffn_norm"}),
    optional_biases=QKV | {"attn_output", "ffn_up", "ffn_down"},
    tensor_flags=BOTH_BIASES,
    accepted_values={**UNTIED, "hidden_act": ("relu2", None)},
    vocabulary=_special_token_ids,
    heads_fill_embedding=True,
)
