"""All schemes, and the order in which they are asked. Pure."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from proxy.gguf.packing import (
    awq,
    bitnet,
    bitsandbytes,
    gptq,
    microscaling,
    packed_integers,
    quantized_layers,
    scaled_bytes,
)
from proxy.gguf.packing.packed import Found, Located
from proxy.gguf.tensor_sources import LocatedTensor

Scheme = Callable[[Located, Mapping[str, Any]], Iterator[Found]]

SCHEMES: tuple[Scheme, ...] = (
    scaled_bytes.find,
    packed_integers.find,
    microscaling.find,
    bitsandbytes.find,
    bitnet.find,
    gptq.find,
    awq.find,
)


def find_packed(weights: Located, settings: Mapping[str, Any]) -> list[Found]:
    """The packed tensors; `settings` is config.json's quantization_config. Raises CannotConvert."""
    return [found for find in SCHEMES for found in find(weights, settings)]


def wanted(weights: Located) -> Iterator[LocatedTensor]:
    """The small tensors whose bytes a plan needs. Raises CannotConvert."""
    yield from bitsandbytes.wanted(weights)
    yield from quantized_layers.wanted(weights)
