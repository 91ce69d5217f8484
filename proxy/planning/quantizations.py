"""The quantizations that the proxy makes: which one a tag means, which there are here, and how large each becomes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from proxy.config import Quantization
from proxy.errors import Refusal
from proxy.gguf.cast import NoEngine
from proxy.gguf.config import CannotConvert
from proxy.gguf.engine import engine_for
from proxy.gguf.engine_ggml import PACKAGE
from proxy.gguf.tensor_types import FILE_TYPES, NEED_IMPORTANCE, ModelFacts, quantized_types
from proxy.gguf.tensors import GgufError, TensorInfo, TensorType, padding
from proxy.gguf.transforms import Transform
from proxy.planning.capabilities import NOT_RUN, Capabilities
from proxy.planning.plan import QuantizationOffer

USUAL = tuple(Quantization)[:6]


def known_quantization(repository: str, tag: str) -> Quantization | None:
    """What a tag in any case names; None where it names none.

    Raises Refusal for one that nobody makes without an importance matrix.
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
) -> Quantization:
    """What a tag of safetensors asks for; `kept` is the one alone that there is of weights that are quantized already.

    Raises Refusal for what nobody makes, or what Ollama cannot run.
    """
    quantization = (kept or default) if tag.lower() == "latest" else known_quantization(repository, tag)
    if kept not in (None, quantization):
        raise Refusal(
            f"{repository}: the weights are quantized already, and are not quantized a second time; pull without a "
            f"tag, which means {kept} here"
        )
    if quantization is None:
        raise Refusal(
            f"{repository}: there is no quantization {tag!r}; pull with one of these tags: {', '.join(made_here())} "
            f"(none means {default})"
        )
    if not capabilities.runs_quantization(quantization):
        raise Refusal(
            f"{repository}: {capabilities.ollama} does not run {quantization}; pull with one of these tags: "
            f"{', '.join(made_here())}"
        )
    return quantization


def offers(
    header: int, facts: ModelFacts, tensors: Sequence[TensorInfo], capabilities: Capabilities
) -> tuple[QuantizationOffer, ...]:
    """The quantizations that this machine makes and this Ollama runs, with the bytes of a GGUF of each.

    `header` is how many bytes lie before the tensors, which are given as they are without a quantization.
    """
    return tuple(
        QuantizationOffer(quantization, header + size, quantization in USUAL)
        for quantization in Quantization
        if capabilities.runs_quantization(quantization)
        if (size := _size(quantization, facts, tensors)) is not None
    )


def not_made_here(repository: str, error: NoEngine) -> Refusal:
    """What a person can do where no engine of this machine makes a type."""
    return Refusal(
        f"{repository}: {error}; pull with one of these tags: {', '.join(made_here())}. On Linux, Apple silicon and "
        f"Windows (x86_64) `pip install {PACKAGE}` brings the others"
    )


def is_made_here(quantization: Quantization) -> bool:
    """Whether an engine of this machine makes the type of most tensors."""
    return _is_made(FILE_TYPES[quantization].default)


def made_here() -> list[str]:
    """The quantizations that a pull on this machine can end in."""
    return [str(one) for one in Quantization if one not in NOT_RUN and is_made_here(one)]


def _is_made(kind: TensorType) -> bool:
    return kind is TensorType.F32 or engine_for(kind) is not None


def _size(quantization: Quantization, facts: ModelFacts, tensors: Sequence[TensorInfo]) -> int | None:
    try:
        types = quantized_types(quantization, facts, tensors, as_ollama=True)
    except CannotConvert:
        return None
    if quantization is Quantization.MXFP4_MOE and TensorType.MXFP4 not in types.values():
        # Without experts it is Q8_0 under another name.
        return None
    changed = [TensorInfo(tensor.name, tensor.shape, types[tensor.name]) for tensor in tensors]
    if not all(
        new.type == old.type or _is_made(TensorType(new.type)) for new, old in zip(changed, tensors, strict=True)
    ):
        return None
    return sum(tensor.size + padding(tensor.size) for tensor in changed)


def explained(path: str, transform: Transform) -> Transform:
    """The same; it raises Refusal, which names the file, for what only the numbers tell."""
    return replace(transform, change=partial(_change, path, transform.change))


def _change(path: str, change: Callable[[bytes], bytes], content: bytes) -> bytes:
    try:
        return change(content)
    except GgufError as error:
        raise Refusal(f"{path}: {error}") from error
