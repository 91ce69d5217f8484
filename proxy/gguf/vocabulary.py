"""Writes a repository's tokenizer files as the `tokenizer.*` keys of a GGUF, as llama.cpp's converter does. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from proxy.gguf import unigram, wordpiece
from proxy.gguf.families.family import Family
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.plamo_vocabulary import read_plamo, write_plamo_specials
from proxy.gguf.pretokenizers import name_pre_tokenizer
from proxy.gguf.rwkv_vocabulary import read_rwkv, write_ends
from proxy.gguf.sentencepiece import BPE, TokenPiece, count_pieces, read_model_type, read_pieces
from proxy.gguf.sentencepiece import PieceType as Type
from proxy.gguf.spaces import require_space_prefix, space_prefix
from proxy.gguf.special_tokens import merge_added_tokens, read_additions, write_specials
from proxy.gguf.tensors import shown
from proxy.gguf.tiktoken_vocabulary import read_tiktoken
from proxy.gguf.tokenizer_files import (
    ADDED,
    PLAMO,
    RWKV,
    SENTENCEPIECE,
    TOKENIZER,
    TokenizerFiles,
    is_id,
    read_added_tokens_decoder,
    read_token_ids,
)
from proxy.gguf.tokens import SPACE, Tokens, looks_special
from proxy.gguf.unigram import is_unigram, read_unigram
from proxy.gguf.wordpiece import is_wordpiece, read_wordpieces

_ADDED_SCORE = -1000.0
_ALWAYS_SHOWN = frozenset(
    ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>')
)
"""Special tokens that stay visible in an answer, because programs parse them."""
_SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"
_BYTE_LEVEL_SPACE = chr(ord(" ") + 256)
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_NUL_REPLACEMENT = "\U0001f409"
"""llama.cpp's converter writes this for the piece NUL, which would end a text in C."""


_FILES = {"sentencepiece": SENTENCEPIECE, "rwkv": RWKV, "plamo": PLAMO, "tiktoken": "vocabulary of tiktoken"}
"""Type of tokenizer → its file; all other types stand in tokenizer.json."""
WITHOUT_BOS = frozenset({"plamo2", "rwkv"})
"""llama.cpp's names of the tokenizers with which it adds no BOS, whatever the metadata says (llama-vocab.cpp, b10488).
With `add_bos_token` its server would still remove the BOS that a chat template writes."""


def write_vocabulary(
    family: Family, config: ModelConfig, files: TokenizerFiles, chat_template: str | None = None, sample: str = ""
) -> dict[str, Field]:
    """The fields with full keys. `sample` is a conversation as the template renders it, "" without a template.

    Raises CannotConvert for an unknown tokenizer.
    """
    fields: dict[str, Field] = {}
    for key, field in _write(family, config, files):
        fields[f"tokenizer.ggml.{key}"] = field
    _set_space_prefix(fields, files, sample)
    if chat_template is not None:
        fields["tokenizer.chat_template"] = Field.string(chat_template)
    return fields


def adds_bos(family: Family, config: ModelConfig, files: TokenizerFiles) -> bool:
    """Whether the tokenizer puts BOS before a text, apart from any chat template.

    Raises CannotConvert for files that cannot be read.
    """
    forced = dict(family.vocabulary(config, files)).get("add_bos_token")
    if forced is not None:
        return bool(forced.value)
    # Without a setting, llama.cpp and transformers add BOS for SentencePiece only.
    return read_additions(files).get("bos", _tokenizer_type(family, files) == "sentencepiece")


def _set_space_prefix(fields: dict[str, Field], files: TokenizerFiles, sample: str) -> None:
    """tokenizer.json decides, if its normalizer is known. Without the key, llama.cpp adds a space for SentencePiece."""
    if fields["tokenizer.ggml.model"].value != "llama":
        return
    prefix, field = space_prefix(files.tokenizer, _added_texts(files), sample), fields.get(_SPACE_PREFIX)
    if prefix is not None and prefix != (field is None or field.value):
        fields[_SPACE_PREFIX] = Field.boolean(prefix)


