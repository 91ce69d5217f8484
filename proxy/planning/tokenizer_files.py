"""A repository's tokenizer files as Ollama's converter reads them rightly: mended, made, or refused. Pure.

The converter takes tokenizer.model where there is one, else tokenizer.json, which it believes to be a byte-level BPE
(convert/tokenizer.go, v0.24 and v0.33). Each repair was run on both: the same tokens as of a repository without need.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from proxy.errors import Refusal
from proxy.gguf.sentencepiece import MOST_TOKENS, Kind, Piece, count_pieces, read_pieces, write_pieces
from proxy.planning.weights import TOKENIZER_CONFIG, TOKENIZERS, NotConvertible, json_object

TOKENIZER, SENTENCEPIECE = TOKENIZERS
ADDED = "added_tokens.json"
SPECIALS = "special_tokens_map.json"
# By the text of its splits the converter knows a pre-tokenizer; it takes all others for llama.cpp's default.
KNOWN_SPLITS = {
    "d98f9631be1e9607a9848c26c1f9eac1aa9fc21ac6ba82a2fc0741af9780a48f",  # Llama 3
    "03df5c5863ad70781dcfdef491ead25140f895fe8010964be0daefe27be32b02",  # DeepSeek LLM
    "21cde974d587f0d54dc8d56b183cc1e6239600172035c68fbd6d4b9f8da0576e",  # DeepSeek Coder
    "1ff7f41064896984db5d1bb6ff64fa4bc29007d08c1b439e505b7392777a319e",  # Qwen2
    "00431aed57e696b747435f734d1e3b9b1bfd931a121fb5cac7129e97c181e9ba",  # Qwen3.5
    "b92c0824a58e1d8dc3221cf3e12c433c3a86f57e46d57229993489f0798e7702",  # Laguna
}
SPECIAL = (Kind.UNKNOWN, Kind.CONTROL, Kind.USER_DEFINED)
BEGINNERS = ("Llama", "CodeLlama", "Gemma")
"""Classes of tokenizers that begin a text with a token unless they are told not to."""


@dataclass(slots=True)
class TokenizerFiles:
    """What is sent instead of a file; None leaves it out."""

    changed: dict[str, bytes | None] = field(default_factory=dict)
    repairs: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tokens: dict[int, str] = field(default_factory=dict, compare=False)
    """Added tokens by their number, as far as they are known."""
    read: set[str] = field(default_factory=set, compare=False)
    """Large files that are known to be JSON by now."""

    @property
    def mended(self) -> dict[str, bytes]:
        """What is sent in the place of a file, or made."""
        return {path: content for path, content in self.changed.items() if content is not None}

    def add(self, other: "TokenizerFiles") -> None:
        self.changed |= other.changed
        self.repairs += other.repairs
        self.warnings += other.warnings
        self.tokens |= other.tokens
        self.read |= other.read


def check_tokenizer(repository: str, contents: Mapping[str, bytes], rows: int | None = None) -> TokenizerFiles:
    """For models of text; `contents` has the tokenizer files that could be read. Raises Refusal.

    `rows` is how many tokens the weights know, where that is known.
    """
    found = TokenizerFiles()
    _mend_specials(repository, contents, found)
    tokenizer = json_object(f"{repository}/{TOKENIZER}", contents[TOKENIZER]) if TOKENIZER in contents else None
    found.read.add(TOKENIZER)
    pieces = count_pieces(contents[SENTENCEPIECE]) if SENTENCEPIECE in contents else None
    if SENTENCEPIECE in contents and pieces is None:
        if tokenizer is None:
            raise NotConvertible(
                f"{repository}/{SENTENCEPIECE} is not a SentencePiece model, and no {TOKENIZER} is there"
            )
        found.changed[SENTENCEPIECE] = None
        found.repairs.append(f"{SENTENCEPIECE} is left out: it is not a SentencePiece model")
    if pieces is not None and rows is not None and pieces > rows:
        raise NotConvertible(
            f"{repository}/{SENTENCEPIECE} has {pieces} pieces, but the weights have rows for {rows}: the model would "
            "not load"
        )
    _mend_config(repository, tokenizer, contents, found)
    if tokenizer is None and pieces is not None:
        tokenizer = _special_pieces(contents[SENTENCEPIECE], contents, found)
    if tokenizer is not None:
        try:
            read = _Tokenizer(tokenizer)
            _check_json(repository, read, pieces, rows, contents, found)
            found.tokens = {number: str(token["content"]) for number, token in read.added.items()}
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise Refusal(f"{repository}/{TOKENIZER} cannot be understood: {error!r}") from error
    return found


class _Tokenizer:
    """The parts of a tokenizer.json that decide here."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields
        self.model: Mapping[str, Any] = fields["model"]
        self.kind = self.model.get("type") or ("BPE" if "merges" in self.model else "")
        self.added: Mapping[int, Mapping[str, Any]] = {token["id"]: token for token in fields.get("added_tokens") or ()}

    @property
    def vocabulary(self) -> Mapping[str, int]:
        vocabulary = self.model.get("vocab")
        return vocabulary if isinstance(vocabulary, dict) else {}

    def text(self, number: int) -> str | None:
        """A token's, by its number."""
        if number in self.added:
            return str(self.added[number]["content"])
        return self._texts.get(number)

    @cached_property
    def _texts(self) -> Mapping[int, str]:
        return {number: text for text, number in self.vocabulary.items()}

    @property
    def is_sentencepiece(self) -> bool:
        """A SentencePiece BPE in Hugging Face's dress."""
        return self.kind == "BPE" and bool(self.model.get("byte_fallback")) and not self._is_byte_level

    @property
    def _is_byte_level(self) -> bool:
        return "ByteLevel" in json.dumps([self.fields.get("pre_tokenizer"), self.fields.get("decoder")])

    def splits(self) -> Iterator[str]:
        pre = self.fields.get("pre_tokenizer") or {}
        for part in pre.get("pretokenizers") or ():
            if part.get("type") == "Split" and (text := (part.get("pattern") or {}).get("Regex")):
                yield text


