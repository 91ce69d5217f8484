"""SHA-256 with a state that can be saved, so that a file can be checked although a restart came in the middle of it."""

import hashlib
from typing import Protocol, Self

try:
    from proxy.gguf._kernel import sha256 as _sha256
except ImportError:
    _sha256 = None  # type: ignore[assignment]

BLOCK = 64
_WORDS = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
_START = b"".join(word.to_bytes(4, "little") for word in _WORDS)
_STATE_BYTES = 32


class Hash(Protocol):
    """What the hashes of this module and of hashlib have in common."""

    def update(self, content: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class SavableSha256:
    """As hashlib's, and with `save`. `blocks` is the state after the whole blocks, `rest` the bytes after these."""

    def __init__(self, blocks: bytes = _START, rest: bytes = b"", size: int = 0) -> None:
        self._blocks = blocks
        self._rest = rest
        self._size = size

    def update(self, content: bytes, /) -> None:
        self._size += len(content)
        if self._rest:
            missing = BLOCK - len(self._rest)
            self._rest += content[:missing]
            if len(self._rest) < BLOCK:
                return
            self._blocks = _sha256(self._blocks, self._rest)
            content = content[missing:]
        whole = len(content) // BLOCK * BLOCK
        view = memoryview(content)
        self._blocks = _sha256(self._blocks, view[:whole])
        self._rest = bytes(view[whole:])

    def hexdigest(self) -> str:
        zeros = bytes(-(len(self._rest) + 9) % BLOCK)
        end = b"".join((self._rest, b"\x80", zeros, (self._size * 8).to_bytes(8, "big")))
        words = _sha256(self._blocks, end)
        return b"".join(words[at : at + 4][::-1] for at in range(0, _STATE_BYTES, 4)).hex()

    def save(self) -> str:
        return f"{self._size}:{self._blocks.hex()}:{self._rest.hex()}"

    @classmethod
    def restore(cls, saved: str) -> Self:
        """Raises ValueError if `saved` is not the result of `save`."""
        size, blocks, rest = saved.split(":")
        restored = cls(bytes.fromhex(blocks), bytes.fromhex(rest), int(size))
        if len(restored._blocks) != _STATE_BYTES or len(restored._rest) != restored._size % BLOCK:
            raise ValueError(f"{saved!r} is not a saved hash")
        return restored


def new_sha256() -> Hash:
    """A hash that can be saved if the kernel is installed, else hashlib's."""
    return hashlib.sha256() if _sha256 is None else SavableSha256()


def saved_state(running: Hash) -> str | None:
    """None if this hash cannot be saved."""
    return running.save() if isinstance(running, SavableSha256) else None


def restored_sha256(saved: str) -> Hash:
    """Raises ValueError for a text that `saved_state` did not write, or without the kernel."""
    if _sha256 is None:
        raise ValueError("a saved hash needs the kernel")
    return SavableSha256.restore(saved)
