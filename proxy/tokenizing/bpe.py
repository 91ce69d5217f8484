"""BPE as in llama.cpp b10488: merges by score (SentencePiece) and by rank (byte-level BPE). Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush

Priority = Callable[[str, str], float | None]
"""The pair with the lowest number is merged first; None: this pair is never merged."""


def byte_token(byte: int) -> str:
    """The text of the token for a byte, used where a vocabulary has no token for a character."""
    return f"<0x{byte:02X}>"


def merge(pieces: Sequence[str], priority: Priority) -> Iterator[str]:
    """The pieces after all merges; of several pairs with the same priority the leftmost is merged first."""
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


def merge_by_score(text: str, ids: Mapping[str, int], scores: Sequence[float]) -> Iterator[int]:
    """llm_tokenizer_spm_session. Raises KeyError where the vocabulary lacks a byte; llama.cpp would abort there."""

    def priority(left: str, right: str) -> float | None:
        token_id = ids.get(left + right)
        return None if token_id is None else -scores[token_id]

    for piece in merge(text, priority):
        token_id = ids.get(piece)
        if token_id is not None:
            yield token_id
            continue
        for byte in piece.encode():
            fallback = ids.get(byte_token(byte))
            # Only an ASCII byte is a character by itself.
            yield ids[chr(byte) if byte < 0x80 else byte_token(byte)] if fallback is None else fallback  # noqa: PLR2004


def merge_by_rank(
    word: str,
    ids: Mapping[str, int],
    ranks: Mapping[str, int],
    *,
    whole: bool,
    bytes_of: Callable[[str], Sequence[str]],
) -> Iterator[int]:
    """llm_tokenizer_bpe_session for one word. With `whole`, a word that is a token is not merged.

    `bytes_of` gives the texts of the tokens for the bytes of a piece; a byte without a token is left out.
    """
    if whole and word in ids:
        yield ids[word]
        return
    for piece in merge(word, lambda left, right: ranks.get(f"{left} {right}")):
        if piece in ids:
            yield ids[piece]
        else:
            yield from (ids[byte] for byte in bytes_of(piece) if byte in ids)
