"""Reads a Unigram vocabulary from tokenizer.json into the form that llama.cpp calls T5. Pure."""

from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import Pairs
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.sentencepiece import PieceType as Type
from proxy.gguf.spaces import metaspace_scheme
from proxy.gguf.special_tokens import merge_added_tokens
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import TOKENIZER, TokenizerFiles, is_id
from proxy.gguf.tokens import Tokens

_TRIE_SIZE_BYTES = 4


def is_unigram(tokenizer: Mapping[str, Any]) -> bool:
    model = tokenizer.get("model")
    return isinstance(model, dict) and model.get("type", "Unigram" if "unk_id" in model else None) == "Unigram"


def read_unigram(config: ModelConfig, files: TokenizerFiles) -> Tokens:
    """Raises CannotConvert for a piece that is not a text and a score."""
    model = files.tokenizer["model"]
    pieces, unknown = model.get("vocab"), model.get("unk_id")
    if not isinstance(pieces, list) or not is_id(unknown) or model.get("byte_fallback"):
        raise CannotConvert(f"{TOKENIZER} has no Unigram vocabulary that llama.cpp can read")
    tokens = Tokens.empty(max(config.count("vocab_size"), len(pieces)), scored=True)
    token_ids: dict[str, int] = {}
    for token_id, piece in enumerate(pieces):
        text, score = _read_piece(piece)
        token_ids.setdefault(text, token_id)
        tokens.put(token_id, text, Type.UNKNOWN if token_id == unknown else Type.NORMAL, score)
    for token_id, (text, special) in merge_added_tokens(files, token_ids).items():
        score = pieces[token_id][1] if token_id < len(pieces) else 0.0
        if token_id != unknown:
            tokens.put(token_id, text, Type.CONTROL if special else Type.USER_DEFINED, score)
    return tokens


def _read_piece(piece: object) -> tuple[str, float]:
    match piece:
        case [str(text), int() | float() as score] if not isinstance(score, bool):
            return text, score
    raise CannotConvert(f"{TOKENIZER} has the invalid piece {shown(piece)}")


def write_normalizer(files: TokenizerFiles) -> Pairs:
    """llama.cpp reduces several spaces to one; a split at whitespace has the same effect.

    Raises CannotConvert for an unknown normalizer or pre-tokenizer.
    """
    pre_tokenizer = files.tokenizer.get("pre_tokenizer")
    match _steps(pre_tokenizer, "pretokenizers"):
        case [first, second] if first == {"type": "WhitespaceSplit"} and metaspace_scheme(second) == "always":
            pass
        case _:
            raise CannotConvert(f"{TOKENIZER} has the pre-tokenizer {shown(pre_tokenizer)}, unknown for Unigram")
    yield "add_space_prefix", Field.boolean(True)
    yield "remove_extra_whitespaces", Field.boolean(True)
    one_space = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    for step in _steps(files.tokenizer.get("normalizer"), "normalizers"):
        if isinstance(step, dict) and step.get("type") == "Precompiled":
            yield "precompiled_charsmap", Field.array(ValueType.UINT8, list(_charsmap(step)))
        elif step != one_space:
            raise CannotConvert(f"{TOKENIZER} has the normalizer {shown(step)}, unknown for Unigram")


def _steps(component: object, key: str) -> list[Any]:
    """The steps of a normalizer or pre-tokenizer; none for null."""
    if isinstance(component, dict) and isinstance(component.get(key), list):
        return list(component[key])
    return [] if component is None else [component]


def _charsmap(normalizer: Mapping[str, Any]) -> bytes:
    """llama.cpp loads only a map with more data after the trie, whose size stands first."""
    try:
        charsmap = b64decode(normalizer.get("precompiled_charsmap") or "", validate=True)
    except (TypeError, ValueError) as error:
        raise CannotConvert(f"{TOKENIZER} has a precompiled_charsmap that is not base64") from error
    if int.from_bytes(charsmap[:_TRIE_SIZE_BYTES], "little") + _TRIE_SIZE_BYTES >= len(charsmap):
        raise CannotConvert(f"{TOKENIZER} has a precompiled_charsmap that is cut off")
    return charsmap
