"""Reads PLaMo's vocabulary, tokenizer.jsonl: a JSON array for each token, with its text, its score and its type. Pure.

PLaMo's tokenizer takes the tokens with the highest sum of scores, each multiplied by 10,000 and rounded.
"""

import json
import math
import re
import struct
from collections.abc import Iterator

from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.sentencepiece import MAX_TOKENS
from proxy.gguf.sentencepiece import PieceType as Type
from proxy.gguf.special_tokens import text_of
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import PLAMO, TOKENIZER_CONFIG, TokenizerFiles
from proxy.gguf.tokens import Tokens

_TYPES = {"UNKNOWN": Type.UNKNOWN, "CONTROL": Type.CONTROL, "BYTE": Type.BYTE, "NORMAL": Type.NORMAL}
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_BYTES = 256
_ID_KEYS = {"bos": "bos", "eos": "eos", "pad": "padding", "sep": "seperator", "unk": "unknown"}
_DEFAULTS = {name: f"<|plamo:{name}|>" for name in ("bos", "eos", "pad", "unk")}
"""Those of the authors' tokenization_plamo.py."""
_END_OF_TURN = "<|plamo:op|>"
_PRECISION = 1e4
_MAX_SCORE = 800.0
"""Scores below it, times 10,000, are exact in F32; those of the known vocabularies are below 30."""
_BREAKS = {
    "break_around_repeated_chars_threshold": "equal characters",
    "break_around_consecutive_spaces_threshold": "spaces",
}


def read_plamo(config: ModelConfig, files: TokenizerFiles) -> Tokens:
    """Raises CannotConvert for a file that is not such a vocabulary."""
    rows = list(_read(files.plamo or b""))
    tokens = Tokens.empty(config.optional_count("vocab_size") or len(rows), scored=True)
    for token_id, (text, score, token_type) in enumerate(rows):
        tokens.put(token_id, text, token_type, score)
    of_bytes = {text for text, _, token_type in rows if token_type is Type.BYTE}
    if len(of_bytes) != _BYTES or tokens.types[0] == Type.BYTE:
        raise CannotConvert(f"{PLAMO} does not have a token for each byte after its first token")
    return tokens


def write_plamo_specials(tokens: Tokens, files: TokenizerFiles) -> Pairs:
    ids = {text: token_id for token_id, text in enumerate(tokens.texts)}
    for name, key in _ID_KEYS.items():
        text = text_of(files.config.get(f"{name}_token"))
        if text is not None and text not in ids:
            raise CannotConvert(f"{TOKENIZER_CONFIG} has the {name}_token {shown(text)}, which {PLAMO} does not have")
        token_id = ids.get(text or _DEFAULTS.get(name, ""))
        if token_id is not None:
            yield f"{key}_token_id", Field.uint32(token_id)
    if _END_OF_TURN in ids:
        yield "eot_token_id", Field.uint32(ids[_END_OF_TURN])
    yield "add_space_prefix", Field.boolean(False)


def adds_nothing(_config: ModelConfig, _files: TokenizerFiles) -> Pairs:
    """llama.cpp adds no BOS with this tokenizer (b10488), but with the key it removes the one of a chat template."""
    yield "add_bos_token", Field.boolean(False)
    yield "add_eos_token", Field.boolean(False)


def tokenizer_caveats(files: TokenizerFiles) -> Iterator[str]:
    """PLaMo 3's tokenizer takes a long run of one character out of its text; llama.cpp (b10488, b11434) does not."""
    if files.config.get("add_bos_token") is True:
        bos = text_of(files.config.get("bos_token")) or _DEFAULTS["bos"]
        yield f"a text without the chat template begins without {bos}, which its tokenizer adds and llama.cpp does not"
    for key, what in _BREAKS.items():
        limit = files.config.get(key)
        if limit is not None:
            yield (
                f"{limit} or more {what} in a row, and the text beside them, may become other tokens than in its "
                "authors' tokenizer: llama.cpp does not split a text there"
            )


def _read(content: bytes) -> Iterator[tuple[str, float, Type]]:
    lines = content.split(b"\n", MAX_TOKENS)
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        row = _row(line)
        if row is None:
            raise CannotConvert(f"{PLAMO} has the invalid line {shown(line[:100])} at {number + 1}")
        yield row


def _row(line: bytes) -> tuple[str, float, Type] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    match row:
        case [str(text), int() | float() as score, str(name), *_] if name in _TYPES and abs(score) < _MAX_SCORE:
            token_type = _TYPES[name]
        case [str(text), int() | float() as score] if abs(score) < _MAX_SCORE:
            token_type = Type.NORMAL
        case _:
            return None
    if token_type is Type.BYTE and not _BYTE.fullmatch(text):
        return None
    # The authors' tokenizer marks all of them; llama.cpp's converter looks at the text too.
    if token_type is Type.NORMAL and text.startswith("<|plamo:") and text.endswith("|>"):
        token_type = Type.CONTROL
    return text, _score(score), token_type


def _score(score: float) -> float:
    """The score, or one beside it that still rounds as the authors' does where F32 would change that."""
    wanted = round(score * _PRECISION)
    in_f32 = float(struct.unpack("<f", struct.pack("<f", score))[0])
    rounded = math.copysign(math.floor(abs(in_f32 * _PRECISION) + 0.5), in_f32)
    return score if rounded == wanted else wanted / _PRECISION
