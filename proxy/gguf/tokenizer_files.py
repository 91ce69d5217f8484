"""The files of a repository that its tokenizer is read from, parsed. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.gguf.config import CannotConvert
from proxy.gguf.sentencepiece import MOST_TOKENS
from proxy.gguf.tensors import shown

TOKENIZER = "tokenizer.json"
SENTENCEPIECE = "tokenizer.model"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIALS = "special_tokens_map.json"
ADDED = "added_tokens.json"
GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """The tokenizer files, parsed; empty where one is missing."""

    tokenizer: Mapping[str, Any]
    config: Mapping[str, Any]
    specials: Mapping[str, Any]
    added: Mapping[str, Any]
    generation: Mapping[str, Any]
    model: bytes | None

    @classmethod
    def read(cls, contents: Mapping[str, bytes]) -> "TokenizerFiles":
        paths = (TOKENIZER, TOKENIZER_CONFIG, SPECIALS, ADDED, GENERATION_CONFIG)
        tokenizer, config, specials, added, generation = (_object(path, contents.get(path)) for path in paths)
        return cls(tokenizer, config, specials, added, generation, contents.get(SENTENCEPIECE))

    @property
    def written_added(self) -> Sequence[Mapping[str, Any]]:
        """The added tokens of tokenizer.json."""
        return list(_added(self.tokenizer.get("added_tokens") or []))


def _object(path: str, content: bytes | None) -> Mapping[str, Any]:
    try:
        value = {} if content is None else json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CannotConvert(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CannotConvert(f"{path} is no JSON object")
    return value


def _added(tokens: object) -> Iterator[Mapping[str, Any]]:
    if not isinstance(tokens, list):
        raise CannotConvert(f"{TOKENIZER} has the added_tokens {shown(tokens)}")
    for token in tokens:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str) or not is_id(token.get("id")):
            raise CannotConvert(f"{TOKENIZER} has the added token {shown(token)}")
        yield token


def is_id(number: object) -> bool:
    return type(number) is int and 0 <= number < MOST_TOKENS


def read_decoder(files: TokenizerFiles) -> Iterator[tuple[int, Mapping[str, Any]]]:
    tokens = files.config.get("added_tokens_decoder") or {}
    if not isinstance(tokens, dict):
        raise CannotConvert(f"{TOKENIZER_CONFIG} has the added_tokens_decoder {shown(tokens)}")
    for key, token in tokens.items():
        number = int(key) if key.isascii() and key.isdecimal() and len(key) < 10 else -1  # noqa: PLR2004
        if not is_id(number) or not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise CannotConvert(f"{TOKENIZER_CONFIG} has the added token {shown(token)} with the number {shown(key)}")
        yield number, token


def read_numbers(model: Mapping[str, Any]) -> Mapping[str, int]:
    """The numbers of a model's tokens, by their texts."""
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not all(is_id(number) for number in vocabulary.values()):
        raise CannotConvert(f"{TOKENIZER} has a vocabulary without numbers")
    return vocabulary
