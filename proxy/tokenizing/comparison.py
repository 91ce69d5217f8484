"""Compares a repository's tokenizer with llama.cpp's reading of the GGUF made from it. Pure.

The former is its tokenizer.json or its vocabulary of tiktoken.

It imports the `tokenizers` package, which the server must not load: import it from `token_worker` only.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer

from proxy.chat.conversations import ordinary_text
from proxy.gguf.header import Field, read_header
from proxy.gguf.special_tokens import special_texts
from proxy.gguf.tensors import shown
from proxy.gguf.tiktoken_vocabulary import read_tiktoken
from proxy.gguf.tokenizer_files import SPECIALS, TOKENIZER, TOKENIZER_CONFIG, TokenizerFiles, tiktoken_path
from proxy.tokenizing.llama_tokenizer import LlamaTokenizer, UnknownTokenizer
from proxy.tokenizing.sample_texts import COMMON_TEXTS, RARE_TEXTS, common_texts
from proxy.tokenizing.verdict import Verdict, not_compared

_MAX_SPECIALS = 64
_SHOWN_TOKENS = 6
_NON_ASCII_BYTE = re.compile(r"<0x[89A-F][0-9A-F]>")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True)
class _Difference:
    path: str
    text: str
    own_tokens: str
    llama_tokens: str

    def __str__(self) -> str:
        return f"in {self.text!r}, {self.path} makes {self.own_tokens}, and llama.cpp would make {self.llama_tokens}"


def compare_tokenizers(files: Mapping[str, bytes], header: bytes, sample: str) -> Verdict:
    """`files` has the tokenizer's files by path, `header` begins a GGUF, `sample` is a rendered conversation or "".

    A difference in the sample or in a common text is a refusal, and so is a special token that llama.cpp does not
    find. A difference in rare texts is a remark.
    """
    metadata = read_header(header).metadata
    try:
        own = _own_tokenizer(files, metadata)
    except Exception as error:  # noqa: BLE001 - the package raises any exception for a file that it cannot read
        return not_compared(f"the tokenizers package cannot read it ({str(error)[:200]})")
    try:
        llama = LlamaTokenizer(metadata)
    except UnknownTokenizer as error:
        return not_compared(f"the proxy does not know {error}")
    checks_ends = not sample and own.post_processor is not None and not _config_sets_ends(files)
    path = TOKENIZER if TOKENIZER in files else tiktoken_path(files)
    return _Comparison(own, llama, sample, path, checks_ends=checks_ends).verdict()


def _own_tokenizer(files: Mapping[str, bytes], metadata: Mapping[str, Field]) -> Tokenizer:
    """As transformers loads it: also with the added tokens of tokenizer_config.json."""
    own = Tokenizer.from_str(files[TOKENIZER].decode() if TOKENIZER in files else _tiktoken(files, metadata))
    own.no_truncation()
    own.no_padding()
    config, specials = (json.loads(files.get(path, b"{}")) for path in (TOKENIZER_CONFIG, SPECIALS))
    added = {token.content: token for token in own.get_added_tokens_decoder().values()}
    for _, token in sorted((config.get("added_tokens_decoder") or {}).items(), key=lambda item: int(item[0])):
        flags = {key: token[key] for key in _FLAGS if isinstance(token.get(key), bool)}
        added[token["content"]] = AddedToken(token["content"], **flags)
    for text in special_texts(specials, config):
        if text not in added and own.token_to_id(text) is not None:
            added[text] = AddedToken(text, special=True, normalized=False)
    own.add_tokens([_unnormalized(token) if token.special else token for token in added.values()])
    return own


def _tiktoken(files: Mapping[str, bytes], metadata: Mapping[str, Field]) -> str:
    """As a tokenizer.json, with the merges of the GGUF. tiktoken does not merge a word that is a token."""
    tokenizer = read_tiktoken(TokenizerFiles.read(files), metadata["tokenizer.ggml.merges"].value)  # type: ignore[arg-type]
    added = [{**dict.fromkeys(_FLAGS, False), **token} for token in tokenizer["added_tokens"]]
    return json.dumps({**tokenizer, "added_tokens": added, "model": {**tokenizer["model"], "ignore_merges": True}})


def _unnormalized(token: AddedToken) -> AddedToken:
    """Older files normalize special tokens, but the tokenizers that wrote these files found them everywhere."""
    flags = {key: getattr(token, key) for key in _FLAGS} | {"normalized": False}
    return AddedToken(token.content, **flags)


def _config_sets_ends(files: Mapping[str, bytes]) -> bool:
    """Whether tokenizer_config.json overrides which tokens tokenizer.json adds at the ends of a text."""
    config = json.loads(files.get(TOKENIZER_CONFIG, b"{}"))
    return any(isinstance(config.get(f"add_{role}_token"), bool) for role in ("bos", "eos"))


class _Comparison:
    def __init__(self, own: Tokenizer, llama: LlamaTokenizer, sample: str, path: str, *, checks_ends: bool) -> None:
        self._own, self._llama, self._sample, self._checks_ends = own, llama, sample, checks_ends
        self._path = path
        self._added = own.get_added_tokens_decoder()
        self._used = {token_id for token_id in self._own_ids(sample) if token_id in self._added}

    def verdict(self) -> Verdict:
        refusal = next(self._refusals(), "")
        return Verdict(refusal, () if refusal else tuple(self._remarks()))

    def _refusals(self) -> Iterator[str]:
        yield from self._wrong_tokens()
        if self._sample and (difference := self._difference(self._sample)):
            yield f"the tokens of the chat template would differ: {difference}"
        for text in common_texts(self._llama.pre):
            if not self._needs_bytes(text) and (difference := self._difference(self._as_user_turn(text))):
                yield f"the tokens of common texts would differ: {difference}"
        if self._checks_ends:
            own, llama = self._own.encode("a").ids, self._llama.encode("a", add_special=True)
            if own != llama:
                difference = _Difference(self._path, "a", self._list_own(own), self._list_llama(llama))
                yield f"the tokens that begin and end a text would differ: {difference}"

    def _remarks(self) -> Iterator[str]:
        unknown = {shown(text): text for text in common_texts(self._llama.pre) if self._needs_bytes(text)}
        differences = {
            description: difference
            for description, text in {**unknown, **RARE_TEXTS}.items()
            if (difference := self._difference(self._as_user_turn(text)))
        }
        if differences:
            first = next(iter(differences.values()))
            yield f"llama.cpp makes other tokens than {self._path} for {', '.join(differences)}: {first}"
        if self._sample and (difference := self._difference(COMMON_TEXTS[0])):
            yield f"without the chat template, a text begins with other tokens: {difference}"
        if missing := list(self._missing_tokens()):
            names = ", ".join(map(shown, missing[:3]))
            yield f"tokens of {self._path} that the GGUF lacks: {len(missing)}, such as {names}"
        if self._path != TOKENIZER and (unmade := self._llama.unmade_tokens()):
            names = ", ".join(map(shown, unmade[:3]))
            yield f"tokens of {self._path} that llama.cpp never makes of words: {len(unmade)}, such as {names}"
        specials = [at for at, token in self._added.items() if token.special and at < len(self._llama.texts)]
        used_first = sorted(specials, key=lambda token_id: token_id not in self._used)[:_MAX_SPECIALS]
        wrong = [self._added[token_id].content for token_id in used_first if self._difference_around(token_id)]
        if wrong:
            yield f"llama.cpp makes other tokens than {self._path} next to {', '.join(map(shown, wrong[:3]))}"

    def _wrong_tokens(self) -> Iterator[str]:
        for token_id, token in sorted(self._added.items()):
            text, is_used = token.content, token_id in self._used
            if token_id >= len(self._llama.texts):
                if is_used:
                    yield (
                        f"the chat template uses the token {shown(text)}, to which {self._path} gives the id "
                        f"{token_id}, but the weights have only {len(self._llama.texts)} rows"
                    )
            elif not (token.special or is_used):
                continue
            elif self._llama.texts[token_id] != text:
                yield (
                    f"{self._path} gives the token {shown(text)} the id {token_id}, but the GGUF would give this id to "
                    f"{shown(self._llama.texts[token_id])}"
                )
            elif not self._finds(token_id):
                yield (
                    f"{self._path} gives the token {shown(text)} the id {token_id}, but llama.cpp would make "
                    f"{self._list_llama(self._llama_ids(text))} of its text"
                )

    def _missing_tokens(self) -> Iterator[str]:
        """Added tokens that no conversation needs and that the GGUF lacks, or that llama.cpp does not find."""
        for token_id, token in sorted(self._added.items()):
            is_there = token_id < len(self._llama.texts) and self._llama.texts[token_id] == token.content
            if not is_there or not (token.special or self._finds(token_id)):
                yield token.content

    def _finds(self, token_id: int) -> bool:
        """Whether llama.cpp and tokenizer.json make the same of the token's text."""
        text = self._llama.texts[token_id]
        return token_id in self._llama.special_ids or self._llama_ids(text) == self._own_ids(text)

    def _needs_bytes(self, text: str) -> bool:
        """Whether the tokenizer writes a character as bytes. Then the model was hardly trained on such texts."""
        return any(map(_NON_ASCII_BYTE.fullmatch, self._own.encode(text, add_special_tokens=False).tokens))

    def _as_user_turn(self, text: str) -> str:
        """The sample with this text as the user's message; the text alone if the sample has no user's message."""
        messages = (ordinary_text(1, "u"), ordinary_text(0, "u"))
        message = next((message for message in messages if message in self._sample), None)
        return text if message is None else self._sample.replace(message, text)

    def _difference_around(self, token_id: int) -> _Difference | None:
        special = self._added[token_id].content
        return self._difference(self._as_user_turn(f"one{special}two {special} three\n{special}\n{special}{special}4"))

    def _difference(self, text: str) -> _Difference | None:
        encoding = self._own.encode(text, add_special_tokens=False)
        own, llama = encoding.ids, self._llama_ids(text)
        if own == llama:
            return None
        pairs = zip(own, llama, strict=False)
        first = next((at for at, (left, right) in enumerate(pairs) if left != right), min(len(own), len(llama)))
        shown_part = slice(first, first + _SHOWN_TOKENS)
        start, stop = self._span(encoding.offsets[shown_part], len(text))
        lists = self._list_own(own[shown_part]), self._list_llama(llama[shown_part])
        return _Difference(self._path, text[start:stop], *lists)

    @staticmethod
    def _span(offsets: Iterable[tuple[int, int]], length: int) -> tuple[int, int]:
        spans = list(offsets)
        return (spans[0][0], spans[-1][1]) if spans else (max(length - 1, 0), length)

    def _own_ids(self, text: str) -> list[int]:
        return list(self._own.encode(text, add_special_tokens=False).ids)

    def _llama_ids(self, text: str) -> list[int]:
        try:
            return self._llama.encode(text)
        except KeyError:
            # llama.cpp would abort here.
            return []

    def _list_own(self, ids: Iterable[int]) -> str:
        return _list((token_id, self._own.id_to_token(token_id)) for token_id in ids)

    def _list_llama(self, ids: Iterable[int]) -> str:
        return _list((token_id, self._llama.texts[token_id]) for token_id in ids)


def _list(tokens: Iterable[tuple[int, Any]]) -> str:
    return " ".join(f"{text!r} ({token_id})" for token_id, text in tokens) or "nothing"
