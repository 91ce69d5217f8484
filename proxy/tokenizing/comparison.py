"""Whether llama.cpp will make of texts what the repository's tokenizer.json makes of them. Pure.

Imports the `tokenizers` package, which the server itself does without: only `worker` imports this.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer

from proxy.chat.conversations import spoken
from proxy.gguf.header import read_header
from proxy.gguf.special_tokens import special_texts
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import SPECIALS, TOKENIZER, TOKENIZER_CONFIG
from proxy.tokenizing.llama import LlamaTokenizer, UnknownTokenizer
from proxy.tokenizing.texts import RARE, USUAL, usual_texts
from proxy.tokenizing.verdict import Verdict, not_compared

_MOST_SPECIALS = 64
_SHOWN_TOKENS = 6
_SPELLED = re.compile(r"<0x[89A-F][0-9A-F]>")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True)
class _Difference:
    piece: str
    own: str
    llama: str

    def __str__(self) -> str:
        return f"of {self.piece!r} {TOKENIZER} makes {self.own}, and llama.cpp would make {self.llama}"


def compare(files: Mapping[str, bytes], header: bytes, sample: str) -> Verdict:
    """`files` are the tokenizer's by path, `header` begins a GGUF, `sample` is a rendered conversation or "".

    Refused are differences in the sample and in usual texts, and special tokens that are not found; what only few texts
    have is said.
    """
    try:
        own = _own_tokenizer(files)
    except Exception as error:  # noqa: BLE001 - the package raises what it likes for a file that it cannot read
        return not_compared(f"the tokenizers package cannot read it ({str(error)[:200]})")
    try:
        llama = LlamaTokenizer(read_header(header).metadata)
    except UnknownTokenizer as error:
        return not_compared(f"{error} is not known here")
    return _Comparison(own, llama, sample).verdict(_says_what_it_adds(files))


def _own_tokenizer(files: Mapping[str, bytes]) -> Tokenizer:
    """As transformers loads it: with the added tokens of tokenizer_config.json too."""
    own = Tokenizer.from_str(files[TOKENIZER].decode())
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
    own.add_tokens([_found_anywhere(token) if token.special else token for token in added.values()])
    return own


def _found_anywhere(token: AddedToken) -> AddedToken:
    """Older files have special tokens normalized, and were made with tokenizers that find them everywhere."""
    flags = {key: getattr(token, key) for key in _FLAGS} | {"normalized": False}
    return AddedToken(token.content, **flags)


def _says_what_it_adds(files: Mapping[str, bytes]) -> bool:
    """Whether tokenizer.json alone decides what begins and ends a text."""
    config = json.loads(files.get(TOKENIZER_CONFIG, b"{}"))
    return not any(isinstance(config.get(f"add_{kind}_token"), bool) for kind in ("bos", "eos"))


class _Comparison:
    def __init__(self, own: Tokenizer, llama: LlamaTokenizer, sample: str) -> None:
        self._own, self._llama, self._sample = own, llama, sample
        self._added = own.get_added_tokens_decoder()
        self._used = {number for number in self._own_numbers(sample) if number in self._added}

    def verdict(self, says_what_it_adds: bool) -> Verdict:
        refused = next(self._refusals(says_what_it_adds), "")
        return Verdict(refused, () if refused else tuple(self._remarks()))

    def _refusals(self, says_what_it_adds: bool) -> Iterator[str]:
        yield from self._wrong_tokens()
        if self._sample and (difference := self._difference(self._sample)):
            yield f"in the chat template {difference}"
        for text in usual_texts(self._llama.pre):
            if not self._is_spelled_in_bytes(text) and (difference := self._difference(self._in_place(text))):
                yield str(difference)
        if says_what_it_adds and not self._sample and self._own.post_processor is not None:
            own, llama = self._own.encode("a").ids, self._llama.encode("a", add_special=True)
            if own != llama:
                yield str(_Difference("a", self._own_texts(own), self._llama_texts(llama)))

    def _remarks(self) -> Iterator[str]:
        spelled = {shown(text): text for text in usual_texts(self._llama.pre) if self._is_spelled_in_bytes(text)}
        found = {what: self._difference(self._in_place(text)) for what, text in {**spelled, **RARE}.items()}
        others = {what: difference for what, difference in found.items() if difference}
        if others:
            first = next(iter(others.values()))
            yield f"llama.cpp makes other tokens than {TOKENIZER} of {', '.join(others)}: {first}"
        if self._sample and (difference := self._difference(USUAL[0])):
            yield f"a text without the chat template begins otherwise: {difference}"
        if lost := list(self._lost_tokens()):
            names = ", ".join(map(shown, lost[:3]))
            yield f"tokens of {TOKENIZER} that the GGUF does not have: {len(lost)}, as {names}"
        known = [at for at, token in self._added.items() if token.special and at < len(self._llama.texts)]
        first_used = sorted(known, key=lambda number: number not in self._used)[:_MOST_SPECIALS]
        beside = [self._added[number].content for number in first_used if self._beside(number)]
        if beside:
            yield f"llama.cpp makes other tokens than {TOKENIZER} beside {', '.join(map(shown, beside[:3]))}"

    def _wrong_tokens(self) -> Iterator[str]:
        for number, token in sorted(self._added.items()):
            text = token.content
            if number >= len(self._llama.texts):
                if number in self._used:
                    yield (
                        f"the chat template has the token {shown(text)}, which is number {number} by {TOKENIZER}, "
                        f"and the weights have rows for {len(self._llama.texts)}"
                    )
            elif self._llama.texts[number] != text and (token.special or number in self._used):
                yield (
                    f"the token {shown(text)} is number {number} by {TOKENIZER}, where the GGUF would have "
                    f"{shown(self._llama.texts[number])}"
                )
            elif (token.special or number in self._used) and not self._finds(number):
                yield (
                    f"the token {shown(text)} is number {number} by {TOKENIZER}, and llama.cpp would make "
                    f"{self._llama_texts(self._llama_numbers(text))} of it"
                )

    def _lost_tokens(self) -> Iterator[str]:
        """Those that nobody needs for a conversation."""
        for number, token in sorted(self._added.items()):
            is_there = number < len(self._llama.texts) and self._llama.texts[number] == token.content
            if not is_there or not (token.special or self._finds(number)):
                yield token.content

    def _finds(self, number: int) -> bool:
        """Whether llama.cpp makes of a token's text what tokenizer.json makes of it."""
        text = self._llama.texts[number]
        return number in self._llama.specials or self._llama_numbers(text) == self._own_numbers(text)

    def _is_spelled_in_bytes(self, text: str) -> bool:
        """Whether the tokenizer has no token of some characters: then the model was hardly made for such a text."""
        return any(map(_SPELLED.fullmatch, self._own.encode(text, add_special_tokens=False).tokens))

    def _in_place(self, text: str) -> str:
        """The text as a user's turn of the conversation, or alone where none can be found."""
        place = next((said for said in (spoken(1, "u"), spoken(0, "u")) if said in self._sample), None)
        return text if place is None else self._sample.replace(place, text)

    def _beside(self, number: int) -> _Difference | None:
        special = self._added[number].content
        return self._difference(self._in_place(f"one{special}two {special} three\n{special}\n{special}{special}4"))

    def _difference(self, text: str) -> _Difference | None:
        encoded = self._own.encode(text, add_special_tokens=False)
        own, llama = encoded.ids, self._llama_numbers(text)
        if own == llama:
            return None
        pairs = zip(own, llama, strict=False)
        first = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(own), len(llama)))
        behind = slice(first, first + _SHOWN_TOKENS)
        start, stop = self._span(encoded.offsets[behind], len(text))
        return _Difference(text[start:stop], self._own_texts(own[behind]), self._llama_texts(llama[behind]))

    @staticmethod
    def _span(offsets: Iterable[tuple[int, int]], length: int) -> tuple[int, int]:
        places = list(offsets)
        return (places[0][0], places[-1][1]) if places else (max(length - 1, 0), length)

    def _own_numbers(self, text: str) -> list[int]:
        return list(self._own.encode(text, add_special_tokens=False).ids)

    def _llama_numbers(self, text: str) -> list[int]:
        try:
            return self._llama.encode(text)
        except KeyError:
            # llama.cpp would end here.
            return []

    def _own_texts(self, numbers: Iterable[int]) -> str:
        return _listed((number, self._own.id_to_token(number)) for number in numbers)

    def _llama_texts(self, numbers: Iterable[int]) -> str:
        return _listed((number, self._llama.texts[number]) for number in numbers)


def _listed(tokens: Iterable[tuple[int, Any]]) -> str:
    return " ".join(f"{text!r} ({number})" for number, text in tokens) or "nothing"
