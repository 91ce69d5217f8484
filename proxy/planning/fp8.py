"""FP8 weights as Ollama reads them: in blocks, with a scale for each (convert/reader_safetensors.go, v0.22). Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from proxy.planning.safetensors import FLOATS, Tensor
from proxy.planning.weights import NotConvertible

TYPE = "F8_E4M3"
SCALES = ("_scale", "_scale_inv", ".scale", ".scale_inv")
WHOLE = 1 << 20
"""Larger than any row or column: a block of it is all of them."""

Block = tuple[int, int]


def scales_of(name: str) -> Iterator[str]:
    """The names that the scale of a tensor may have."""
    yield from (name + end for end in SCALES)


def check(
    where: str, tensors: Mapping[str, Tensor], names: Sequence[str], config: dict[str, Any], repairs: list[str]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The scales that need another shape in the header. Raises NotConvertible for what Ollama cannot read.

    One scale for a whole tensor, or for each row, is a block as large as that: config.json is made to say so.
    """
    for name in names:
        found = [scale for scale in scales_of(name) if scale in tensors]
        if len(found) != 1 or tensors[found[0]].dtype not in FLOATS or len(tensors[name].shape) != 2:  # noqa: PLR2004
            raise NotConvertible(f"{where}: {name} is FP8 without a scale that Ollama can read")
        (scale,) = found
        rows, columns = tensors[name].shape
        shape = tensors[scale].shape
        known = block_of(config) or (0, 0)
        ways: list[tuple[Block, tuple[int, ...]]] = [(known, shape)]
        if tensors[scale].elements == 1:
            ways += [(known, (1, 1)), ((WHOLE, WHOLE), (1, 1))]
        elif shape in ((rows,), (rows, 1)):
            ways += [(known, (rows, 1)), ((1, WHOLE), (rows, 1))]
        fits = [(block, fitting) for block, fitting in ways if _fits(fitting, block, rows, columns)]
        if not fits:
            raise NotConvertible(
                f"{where}: {name} is FP8 in the shape {[rows, columns]} with scales in the shape {list(shape)}, which "
                f"do not fit config.json's block size"
            )
        block, fitting = fits[0]
        _write_block(where, name, block, config, repairs)
        if fitting != shape:
            yield scale, fitting


def _fits(shape: tuple[int, ...], block: Block, rows: int, columns: int) -> bool:
    return min(block) > 0 and shape == (-(-rows // block[0]), -(-columns // block[1]))


def block_of(config: Mapping[str, Any]) -> Block | None:
    """Rows and columns of a block, wherever config.json says it."""
    for scope in (config, config.get("text_config")):
        for key in ("quantization", "quantization_config", "compression_config"):
            said = scope.get(key) if isinstance(scope, Mapping) else None
            if not isinstance(said, Mapping):
                continue
            groups = [group for group in _values(said.get("config_groups")) if isinstance(group, Mapping)]
            weights = [group["weights"] for group in groups if isinstance(group.get("weights"), Mapping)]
            for block in (said.get("weight_block_size"), *(one.get("block_structure") for one in weights)):
                if isinstance(block, list) and len(block) == 2 and all(isinstance(size, int) for size in block):  # noqa: PLR2004
                    return block[0], block[1]
    return None


def _values(groups: Any) -> Iterable[Any]:
    return groups.values() if isinstance(groups, Mapping) else ()


def _write_block(where: str, name: str, block: Block, config: dict[str, Any], repairs: list[str]) -> None:
    known = block_of(config)
    if known == block:
        return
    if known is not None:
        raise NotConvertible(f"{where}: {name} is FP8 in other blocks than others; Ollama takes only one size of block")
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": list(block)}
    repairs.append("config.json: the FP8 scales, one for a row or a whole tensor, described as blocks")
