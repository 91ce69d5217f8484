"""A Unigram vocabulary of tokenizer.json as llama.cpp reads it, which calls the kind T5. Pure."""

from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from proxy.gguf.config import CannotConvert, ModelConfig
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import Pairs
from proxy.gguf.sentencepiece import PieceType as Type
from proxy.gguf.special_tokens import added_tokens
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import TOKENIZER, TokenizerFiles, is_id
from proxy.gguf.tokens import SPACE, Tokens

_TRIE_SIZE = 4
_PART = 2
"""A piece stands as its text and its score."""


def is_unigram(tokenizer: Mapping[str, Any]) -> bool:
    model = tokenizer.get("model")
    return isinstance(model, dict) and model.get("type", "Unigram" if "unk_id" in model else None) == "Unigram"


def read_unigram(config: ModelConfig, files: TokenizerFiles) -> Tokens:
    """Raises CannotConvert for pieces that are not a text and a number."""
    model = files.tokenizer["model"]
    pieces, unknown = model.get("vocab"), model.get("unk_id")
    if not isinstance(pieces, list) or not is_id(unknown) or model.get("byte_fallback"):
        raise CannotConvert(f"{TOKENIZER} has no Unigram vocabulary that llama.cpp knows")
    tokens = Tokens.empty(max(config.count("vocab_size"), len(pieces)), scored=True)
    numbers: dict[str, int] = {}
    for number, piece in enumerate(pieces):
        if not isinstance(piece, list) or len(piece) != _PART or not isinstance(piece[0], str):
            raise CannotConvert(f"{TOKENIZER} has the piece {shown(piece)}")
        text, score = piece
        if type(score) not in (int, float):
            raise CannotConvert(f"{TOKENIZER} has the piece {shown(piece)}")
        numbers.setdefault(text, number)
        tokens.put(number, text, Type.UNKNOWN if number == unknown else Type.NORMAL, score)
    for number, (text, special) in added_tokens(files, numbers).items():
        score = pieces[number][1] if number < len(pieces) else 0.0
        if number != unknown:
            tokens.put(number, text, Type.CONTROL if special else Type.USER_DEFINED, score)
    return tokens


def write_normalizer(files: TokenizerFiles) -> Pairs:
    """How a text is changed before it is cut. llama.cpp takes several spaces for one, as a cut at spaces does.

    Raises CannotConvert for another normalizer or pre-tokenizer.
    """
    spaces = {"type": "WhitespaceSplit"}
    parts = _parts(files.tokenizer.get("pre_tokenizer"), "pretokenizers")
    if len(parts) != _PART or parts[0] != spaces or not _is_metaspace(parts[1]):
        raise CannotConvert(
            f"{TOKENIZER} has the pre-tokenizer {shown(files.tokenizer.get('pre_tokenizer'))}, which is not known for "
            "Unigram"
        )
    yield "add_space_prefix", Field.boolean(True)
    yield "remove_extra_whitespaces", Field.boolean(True)
    several = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    for part in _parts(files.tokenizer.get("normalizer"), "normalizers"):
        if isinstance(part, dict) and part.get("type") == "Precompiled":
            yield "precompiled_charsmap", Field.array(ValueType.UINT8, list(_charsmap(part)))
        elif part != several:
            raise CannotConvert(f"{TOKENIZER} has the normalizer {shown(part)}, which is not known for Unigram")


def _parts(whole: object, key: str) -> list[Any]:
    """The steps of a sequence, or the one step; none for null."""
    if isinstance(whole, dict) and isinstance(whole.get(key), list):
        return list(whole[key])
    return [] if whole is None else [whole]


def _is_metaspace(part: object) -> bool:
    return (
        isinstance(part, dict)
        and part.get("type") == "Metaspace"
        and part.get("replacement") == SPACE
        and part.get("prepend_scheme", "always" if part.get("add_prefix_space", True) else "never") == "always"
    )


def _charsmap(normalizer: Mapping[str, Any]) -> bytes:
    """Its trie has its size before it, and something behind it; else llama.cpp does not load it."""
    try:
        made = b64decode(normalizer.get("precompiled_charsmap") or "", validate=True)
    except (TypeError, ValueError) as error:
        raise CannotConvert(f"{TOKENIZER} has a precompiled_charsmap that is not base64") from error
    if int.from_bytes(made[:_TRIE_SIZE], "little") + _TRIE_SIZE >= len(made):
        raise CannotConvert(f"{TOKENIZER} has a precompiled_charsmap that is cut off")
    return made
