"""Parses the files of a repository that define its tokenizer. Pure."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.gguf.model_config import CannotConvert
from proxy.gguf.sentencepiece import MAX_TOKENS
from proxy.gguf.tensors import shown

TOKENIZER = "tokenizer.json"
SENTENCEPIECE = "tokenizer.model"
RWKV = "rwkv_vocab_v20230424.txt"
TIKTOKEN, HY, QWEN = "tiktoken.model", "hy.tiktoken", "qwen.tiktoken"
"""Vocabularies of tiktoken: Kimi's, HunYuan's and that of the first Qwen."""
TIKTOKENS = (TIKTOKEN, HY, QWEN)
_FIRST_LINE = re.compile(rb"[A-Za-z0-9+/]+=* 0\r?\n")
TOKENIZER_CODE = tuple(f"tokenization_{name}.py" for name in ("kimi", "moonshot", "hy", "qwen", "chatglm"))
"""Code that reads a vocabulary of tiktoken. It is searched for what no other file has, and never run."""
PLAMO = "tokenizer.jsonl"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIALS = "special_tokens_map.json"
ADDED = "added_tokens.json"
GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """The parsed files; a missing one is empty."""

    tokenizer: Mapping[str, Any]
    config: Mapping[str, Any]
    """tokenizer_config.json."""
    specials: Mapping[str, Any]
    """special_tokens_map.json."""
    added: Mapping[str, Any]
    """added_tokens.json."""
    generation: Mapping[str, Any]
    model: bytes | None
    """tokenizer.model, not parsed, if it is one of SentencePiece."""
    rwkv: bytes | None = None
    """RWKV's vocabulary, not parsed."""
    tiktoken: bytes | None = None
    """A vocabulary of tiktoken, not parsed. GLM-4's is called tokenizer.model."""
    tiktoken_path: str = ""
    plamo: bytes | None = None
    """PLaMo's vocabulary, not parsed."""
    code: Mapping[str, bytes] = field(default_factory=dict)
    """The files of TOKENIZER_CODE by path."""

    @classmethod
    def read(cls, contents: Mapping[str, bytes]) -> "TokenizerFiles":
        paths = (TOKENIZER, TOKENIZER_CONFIG, SPECIALS, ADDED, GENERATION_CONFIG)
        tokenizer, config, specials, added, generation = (_object(path, contents.get(path)) for path in paths)
        code = {path: contents[path] for path in TOKENIZER_CODE if path in contents}
        path = tiktoken_path(contents)
        model, rwkv, plamo = (contents.get(one) if one != path else None for one in (SENTENCEPIECE, RWKV, PLAMO))
        tiktoken = contents.get(path)
        return cls(tokenizer, config, specials, added, generation, model, rwkv, tiktoken, path, plamo, code)

    @property
    def tiktoken_size(self) -> int:
        """How many tokens the vocabulary of tiktoken has. Special tokens have the next ids."""
        return len((self.tiktoken or b"").splitlines())

    @property
    def added_tokens(self) -> Sequence[Mapping[str, Any]]:
        """`added_tokens` of tokenizer.json."""
        return list(_added(self.tokenizer.get("added_tokens") or []))


def tiktoken_path(contents: Mapping[str, bytes]) -> str:
    """The path of a vocabulary of tiktoken; empty if none is among these files."""
    if _FIRST_LINE.match(contents.get(SENTENCEPIECE, b"")):
        return SENTENCEPIECE
    return next((path for path in TIKTOKENS if path in contents), "")


def _object(path: str, content: bytes | None) -> Mapping[str, Any]:
    try:
        value = {} if content is None else json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CannotConvert(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CannotConvert(f"{path} is not a JSON object")
    return value


def _added(tokens: object) -> Iterator[Mapping[str, Any]]:
    if not isinstance(tokens, list):
        raise CannotConvert(f"{TOKENIZER} has the added_tokens {shown(tokens)}, which are not a list")
    for token in tokens:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str) or not is_id(token.get("id")):
            raise CannotConvert(f"{TOKENIZER} has the invalid added token {shown(token)}")
        yield token


def is_id(number: object) -> bool:
    return type(number) is int and 0 <= number < MAX_TOKENS


def read_added_tokens_decoder(files: TokenizerFiles) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Id and fields of each token in `added_tokens_decoder` of tokenizer_config.json."""
    tokens = files.config.get("added_tokens_decoder") or {}
    if not isinstance(tokens, dict):
        raise CannotConvert(f"{TOKENIZER_CONFIG} has the added_tokens_decoder {shown(tokens)}, which is not an object")
    for key, token in tokens.items():
        token_id = int(key) if re.fullmatch("[0-9]{1,9}", key) else -1
        if not is_id(token_id) or not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise CannotConvert(
                f"{TOKENIZER_CONFIG} has the invalid added token {shown(token)} with the id {shown(key)}"
            )
        yield token_id, token


def read_token_ids(model: Mapping[str, Any]) -> Mapping[str, int]:
    """Text → id of each token in the vocabulary of a tokenizer.json's `model`."""
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not all(is_id(token_id) for token_id in vocabulary.values()):
        raise CannotConvert(f"{TOKENIZER} has a vocabulary without token ids")
    return vocabulary