def _added_texts(files: TokenizerFiles) -> list[str]:
    tokens = (*files.added_tokens, *(token for _, token in read_added_tokens_decoder(files)))
    return [token["content"] for token in tokens]


def _tokenizer_type(family: Family, files: TokenizerFiles) -> str | None:
    """The first type of tokenizer that the files contain and the family has."""
    is_sentencepiece = _is_sentencepiece(files.tokenizer)
    is_present = {
        "sentencepiece": files.model is not None or is_sentencepiece,
        "merged pieces": is_sentencepiece,
        "wordpiece": is_wordpiece(files.tokenizer),
        "unigram": is_unigram(files.tokenizer),
        "rwkv": files.rwkv is not None,
        "plamo": files.plamo is not None,
        "bpe": bool(files.tokenizer),
        "tiktoken": files.tiktoken is not None,
    }
    return next((name for name, present in is_present.items() if present and name in family.tokenizers), None)


def _write(family: Family, config: ModelConfig, files: TokenizerFiles) -> Pairs:
    match _tokenizer_type(family, files):
        case "sentencepiece":
            yield from _write_sentencepiece(family, config, files)
        case "merged pieces":
            yield from _write_merged_pieces(family, config, files)
        case "wordpiece":
            tokens = read_wordpieces(config, files)
            yield from tokens.pairs("bert", "default")
            yield from write_specials(family.special_tokens, config, files, len(tokens), strict=False)
            yield from wordpiece.write_normalizer(files)
        case "unigram":
            tokens = read_unigram(config, files)
            yield from tokens.pairs("t5", "default")
            yield from write_specials(family.special_tokens, config, files, len(tokens), strict=False)
            yield from unigram.write_normalizer(files)
        case "rwkv":
            tokens = read_rwkv(config, files)
            yield from tokens.pairs("rwkv", None)
            yield from write_specials(family.special_tokens, config, files, len(tokens), strict=True)
            yield from write_ends(tokens)
        case "plamo":
            tokens = read_plamo(config, files)
            yield from tokens.pairs("plamo2", "default")
            yield from write_plamo_specials(tokens, files)
        case "bpe":
            yield from _write_byte_level(family, config, files, files.tokenizer)
        case "tiktoken":
            yield from _write_byte_level(family, config, files, read_tiktoken(files))
        case _:
            names = " or ".join(dict.fromkeys(_FILES.get(name, TOKENIZER) for name in family.tokenizers))
            raise CannotConvert(f"the repository has no {names} that {family.architecture} can use")
    yield from family.vocabulary(config, files)


def _write_sentencepiece(family: Family, config: ModelConfig, files: TokenizerFiles) -> Pairs:
    if files.model is not None:
        tokens = _pieces(family, config, files)
    else:
        require_space_prefix(files.tokenizer)
        tokens = _pieces_of_json(config, files)
    yield from tokens.pairs("llama", "default")
    yield from write_specials(family.special_tokens, config, files, len(tokens), strict=False)


def _write_merged_pieces(family: Family, config: ModelConfig, files: TokenizerFiles) -> Pairs:
    if require_space_prefix(files.tokenizer):
        raise CannotConvert(f"{TOKENIZER} puts a space before each text, unknown for this architecture")
    model, pre = family.merged_pieces
    tokens = _merged_pieces(config, files, scored=pre is None)
    # llama.cpp splits at line ends, because of these names.
    yield from tokens.pairs(model, pre)
    yield "merges", Field.strings(_merges(_model(files.tokenizer)))
    yield from write_specials(family.special_tokens, config, files, len(tokens), strict=True)


def _write_byte_level(
    family: Family, config: ModelConfig, files: TokenizerFiles, tokenizer: Mapping[str, Any]
) -> Pairs:
    """`tokenizer` has the form of a tokenizer.json. Ids of special tokens are from the files that there are."""
    pre = name_pre_tokenizer(tokenizer)
    tokens = _byte_level(family, config, replace(files, tokenizer=tokenizer))
    yield from tokens.pairs("gpt2", pre)
    yield "merges", Field.strings(_merges(_model(tokenizer)))
    specials = dict(write_specials(family.special_tokens, config, files, len(tokens), strict=True))
    # Without this key, llama.cpp adds BOS for llama-bpe and tekken, and Ollama's engine for all (v0.24: qwen3).
    # transformers does not.
    specials.setdefault("add_bos_token", Field.boolean(False))
    yield from specials.items()


