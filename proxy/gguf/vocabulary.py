"""A repository's tokenizer files as the `tokenizer.*` keys of a GGUF, as llama.cpp's converter writes them. Pure."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from proxy.gguf import unigram, wordpiece
from proxy.gguf.config import CannotConvert, ModelConfig
from proxy.gguf.families.family import Family
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs
from proxy.gguf.pretokenizers import name_pre_tokenizer
from proxy.gguf.sentencepiece import BPE, TokenPiece, count_pieces, read_pieces, read_trainer
from proxy.gguf.sentencepiece import PieceType as Type
from proxy.gguf.spaces import known_space_prefix, space_prefix
from proxy.gguf.special_tokens import added_tokens, named_additions, write_specials
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import (
    ADDED,
    SENTENCEPIECE,
    TOKENIZER,
    TokenizerFiles,
    is_id,
    read_decoder,
    read_numbers,
)
from proxy.gguf.tokens import SPACE, Tokens, looks_special
from proxy.gguf.unigram import is_unigram, read_unigram
from proxy.gguf.wordpiece import is_wordpiece, read_wordpieces

_ADDED_SCORE = -1000.0
_ALWAYS_SHOWN = frozenset(
    ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>')
)
"""Special tokens that whoever reads an answer looks for."""
_PREFIX = "tokenizer.ggml.add_space_prefix"
_MERGED_SPACE = chr(ord(" ") + 256)
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_NO_END = "\U0001f409"
"""What llama.cpp has for the piece of a zero, at which it would take a text to end."""


_FILES = {"sentencepiece": SENTENCEPIECE}
"""By the kind of a tokenizer; the other kinds stand in tokenizer.json."""


def write_vocabulary(
    family: Family, config: ModelConfig, files: TokenizerFiles, chat_template: str | None = None, sample: str = ""
) -> dict[str, Field]:
    """The keys with their whole names; `sample` is a conversation as the template renders it, "" without a template.

    Raises CannotConvert for a tokenizer that is not known.
    """
    fields: dict[str, Field] = {}
    for key, field in _write(family, config, files):
        fields[f"tokenizer.ggml.{key}"] = field
    _set_space_prefix(fields, files, sample)
    if chat_template is not None:
        fields["tokenizer.chat_template"] = Field.string(chat_template)
    return fields


def adds_bos(family: Family, config: ModelConfig, files: TokenizerFiles) -> bool:
    """Whether the tokenizer begins a text with a token of its own, where no chat template is applied.

    Raises CannotConvert for files that cannot be read.
    """
    forced = dict(family.vocabulary(config, files)).get("add_bos_token")
    if forced is not None:
        return bool(forced.value)
    is_sentencepiece = "sentencepiece" in family.tokenizers and (
        files.model is not None or _is_sentencepiece(files.tokenizer)
    )
    # What nobody says, llama.cpp and transformers both do for SentencePiece.
    return named_additions(files).get("bos", is_sentencepiece)


def _set_space_prefix(fields: dict[str, Field], files: TokenizerFiles, sample: str) -> None:
    """tokenizer.json knows best; where nothing is said, llama.cpp takes a space for this kind."""
    if fields["tokenizer.ggml.model"].value != "llama":
        return
    prefix, said = space_prefix(files.tokenizer, _added_texts(files), sample), fields.get(_PREFIX)
    if prefix is not None and prefix != (said is None or said.value):
        fields[_PREFIX] = Field.boolean(prefix)


def _added_texts(files: TokenizerFiles) -> list[str]:
    return [token["content"] for token in (*files.written_added, *(token for _, token in read_decoder(files)))]


def _write(family: Family, config: ModelConfig, files: TokenizerFiles) -> Pairs:
    if "sentencepiece" in family.tokenizers and files.model is not None:
        tokens = _pieces(family, config, files)
        yield from tokens.pairs("llama", "default")
        yield from write_specials(family, config, files, len(tokens), strict=False)
    elif "sentencepiece" in family.tokenizers and _is_sentencepiece(files.tokenizer):
        known_space_prefix(files.tokenizer, (), "")
        tokens = _pieces_of_json(config, files)
        yield from tokens.pairs("llama", "default")
        yield from write_specials(family, config, files, len(tokens), strict=False)
    elif "merged pieces" in family.tokenizers and _is_sentencepiece(files.tokenizer):
        if known_space_prefix(files.tokenizer, (), ""):
            raise CannotConvert(f"{TOKENIZER} puts a space before each text, unknown for this architecture")
        tokens = _merged_pieces(config, files)
        # llama.cpp knows by the name of the tokenizer how it cuts: at lines.
        yield from tokens.pairs(family.architecture, None)
        yield "merges", Field.strings(_merges(_model(files.tokenizer)))
        yield from write_specials(family, config, files, len(tokens), strict=True)
    elif "wordpiece" in family.tokenizers and is_wordpiece(files.tokenizer):
        tokens = read_wordpieces(config, files)
        yield from tokens.pairs("bert", "default")
        yield from write_specials(family, config, files, len(tokens), strict=False)
        yield from wordpiece.write_normalizer(files)
    elif "unigram" in family.tokenizers and is_unigram(files.tokenizer):
        tokens = read_unigram(config, files)
        yield from tokens.pairs("t5", "default")
        yield from write_specials(family, config, files, len(tokens), strict=False)
        yield from unigram.write_normalizer(files)
    elif "bpe" in family.tokenizers and files.tokenizer:
        pre = name_pre_tokenizer(files.tokenizer)
        tokens = _byte_level(family, config, files)
        yield from tokens.pairs("gpt2", pre)
        yield "merges", Field.strings(_merges(_model(files.tokenizer)))
        specials = dict(write_specials(family, config, files, len(tokens), strict=True))
        # Where nothing is said, llama.cpp lets a text of llama-bpe or tekken begin with a token of its own, and
        # Ollama's engine a text of any kind (v0.24: qwen3); transformers does not.
        specials.setdefault("add_bos_token", Field.boolean(False))
        yield from specials.items()
    else:
        wanted = " or ".join(dict.fromkeys(_FILES.get(kind, TOKENIZER) for kind in family.tokenizers))
        raise CannotConvert(f"{family.architecture} has no {wanted} here")
    yield from family.vocabulary(config, files)


def _model(tokenizer: Mapping[str, Any]) -> Mapping[str, Any]:
    model = tokenizer.get("model")
    if not isinstance(model, dict):
        raise CannotConvert(f"{TOKENIZER} has no model")
    kind = model.get("type") or ("BPE" if "merges" in model else None)
    if kind != "BPE":
        raise CannotConvert(f"{TOKENIZER} has a model of the unknown type {shown(kind)}")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise CannotConvert(f"{TOKENIZER} has a model with {key} = {shown(model[key])}")
    return model


def _merges(model: Mapping[str, Any]) -> Iterator[str]:
    """Each as two texts with a space between them. A space inside one is written as byte-level BPE writes spaces."""
    merges = model.get("merges")
    if not isinstance(merges, list) or not merges:
        raise CannotConvert(f"{TOKENIZER} has no merges")
    for merge in merges:
        match merge.split(" ") if isinstance(merge, str) else merge:
            case [str(first), str(second)]:
                yield f"{first.replace(' ', _MERGED_SPACE)} {second.replace(' ', _MERGED_SPACE)}"
            case _:
                raise CannotConvert(f"{TOKENIZER} has the merge {shown(merge)}")


def _byte_level(family: Family, config: ModelConfig, files: TokenizerFiles) -> Tokens:
    """Added tokens that the weights have no row for are left out; the comparison tells whether one is needed."""
    model = _model(files.tokenizer)
    if model.get("byte_fallback"):
        raise CannotConvert(f"{TOKENIZER} has a model with byte_fallback, which this family's tokenizer does not have")
    vocabulary = read_numbers(model)
    added = added_tokens(files, vocabulary)
    largest = max([*vocabulary.values(), *added], default=-1)
    tokens = Tokens.empty(_size(config, largest + 1), scored=False)
    for text, number in vocabulary.items():
        tokens.put(number, text, Type.NORMAL)
    for number, (text, special) in added.items():
        if number >= len(tokens):
            continue
        if special or looks_special(text) or text in family.control_tokens:
            tokens.put(number, text, Type.CONTROL)
        else:
            tokens.put(number, text.replace(SPACE, " "), Type.USER_DEFINED)
    return tokens


def _size(config: ModelConfig, default: int) -> int:
    size = config.optional_count("vocab_size")
    return default if size is None else size


def _is_sentencepiece(tokenizer: Mapping[str, Any]) -> bool:
    """A SentencePiece BPE in Hugging Face's dress."""
    model = tokenizer.get("model")
    decoder = tokenizer.get("decoder")
    return (
        isinstance(model, dict)
        and model.get("type", "BPE") == "BPE"
        and model.get("byte_fallback") is True
        and isinstance(decoder, dict)
        and decoder.get("type") == "Sequence"
    )


