"""BERT's WordPiece vocabulary as llama.cpp reads it. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from proxy.gguf.config import CannotConvert, ModelConfig
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs
from proxy.gguf.sentencepiece import PieceType as Type
from proxy.gguf.special_tokens import added_tokens
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import TOKENIZER, TokenizerFiles, read_numbers
from proxy.gguf.tokens import SPACE, Tokens, looks_special

_INSIDE = "##"
"""How the pieces begin that stand inside a word."""
UNCASED, CASED = "uncased WordPiece", "cased WordPiece"
"""How texts are cut, where a GGUF has no name for it."""
_CUT = {"type": "BertPreTokenizer"}


def is_wordpiece(tokenizer: Mapping[str, Any]) -> bool:
    model = tokenizer.get("model")
    return isinstance(model, dict) and model.get("type") == "WordPiece"


def read_wordpieces(config: ModelConfig, files: TokenizerFiles) -> Tokens:
    """A piece that begins a word gets an underscore; one inside a word loses its mark.

    Raises CannotConvert for what llama.cpp's tokenizer of this kind does not do (llm_tokenizer_wpm_session at b10488).
    """
    model = files.tokenizer["model"]
    cut, inside = files.tokenizer.get("pre_tokenizer"), model.get("continuing_subword_prefix", _INSIDE)
    if cut != _CUT or inside != _INSIDE:
        raise CannotConvert(f"{TOKENIZER} has the pre-tokenizer {shown(cut)} and the mark {shown(inside)} of WordPiece")
    vocabulary = read_numbers(model)
    added = added_tokens(files, vocabulary)
    tokens = Tokens.empty(config.count("vocab_size"), scored=False)
    tokens.texts[:] = [SPACE + text for text in tokens.texts]
    for text, number in vocabulary.items():
        piece = text.removeprefix(_INSIDE) if text.startswith(_INSIDE) else SPACE + text
        tokens.put(number, piece, Type.NORMAL)
    for number, (text, special) in added.items():
        if not special and not looks_special(text):
            raise CannotConvert(f"{TOKENIZER} has the added token {shown(text)}, which is not special")
        tokens.put(number, text, Type.CONTROL)
    return tokens


def write_normalizer(files: TokenizerFiles) -> Pairs:
    """What becomes of letters before they are looked up; accents go where case goes, if nothing else is said."""
    normalizer = files.tokenizer.get("normalizer")
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        raise CannotConvert(f"{TOKENIZER} has the normalizer {shown(normalizer)}, which is not known for WordPiece")
    for key in ("clean_text", "handle_chinese_chars"):
        if normalizer.get(key) is not True:
            raise CannotConvert(f"{TOKENIZER} has a normalizer with {key} = {shown(normalizer.get(key))}")
    yield from _flags(normalizer)


def _flags(normalizer: Mapping[str, Any]) -> Iterator[tuple[str, Field]]:
    for key in ("lowercase", "strip_accents"):
        value = normalizer.get(key)
        if isinstance(value, bool):
            yield f"normalizer.{key}", Field.boolean(value)