def _check_json(
    repository: str,
    tokenizer: _Tokenizer,
    pieces: int | None,
    rows: int | None,
    contents: Mapping[str, bytes],
    found: TokenizerFiles,
) -> None:
    _check_numbers(tokenizer.added)
    for merge in tokenizer.model.get("merges") or ():
        _pair(merge)
    if rows is not None:
        tokenizer = _without_rows(tokenizer, rows, found)
    if pieces is not None and tokenizer.kind == "Unigram":
        # Its vocabulary is a list, on which the converter fails although it takes the pieces.
        fields = {**tokenizer.fields, "model": {"type": "BPE", "vocab": {}}}
        found.changed[TOKENIZER] = json.dumps(fields).encode()
        found.repairs.append(f"{TOKENIZER}: its vocabulary left out, which Ollama reads from {SENTENCEPIECE}")
    if pieces is not None:
        _add_tokens(tokenizer, pieces, rows, contents, found)
    elif tokenizer.is_sentencepiece:
        model = make_sentencepiece(tokenizer)
        found.changed[SENTENCEPIECE] = model
        found.repairs.append(f"{SENTENCEPIECE} made of {TOKENIZER}, which Ollama takes for a byte-level one")
        _add_tokens(tokenizer, count_pieces(model) or 0, rows, contents, found)
    elif tokenizer.kind != "BPE" or not tokenizer.model.get("merges"):
        kind = tokenizer.kind or "an unknown kind"
        raise NotConvertible(f"{repository}/{TOKENIZER} is of {kind}: Ollama reads BPE with merges, and SentencePiece")
    else:
        _fill_holes(tokenizer, found)
        single = isinstance(pre := tokenizer.fields.get("pre_tokenizer"), dict) and pre.get("type") == "Split"
        digest = hashlib.sha256("".join(tokenizer.splits()).encode()).hexdigest()
        # Without any split, as SmolLM2, it takes the default too, which is not GPT-2's: 10 tokens for 9 (v0.24, v0.33).
        if single or digest not in KNOWN_SPLITS:
            found.warnings.append("Ollama does not know this tokenizer's way to split text and takes its default")


