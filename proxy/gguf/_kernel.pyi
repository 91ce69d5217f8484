# Rows of numbers to ggml's blocks, bit-equal with ggml on x86-64; `proxy/gguf/kernel` says how.

from typing_extensions import Buffer

# `source` is whole blocks of "F32", "F16" or "BF16"; ValueError if not. The GIL is free meanwhile.
def quantize(type_number: int, dtype: str, source: Buffer, /) -> bytes: ...

# The numbers that ggml gives the types made here.
def types() -> tuple[int, ...]: ...

# The registers used: "avx512", "avx2", "sse2", "neon" or "generic".
def width() -> str: ...

# Use these registers from now on, for tests; ValueError if there are none.
def use(width: str, /) -> None: ...
