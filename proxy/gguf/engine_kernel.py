"""The project's own kernel, `kernel/`, which is there where a compiler or a wheel has brought it."""

from collections.abc import Mapping

from proxy.gguf import _kernel
from proxy.gguf.config import CannotConvert
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
"""Where in a block the upper byte of each F16 scale lies (ggml-common.h)."""
_NOT_FINITE = frozenset(byte for byte in range(256) if byte & 0x7C == 0x7C)  # noqa: PLR2004 - F16's exponent


class KernelEngine:
    """Makes, several times as fast, the bits that ggml makes on x86-64: it searches many sub-blocks side by side."""

    name = f"the kernel of ollama-hf-proxy ({_kernel.width()})"
    types = frozenset(map(TensorType, _kernel.types()))

    def quantize(self, kind: TensorType, dtype: str, content: bytes) -> bytes:
        """Whole blocks of numbers of `dtype` as blocks of `kind`.

        Raises CannotConvert for a scale that is no number, as `ggml_validate_row_data` does.
        """
        made = _kernel.quantize(kind, dtype, content)
        size = BLOCKS[kind][1]
        if not all(_NOT_FINITE.isdisjoint(made[place::size]) for place in _SCALES[kind]):
            raise CannotConvert(f"it holds a NaN, an infinity or a number too large for {kind.name}")
        return made
