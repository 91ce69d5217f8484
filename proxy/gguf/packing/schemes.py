"""All schemes, and the order in which they are asked. Pure."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from proxy.gguf.packing import awq, bitnet, bitsandbytes, gptq, microscaling, packed_integers, scaled_bytes
from proxy.gguf.packing.packed import Found, Located

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
