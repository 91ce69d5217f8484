"""Layers that are stored as `qweight`, `qzeros` and `scales`: what config.json says about their packing. Pure."""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple

from proxy.gguf.model_config import CannotConvert
from proxy.gguf.packing.packed import Found, Located
from proxy.gguf.tensor_sources import MATRIX, LocatedTensor, PackedTensor
from proxy.gguf.transforms import WIDTHS


class Packing(Enum):
    """How integers and zero points are stored."""

    GPTQ = "gptq"
    """The zero points are less by 1."""
    GPTQ_V2 = "gptq_v2"
    AWQ = "gemm"


_GPTQ = {"gptq": Packing.GPTQ, "gptq_v2": Packing.GPTQ_V2}
"""By checkpoint_format. Without one it is `gptq`, the only format that auto-gptq 0.7.1 and older know; llama.cpp b11434
(conversion/base.py) and transformers 5.24 (`GPTQConfig`) read it so."""
_AWQ = {"gemm": Packing.AWQ}
"""By version. Without one it is `gemm`, the default of AutoAWQ 0.2.9 and transformers 5.24 (`AwqConfig`)."""
_AUTO_ROUND = {
    "auto_round:auto_gptq": Packing.GPTQ,
    "auto_round:gptq": Packing.GPTQ,
    "auto_round:gptqmodel": Packing.GPTQ_V2,
    "auto_round": Packing.GPTQ_V2,
    "auto_round:auto_awq": Packing.AWQ,
    "auto_round:awq": Packing.AWQ,
}
"""By packing_format, as AutoRound 0.16.1 reads it (inference/backend.py, inference/convert_model.py)."""
_CHANGES = ("rotation", "rotation_config", "spinquant_config", "adapter")
"""What the reading library adds to a model: Hadamard matrices (gptqmodel, AutoRound), a LoRA (gptqmodel)."""
_NUMBERS = ".qweight"
_MAX_BIAS = 1 << 20
"""Bytes of a bias that is read."""
_PLAIN_BITS = 16
"""Bits of activations that are not quantized, at least."""


class QuantizedLayer(NamedTuple):
    """The tensors of a linear layer without its bias."""

    name: str
    packing: Packing
    numbers: LocatedTensor
    zeros: LocatedTensor
    scales: LocatedTensor
    group_of: LocatedTensor | None
    """The tensor `g_idx`."""

    @property
    def tensors(self) -> tuple[LocatedTensor, ...]:
        return tuple(one for one in self[2:] if one is not None)

    def shapes(self) -> str:
        """Its tensors with their types and shapes, for an error."""
        tensors = (f"{one.name[len(self.name) + 1 :]} {one.dtype} {list(one.shape)}" for one in self.tensors)
        return f"{self.name} has {', '.join(tensors)}"

    def found(self, tensor: PackedTensor) -> Found:
        return Found(f"{self.name}.weight", self.numbers.path, tensor, tuple(one.name for one in self.tensors))


def wanted(weights: Located) -> Iterator[LocatedTensor]:
    """The biases of the layers, whose bytes a plan needs.

    auto-gptq (0.4.2 and 0.7.1: `make_quant` in modeling/_utils.py) gives each layer a bias, of zeros if it has none. It
    can be left out only then.
    """
    for layer in _names(weights):
        bias = weights.get(f"{layer}.bias")
        if bias is not None and bias.size <= _MAX_BIAS:
            yield bias


def find_layers(weights: Located, settings: Mapping[str, Any], *packings: Packing) -> Iterator[QuantizedLayer]:
    """The layers that have one of the packings. Raises CannotConvert where tensors or settings are not known."""
    for layer in _names(weights):
        packing = _packing_of(f"{layer}{_NUMBERS}", settings)
        if packing in packings:
            yield _find_layer(layer, packing, weights)


def _names(weights: Located) -> Iterator[str]:
    return (name.removesuffix(_NUMBERS) for name in weights if name.endswith(_NUMBERS))


def _find_layer(name: str, packing: Packing, weights: Located) -> QuantizedLayer:
    ends = (_NUMBERS, ".qzeros", ".scales")
    missing = [name + end for end in ends if name + end not in weights]
    if missing:
        raise CannotConvert(f"{name}.qweight is there without {' and '.join(missing)}")
    numbers, zeros, scales = (weights[name + end] for end in ends)
    layer = QuantizedLayer(name, packing, numbers, zeros, scales, weights.get(f"{name}.g_idx"))
    if (
        any(len(one.shape) != MATRIX or not all(one.shape) for one in (numbers, zeros, scales))
        or (numbers.dtype, zeros.dtype) != ("I32", "I32")
        or scales.dtype not in WIDTHS
    ):
        raise CannotConvert(f"{layer.shapes()}: these are not the types and dimensions that GPTQ and AWQ have")
    if "embed" in name.rpartition(".")[2]:
        raise CannotConvert(f"{name} is an embedding that is stored in GPTQ's or AWQ's way, which only layers are")
    return layer


def _packing_of(name: str, settings: Mapping[str, Any]) -> Packing | None:
    """None if it is that of another method. Raises CannotConvert if it has no name, or one that is not known."""
    method = str(settings.get("quant_method") or settings.get("method") or "").lower()
    if not method:
        raise CannotConvert(f"{name} is quantized, but config.json has no quantization_config that says how")
    if method == "gptq":
        marlin = ["marlin"] if settings.get("is_marlin_format") else []
        packing = _named(method, _GPTQ, _stated(settings, "checkpoint_format", "format") + marlin, "gptq")
    elif method == "awq":
        stated = _stated(settings, "version", "format", "checkpoint_format")
        llm_awq = ["llm-awq"] if settings.get("backend") == "llm-awq" else []
        packing = _named(method, _AWQ, stated + llm_awq, "gemm")
    elif method in ("auto-round", "auto_round", "intel/auto-round"):
        packing = _named(method, _AUTO_ROUND, _auto_round(settings), "")
    else:
        return None
    _refuse_changes(method, settings)
    return packing


def _stated(settings: Mapping[str, Any], *keys: str) -> list[str]:
    return [str(settings[key]).lower() for key in keys if settings.get(key)]


def _auto_round(settings: Mapping[str, Any]) -> list[str]:
    """The packing_format; older files have a backend such as `auto_round:gptq:exllamav2` that begins with it."""
    backend = str(settings.get("backend") or "").lower()
    of_backend = ["auto_round:gptq"] if backend.removeprefix("auto_round:").startswith(("gptq", "auto_gptq")) else []
    return _stated(settings, "packing_format") or of_backend


def _named(method: str, known: Mapping[str, Packing], names: list[str], default: str) -> Packing:
    names = sorted({*names} or {default})
    if len(names) == 1 and names[0] in known:
        return known[names[0]]
    raise CannotConvert(
        f"config.json has a quantization_config of the method {method} with the format "
        f"{' and '.join(names) or 'None'}; known are {', '.join(known)}"
    )


def _refuse_changes(method: str, settings: Mapping[str, Any]) -> None:
    """Raises CannotConvert if the weights are not all that the model needs."""
    for key in _CHANGES:
        if settings.get(key):
            raise CannotConvert(
                f"config.json has a quantization_config of the method {method} with {key}, which llama.cpp does not run"
            )
    bits = settings.get("act_bits")
    if type(bits) is int and bits < _PLAIN_BITS:
        raise CannotConvert(
            f"config.json has a quantization_config of the method {method} with activations of {bits} bits, whose "
            "weights are not known exactly"
        )