def _mend_specials(repository: str, contents: Mapping[str, bytes], found: TokenizerFiles) -> None:
    """Strings in this list end the whole server where there is a tokenizer.model, also in Gemma 2's own files."""
    if SPECIALS not in contents:
        return
    fields = json_object(f"{repository}/{SPECIALS}", contents[SPECIALS])
    tokens = fields.get("additional_special_tokens")
    if isinstance(tokens, list) and any(isinstance(token, str) for token in tokens):
        fields["additional_special_tokens"] = [
            {"content": token} if isinstance(token, str) else token for token in tokens
        ]
        found.changed[SPECIALS] = json.dumps(fields).encode()
        found.repairs.append(f"{SPECIALS}: additional_special_tokens written as objects, as Ollama reads them")


def _add_tokens(
    tokenizer: _Tokenizer, pieces: int, rows: int | None, contents: Mapping[str, bytes], found: TokenizerFiles
) -> None:
    """Tokens beyond the pieces stand only in tokenizer.json in newer repositories; Ollama would call them [PAD0].

    It wants every number beyond them, and no other; one that the weights have no row for makes a model not load.
    """
    try:
        written = json_object(ADDED, contents.get(ADDED, b"{}"))
    except Refusal:
        written = {}
    beyond = {number: token["content"] for number, token in tokenizer.added.items() if number >= pieces}
    if rows is not None:
        others = {number: text for text, number in written.items() if type(number) is int and pieces <= number < rows}
        beyond = others | beyond
    wanted = {
        beyond.get(number, f"<|unused_{number}|>"): number for number in range(pieces, max(beyond, default=-1) + 1)
    }
    if wanted.items() <= written.items() and all(
        wanted.get(text) == number or tokenizer.text(number) == text for text, number in written.items()
    ):
        return
    found.changed[ADDED] = json.dumps(wanted).encode() if wanted else None
    found.repairs.append(f"{ADDED} made of {TOKENIZER}: {len(wanted)} tokens beyond {SENTENCEPIECE}")


def _without_rows(tokenizer: _Tokenizer, rows: int, found: TokenizerFiles) -> _Tokenizer:
    """Without tokens that the weights do not know, as a [PAD] that was added in training alone."""
    beyond = {number for number in (*tokenizer.vocabulary.values(), *tokenizer.added) if number >= rows}
    if not beyond:
        return tokenizer
    model = dict(tokenizer.model)
    if tokenizer.vocabulary:
        model["vocab"] = {text: number for text, number in tokenizer.vocabulary.items() if number < rows}
        merges = model.get("merges") or ()
        model["merges"] = [merge for merge in merges if "".join(_pair(merge)) in model["vocab"]]
    added = [token for number, token in tokenizer.added.items() if number < rows]
    fields = {**tokenizer.fields, "model": model, "added_tokens": added}
    found.changed[TOKENIZER] = json.dumps(fields, ensure_ascii=False).encode()
    found.repairs.append(f"{TOKENIZER}: {len(beyond)} tokens left out that the weights have no rows for")
    return _Tokenizer(fields)


def _pair(merge: str | list[str]) -> Sequence[str]:
    """The two halves, in either way of writing them."""
    pair = merge if isinstance(merge, list) else merge.split(" ")
    left, right = pair
    if not isinstance(left, str) or not isinstance(right, str):
        raise TypeError(f"a merge of {left!r:.50} and {right!r:.50}")
    return pair


def _special_pieces(model: bytes, contents: Mapping[str, bytes], found: TokenizerFiles) -> dict[str, Any]:
    """A tokenizer.json as far as the converter needs one beside tokenizer.model: to know where a text ends."""
    tokens = {piece.text: number for number, piece in enumerate(read_pieces(model)) if piece.kind in SPECIAL}
    if ADDED in contents:
        tokens |= json_object(ADDED, contents[ADDED])
    added = [{"id": number, "content": text, "special": True} for text, number in tokens.items()]
    fields = {"added_tokens": added, "model": {"type": "BPE", "vocab": {}}}
    found.changed[TOKENIZER] = json.dumps(fields).encode()
    found.repairs.append(f"{TOKENIZER} made of {SENTENCEPIECE}: Ollama looks there for the special tokens")
    return fields


