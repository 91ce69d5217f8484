"""A vocabulary that is being filled: text, type and perhaps score of each token id. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import Pairs
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.sentencepiece import MAX_TOKENS
from proxy.gguf.sentencepiece import PieceType as Type
from proxy.gguf.tensors import shown

_Text = TypeVar("_Text", str, bytes)

SPACE = "\u2581"
_UNUSED_SCORE = -10000.0


@dataclass(slots=True)
class Tokens:
    """All lists are in the order of token ids. An id that the tokenizer does not fill is unused."""

    texts: list[str]
    types: list[int]
    scores: list[float] | None = None

    @classmethod
    def empty(cls, size: int, *, scored: bool) -> "Tokens":
        if size > MAX_TOKENS:
            raise CannotConvert(f"config.json has vocab_size = {size}, more than any model has")
        texts = [f"[PAD{token_id}]" for token_id in range(size)]
        return cls(texts, [int(Type.UNUSED)] * size, [_UNUSED_SCORE] * size if scored else None)

    def __len__(self) -> int:
        return len(self.texts)

    def put(self, token_id: int, text: str, token_type: int, score: float = 0.0) -> None:
        if token_id >= len(self.texts):
            raise CannotConvert(
                f"the token {shown(text)} has the id {token_id}, but config.json has vocab_size = {len(self.texts)}"
            )
        self.texts[token_id], self.types[token_id] = text, int(token_type)
        if self.scores is not None:
            self.scores[token_id] = score

    def has_added(self, token_id: int, text: str) -> bool:
        """Whether this token has this text, with spaces in either form, and llama.cpp finds it without merges."""
        is_same = self.texts[token_id].replace(" ", SPACE) == text.replace(" ", SPACE)
        return is_same and self.types[token_id] not in (Type.NORMAL, Type.UNUSED)

    def pairs(self, model: str, pre: str | None) -> Pairs:
        if (text := first_duplicate(self.texts)) is not None:
            # llama.cpp aborts, and before Ollama 0.30 the whole server with it.
            raise CannotConvert(f"the tokenizer has two tokens with the text {shown(text)}")
        yield "model", Field.string(model)
        if pre is not None:
            yield "pre", Field.string(pre)
        yield "tokens", Field.strings(self.texts)
        if self.scores is not None:
            yield "scores", Field.array(ValueType.FLOAT32, self.scores)
        yield "token_type", Field.array(ValueType.INT32, self.types)


def first_duplicate(texts: Iterable[_Text]) -> _Text | None:
    """The first text that repeats an earlier one; None if all differ."""
    seen: set[_Text] = set()
    for text in texts:
        if text in seen:
            return text
        seen.add(text)
    return None


def looks_special(text: str) -> bool:
    """Some tokenizers do not mark their special tokens."""
    return (
        text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (text.startswith("<|") and text.endswith("|>"))
        or (text.startswith("<｜") and text.endswith("｜>"))
        or (text.startswith("<unused") and text.endswith(">"))
    )