def _pieces(family: Family, config: ModelConfig, files: TokenizerFiles) -> Tokens:
    model = files.model or b""
    count = count_pieces(model)
    if count is None:
        raise CannotConvert(f"{SENTENCEPIECE} is not a SentencePiece model")
    if read_trainer(model) not in (BPE, None):
        raise CannotConvert(f"{SENTENCEPIECE} is not of the kind BPE, and llama.cpp would merge it as one")
    tokens = Tokens.empty(config.optional_count("vocab_size") or count, scored=True)
    for number, piece in enumerate(_read(model)):
        # llama.cpp's converter asks for these kinds only: what the user defined is normal, unless it is added below.
        kind = piece.kind if piece.kind in (Type.UNKNOWN, Type.CONTROL, Type.UNUSED, Type.BYTE) else Type.NORMAL
        text = _NO_END if piece.text == "\0" else piece.text
        if text == _NO_END or (family.unused_piece_prefix and text.startswith(family.unused_piece_prefix)):
            kind = Type.UNUSED
        if number < len(tokens):
            tokens.put(number, text, kind, piece.score)
    for text, number in files.added.items():
        if not is_id(number):
            raise CannotConvert(f"{ADDED} has the token {shown(text)} with the number {shown(number)}")
        if number < len(tokens):
            tokens.put(number, text, Type.USER_DEFINED, _ADDED_SCORE)
    for number, token in read_decoder(files):
        if number < len(tokens):
            _put_added(tokens, number, token, marked=family.added_from_json)
    for token in files.written_added:
        if family.added_from_json or (
            token["id"] < len(tokens) and not tokens.has_added(token["id"], token["content"])
        ):
            _put_added(tokens, token["id"], token, marked=family.added_from_json)
    return tokens