def _model(tokenizer: Mapping[str, Any]) -> Mapping[str, Any]:
    model = tokenizer.get("model")
    if not isinstance(model, dict):
        raise CannotConvert(f"{TOKENIZER} has no model")
    model_type = model.get("type") or ("BPE" if "merges" in model else None)
    if model_type != "BPE":
        raise CannotConvert(f"{TOKENIZER} has a model of the unknown type {shown(model_type)}")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise CannotConvert(
                f"{TOKENIZER} has a model with {key} = {shown(model[key])}, which llama.cpp does not have"
            )
    return model


def _merges(model: Mapping[str, Any]) -> Iterator[str]:
    """Each merge as two texts with a space between them. A space inside a text is written as in byte-level BPE."""
    merges = model.get("merges")
    if not isinstance(merges, list) or not merges:
        raise CannotConvert(f"{TOKENIZER} has no merges")
    for merge in merges:
        match merge.split(" ") if isinstance(merge, str) else merge:
            case [str(first), str(second)]:
                yield f"{first.replace(' ', _BYTE_LEVEL_SPACE)} {second.replace(' ', _BYTE_LEVEL_SPACE)}"
            case _:
                raise CannotConvert(f"{TOKENIZER} has the invalid merge {shown(merge)}")


def _byte_level(family: Family, config: ModelConfig, files: TokenizerFiles) -> Tokens:
    """Leaves out added tokens without a row in the weights; the comparison of tokens finds one that is needed."""
    model = _model(files.tokenizer)
    if model.get("byte_fallback"):
        raise CannotConvert(f"{TOKENIZER} has a model with byte_fallback, unknown for this architecture")
    vocabulary = read_token_ids(model)
    added = merge_added_tokens(files, vocabulary)
    tokens = Tokens.empty(_size(config, vocabulary, added), scored=False)
    for text, token_id in vocabulary.items():
        tokens.put(token_id, text, Type.NORMAL)
    for token_id, (text, special) in added.items():
        if token_id >= len(tokens):
            continue
        if special or looks_special(text) or text in family.control_tokens:
            tokens.put(token_id, text, Type.CONTROL)
        else:
            tokens.put(token_id, text.replace(SPACE, " "), Type.USER_DEFINED)
    return tokens


def _size(config: ModelConfig, vocabulary: Mapping[str, int], added: Mapping[int, tuple[str, bool]]) -> int:
    size = config.optional_count("vocab_size")
    return max([*vocabulary.values(), *added], default=-1) + 1 if size is None else size


def _is_sentencepiece(tokenizer: Mapping[str, Any]) -> bool:
    """Whether tokenizer.json holds a SentencePiece BPE."""
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
    if read_model_type(model) not in (BPE, None):
        raise CannotConvert(f"{SENTENCEPIECE} is not of the type BPE, but llama.cpp would merge its pieces as BPE")
    tokens = Tokens.empty(config.optional_count("vocab_size") or count, scored=True)
    for token_id, piece in enumerate(_read_pieces(model)):
        if token_id < len(tokens):
            _put_piece(tokens, token_id, piece, family.unused_piece_prefix)
    for text, token_id in files.added.items():
        if not is_id(token_id):
            raise CannotConvert(f"{ADDED} has the token {shown(text)} with the invalid id {shown(token_id)}")
        if token_id < len(tokens):
            tokens.put(token_id, text, Type.USER_DEFINED, _ADDED_SCORE)
    for token_id, token in read_added_tokens_decoder(files):
        if token_id < len(tokens):
            _put_added(tokens, token_id, token, by_flag=family.added_from_json)
    for token in files.added_tokens:
        if family.added_from_json or (
            token["id"] < len(tokens) and not tokens.has_added(token["id"], token["content"])
        ):
            _put_added(tokens, token["id"], token, by_flag=family.added_from_json)
    return tokens


