"""The quantizations that the proxy makes: which one a tag means, which this machine can make, and how large each is."""

from collections.abc import Callable, Collection, Sequence
from functools import partial

from msgspec.structs import replace

from proxy.config.values import Quantization
from proxy.errors import Refusal
from proxy.gguf.cast import NoEngine
from proxy.gguf.engine import engine_for
from proxy.gguf.engine_ggml import PACKAGE
from proxy.gguf.keeping import NVFP4, Fallback
from proxy.gguf.model_config import CannotConvert, CannotKeep
from proxy.gguf.tensor_types import FILE_TYPES, NEED_IMPORTANCE, ModelFacts, quantized_types
from proxy.gguf.tensors import GgufError, TensorInfo, TensorType, padding
from proxy.gguf.transforms import Transform
from proxy.planning.capabilities import NVFP4_SINCE, UNSUPPORTED, Capabilities
from proxy.planning.plan import QuantizationOffer

USUAL = tuple(Quantization)[:6]
"""The quantizations that most users choose from."""


def known_quantization(repository: str, tag: str) -> Quantization | None:
    """The quantization that a tag (in any case) names; None if it is not one.

    Raises Refusal for a quantization that needs an importance matrix.
    """
    name = tag.upper()
    if name in NEED_IMPORTANCE:
        raise Refusal(
            f"{repository}: {name} needs an importance matrix, which the repository does not have; the nearest "
            f"quantization without one is {NEED_IMPORTANCE[name]}"
        )
    try:
        return Quantization(name)
    except ValueError:
        return None


def read_quantization(
    repository: str, tag: str, default: Quantization, capabilities: Capabilities, *, kept: Quantization | None = None
) -> str | Fallback:
    """The quantization that a tag of a safetensors repository means.

    `kept` is set if the weights are already quantized and can stay so: no tag means it then. Whether NVFP4 can stay is
    known when the tensors are. Raises Refusal for an unknown quantization, and for one that this Ollama does not run.
    """
    is_default, quantization = tag.lower() == "latest", _named(repository, tag)
    if is_default:
        quantization = kept or default
    if quantization is None:
        raise Refusal(
            f"{repository}: there is no quantization {tag!r}; pull with one of these tags: {_available_tags()} "
            f"(no tag means {kept or default})"
        )
    if not capabilities.runs_quantization(quantization):
        update = f"update it to {NVFP4_SINCE} or newer, or " if quantization == NVFP4 else ""
        raise Refusal(
            f"{repository}: {capabilities.ollama} does not run {quantization}; {update}pull with one of these tags: "
            f"{_available_tags()}"
        )
    may_keep = is_default and kept is None and capabilities.runs_quantization(NVFP4)
    return Fallback(quantization) if may_keep else quantization


def _named(repository: str, tag: str) -> str | None:
    return NVFP4 if tag.upper() == NVFP4 else known_quantization(repository, tag)


def offers(
    header: int,
    facts: ModelFacts,
    tensors: Sequence[TensorInfo],
    capabilities: Capabilities,
    again: Collection[int] = (),
) -> tuple[QuantizationOffer, ...]:
    """The quantizations that this machine can make and this Ollama can run, with the size of a GGUF of each.

    `header` is the size of the GGUF's header in bytes; `tensors` are those of the unquantized GGUF, of which those of
    the types in `again` can be quantized once more.
    """
    return tuple(
        QuantizationOffer(quantization, header + size, quantization in USUAL)
        for quantization in Quantization
        if capabilities.runs_quantization(quantization)
        if (size := _size(quantization, facts, tensors, again)) is not None
    )


def cannot_keep_refusal(repository: str, error: CannotKeep) -> Refusal:
    """Says what the user can do if NVFP4 cannot stay."""
    return Refusal(f"{repository}: {NVFP4} is not possible: {error}; pull with one of these tags: {_available_tags()}")


def no_engine_refusal(repository: str, error: NoEngine) -> Refusal:
    """Says what the user can do if no engine on this machine can make a type."""
    return Refusal(
        f"{repository}: {error}; pull with one of these tags: {_available_tags()}. On Linux, Apple silicon and "
        f"Windows (x86_64) `pip install {PACKAGE}` adds the others"
    )


def is_available(quantization: Quantization) -> bool:
    """Whether an engine on this machine makes the type that most tensors get."""
    return _has_engine(FILE_TYPES[quantization].default)


def available_quantizations() -> list[str]:
    """The quantizations that a pull on this machine can make."""
    return [str(one) for one in Quantization if one not in UNSUPPORTED and is_available(one)]


def _available_tags() -> str:
    return ", ".join(available_quantizations())


def _has_engine(tensor_type: TensorType) -> bool:
    return tensor_type is TensorType.F32 or engine_for(tensor_type) is not None


def _size(
    quantization: Quantization, facts: ModelFacts, tensors: Sequence[TensorInfo], again: Collection[int]
) -> int | None:
    try:
        types = quantized_types(quantization, facts, tensors, as_ollama=True, again=again)
    except CannotConvert:
        return None
    if quantization is Quantization.MXFP4_MOE and TensorType.MXFP4 not in types.values():
        # Without experts the file would be the same as Q8_0.
        return None
    if not all(types[one.name] == one.type or _has_engine(TensorType(types[one.name])) for one in tensors):
        return None
    quantized = [TensorInfo(tensor.name, tensor.shape, types[tensor.name]) for tensor in tensors]
    return sum(tensor.size + padding(tensor.size) for tensor in quantized)


def naming_file(path: str, transform: Transform) -> Transform:
    """The same transform, whose errors about the numbers name the file; they are raised as Refusal."""
    return replace(transform, change=partial(_change, path, transform.change))


def _change(path: str, change: Callable[[bytes], bytes], content: bytes) -> bytes:
    try:
        return change(content)
    except GgufError as error:
        raise Refusal(f"{path}: {error}") from error
