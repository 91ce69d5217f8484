"""Reads a vocabulary of tiktoken, a text file with a token in base64 and its rank in each line. Pure.

How texts are split before merges stands only in the repository's code, which is searched for it and never run.
"""

import binascii
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from proxy.gguf.model_config import CannotConvert
from proxy.gguf.pretokenizers import BYTE_BY_CHARACTER, knows_pattern, pattern_steps
from proxy.gguf.sentencepiece import MAX_TOKENS
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import TIKTOKEN, TOKENIZER_CONFIG, TokenizerFiles, read_added_tokens_decoder
from proxy.gguf.tokens import first_duplicate

_RESERVED = 256
"""Ids after the vocabulary that Kimi's tokenizer gives to special tokens (tokenization_kimi.py)."""
_MAX_TOKEN = 512
"""Bytes. A longer token would take too long to derive its merge."""
_PATTERN = re.compile(r'\br"""(.*?)"""', re.DOTALL)
_CHARACTERS = {byte: character for character, byte in BYTE_BY_CHARACTER.items()}


def read_tiktoken(files: TokenizerFiles, merges: Sequence[str] | None = None) -> dict[str, Any]:
    """The vocabulary in the form of a tokenizer.json. `merges` are those of an earlier call, which takes seconds.

    tiktoken merges the two neighbours whose text has the lowest rank; a word that is a token is not merged. As in
    llama.cpp's converter, a token's merge has the two parts that lower ranks make of it; a token that they leave in
    more parts has none. proxy/tokenizing says how many those are.

    Raises CannotConvert for a file that is not such a vocabulary, and for a tokenizer whose code or tokens are unknown.
    """
    pattern = _pattern(files)
    texts = [token.decode("latin-1").translate(_CHARACTERS) for token in _read(files.tiktoken or b"")]
    vocabulary = {text: rank for rank, text in enumerate(texts)}
    if missing := BYTE_BY_CHARACTER.keys() - vocabulary.keys():
        raise CannotConvert(f"{TIKTOKEN} has no token for {len(missing)} of the 256 bytes")
    if len(vocabulary) < len(texts):
        raise CannotConvert(f"{TIKTOKEN} has the same token twice")
    return {
        "added_tokens": list(_special_tokens(files, len(texts))),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pattern_steps(pattern)},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges or list(_merges(texts))},
    }


def _pattern(files: TokenizerFiles) -> str:
    """The raw strings of the tokenizer's code, which it joins to one pattern."""
    path = _code_path(files)
    code = files.code.get(path)
    if code is None:
        raise CannotConvert(f"the repository has no {path}, where its tokenizer has the pattern that splits texts")
    pattern = "|".join(_PATTERN.findall(code.decode(errors="replace")))
    if not knows_pattern(pattern):
        raise CannotConvert(f"{path} splits texts in an unknown way: {shown(pattern)}")
    return pattern


def _code_path(files: TokenizerFiles) -> str:
    match files.config.get("auto_map"):
        case {"AutoTokenizer": [str(name), *_] | str(name)}:
            return f"{name.partition('.')[0]}.py"
    raise CannotConvert(f"{TOKENIZER_CONFIG} does not say which code reads {TIKTOKEN}: it has no auto_map")


def _read(content: bytes) -> Iterator[bytes]:
    lines = content.splitlines()
    if len(lines) > MAX_TOKENS:
        raise CannotConvert(f"{TIKTOKEN} has {len(lines)} lines, more than any model has tokens")
    for rank, line in enumerate(lines):
        encoded, _, number = line.partition(b" ")
        try:
            token = binascii.a2b_base64(encoded, strict_mode=True)
        except binascii.Error:
            token = b""
        if number != b"%d" % rank or not 0 < len(token) <= _MAX_TOKEN:
            raise CannotConvert(f"{TIKTOKEN} has the invalid line {shown(line[:100].decode(errors='replace'))}")
        yield token


def _merges(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """`texts` are in the order of their ranks."""
    lower: dict[str, int] = {}
    for text in texts:
        if len(text) > 1:
            match _merge(text, lower):
                case [left, right]:
                    yield left, right
        lower[text] = len(lower)


def _merge(text: str, ranks: Mapping[str, int]) -> list[str]:
    """The parts of a text after all merges: that of the lowest rank first, of equal ones the leftmost."""
    parts, no_merge = list(text), len(ranks)
    pair_ranks = [ranks.get(left + right, no_merge) for left, right in pairwise(parts)]
    while pair_ranks and (best := min(pair_ranks)) < no_merge:
        at = pair_ranks.index(best)
        del pair_ranks[at]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        for changed in range(max(at - 1, 0), min(at + 1, len(pair_ranks))):
            pair_ranks[changed] = ranks.get(parts[changed] + parts[changed + 1], no_merge)
    return parts


def _special_tokens(files: TokenizerFiles, first: int) -> Iterator[dict[str, Any]]:
    named = dict(read_added_tokens_decoder(files))
    for token_id, token in named.items():
        if token_id < first:
            raise CannotConvert(
                f"{TOKENIZER_CONFIG} has the token {shown(token['content'])} with the id {token_id}, which another "
                f"token has in {TIKTOKEN}"
            )
    if (text := first_duplicate(token["content"] for token in named.values())) is not None:
        raise CannotConvert(f"{TOKENIZER_CONFIG} has two tokens with the text {shown(text)}")
    for token_id in range(first, first + _RESERVED):
        reserved = {"content": f"<|reserved_token_{token_id}|>", "special": True}
        yield {**named.get(token_id, reserved), "id": token_id}