def _mend_config(
    repository: str, tokenizer: Mapping[str, Any] | None, contents: Mapping[str, bytes], found: TokenizerFiles
) -> None:
    """Whether a text begins with a token of its own: where nothing says it, Ollama and transformers differ."""
    if TOKENIZER_CONFIG not in contents:
        found.warnings.append(
            f"{repository} has no {TOKENIZER_CONFIG}: the model may not know where to begin and to stop"
        )
        return
    config = json_object(f"{repository}/{TOKENIZER_CONFIG}", contents[TOKENIZER_CONFIG])
    if not isinstance(config.get("chat_template"), str | list | None):
        raise Refusal(f"{repository}/{TOKENIZER_CONFIG} has a chat_template that is no text")
    mended = []
    for key in ("add_bos_token", "add_eos_token"):
        if isinstance(config.get(key), str):
            config[key] = config[key].lower() == "true"
            mended.append(key)
    if config.get("add_bos_token") is None and config.get("bos_token"):
        config["add_bos_token"] = _begins(tokenizer or {}, str(config.get("tokenizer_class")))
        mended.append("add_bos_token")
    if mended:
        found.changed[TOKENIZER_CONFIG] = json.dumps(config).encode()
        found.repairs.append(f"{TOKENIZER_CONFIG}: {' and '.join(mended)} written as transformers takes it")


def _begins(tokenizer: Mapping[str, Any], kind: str) -> bool:
    if kind.startswith(BEGINNERS):
        return True
    after = tokenizer.get("post_processor")
    for part in [after, *(after.get("processors") or ())] if isinstance(after, dict) else []:
        single = part.get("single") if isinstance(part, dict) and part.get("type") == "TemplateProcessing" else None
        if isinstance(single, list) and single and isinstance(single[0], dict):
            return "SpecialToken" in single[0]
    return False


def _check_numbers(numbers: Iterable[Any]) -> None:
    for number in numbers:
        if type(number) is not int or not 0 <= number < MOST_TOKENS:
            raise ValueError(f"a token has the number {number!r:.50}")


def _fill_holes(tokenizer: _Tokenizer, found: TokenizerFiles) -> None:
    """The converter puts tokens side by side in the order of their numbers: after a hole each has a wrong one."""
    taken = {*tokenizer.vocabulary.values(), *tokenizer.added}
    _check_numbers(tokenizer.vocabulary.values())
    holes = sorted(set(range(max(taken, default=-1) + 1)) - taken)
    if not holes:
        return
    vocabulary = dict(tokenizer.vocabulary) | {f"<|unused_{number}|>": number for number in holes}
    fields = {**tokenizer.fields, "model": {**tokenizer.model, "vocab": vocabulary}}
    found.changed[TOKENIZER] = json.dumps(fields, ensure_ascii=False).encode()
    found.repairs.append(f"{TOKENIZER}: {len(holes)} unused numbers filled, so that the others keep theirs")


def make_sentencepiece(tokenizer: _Tokenizer) -> bytes:
    """A tokenizer.model with the pieces of a tokenizer.json, in the order of their numbers.

    A piece's score is the rank of the merge that makes it, negative, so that the same pairs are merged first.
    """
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(tokenizer.model["merges"]):
        ranks.setdefault("".join(_pair(merge)), rank)
    _check_numbers(tokenizer.vocabulary.values())
    texts = {number: text for text, number in tokenizer.vocabulary.items()}
    unknown = tokenizer.model.get("unk_token")
    made = []
    for number in range(max(texts) + 1):
        added = tokenizer.added.get(number)
        text = texts.get(number) or (added["content"] if added else f"<|unused_{number}|>")
        score = 0.0
        if text == unknown:
            kind = Kind.UNKNOWN
        elif added is not None:
            kind = Kind.CONTROL if added.get("special") else Kind.USER_DEFINED
        elif re.fullmatch(r"<0x[0-9A-F]{2}>", text):
            kind = Kind.BYTE
        else:
            kind, score = Kind.NORMAL, -float(ranks.get(text, len(ranks) + number))
        made.append(Piece(text, kind, score))
    return write_pieces(made)
