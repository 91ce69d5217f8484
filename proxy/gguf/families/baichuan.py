"""Baichuan 7B, with RoPE, and 13B, with ALiBi. Pure.

Baichuan 2 is refused: it divides each row of the output matrix by the row's length, which neither llama.cpp nor its
converter (b11434) does.
"""

from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED, check_equal_heads, check_head_size, model_space_prefix
from proxy.gguf.families.common_tensors import EMBEDDING_AND_OUTPUT, LAYER, MLP, NORMS
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import SplitQkv
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, Pairs, Writer, always
from proxy.gguf.model_config import CannotConvert, ModelConfig

_VOCABULARY_OF_2 = 125696
_POSITIONS: Mapping[int, str] = {32: "RoPE", 40: "ALiBi"}
"""Number of layers → what llama.cpp's graph knows positions by (src/models/baichuan.cpp at b10488)."""


def _check_positions(kind: str) -> Writer:
    """By the number of layers alone, llama.cpp decides between RoPE and ALiBi; with another number there is neither."""

    def check(config: ModelConfig) -> Pairs:
        # Only the configuration class of Baichuan 2 has z_loss_weight.
        if config.find("z_loss_weight") is not None or config.find("vocab_size") == _VOCABULARY_OF_2:
            raise CannotConvert("this is Baichuan 2, which normalizes the output matrix, and llama.cpp does not")
        if _POSITIONS.get(config.blocks) != kind:
            raise CannotConvert(
                f"config.json has num_hidden_layers = {config.blocks}; of Baichuan with {kind}, llama.cpp runs only "
                f"{next(blocks for blocks, known in _POSITIONS.items() if known == kind)} layers"
            )
        yield from ()

    return check


def _keys(kind: str) -> tuple[Writer, ...]:
    return (
        *BASIC,
        always("tensor_data_layout", Field.string("Meta AI original pth")),
        lambda config: iter([("rope.dimension_count", Field.uint32(config.hidden // config.heads))]),
        check_head_size,
        _check_positions(kind),
        check_equal_heads,
    )


BAICHUAN_7B = Family(
    "baichuan",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **MLP,
        LAYER + "self_attn.W_pack": SplitQkv(
            "blk.{}.attn_q",
            "blk.{}.attn_k",
            "blk.{}.attn_v",
            lambda _: 1,
            lambda config: config.heads,
            lambda config: config.heads,
        ),
        LAYER + "self_attn.o_proj": "blk.{}.attn_output",
    },
    _keys("RoPE"),
    tokenizers=("sentencepiece",),
    defaults={"rms_norm_eps": 1e-6},
    has_transformers_class=False,
    rope_types=frozenset({"default"}),
    optional_biases=frozenset(),
    accepted_values={**ANY_SILU, **UNTIED, "rope_theta": (10000, None)},
    vocabulary=model_space_prefix,
    heads_fill_embedding=True,
)

BAICHUAN_13B = replace(BAICHUAN_7B, hyperparameters=_keys("ALiBi"))
