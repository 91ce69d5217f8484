"""What the rules of a family have in common: a tensor of the GGUF, and a refusal of a shape. Pure."""

from collections.abc import Iterable, Sequence

from proxy.gguf.model_config import CannotConvert
from proxy.gguf.tensor_sources import MATRIX, TYPES, LocatedTensor, SourceRange, Target
from proxy.gguf.tensors import TensorInfo, TensorName, TensorType
from proxy.gguf.transforms import Transform, to_f32

_ALWAYS_F32 = (
    *("ffn_gate_inp", "ffn_gate_inp_shexp", "position_embd", "token_types", "ssm_conv1d"),
    *("altup_correct_coef", "altup_predict_coef", "indexer.proj"),
    *("time_mix_w1", "time_mix_w2", "time_mix_lerp_fused"),
    *("time_mix_first", "time_mix_decay_w1", "time_mix_decay_w2"),
)
"""Stems of the matrices that llama.cpp keeps in F32, beside all norms and vectors."""


def plain_target(
    tensor: LocatedTensor,
    name: str,
    shape: Sequence[int],
    pieces: Sequence[SourceRange] = (),
    steps: Sequence[Transform] = (),
) -> Target:
    """A target that keeps the source's type, unless llama.cpp wants F32. By default its piece is the whole tensor."""
    pieces = pieces or [tensor.rows()]
    is_f32 = _is_always_f32(name, shape)
    info = TensorInfo(name, tuple(reversed(shape)), TensorType.F32 if is_f32 else TYPES[tensor.dtype])
    if is_f32:
        steps = [*steps, *f32_steps(tensor.dtype)]
    return Target(info, tuple(piece.then(steps) for piece in pieces), in_source_order=len(pieces) == 1)


def f32_steps(dtype: str) -> list[Transform]:
    return [] if dtype == "F32" else [to_f32(dtype)]


def _is_always_f32(name: str, shape: Sequence[int]) -> bool:
    """Whether llama.cpp's converter writes a tensor in F32, which no quantizer changes."""
    parsed = TensorName.of(name)
    is_norm = parsed.stem.endswith("_norm")
    return len(shape) < MATRIX or is_norm or parsed.end != "weight" or parsed.stem in _ALWAYS_F32


def wrong_shape(tensor: LocatedTensor, problem: str) -> CannotConvert:
    return CannotConvert(f"{tensor.name} has the shape {list(tensor.shape)}, {problem}")


def listed_sum(sizes: Iterable[int]) -> str:
    return " + ".join(map(str, sizes))
