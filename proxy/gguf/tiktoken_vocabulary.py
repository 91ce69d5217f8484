"""Reads a vocabulary of tiktoken, a text file with a token in base64 and its rank in each line. Pure.

How texts are split before merges, and which tokens are special, may stand only in the repository's code, which is
searched for it and never run.
"""

import binascii
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from proxy.gguf.model_config import CannotConvert
from proxy.gguf.pretokenizers import BYTE_BY_CHARACTER, knows_pattern, pattern_steps
from proxy.gguf.sentencepiece import MAX_TOKENS
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import (
    HY,
    QWEN,
    SENTENCEPIECE,
    TIKTOKEN,
    TOKENIZER_CONFIG,
    TokenizerFiles,
    read_added_tokens_decoder,
)
from proxy.gguf.tokens import first_duplicate

_RESERVED = 256
"""Ids after the vocabulary that Kimi's tokenizer gives to special tokens (tokenization_kimi.py)."""
_MAX_TOKEN = 512
"""Bytes. A longer token would take too long to derive its merge."""
_PATTERN = re.compile(r'^[ \t]*pat_str *= *(r?)("""|")(.*?)\2[ \t]*(?:#.*)?\r?$', re.MULTILINE | re.IGNORECASE)
_PARTS = re.compile(r'\br"""(.*?)"""', re.DOTALL)
_TEXT = re.compile(r'^([A-Z]+) = "(<\|\w+\|>)"\r?$', re.MULTILINE)
_EXTRAS = re.compile(r'^EXTRAS = tuple\(\(?f"<\|extra_\{i\}\|>" for i in range\((\d{1,4})\)\)', re.MULTILINE)
_SPECIALS = re.compile(r"\(\s*([A-Z]+(?:,\s*[A-Z]+)*),?\s*\)\s*\+\s*EXTRAS\b")
_LIST = re.compile(r"^ *self\.special_tokens = \[(.*?)\]\s*$", re.MULTILINE | re.DOTALL)
_START = re.compile(r"^SPECIAL_START_ID = (\d+)\r?$", re.MULTILINE)
_CHARACTERS = {byte: character for character, byte in BYTE_BY_CHARACTER.items()}


def read_tiktoken(files: TokenizerFiles, merges: Sequence[str] | None = None) -> dict[str, Any]:
    """The vocabulary in the form of a tokenizer.json. `merges` are those of an earlier call, which takes seconds.

    tiktoken merges the two neighbours whose text has the lowest rank; a word that is a token is not merged. As in
    llama.cpp's converter, a token's merge has the two parts that lower ranks make of it; a token that they leave in
    more parts has none. proxy/tokenizing says how many those are.

    Raises CannotConvert for a file that is not such a vocabulary, and for a tokenizer whose code or tokens are unknown.
    """
    code, path = _code(files), files.tiktoken_path
    pattern = _pattern(code)
    texts = [token.decode("latin-1").translate(_CHARACTERS) for token in _read(files)]
    vocabulary = {text: rank for rank, text in enumerate(texts)}
    if missing := BYTE_BY_CHARACTER.keys() - vocabulary.keys():
        raise CannotConvert(f"{path} has no token for {len(missing)} of the 256 bytes")
    if len(vocabulary) < len(texts):
        raise CannotConvert(f"{path} has the same token twice")
    return {
        "added_tokens": list(_SPECIAL_TOKENS[path](files, code, len(texts))),
        "normalizer": {"type": "NFC"} if path in _COMPOSED else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pattern_steps(pattern)},
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": merges or list(_merges(texts)),
            "ignore_merges": knows_pattern(pattern, ignores_merges=True),
        },
    }


class _Code(NamedTuple):
    path: str
    text: str


def _code(files: TokenizerFiles) -> _Code:
    match files.config.get("auto_map"):
        case {"AutoTokenizer": [str(name), *_] | str(name)}:
            path = f"{name.partition('.')[0]}.py"
        case _:
            raise CannotConvert(
                f"{TOKENIZER_CONFIG} does not say which code reads {files.tiktoken_path}: it has no auto_map"
            )
    content = files.code.get(path)
    if content is None:
        raise CannotConvert(f"the repository has no {path}, where its tokenizer has the pattern that splits texts")
    return _Code(path, content.decode(errors="replace"))


