"""Matrices of NVFP4 that stay as they are, where llama.cpp calculates with all of their scales. Pure.

Beside a tensor `NAME.weight` of NVFP4, llama.cpp's converter writes `NAME.scale` (F32, one number for each matrix) and
`NAME.input_scale`. Its loader takes both for every architecture ("generic pass" of llama-model.cpp, b10488), but most
of src/models do not hand the scale on to the multiplication: such a model answers nonsense, without an error.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from proxy.gguf.cast import cast
from proxy.gguf.model_config import CannotKeep
from proxy.gguf.tensor_sources import MATRIX, FixedBytes, Repacked, SourceRange, Target
from proxy.gguf.tensor_types import is_quantized
from proxy.gguf.tensors import TensorInfo, TensorName, TensorType

NVFP4 = "NVFP4"
"""The tag, and llama.cpp's name of the file type."""
FILE_TYPE = 39
"""The value of `general.file_type` (LLAMA_FTYPE_MOSTLY_NVFP4 of llama.h)."""

_ATTENTION = frozenset(("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output"))
_FEED_FORWARD = frozenset(("ffn_gate", "ffn_up", "ffn_down"))
_EXPERTS = frozenset(f"{stem}_exps" for stem in _FEED_FORWARD)
_SHARED_EXPERT = frozenset(f"{stem}_shexp" for stem in _FEED_FORWARD)
_DENSE = _ATTENTION | _FEED_FORWARD | {"output"}
_DELTA_NET = frozenset(("attn_gate", "ssm_alpha", "ssm_beta", "ssm_out"))
_MAMBA = frozenset(("ssm_in", "ssm_out"))
_DRAFT = frozenset(("nextn.eh_proj",))

SCALED: Mapping[str, frozenset[str]] = {
    # Its converter folds a scale of the router into that of ffn_down_exps.
    "gemma4": _DENSE,
    "llama": _DENSE | _EXPERTS,
    "mistral3": _DENSE,
    "nemotron_h": _DENSE | _MAMBA,
    "nemotron_h_moe": _DENSE | _MAMBA | _EXPERTS | _SHARED_EXPERT | _DRAFT,
    "qwen3": _DENSE,
    "qwen35": _DENSE | _DELTA_NET | _DRAFT,
    "qwen35moe": _DENSE | _DELTA_NET | _EXPERTS | _SHARED_EXPERT | _DRAFT,
    "qwen3moe": _DENSE | _EXPERTS,
}
"""By architecture, the stems of the matrices whose scale src/models (b10488) multiplies with."""


class Fallback(NamedTuple):
    """NVFP4 where the repository has it and it can stay, else `quantization`."""

    quantization: str


def choose(quantization: str | Fallback | None, problem: str) -> str | None:
    """The quantization of the file. Raises CannotKeep for NVFP4 if there is a `problem`."""
    if isinstance(quantization, Fallback):
        return quantization.quantization if problem else NVFP4
    if quantization == NVFP4 and problem:
        raise CannotKeep(problem)
    return quantization


def try_to_keep(architecture: str, forms: Collection[str], targets: Sequence[Target]) -> tuple[list[Target], str]:
    """The targets of a file in which NVFP4 stays; or none, and the reason. `forms`: how the weights are stored."""
    if NVFP4 not in forms:
        return [], "its matrices are not NVFP4"
    try:
        return _keep(architecture, targets), ""
    except CannotKeep as problem:
        return [], str(problem)


def _keep(architecture: str, targets: Sequence[Target]) -> list[Target]:
    """The tensors of a file with NVFP4, and their scales. Other tensors keep their type.

    Matrices that are stored quantized in another way become BF16, as in llama.cpp's converter. Raises CannotKeep where
    a matrix of NVFP4 or its scale would not be exact, and where there is none.
    """
    biases = {target.info.name for target in targets if target.info.name.endswith(".bias")}
    kept: list[Target] = []
    for target in targets:
        pieces = [piece for piece in target.pieces if isinstance(piece, SourceRange) and piece.packed]
        repacked = [one for piece in pieces if piece.packed and (one := piece.packed.repack(piece))]
        if repacked:
            _check(architecture, target, len(repacked), biases)
            kept += _kept(target.info, repacked)
        else:
            is_packed = pieces and target.info.type == TensorType.F32 and is_quantized(target.info)
            kept.append(cast(target, TensorType.BF16) if is_packed else target)
    if all(target.info.type != TensorType.NVFP4 for target in kept):
        raise CannotKeep("the repository has no matrices in NVFP4")
    return kept


def _check(architecture: str, target: Target, repacked: int, biases: set[str]) -> None:
    name, stem = target.info.name, TensorName.of(target.info.name).stem
    if stem not in SCALED.get(architecture, ()):
        raise CannotKeep(f"llama.cpp does not multiply by the scale of {name} ({architecture})")
    if stem in _FEED_FORWARD and name.removesuffix("weight") + "bias" in biases:
        raise CannotKeep(f"llama.cpp adds the bias of {name} before it multiplies by the scale")
    if repacked != len(target.pieces):
        raise CannotKeep(f"{name} is made of matrices of which some are stored in another way")


def _kept(info: TensorInfo, repacked: Sequence[Repacked]) -> Iterator[Target]:
    stacked = info.shape[MATRIX] if len(info.shape) > MATRIX else 1
    if len(repacked) != stacked:
        if any(one.scale != repacked[0].scale for one in repacked):
            raise CannotKeep(f"{info.name} is made of matrices that have different scales")
        scales = [repacked[0]] * stacked
    else:
        scales = list(repacked)
    ranges = tuple(piece for one in repacked for piece in one.ranges)
    yield Target(replace(info, type=TensorType.NVFP4), ranges, in_source_order=False)
    name = info.name.removesuffix("weight")
    yield _numbers(f"{name}scale", [one.scale for one in scales])
    if any(one.input_scale for one in scales):
        yield _numbers(f"{name}input_scale", [one.input_scale for one in scales])


_ONE = FixedBytes(b"\x00\x00\x80\x3f")


def _numbers(name: str, numbers: Sequence[SourceRange | None]) -> Target:
    info = TensorInfo(name, (len(numbers),), TensorType.F32)
    return Target(info, tuple(one or _ONE for one in numbers), in_source_order=False)
