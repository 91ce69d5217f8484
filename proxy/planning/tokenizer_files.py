"""A repository's tokenizer files as Ollama's converter reads them rightly: mended, made, or refused. Pure.

The converter takes tokenizer.model where there is one, else tokenizer.json, which it believes to be a byte-level BPE
(convert/tokenizer.go, v0.24 and v0.33). Each repair was run on both: the same tokens as of a repository without need.
"""

import hashlib
import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy.errors import Refusal
from proxy.planning.weights import NotConvertible, json_object

TOKENIZER = "tokenizer.json"
SENTENCEPIECE = "tokenizer.model"
ADDED = "added_tokens.json"
SPECIALS = "special_tokens_map.json"
CONFIG = "tokenizer_config.json"
# By the text of its splits the converter knows a pre-tokenizer; it takes all others for llama.cpp's default.
KNOWN_SPLITS = {
    "d98f9631be1e9607a9848c26c1f9eac1aa9fc21ac6ba82a2fc0741af9780a48f",  # Llama 3
    "03df5c5863ad70781dcfdef491ead25140f895fe8010964be0daefe27be32b02",  # DeepSeek LLM
    "21cde974d587f0d54dc8d56b183cc1e6239600172035c68fbd6d4b9f8da0576e",  # DeepSeek Coder
    "1ff7f41064896984db5d1bb6ff64fa4bc29007d08c1b439e505b7392777a319e",  # Qwen2
    "00431aed57e696b747435f734d1e3b9b1bfd931a121fb5cac7129e97c181e9ba",  # Qwen3.5
    "b92c0824a58e1d8dc3221cf3e12c433c3a86f57e46d57229993489f0798e7702",  # Laguna
}
UNKNOWN, CONTROL, USER_DEFINED, BYTE, NORMAL = 2, 3, 4, 6, 1
"""SentencePiece's types of pieces."""


@dataclass(slots=True)
class TokenizerFiles:
    """What is sent instead of a file; None leaves it out."""

    changed: dict[str, bytes | None] = field(default_factory=dict)
    repairs: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, other: "TokenizerFiles") -> None:
        self.changed |= other.changed
        self.repairs += other.repairs
        self.warnings += other.warnings


def check_tokenizer(repository: str, contents: Mapping[str, bytes]) -> TokenizerFiles:
    """For models of text; `contents` has the tokenizer files that could be read. Raises Refusal."""
    found = TokenizerFiles()
    _mend_specials(repository, contents, found)
    tokenizer = json_object(f"{repository}/{TOKENIZER}", contents[TOKENIZER]) if TOKENIZER in contents else None
    pieces = count_pieces(contents[SENTENCEPIECE]) if SENTENCEPIECE in contents else None
    if SENTENCEPIECE in contents and pieces is None:
        if tokenizer is None:
            raise NotConvertible(
                f"{repository}/{SENTENCEPIECE} is not a SentencePiece model, and no {TOKENIZER} is there"
            )
        found.changed[SENTENCEPIECE] = None
        found.repairs.append(f"{SENTENCEPIECE} is left out: it is not a SentencePiece model")
    if tokenizer is not None:
        try:
            _check_json(repository, _Tokenizer(tokenizer), pieces, contents, found)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise Refusal(f"{repository}/{TOKENIZER} cannot be understood: {error!r}") from error
    if CONFIG not in contents:
        found.warnings.append(f"{repository} has no {CONFIG}: the model may not know where to begin and to stop")
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
    contents: Mapping[str, bytes],
    found: TokenizerFiles,
) -> None:
    if pieces is not None and tokenizer.kind == "Unigram":
        # Its vocabulary is a list, on which the converter fails although it takes the pieces.
        fields = {**tokenizer.fields, "model": {"type": "BPE", "vocab": {}}}
        found.changed[TOKENIZER] = json.dumps(fields).encode()
        found.repairs.append(f"{TOKENIZER}: its vocabulary left out, which Ollama reads from {SENTENCEPIECE}")
    elif pieces is not None:
        _add_tokens(tokenizer, pieces, contents, found)
    elif tokenizer.is_sentencepiece:
        model = make_sentencepiece(tokenizer)
        found.changed[SENTENCEPIECE] = model
        found.repairs.append(f"{SENTENCEPIECE} made of {TOKENIZER}, which Ollama takes for a byte-level one")
        _add_tokens(tokenizer, count_pieces(model) or 0, contents, found)
    elif tokenizer.kind != "BPE" or not tokenizer.model.get("merges"):
        kind = tokenizer.kind or "an unknown kind"
        raise NotConvertible(f"{repository}/{TOKENIZER} is of {kind}: Ollama reads BPE with merges, and SentencePiece")
    else:
        _fill_holes(tokenizer, found)
        digest = hashlib.sha256("".join(tokenizer.splits()).encode()).hexdigest()
        if any(tokenizer.splits()) and digest not in KNOWN_SPLITS:
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


