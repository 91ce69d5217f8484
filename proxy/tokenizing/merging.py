"""How llama.cpp b10488 makes tokens by merging pieces: SentencePiece's way and byte-level BPE's. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush

Priority = Callable[[str, str], float | None]
"""What comes first has the lower number; None for what is not merged."""


def byte_token(byte: int) -> str:
    """The text of the token that stands for a byte where a vocabulary has no token for a character."""
    return f"<0x{byte:02X}>"


def merged(pieces: Sequence[str], priority: Priority) -> Iterator[str]:
    """The pieces after all merges; of several with the same priority the leftmost comes first."""
    texts: list[str] = list(pieces)
    before, after = list(range(-1, len(texts) - 1)), [*range(1, len(texts)), -1]
    queue: list[tuple[float, int, int, str]] = []

    def propose(left: int, right: int) -> None:
        if left >= 0 and right >= 0 and (rank := priority(texts[left], texts[right])) is not None:
            heappush(queue, (rank, left, right, texts[left] + texts[right]))

    for left in range(len(texts) - 1):
        propose(left, left + 1)
    heapify(queue)
    while queue:
        _, left, right, text = heappop(queue)
        if not texts[left] or not texts[right] or texts[left] + texts[right] != text:
            continue
        texts[left], texts[right] = text, ""
        after[left] = after[right]
        if after[right] >= 0:
            before[after[right]] = left
        propose(before[left], left)
        propose(left, after[left])
    return filter(None, texts)


def merge_by_score(text: str, numbers: Mapping[str, int], scores: Sequence[float]) -> Iterator[int]:
    """llm_tokenizer_spm_session. Raises KeyError where the vocabulary lacks a byte; llama.cpp would end there."""

    def priority(left: str, right: str) -> float | None:
        number = numbers.get(left + right)
        return None if number is None else -scores[number]

    for piece in merged(text, priority):
        number = numbers.get(piece)
        if number is not None:
            yield number
            continue
        for byte in piece.encode():
            fallback = numbers.get(byte_token(byte))
            # A single byte of a longer character is no text.
            yield numbers[chr(byte) if byte < 0x80 else byte_token(byte)] if fallback is None else fallback  # noqa: PLR2004


def merge_by_rank(
    word: str,
    numbers: Mapping[str, int],
    ranks: Mapping[str, int],
    *,
    whole: bool,
    bytes_of: Callable[[str], Sequence[str]],
) -> Iterator[int]:
    """llm_tokenizer_bpe_session for one word. `whole` takes a word that is a token as it is.

    `bytes_of` has the texts of the tokens for the bytes of a piece; a byte without a token is left out.
    """
    if whole and word in numbers:
        yield numbers[word]
        return
    for piece in merged(word, lambda left, right: ranks.get(f"{left} {right}")):
        if piece in numbers:
            yield numbers[piece]
        else:
            yield from (numbers[byte] for byte in bytes_of(piece) if byte in numbers)
