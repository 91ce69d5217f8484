"""Which tokens begin, end and fill a text, and which are special, as a repository's tokenizer files say. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from proxy.gguf.config import CannotConvert, ModelConfig, whole
from proxy.gguf.families.family import Family
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import TOKENIZER, TOKENIZER_CONFIG, TokenizerFiles, read_decoder

_KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_ID_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",  # sic, in every GGUF
    "pad": "padding_token_id",
    "mask": "mask_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
}

_CLASS_TOKENS: Mapping[str, tuple[str, ...]] = {
    "GPT2Tokenizer": ("<|endoftext|>",),
    "GPTNeoXTokenizer": ("<|endoftext|>",),
    "Qwen2Tokenizer": ("<|endoftext|>",),
    "LlamaTokenizer": ("<s>", "</s>", "<unk>"),
    "CodeLlamaTokenizer": ("<s>", "</s>", "<unk>"),
}
"""Special tokens that transformers takes a class of tokenizers to have where tokenizer_config.json names none."""


def added_tokens(files: TokenizerFiles, vocabulary: Mapping[str, int]) -> dict[int, tuple[str, bool]]:
    """The added tokens' texts and whether they are special, by number, as transformers puts them together."""
    added = {token["id"]: (token["content"], token.get("special") is True) for token in files.written_added}
    numbers = {text: number for number, (text, _) in added.items()}
    for number, token in read_decoder(files):
        known = numbers.get(token["content"], vocabulary.get(token["content"]))
        if known not in (None, number):
            raise CannotConvert(
                f"{TOKENIZER_CONFIG} has the token {shown(token['content'])} as number {number}, {TOKENIZER} as {known}"
            )
        added[number] = token["content"], token.get("special") is True
        numbers[token["content"]] = number
    for text in named_specials(files.specials, files.config):
        known = numbers.get(text, vocabulary.get(text))
        if known is not None:
            added[known] = text, True
    return added


def named_specials(specials: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """The texts of the special tokens in special_tokens_map.json and tokenizer_config.json, some of them twice."""
    for source in (specials, config):
        for kind in _KINDS:
            text = _text(source.get(f"{kind}_token"))
            if text is not None:
                yield text
        more = source.get("additional_special_tokens")
        for token in more if isinstance(more, list) else []:
            text = _text(token)
            if text is not None:
                yield text
    name = config.get("tokenizer_class")
    yield from _CLASS_TOKENS.get(name.removesuffix("Fast"), ()) if isinstance(name, str) else ()


def _text(token: object) -> str | None:
    """A token's, which stands as it is or in an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def write_specials(family: Family, config: ModelConfig, files: TokenizerFiles, size: int, *, strict: bool) -> Pairs:
    """The numbers of the special tokens, and which of them begin and end a text.

    `size` is the vocabulary's. A number beyond it is left out, as llama.cpp does for SentencePiece, or refused.
    """
    named = _Named(files)
    ids: dict[str, int] = {}
    texts = {token["content"]: token["id"] for token in reversed(files.written_added)}
    candidates = [(kind, texts.get(text)) for kind, text in named.texts.items()] if files.config else []
    candidates += [(kind, whole(config.find(f"{kind}_token_id"))) for kind in named.kinds]
    candidates += [(kind, texts.get(text)) for kind, text in family.special_tokens.items()]
    for kind, number in candidates:
        if type(number) is not int or number == -1 or kind in ids:
            continue
        if number < 0 or (number >= size and strict):
            raise CannotConvert(f"config.json has {kind}_token_id = {number} in a vocabulary of {size}")
        if number < size:
            ids[kind] = number
    for kind, key in _ID_KEYS.items():
        if kind in ids:
            yield key, Field.uint32(ids[kind])
    for kind, adds in named.adds.items():
        if kind in ("bos", "eos", "sep"):
            yield f"add_{kind}_token", Field.boolean(adds)


def named_additions(files: TokenizerFiles) -> Mapping[str, bool]:
    """Which kinds of special tokens the tokenizer adds to a text, as far as the files say it."""
    return _Named(files).adds


_PHI3 = re.compile("(phi)-?(3)", re.IGNORECASE)
_KEEPING_SPACES = frozenset({"<unk>", "<s>", "<|endoftext|>"})


def name_for_loader(name: str, files: TokenizerFiles, tokens: Field) -> str:
    """A model's name, by which llama.cpp's loader goes (llama-vocab.cpp at b10488).

    Where it has `phi-3` or `phi3`, all special tokens but three take the spaces behind them, and a vocabulary without
    those three and `</s>` is not loaded.
    """
    takes = {token["content"]: token.get("rstrip") is True for token in files.written_added}
    is_named = _PHI3.search(name) is not None
    if not is_named and not any(takes.values()):
        return name
    as_phi3 = all(taking == (text not in _KEEPING_SPACES) for text, taking in takes.items())
    if takes and as_phi3 and {"</s>", *_KEEPING_SPACES} <= set(tokens.value):  # type: ignore[arg-type]
        return name if is_named else f"{name} (Phi-3)"
    return _PHI3.sub(r"\1 \2", name)


_BY_CONFIG = frozenset(
    {"LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "CohereTokenizer", "GPTNeoXTokenizer"}
)
"""Classes that add what tokenizer_config.json says, whatever tokenizer.json says, in transformers 4.

transformers 5 and llama.cpp's converter (b11434) always go by tokenizer.json. Models are trained with the tokens that
transformers 4 adds: e5-mistral-7b-instruct makes other vectors without EOS (embeddings-benchmark/mteb 5237).
"""


def _goes_by_config(files: TokenizerFiles) -> bool:
    name = files.config.get("tokenizer_class")
    return (
        files.tokenizer.get("post_processor") is None
        or not isinstance(name, str)
        or name.removesuffix("Fast") in _BY_CONFIG
    )


class _Named:
    """What tokenizer.json and tokenizer_config.json say of special tokens, as gguf's SpecialVocab reads them."""

    def __init__(self, files: TokenizerFiles) -> None:
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
                self.adds[kind] = adds if _goes_by_config(files) else self.adds.get(kind, False)
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
                single, pair = part.get("single") or [], part.get("pair") or []
                if not isinstance(single, list) or not isinstance(pair, list):
                    raise CannotConvert(f"{TOKENIZER} has a template that is not known: {shown(part)}")
                self._read_template(single, pair)
            elif kind == "RobertaProcessing":
                self._read_template(*_roberta_template(part))
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


def _roberta_template(part: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """What RoBERTa's post-processor puts around one text, and around two."""
    begin, end = (part.get(key) for key in ("cls", "sep"))
    if not isinstance(begin, list) or not isinstance(end, list) or not begin or not end:
        raise CannotConvert(f"{TOKENIZER} has a post-processor that is not known: {shown(part)}")
    (first, last), (one, two) = (
        [{kind: {"id": name}} for name in names]
        for kind, names in (("SpecialToken", (begin[0], end[0])), ("Sequence", ("A", "B")))
    )
    return [first, one, last], [first, one, last, last, two, last]


def _special(part: object) -> str | None:
    return _inner(part, "SpecialToken")


def _sequence(part: object) -> str | None:
    return _inner(part, "Sequence")


def _inner(part: object, kind: str) -> str | None:
    inner = part.get(kind) if isinstance(part, dict) else None
    text = inner.get("id") if isinstance(inner, dict) else None
    return text if isinstance(text, str) else None