def _read_pieces(model: bytes) -> list[TokenPiece]:
    try:
        return list(read_pieces(model))
    except (IndexError, ValueError) as error:
        raise CannotConvert(f"{SENTENCEPIECE} has a broken piece") from error


def _put_piece(tokens: Tokens, token_id: int, piece: TokenPiece, unused_prefix: str | None) -> None:
    # llama.cpp's converter knows these types only: a user-defined piece is normal unless it is added again.
    piece_type = piece.type if piece.type in (Type.UNKNOWN, Type.CONTROL, Type.UNUSED, Type.BYTE) else Type.NORMAL
    text = _NUL_REPLACEMENT if piece.text == "\0" else piece.text
    if text == _NUL_REPLACEMENT or (unused_prefix and text.startswith(unused_prefix)):
        piece_type = Type.UNUSED
    tokens.put(token_id, text, piece_type, piece.score)


def _put_added(tokens: Tokens, token_id: int, token: Mapping[str, Any], *, by_flag: bool = False) -> None:
    """With `by_flag`, only the token's own flag makes it special, and its text stays unchanged."""
    text = token["content"]
    if token.get("special") or (not by_flag and looks_special(text)):
        tokens.put(token_id, text, Type.CONTROL, _ADDED_SCORE)
    elif by_flag:
        tokens.put(token_id, text, Type.USER_DEFINED, _ADDED_SCORE)
    else:
        tokens.put(token_id, text.replace(SPACE, " "), Type.USER_DEFINED, _ADDED_SCORE)


def _pieces_of_json(config: ModelConfig, files: TokenizerFiles) -> Tokens:
    """Without a tokenizer.model. A piece's score is the negative rank of the first merge that makes it.

    llama.cpp's own converter gives all pieces the same score, so its tokens differ from those of transformers.
    """
    model = _model(files.tokenizer)
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(_merges(model)):
        ranks.setdefault(merge.replace(" ", ""), rank)
    vocabulary, unknown = read_token_ids(model), model.get("unk_token")
    added = merge_added_tokens(files, vocabulary)
    tokens = Tokens.empty(_size(config, vocabulary, added), scored=True)
    for text, token_id in vocabulary.items():
        if text == unknown:
            tokens.put(token_id, text, Type.UNKNOWN)
        elif _BYTE.fullmatch(text):
            tokens.put(token_id, text, Type.BYTE)
        else:
            tokens.put(token_id, text, Type.NORMAL, -float(ranks.get(text, len(ranks) + token_id)))
    for token_id, (text, special) in added.items():
        _put_added(tokens, token_id, {"content": text, "special": special})
    return tokens


def _merged_pieces(config: ModelConfig, files: TokenizerFiles, *, scored: bool) -> Tokens:
    """For architectures whose pieces llama.cpp merges by rank, as Hugging Face does, and not by score.

    llama.cpp's converter makes each added token within the vocabulary normal. Then a text contains it only if merges
    make it.
    """
    model = _model(files.tokenizer)
    vocabulary, merges = read_token_ids(model), {merge.replace(" ", "") for merge in _merges(model)}
    added = merge_added_tokens(files, vocabulary)
    tokens = Tokens.empty(_size(config, vocabulary, added), scored=scored)
    for text, token_id in vocabulary.items():
        if "\n" in text and text.strip("\n"):
            raise CannotConvert(f"{TOKENIZER} has the token {shown(text)}, which llama.cpp would split at its line end")
        tokens.put(token_id, text, Type.BYTE if _BYTE.fullmatch(text) else Type.NORMAL, _ADDED_SCORE)
    for token_id, (text, special) in added.items():
        if text in _ALWAYS_SHOWN:
            tokens.put(token_id, text, Type.USER_DEFINED, _ADDED_SCORE)
        elif special:
            tokens.put(token_id, text, Type.CONTROL, _ADDED_SCORE)
        elif text not in merges:
            tokens.put(token_id, text, Type.USER_DEFINED, _ADDED_SCORE)
    return tokens
