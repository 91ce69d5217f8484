"""A vocabulary while it is filled: texts, types and perhaps scores by number. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from proxy.gguf.config import CannotConvert
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import Pairs
from proxy.gguf.sentencepiece import MOST_TOKENS
from proxy.gguf.sentencepiece import PieceType as Type
from proxy.gguf.tensors import shown

SPACE = "\u2581"
_UNUSED_SCORE = -10000.0


@dataclass(slots=True)
class Tokens:
    """Texts, types and perhaps scores by number; what the tokenizer does not fill is unused."""

    texts: list[str]
    types: list[int]
    scores: list[float] | None = None

    @classmethod
    def empty(cls, size: int, *, scored: bool) -> "Tokens":
        if size > MOST_TOKENS:
            raise CannotConvert(f"config.json has vocab_size = {size}, more than any model has")
        texts = [f"[PAD{number}]" for number in range(size)]
        return cls(texts, [int(Type.UNUSED)] * size, [_UNUSED_SCORE] * size if scored else None)

    def __len__(self) -> int:
        return len(self.texts)

    def put(self, number: int, text: str, kind: int, score: float = 0.0) -> None:
        if number >= len(self.texts):
            raise CannotConvert(
                f"the token {shown(text)} has the number {number}, but config.json has vocab_size = {len(self.texts)}"
            )
        self.texts[number], self.types[number] = text, int(kind)
        if self.scores is not None:
            self.scores[number] = score

    def has_added(self, number: int, text: str) -> bool:
        """Whether the token of this number has this text, however its spaces are written, and is found as a whole."""
        is_same = self.texts[number].replace(" ", SPACE) == text.replace(" ", SPACE)
        return is_same and self.types[number] not in (Type.NORMAL, Type.UNUSED)

    def pairs(self, model: str, pre: str | None) -> Pairs:
        if (text := first_twice(self.texts)) is not None:
            # llama.cpp aborts: with Ollama before 0.30, the whole server.
            raise CannotConvert(f"the tokenizer has two tokens with the text {shown(text)}")
        yield "model", Field.string(model)
        if pre is not None:
            yield "pre", Field.string(pre)
        yield "tokens", Field.strings(self.texts)
        if self.scores is not None:
            yield "scores", Field.array(ValueType.FLOAT32, self.scores)
        yield "token_type", Field.array(ValueType.INT32, self.types)


def first_twice(texts: Iterable[str]) -> str | None:
    """The first text that was there before; None where all differ."""
    seen: set[str] = set()
    for text in texts:
        if text in seen:
            return text
        seen.add(text)
    return None


def looks_special(text: str) -> bool:
    """Some tokenizers do not mark as special what is."""
    return (
        text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (text.startswith("<|") and text.endswith("|>"))
        or (text.startswith("<｜") and text.endswith("｜>"))
        or (text.startswith("<unused") and text.endswith(">"))
    )
