# Quantizes to ggml's blocks, with the same bits as ggml on x86-64, and makes F32 numbers of weights that are stored
# quantized. The sources are in `proxy/gguf/kernel`.

from typing_extensions import Buffer

# Raises ValueError unless `source` is whole blocks of dtype "F32", "F16" or "BF16". Releases the GIL.
def quantize(type_number: int, dtype: str, source: Buffer, /) -> bytes: ...

# The F32 numbers of codes in rows of `row_size` bytes, `width` for each row. `codes` and `groups` are those of
# `packing/coded_rows.py`, with contiguous arrays. Raises ValueError where they do not fit. Releases the GIL.
def decode(
    source: Buffer,
    row_size: int,
    width: int,
    codes: tuple[int, int, bytes, bytes],
    groups: tuple[Buffer, Buffer | None, int, Buffer | None],
    /,
) -> bytes: ...

# SHA-256: the state of 32 bytes after `source`, which is whole blocks of 64 bytes. Each word has the CPU's byte order.
# Raises ValueError for other lengths. Releases the GIL.
def sha256(state: bytes, source: Buffer, /) -> bytes: ...

# ggml's numbers of the types that the kernel makes.
def types() -> tuple[int, ...]: ...

# The width of the registers in use: "avx512", "avx2", "sse2", "neon" or "generic".
def width() -> str: ...

# Switches to registers of this width, for tests. Raises ValueError if the CPU or the build has none.
def use(width: str, /) -> None: ...
