"""A repository's tokenizer files as the `tokenizer.*` keys of a GGUF, as llama.cpp's converter writes them. Pure."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.gguf.config import CannotConvert, Config
from proxy.gguf.families.rules import Family
from proxy.gguf.header import Field, Kind
from proxy.gguf.hyperparameters import Pairs
from proxy.gguf.pretokenizers import name_pre_tokenizer
from proxy.gguf.sentencepiece import BPE, MOST_TOKENS, count_pieces, read_pieces, read_trainer
from proxy.gguf.sentencepiece import Kind as Type
from proxy.gguf.tensors import shown

TOKENIZER = "tokenizer.json"
SENTENCEPIECE = "tokenizer.model"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIALS = "special_tokens_map.json"
ADDED = "added_tokens.json"

_KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_ID_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",  # sic, in every GGUF
    "pad": "padding_token_id",
    "mask": "mask_token_id",
    "cls": "cls_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
}
_ADDED_SCORE, _UNUSED_SCORE = -1000.0, -10000.0
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPACE = "\u2581"
_BEGIN_BY_DEFAULT = ("llama-bpe", "tekken")
_CLASS_TOKENS: Mapping[str, tuple[str, ...]] = {
    "GPT2Tokenizer": ("<|endoftext|>",),
    "GPTNeoXTokenizer": ("<|endoftext|>",),
    "Qwen2Tokenizer": ("<|endoftext|>",),
    "LlamaTokenizer": ("<s>", "</s>", "<unk>"),
    "CodeLlamaTokenizer": ("<s>", "</s>", "<unk>"),
}
"""Special tokens that transformers takes a class of tokenizers to have where tokenizer_config.json names none."""


@dataclass(frozen=True, slots=True)
class _Files:
    """The tokenizer files, parsed; empty where one is missing."""

    tokenizer: Mapping[str, Any]
    config: Mapping[str, Any]
    specials: Mapping[str, Any]
    added: Mapping[str, Any]
    model: bytes | None

    @classmethod
    def read(cls, contents: Mapping[str, bytes]) -> "_Files":
        parsed = {path: _object(path, contents.get(path)) for path in (TOKENIZER, TOKENIZER_CONFIG, SPECIALS, ADDED)}
        return cls(
            parsed[TOKENIZER], parsed[TOKENIZER_CONFIG], parsed[SPECIALS], parsed[ADDED], contents.get(SENTENCEPIECE)
        )

    @property
    def written_added(self) -> Sequence[Mapping[str, Any]]:
        """The added tokens of tokenizer.json."""
        return list(_added(self.tokenizer.get("added_tokens") or []))


def _object(path: str, content: bytes | None) -> Mapping[str, Any]:
    try:
        value = {} if content is None else json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CannotConvert(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CannotConvert(f"{path} is no JSON object")
    return value


def _added(tokens: object) -> Iterator[Mapping[str, Any]]:
    if not isinstance(tokens, list):
        raise CannotConvert(f"{TOKENIZER} has the added_tokens {shown(tokens)}")
    for token in tokens:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str) or not _is_id(token.get("id")):
            raise CannotConvert(f"{TOKENIZER} has the added token {shown(token)}")
        yield token


def _is_id(number: object) -> bool:
    return type(number) is int and 0 <= number < MOST_TOKENS


def write_vocabulary(
    family: Family, config: Config, contents: Mapping[str, bytes], chat_template: str | None = None
) -> dict[str, Field]:
    """The keys with their whole names. Raises CannotConvert for a tokenizer that is not known."""
    files = _Files.read(contents)
    fields: dict[str, Field] = {}
    for key, field in _write(family, config, files):
        fields[f"tokenizer.ggml.{key}"] = field
    if chat_template is not None:
        fields["tokenizer.chat_template"] = Field.string(chat_template)
    return fields


def _write(family: Family, config: Config, files: _Files) -> Pairs:
    if "sentencepiece" in family.tokenizers and files.model is not None:
        tokens = _pieces(family, config, files)
        yield from tokens.pairs("llama", "default")
        yield from _specials(family, config, files, tokens)
    elif "sentencepiece" in family.tokenizers and _is_sentencepiece(files.tokenizer):
        tokens = _pieces_of_json(config, files)
        yield from tokens.pairs("llama", "default")
        yield from _specials(family, config, files, tokens)
    elif "bpe" in family.tokenizers and files.tokenizer:
        pre = name_pre_tokenizer(files.tokenizer)
        tokens = _byte_level(config, files)
        yield from tokens.pairs("gpt2", pre)
        yield "merges", Field.strings(_merges(_model(files.tokenizer)))
        specials = dict(_specials(family, config, files, tokens, numbered=False))
        if pre in _BEGIN_BY_DEFAULT:
            # llama.cpp lets a text begin with a token of its own where nothing is said; transformers does not.
            specials.setdefault("add_bos_token", Field.boolean(False))
        yield from specials.items()
    else:
        wanted = " or ".join({"bpe": TOKENIZER, "sentencepiece": SENTENCEPIECE}[kind] for kind in family.tokenizers)
        raise CannotConvert(f"{family.architecture} has no {wanted} here")
    yield from family.vocabulary(config, files.config)


@dataclass(slots=True)
class _Tokens:
    """Texts, types and perhaps scores by number; what the tokenizer does not fill is unused."""

    texts: list[str]
    types: list[int]
    scores: list[float] | None = None

    @classmethod
    def empty(cls, size: int, *, scored: bool) -> "_Tokens":
        if size > MOST_TOKENS:
            raise CannotConvert(f"config.json has vocab_size = {size}, more than any model has")
        texts = [f"[PAD{number}]" for number in range(size)]
        return cls(texts, [int(Type.UNUSED)] * size, [_UNUSED_SCORE] * size if scored else None)

    def __len__(self) -> int:
        return len(self.texts)

    def put(self, number: int, text: str, kind: int, score: float = 0.0) -> None:
        if number >= len(self.texts):
            raise CannotConvert(
                f"the token {shown(text)} has the number {number}, but config.json has vocab_size = {len(self.texts)}"
            )
        self.texts[number], self.types[number] = text, int(kind)
        if self.scores is not None:
            self.scores[number] = score

    def pairs(self, model: str, pre: str) -> Pairs:
        yield "model", Field.string(model)
        yield "pre", Field.string(pre)
        yield "tokens", Field.strings(self.texts)
        if self.scores is not None:
            yield "scores", Field.array(Kind.FLOAT32, self.scores)
        yield "token_type", Field.array(Kind.INT32, self.types)


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


def _vocabulary(model: Mapping[str, Any]) -> Mapping[str, int]:
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not all(_is_id(number) for number in vocabulary.values()):
        raise CannotConvert(f"{TOKENIZER} has a vocabulary without numbers")
    return vocabulary


def _merges(model: Mapping[str, Any]) -> Iterator[str]:
    """Each as two texts with a space between them. A space inside one is written as byte-level BPE writes spaces."""
    merges = model.get("merges")
    if not isinstance(merges, list) or not merges:
        raise CannotConvert(f"{TOKENIZER} has no merges")
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or [type(half) for half in pair] != [str, str]:
            raise CannotConvert(f"{TOKENIZER} has the merge {shown(merge)}")
        yield " ".join(half.replace(" ", chr(ord(" ") + 256)) for half in pair)


def _byte_level(config: Config, files: _Files) -> _Tokens:
    model = _model(files.tokenizer)
    if model.get("byte_fallback"):
        raise CannotConvert(f"{TOKENIZER} has a model with byte_fallback, which this family's tokenizer does not have")
    vocabulary = _vocabulary(model)
    added = _added_tokens(files, vocabulary)
    largest = max([*vocabulary.values(), *added], default=-1)
    tokens = _Tokens.empty(_size(config, largest + 1), scored=False)
    for text, number in vocabulary.items():
        tokens.put(number, text, Type.NORMAL)
    for number, (text, special) in added.items():
        if special or _looks_special(text):
            tokens.put(number, text, Type.CONTROL)
        else:
            tokens.put(number, text.replace(_SPACE, " "), Type.USER_DEFINED)
    return tokens


def _size(config: Config, default: int) -> int:
    size = config.optional_count("vocab_size")
    return default if size is None else size


def _looks_special(text: str) -> bool:
    """Some tokenizers do not mark as special what is."""
    return (
        text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (text.startswith("<|") and text.endswith("|>"))
        or (text.startswith("<｜") and text.endswith("｜>"))
        or (text.startswith("<unused") and text.endswith(">"))
    )


def _added_tokens(files: _Files, vocabulary: Mapping[str, int]) -> dict[int, tuple[str, bool]]:
    """The added tokens' texts and whether they are special, by number, as transformers puts them together."""
    added = {token["id"]: (token["content"], token.get("special") is True) for token in files.written_added}
    numbers = {text: number for number, (text, _) in added.items()}
    for number, token in _decoder(files):
        known = numbers.get(token["content"], vocabulary.get(token["content"]))
        if known not in (None, number):
            raise CannotConvert(
                f"{TOKENIZER_CONFIG} has the token {shown(token['content'])} as number {number}, {TOKENIZER} as {known}"
            )
        added[number] = token["content"], token.get("special") is True
        numbers[token["content"]] = number
    for text in _named_specials(files):
        known = numbers.get(text, vocabulary.get(text))
        if known is not None:
            added[known] = text, True
    return added


