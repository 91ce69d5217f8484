"""Reads BERT's WordPiece vocabulary into the form that llama.cpp expects. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.sentencepiece import PieceType as Type
from proxy.gguf.special_tokens import merge_added_tokens
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import TOKENIZER, TokenizerFiles, read_token_ids
from proxy.gguf.tokens import SPACE, Tokens, looks_special

_CONTINUATION = "##"
"""Prefix of a piece inside a word."""
UNCASED, CASED = "uncased WordPiece", "cased WordPiece"
"""This project's names; a GGUF has no name for these pre-tokenizers."""
_BERT = {"type": "BertPreTokenizer"}


def is_wordpiece(tokenizer: Mapping[str, Any]) -> bool:
    model = tokenizer.get("model")
    return isinstance(model, dict) and model.get("type") == "WordPiece"


def read_wordpieces(config: ModelConfig, files: TokenizerFiles) -> Tokens:
    """A piece that begins a word gets an underscore; a piece inside a word loses its prefix.

    Raises CannotConvert for a setting that llama.cpp's WordPiece does not have (llm_tokenizer_wpm_session at b10488).
    """
    model = files.tokenizer["model"]
    pre_tokenizer, prefix = files.tokenizer.get("pre_tokenizer"), model.get("continuing_subword_prefix", _CONTINUATION)
    if pre_tokenizer != _BERT or prefix != _CONTINUATION:
        raise CannotConvert(
            f"{TOKENIZER} has the pre-tokenizer {shown(pre_tokenizer)} and the continuing_subword_prefix "
            f"{shown(prefix)}, unknown for WordPiece"
        )
    vocabulary = read_token_ids(model)
    added = merge_added_tokens(files, vocabulary)
    tokens = Tokens.empty(config.count("vocab_size"), scored=False)
    tokens.texts[:] = [SPACE + text for text in tokens.texts]
    for text, token_id in vocabulary.items():
        piece = text.removeprefix(_CONTINUATION) if text.startswith(_CONTINUATION) else SPACE + text
        tokens.put(token_id, piece, Type.NORMAL)
    for token_id, (text, special) in added.items():
        if not special and not looks_special(text):
            raise CannotConvert(
                f"{TOKENIZER} has the added token {shown(text)}, which is not special; unknown for WordPiece"
            )
        tokens.put(token_id, text, Type.CONTROL)
    return tokens


def write_normalizer(files: TokenizerFiles) -> Pairs:
    """How letters change. If `strip_accents` is missing, llama.cpp strips accents where it lowercases."""
    normalizer = files.tokenizer.get("normalizer")
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        raise CannotConvert(f"{TOKENIZER} has the normalizer {shown(normalizer)}, unknown for WordPiece")
    for key in ("clean_text", "handle_chinese_chars"):
        if normalizer.get(key) is not True:
            raise CannotConvert(
                f"{TOKENIZER} has a normalizer with {key} = {shown(normalizer.get(key))}, unknown for WordPiece"
            )
    yield from _flags(normalizer)


def _flags(normalizer: Mapping[str, Any]) -> Iterator[tuple[str, Field]]:
    for key in ("lowercase", "strip_accents"):
        value = normalizer.get(key)
        if isinstance(value, bool):
            yield f"normalizer.{key}", Field.boolean(value)