def _read(model: bytes) -> list[TokenPiece]:
    try:
        return list(read_pieces(model))
    except (IndexError, ValueError) as error:
        raise CannotConvert(f"{SENTENCEPIECE} has a broken piece") from error


def _put_added(tokens: Tokens, number: int, token: Mapping[str, Any], *, marked: bool = False) -> None:
    """`marked` takes a token for special only where it says so, and its text as it is."""
    text = token["content"]
    if token.get("special") or (not marked and looks_special(text)):
        tokens.put(number, text, Type.CONTROL, _ADDED_SCORE)
    elif marked:
        tokens.put(number, text, Type.USER_DEFINED, _ADDED_SCORE)
    else:
        tokens.put(number, text.replace(SPACE, " "), Type.USER_DEFINED, _ADDED_SCORE)


def _pieces_of_json(config: ModelConfig, files: TokenizerFiles) -> Tokens:
    """Where there is no tokenizer.model. A piece's score is the rank of the first merge that makes it, negative.

    llama.cpp's own converter gives all of them the same score, so that other tokens come out than transformers'.
    """
    model = _model(files.tokenizer)
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(_merges(model)):
        ranks.setdefault(merge.replace(" ", ""), rank)
    vocabulary, unknown = read_numbers(model), model.get("unk_token")
    added = added_tokens(files, vocabulary)
    tokens = Tokens.empty(_size(config, max([*vocabulary.values(), *added], default=-1) + 1), scored=True)
    for text, number in vocabulary.items():
        if text == unknown:
            tokens.put(number, text, Type.UNKNOWN)
        elif _BYTE.fullmatch(text):
            tokens.put(number, text, Type.BYTE)
        else:
            tokens.put(number, text, Type.NORMAL, -float(ranks.get(text, len(ranks) + number)))
    for number, (text, special) in added.items():
        _put_added(tokens, number, {"content": text, "special": special})
    return tokens


def _merged_pieces(config: ModelConfig, files: TokenizerFiles) -> Tokens:
    """Where llama.cpp merges pieces by rank, as Hugging Face does, and has no use for scores.

    Its converter takes all that is added within the vocabulary for normal, of which it finds only what merges make.
    """
    model = _model(files.tokenizer)
    vocabulary, merges = read_numbers(model), {merge.replace(" ", "") for merge in _merges(model)}
    added = added_tokens(files, vocabulary)
    tokens = Tokens.empty(_size(config, max([*vocabulary.values(), *added], default=-1) + 1), scored=True)
    for text, number in vocabulary.items():
        if "\n" in text and text.strip("\n"):
            raise CannotConvert(f"{TOKENIZER} has the token {shown(text)}, at whose line llama.cpp would cut")
        tokens.put(number, text, Type.BYTE if _BYTE.fullmatch(text) else Type.NORMAL, _ADDED_SCORE)
    for number, (text, special) in added.items():
        if text in _ALWAYS_SHOWN:
            tokens.put(number, text, Type.USER_DEFINED, _ADDED_SCORE)
        elif special:
            tokens.put(number, text, Type.CONTROL, _ADDED_SCORE)
        elif text not in merges:
            tokens.put(number, text, Type.USER_DEFINED, _ADDED_SCORE)
    return tokens