def _pattern(code: _Code) -> str:
    """The text that is called `pat_str`, or the raw strings that Kimi's code joins to it."""
    found = _PATTERN.findall(code.text)
    texts = {text if raw else text.replace(2 * "\\", "\\") for raw, _, text in found}
    pattern = "|".join(texts or _PARTS.findall(code.text))
    if len(texts) > 1 or not any(knows_pattern(pattern, ignores_merges=ignores) for ignores in (True, False)):
        raise CannotConvert(f"{code.path} splits texts in an unknown way: {shown(pattern)}")
    return pattern


def _read(files: TokenizerFiles) -> Iterator[bytes]:
    lines = (files.tiktoken or b"").splitlines()
    if len(lines) > MAX_TOKENS:
        raise CannotConvert(f"{files.tiktoken_path} has {len(lines)} lines, more than any model has tokens")
    for rank, line in enumerate(lines):
        encoded, _, number = line.partition(b" ")
        try:
            token = binascii.a2b_base64(encoded, strict_mode=True)
        except binascii.Error:
            token = b""
        if number != b"%d" % rank or not 0 < len(token) <= _MAX_TOKEN:
            text = shown(line[:100].decode(errors="replace"))
            raise CannotConvert(f"{files.tiktoken_path} has the invalid line {text}")
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


def _named_or_reserved(files: TokenizerFiles, _: _Code, first: int) -> Iterator[dict[str, Any]]:
    """Kimi's: those of tokenizer_config.json, and a text made of its number for each other id."""
    named = _named(files, first)
    for token_id in range(first, first + _RESERVED):
        reserved = {"content": f"<|reserved_token_{token_id}|>", "special": True}
        yield {**named.get(token_id, reserved), "id": token_id}


def _only_named(files: TokenizerFiles, code: _Code, first: int) -> Iterator[dict[str, Any]]:
    """GLM-4's: those of tokenizer_config.json. Its code may list them too."""
    named = _named(files, first)
    texts = {token["content"] for token in named.values()}
    listed = {text for texts in _LIST.findall(code.text) for text in re.findall('"([^"]+)"', texts)}
    if not texts or not listed <= texts:
        raise CannotConvert(f"{TOKENIZER_CONFIG} does not name all special tokens")
    yield from ({**token, "id": token_id} for token_id, token in named.items())


def _named(files: TokenizerFiles, first: int) -> Mapping[int, Mapping[str, Any]]:
    """The tokens of tokenizer_config.json by id."""
    named = dict(read_added_tokens_decoder(files))
    for token_id, token in named.items():
        if token_id < first:
            raise CannotConvert(
                f"{TOKENIZER_CONFIG} has the token {shown(token['content'])} with the id {token_id}, which another "
                f"token has in {files.tiktoken_path}"
            )
    if (text := first_duplicate(token["content"] for token in named.values())) is not None:
        raise CannotConvert(f"{TOKENIZER_CONFIG} has two tokens with the text {shown(text)}")
    return named


def _listed(files: TokenizerFiles, code: _Code, first: int) -> Iterator[dict[str, Any]]:
    """Those of HunYuan's and Qwen's code: some with a name of their own, then numbered ones."""
    texts, listed, extras = dict(_TEXT.findall(code.text)), _SPECIALS.findall(code.text), _EXTRAS.findall(code.text)
    names = re.findall("[A-Z]+", listed[0]) if len(listed) == 1 else []
    if not names or not texts.keys() >= set(names) or len(extras) != 1 or files.config.get("extra_vocab_file"):
        raise CannotConvert(f"{code.path} lists the special tokens in an unknown way")
    if any(int(start) != first for start in _START.findall(code.text)):
        raise CannotConvert(
            f"{files.tiktoken_path} has {first} tokens, but {code.path} has the first special token at another place"
        )
    special = [*map(texts.__getitem__, names), *(f"<|extra_{number}|>" for number in range(int(extras[0])))]
    yield from ({"content": text, "special": True, "id": token_id} for token_id, text in enumerate(special, first))


_SPECIAL_TOKENS: Mapping[str, Callable[[TokenizerFiles, _Code, int], Iterator[dict[str, Any]]]] = {
    SENTENCEPIECE: _only_named,
    TIKTOKEN: _named_or_reserved,
    HY: _listed,
    QWEN: _listed,
}
"""By the vocabulary's path."""
_COMPOSED = frozenset((HY, QWEN))
"""Vocabularies whose code brings a text into the form NFC first."""
