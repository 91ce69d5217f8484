"""The project's own C kernel, `kernel/`. It is optional: a wheel has it, or a compiler builds it at installation."""

from collections.abc import Mapping

from proxy.gguf import _kernel
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.tensors import BLOCKS, TensorType

_SCALES: Mapping[TensorType, tuple[int, ...]] = {
    TensorType.Q2_K: (81, 83),
    TensorType.Q3_K: (109,),
    TensorType.Q4_K: (1, 3),
    TensorType.Q5_K: (1, 3),
    TensorType.Q6_K: (209,),
    TensorType.IQ4_NL: (1,),
    TensorType.IQ4_XS: (1,),
}
"""The offsets in a block of the upper byte of each F16 scale (ggml-common.h)."""
_NOT_FINITE = frozenset(byte for byte in range(256) if byte & 0x7C == 0x7C)  # noqa: PLR2004 - F16's exponent


class KernelEngine:
    """Makes the same bits as ggml on x86-64, several times as fast: it searches many sub-blocks in parallel."""

    name = f"the kernel of ollama-hf-proxy ({_kernel.width()})"
    types = frozenset(map(TensorType, _kernel.types()))

    def quantize(self, kind: TensorType, dtype: str, content: bytes) -> bytes:
        """Quantizes as `Engine.quantize` describes. Refuses the scales that `ggml_validate_row_data` refuses."""
        blocks = _kernel.quantize(kind, dtype, content)
        size = BLOCKS[kind][1]
        if not all(_NOT_FINITE.isdisjoint(blocks[offset::size]) for offset in _SCALES[kind]):
            raise CannotConvert(f"it holds a NaN, an infinity or a number too large for {kind.name}")
        return blocks
