"""RoPE with three axes: a token of a picture has a moment, a row and a column, one of a text three times its number.

The metadata says how many pairs of numbers of a head each axis rotates. Pure.
"""

from collections.abc import Sequence

from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import Pairs, Writer
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown

_AXES = 3


def sections(default: Sequence[int]) -> Writer:
    """For axes that follow each other in a head, whose numbers they all rotate. transformers splits it so too."""

    def write(config: ModelConfig) -> Pairs:
        found = _sections(config, default, config.head_size // 2)
        if sum(found) != config.head_size // 2:
            raise CannotConvert(
                f"config.json has mrope_section = {shown(found)}, which are not all {config.head_size // 2} pairs"
            )
        yield "rope.dimension_sections", Field.array(ValueType.INT32, [*found, 0])

    return write


def interleaved_sections(default: Sequence[int]) -> Writer:
    """For axes that take turns. Assigns all rotated numbers to axes: llama.cpp skips the others.

    transformers rotates them by the moment; in a text all axes have the same position.
    """

    def write(config: ModelConfig) -> Pairs:
        found = _sections(config, default, config.head_size)
        rotated = sum(found)
        if any(number >= _AXES * found[number % _AXES] for number in range(rotated)):
            found = [len(range(axis, rotated, _AXES)) for axis in range(_AXES)]
        yield "rope.dimension_sections", Field.array(ValueType.INT32, [*found, 0])

    return write


def _sections(config: ModelConfig, default: Sequence[int], most: int) -> list[int]:
    found = config.rope.get("mrope_section", list(default))
    is_known = isinstance(found, list) and len(found) == _AXES and all(type(size) is int for size in found)
    if not is_known or not 0 < sum(found) <= most:
        raise CannotConvert(f"config.json has mrope_section = {shown(found)}, unknown for this architecture")
    return list(found)
