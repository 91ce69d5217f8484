# Quantizes to ggml's blocks, with the same bits as ggml on x86-64. The sources are in `proxy/gguf/kernel`.

from typing_extensions import Buffer

# Raises ValueError unless `source` is whole blocks of dtype "F32", "F16" or "BF16". Releases the GIL.
def quantize(type_number: int, dtype: str, source: Buffer, /) -> bytes: ...

# SHA-256: the state of 32 bytes after `source`, which is whole blocks of 64 bytes. Each word has the CPU's byte order.
# Raises ValueError for other lengths. Releases the GIL.
def sha256(state: bytes, source: Buffer, /) -> bytes: ...

# ggml's numbers of the types that the kernel makes.
def types() -> tuple[int, ...]: ...

# The width of the registers in use: "avx512", "avx2", "sse2", "neon" or "generic".
def width() -> str: ...

# Switches to registers of this width, for tests. Raises ValueError if the CPU or the build has none.
def use(width: str, /) -> None: ...