def _decoder(files: _Files) -> Iterator[tuple[int, Mapping[str, Any]]]:
    tokens = files.config.get("added_tokens_decoder") or {}
    if not isinstance(tokens, dict):
        raise CannotConvert(f"{TOKENIZER_CONFIG} has the added_tokens_decoder {shown(tokens)}")
    for key, token in tokens.items():
        number = int(key) if key.isascii() and key.isdecimal() and len(key) < 10 else -1  # noqa: PLR2004
        if not _is_id(number) or not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise CannotConvert(f"{TOKENIZER_CONFIG} has the added token {shown(token)} with the number {shown(key)}")
        yield number, token


def _named_specials(files: _Files) -> Iterator[str]:
    for source in (files.specials, files.config):
        for kind in _KINDS:
            text = _text(source.get(f"{kind}_token"))
            if text is not None:
                yield text
        more = source.get("additional_special_tokens")
        for token in more if isinstance(more, list) else []:
            text = _text(token)
            if text is not None:
                yield text
    name = files.config.get("tokenizer_class")
    yield from _CLASS_TOKENS.get(name.removesuffix("Fast"), ()) if isinstance(name, str) else ()


def _text(token: object) -> str | None:
    """A token's, which stands as it is or in an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


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


def _pieces(family: Family, config: Config, files: _Files) -> _Tokens:
    model = files.model or b""
    count = count_pieces(model)
    if count is None:
        raise CannotConvert(f"{SENTENCEPIECE} is not a SentencePiece model")
    if read_trainer(model) not in (BPE, None):
        raise CannotConvert(f"{SENTENCEPIECE} is not of the kind BPE, and llama.cpp would merge it as one")
    tokens = _Tokens.empty(config.optional_count("vocab_size") or count, scored=True)
    for number, piece in enumerate(read_pieces(model)):
        # llama.cpp's converter asks for these kinds only: what the user defined is normal, unless it is added below.
        known = piece.kind in (Type.UNKNOWN, Type.CONTROL, Type.UNUSED, Type.BYTE)
        if number < len(tokens):
            tokens.put(number, piece.text, piece.kind if known else Type.NORMAL, piece.score)
    for text, number in files.added.items():
        if not _is_id(number):
            raise CannotConvert(f"{ADDED} has the token {shown(text)} with the number {shown(number)}")
        if number < len(tokens):
            tokens.put(number, text, Type.USER_DEFINED, _ADDED_SCORE)
    for number, token in _decoder(files):
        if number < len(tokens):
            _put_added(tokens, number, token, marked=family.added_from_json)
    for token in files.written_added if family.added_from_json else ():
        _put_added(tokens, token["id"], token, marked=True)
    return tokens


def _put_added(tokens: _Tokens, number: int, token: Mapping[str, Any], *, marked: bool = False) -> None:
    """`marked` takes a token for special only where it says so, and its text as it is."""
    text = token["content"]
    if token.get("special") or (not marked and _looks_special(text)):
        tokens.put(number, text, Type.CONTROL, _ADDED_SCORE)
    elif marked:
        tokens.put(number, text, Type.USER_DEFINED, _ADDED_SCORE)
    else:
        tokens.put(number, text.replace(_SPACE, " "), Type.USER_DEFINED, _ADDED_SCORE)


_PREPENDED = {"type": "Prepend", "prepend": _SPACE}
_REPLACED = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}


def _pieces_of_json(config: Config, files: _Files) -> _Tokens:
    """Where there is no tokenizer.model. A piece's score is the rank of the first merge that makes it, negative.

    llama.cpp's own converter gives all of them the same score, so that other tokens come out than transformers'.
    """
    _check_normalizer(files.tokenizer)
    model = _model(files.tokenizer)
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(_merges(model)):
        ranks.setdefault(merge.replace(" ", ""), rank)
    vocabulary, unknown = _vocabulary(model), model.get("unk_token")
    added = _added_tokens(files, vocabulary)
    tokens = _Tokens.empty(_size(config, max([*vocabulary.values(), *added], default=-1) + 1), scored=True)
    for text, number in vocabulary.items():
        if text == unknown:
            tokens.put(number, text, Type.UNKNOWN)
        elif _BYTE.fullmatch(text):
            tokens.put(number, text, Type.BYTE)
        else:
            tokens.put(number, text, Type.NORMAL, -float(ranks.get(text, len(ranks) + number)))
    for number, (text, special) in added.items():
        if text != unknown:
            _put_added(tokens, number, {"content": text, "special": special})
    return tokens


def _check_normalizer(tokenizer: Mapping[str, Any]) -> None:
    """llama.cpp puts a space before a text and makes underscores of spaces, which is all that it does."""
    normalizer, pre_tokenizer = tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")
    as_steps = {"type": "Sequence", "normalizers": [_PREPENDED, _REPLACED]}
    metaspace = (
        isinstance(pre_tokenizer, dict)
        and pre_tokenizer.get("type") == "Metaspace"
        and pre_tokenizer.get("replacement") == _SPACE
        and pre_tokenizer.get("prepend_scheme", "always") in ("always", "first")
        and pre_tokenizer.get("split") is False
    )
    if not ((normalizer == as_steps and pre_tokenizer is None) or (normalizer is None and metaspace)):
        raise CannotConvert(
            f"{TOKENIZER} has the normalizer {shown(normalizer)} and the pre-tokenizer {shown(pre_tokenizer)}, "
            f"which are not known for SentencePiece without {SENTENCEPIECE}"
        )


def _specials(family: Family, config: Config, files: _Files, tokens: _Tokens, *, numbered: bool = True) -> Pairs:
    """The numbers of the special tokens, and which of them begin and end a text.

    `numbered` leaves out a number beyond the vocabulary, as llama.cpp does for SentencePiece alone.
    """
    named = _Named(files)
    ids: dict[str, int] = {}
    texts = {token["content"]: token["id"] for token in reversed(files.written_added)}
    candidates = [(kind, texts.get(text)) for kind, text in named.texts.items()] if files.config else []
    candidates += [(kind, config.find(f"{kind}_token_id")) for kind in named.kinds]
    candidates += [(kind, texts.get(text)) for kind, text in family.specials.items()]
    for kind, number in candidates:
        if type(number) is not int or kind in ids:
            continue
        if number < 0 or (number >= len(tokens) and not numbered):
            raise CannotConvert(f"config.json has {kind}_token_id = {number} in a vocabulary of {len(tokens)}")
        if number < len(tokens):
            ids[kind] = number
    for kind, number in ids.items():
        yield _ID_KEYS[kind], Field.uint32(number)
    for kind, adds in named.adds.items():
        if kind in ("bos", "eos", "sep"):
            yield f"add_{kind}_token", Field.boolean(adds)


class _Named:
    """What tokenizer.json and tokenizer_config.json say of special tokens, as gguf's SpecialVocab reads them."""

    def __init__(self, files: _Files) -> None:
        self.kinds: tuple[str, ...] = _KINDS
        self.adds: dict[str, bool] = {}
        self._config = dict(files.config)
        if files.tokenizer:
            self._fill_in()
            self._read_processors(files.tokenizer.get("post_processor"))
        self.texts: dict[str, str] = {}
        for kind in self.kinds:
            adds = self._config.get(f"add_{kind}_token")
            if isinstance(adds, bool):
                self.adds[kind] = adds
            text = _text(self._config.get(f"{kind}_token"))
            if text is not None:
                self.texts[kind] = text

    def _fill_in(self) -> None:
        if self._config:
            for missing, other in (("bos", "cls"), ("eos", "sep")):
                if not self._config.get(f"{missing}_token") and self._config.get(f"{other}_token"):
                    self._config[f"{missing}_token"] = self._config[f"{other}_token"]

    def _read_processors(self, post_processor: object) -> None:
        if not isinstance(post_processor, dict):
            return
        parts = post_processor.get("processors", [post_processor])
        for part in parts if isinstance(parts, list) else []:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "TemplateProcessing":
                self._read_template(part.get("single") or [], part.get("pair") or [])
            elif kind not in ("ByteLevel", None):
                raise CannotConvert(f"{TOKENIZER} has the unknown post-processor {shown(kind)}")

    def _read_template(self, single: Sequence[Any], pair: Sequence[Any]) -> None:
        """Raises CannotConvert where more than one token begins or ends a text."""
        first, last = (_special(single[at]) if len(single) > 1 else None for at in (0, -1))
        if len(single) != 1 + (first is not None) + (last is not None):
            raise CannotConvert(f"{TOKENIZER} has a template that is not known: {shown(single)}")
        if first is not None:
            bos, cls = self._get("bos"), self._get("cls")
            if not self._config:
                self._config["bos_token"] = first
            elif first not in (bos, cls):
                for kind, text in (("bos", bos), ("cls", cls)):
                    if not text:
                        self._config[f"{kind}_token"] = first
            self.adds["bos"] = first in (self._get("bos"), self._get("cls"))
        if last is not None:
            if self._config and last != self._get("eos"):
                self.kinds = (*self.kinds, "eot")
                self._config["eot_token"] = self._get("eos")
            self._config["eos_token"] = last
            self.adds["eos"] = True
        self._read_pair(pair, first, last)

    def _read_pair(self, pair: Sequence[Any], first: str | None, last: str | None) -> None:
        start = 1 if pair and first is not None and _special(pair[0]) == first else 0
        stop = len(pair) - (1 if pair and last is not None and _special(pair[-1]) == last else 0)
        inner = list(pair[start:stop])
        if len(inner) > 2 and _sequence(inner[0]) == "A" and _sequence(inner[-1]) == "B":  # noqa: PLR2004
            ends = (self._get("sep"), self._get("eos"))
            between = [_special(part) for part in inner[1:-1]]
            separators = [part is not None and part in ends for part in between]
            self.adds["sep"] = (separators[0] and last is None) or (len(between) == 2 and separators[1])  # noqa: PLR2004

    def _get(self, kind: str) -> str | None:
        return _text(self._config.get(f"{kind}_token"))


def _special(part: object) -> str | None:
    return _inner(part, "SpecialToken")


def _sequence(part: object) -> str | None:
    return _inner(part, "Sequence")


def _inner(part: object, kind: str) -> str | None:
    inner = part.get(kind) if isinstance(part, dict) else None
    text = inner.get("id") if isinstance(inner, dict) else None
    return text if isinstance(text, str) else None
