"""What llama.cpp's loader would refuse; `test_conversion` checks whole repositories."""

from collections.abc import Mapping

import pytest

from proxy.gguf.families.qwen3_next import QWEN3_NEXT
from proxy.gguf.header import Field
from proxy.gguf.loadable import check_loadable
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.tensors import TensorInfo, TensorType

METADATA: Mapping[str, Field] = {
    "qwen3next.block_count": Field.uint32(2),
    "qwen3next.embedding_length": Field.uint32(64),
    "qwen3next.attention.head_count": Field.uint32(4),
    "qwen3next.attention.layer_norm_rms_epsilon": Field.float32(1e-6),
    "qwen3next.full_attention_interval": Field.uint32(2),
    "qwen3next.ssm.time_step_rank": Field.uint32(8),
    "tokenizer.ggml.tokens": Field.strings(["a", "b"]),
}
STATE, NORM = (
    TensorInfo("blk.0.ssm_a", (8,), TensorType.F32),
    TensorInfo("blk.1.attn_norm.weight", (64,), TensorType.F32),
)


def check(*tensors: TensorInfo) -> None:
    check_loadable(QWEN3_NEXT, METADATA, tensors)


def test_a_consistent_model_is_accepted() -> None:
    check(STATE, NORM)


def test_a_tensor_without_a_known_shape_is_refused() -> None:
    with pytest.raises(
        CannotConvert, match=r"^the shape that llama\.cpp expects for blk\.1\.surprise\.weight is unknown$"
    ):
        check(STATE, NORM, TensorInfo("blk.1.surprise.weight", (64,), TensorType.F32))


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        ((0, 1), "layer 1 of the weights has a state space, but config.json expects attention"),
        ((), "layer 0 of the weights has attention, but config.json expects a state space"),
    ],
)
def test_layers_must_alternate_as_config_json_has_them(blocks: tuple[int, ...], reason: str) -> None:
    norms = [TensorInfo(f"blk.{block}.attn_norm.weight", (64,), TensorType.F32) for block in (0, 1)]
    with pytest.raises(CannotConvert, match=f"^{reason}$"):
        check(*norms, *(TensorInfo(f"blk.{block}.ssm_a", (8,), TensorType.F32) for block in blocks))
