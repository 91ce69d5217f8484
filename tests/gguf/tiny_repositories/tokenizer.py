"""The files of a tiny tokenizer, and helpers that all tokenizers use."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

TEXT = (
    "the quick brown fox jumps over the lazy dog and then the story begins with a small language model that reads "
    "every word in turn while other people are talking about water and fire and the weather of the north"
)


WORDS = TEXT.split()


SPACE = "\u2581"


def frequent_merges(words: Mapping[tuple[str, ...], int], count: int) -> Iterator[tuple[str, str]]:
    """The merges that a trainer would learn, most frequent first."""
    current = dict(words)
    for _ in range(count):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in current.items():
            for pair in pairwise(word):
                pairs[pair] += times
        if not pairs:
            return
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        yield best
        current = {_merged(word, best): times for word, times in current.items()}


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    parts: list[str] = []
    for text in word:
        if parts and (parts[-1], text) == pair:
            parts[-1] += text
        else:
            parts.append(text)
    return tuple(parts)


def decoder_of(tokens: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`added_tokens_decoder` of tokenizer_config.json."""
    return {str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in tokens}


@dataclass(frozen=True)
class Tokenizer:
    """`rows` is the size of the vocabulary; `specials` maps names such as `bos` to token ids."""

    files: Mapping[str, bytes]
    rows: int
    specials: Mapping[str, int]

    def number(self, token: str) -> int:
        """The id of an added token."""
        added = json.loads(self.files["tokenizer.json"])["added_tokens"]
        return next(int(one["id"]) for one in added if one["content"] == token)


def edit_tokenizer(base: Tokenizer, change: Callable[[dict[str, dict[str, Any]]], None], rows: int = 0) -> Tokenizer:
    """A copy with `rows` more tokens. `change` edits the parsed files and may add files."""
    files = {path: json.loads(content) for path, content in base.files.items() if path.endswith(".json")}
    change(files)
    binary = {path: content for path, content in base.files.items() if not path.endswith(".json")}
    return Tokenizer(
        {**{path: dump(content) for path, content in files.items()}, **binary}, base.rows + rows, base.specials
    )


def dump(value: object) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"