def _add_tokens(tokenizer: _Tokenizer, pieces: int, contents: Mapping[str, bytes], found: TokenizerFiles) -> None:
    """Tokens beyond the pieces stand only in tokenizer.json in newer repositories; Ollama would call them [PAD0]."""
    beyond = {token["content"]: number for number, token in sorted(tokenizer.added.items()) if number >= pieces}
    if list(beyond.values()) != list(range(pieces, pieces + len(beyond))):
        return
    try:
        written = json.loads(contents.get(ADDED, b"{}"))
    except ValueError:
        written = None
    known = (
        {text: number for text, number in written.items() if number >= pieces} if isinstance(written, dict) else None
    )
    if beyond and known != beyond:
        found.changed[ADDED] = json.dumps(beyond).encode()
        found.repairs.append(f"{ADDED} made of {TOKENIZER}: {len(beyond)} tokens beyond {SENTENCEPIECE}")


def _fill_holes(tokenizer: _Tokenizer, found: TokenizerFiles) -> None:
    """The converter puts tokens side by side in the order of their numbers: after a hole each has a wrong one."""
    taken = {*tokenizer.vocabulary.values(), *tokenizer.added}
    holes = sorted(set(range(max(taken, default=-1) + 1)) - taken)
    if not holes:
        return
    vocabulary = dict(tokenizer.vocabulary) | {f"<|unused_{number}|>": number for number in holes}
    fields = {**tokenizer.fields, "model": {**tokenizer.model, "vocab": vocabulary}}
    found.changed[TOKENIZER] = json.dumps(fields, ensure_ascii=False).encode()
    found.repairs.append(f"{TOKENIZER}: {len(holes)} unused numbers filled, so that the others keep theirs")


def count_pieces(model: bytes) -> int | None:
    """How many pieces a SentencePiece model has; None for what is none (a protobuf, whose first field repeats)."""
    count = position = 0
    try:
        while position < len(model):
            key, position = _varint(model, position)
            if key & 7 == 2:  # noqa: PLR2004 - bytes of a length
                length, position = _varint(model, position)
                position += length
            else:
                position = _skip(model, position, key & 7)
            count += key >> 3 == 1
    except (IndexError, ValueError):
        return None
    return count if count and position == len(model) else None


def make_sentencepiece(tokenizer: _Tokenizer) -> bytes:
    """A tokenizer.model with the pieces of a tokenizer.json, in the order of their numbers.

    A piece's score is the rank of the merge that makes it, negative, so that the same pairs are merged first.
    """
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(tokenizer.model["merges"]):
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        ranks.setdefault(left + right, rank)
    texts = {number: text for text, number in tokenizer.vocabulary.items()}
    unknown = tokenizer.model.get("unk_token")
    made = []
    for number in range(max(texts) + 1):
        added = tokenizer.added.get(number)
        text = texts.get(number) or (added["content"] if added else f"<|unused_{number}|>")
        score = 0.0
        if text == unknown:
            kind = UNKNOWN
        elif added is not None:
            kind = CONTROL if added.get("special") else USER_DEFINED
        elif re.fullmatch(r"<0x[0-9A-F]{2}>", text):
            kind = BYTE
        else:
            kind, score = NORMAL, -float(ranks.get(text, len(ranks) + number))
        content = text.encode()
        piece = (
            b"\x0a" + _to_varint(len(content)) + content + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind])
        )
        made.append(b"\x0a" + _to_varint(len(piece)) + piece)
    return b"".join(made)


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a number
            return value, position
        shift += 7


def _skip(content: bytes, position: int, wire_type: int) -> int:
    match wire_type:
        case 0:
            return _varint(content, position)[1]
        case 1:
            return position + 8
        case 5:
            return position + 4
        case _:
            raise ValueError(f"wire type {wire_type}")


def _to_varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
