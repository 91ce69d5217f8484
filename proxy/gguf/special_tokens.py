"""Reads from a repository's tokenizer files which tokens are special, and which of them begin or end a text. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs
from proxy.gguf.model_config import CannotConvert, ModelConfig, as_integer
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import TOKENIZER, TOKENIZER_CONFIG, TokenizerFiles, read_added_tokens_decoder

_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_ID_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",  # misspelled in every GGUF
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
"""Class of tokenizers → special tokens that transformers adds if tokenizer_config.json names none."""


def merge_added_tokens(files: TokenizerFiles, vocabulary: Mapping[str, int]) -> dict[int, tuple[str, bool]]:
    """Token id → text, and whether the token is special. Merges the files as transformers does."""
    added = {token["id"]: (token["content"], token.get("special") is True) for token in files.added_tokens}
    ids = {text: token_id for token_id, (text, _) in added.items()}
    for token_id, token in read_added_tokens_decoder(files):
        known = ids.get(token["content"], vocabulary.get(token["content"]))
        if known not in (None, token_id):
            raise CannotConvert(
                f"the token {shown(token['content'])} has the id {token_id} in {TOKENIZER_CONFIG}, but {known} in "
                f"{TOKENIZER}"
            )
        added[token_id] = token["content"], token.get("special") is True
        ids[token["content"]] = token_id
    for text in special_texts(files.specials, files.config):
        known = ids.get(text, vocabulary.get(text))
        if known is not None:
            added[known] = text, True
    return added


def special_texts(specials: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """The special tokens of special_tokens_map.json and tokenizer_config.json; a text may come twice."""
    for source in (specials, config):
        for name in _NAMES:
            text = text_of(source.get(f"{name}_token"))
            if text is not None:
                yield text
        yield from _more_texts(source)
    class_name = config.get("tokenizer_class")
    yield from _CLASS_TOKENS.get(class_name.removesuffix("Fast"), ()) if isinstance(class_name, str) else ()


def _more_texts(source: Mapping[str, Any]) -> Iterator[str]:
    """`extra_special_tokens`, transformers 5's name, may be an object from names such as `image_token` to tokens."""
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = source.get(key)
        tokens = more.values() if isinstance(more, dict) else more if isinstance(more, list) else ()
        for token in tokens:
            text = text_of(token)
            if text is not None:
                yield text


def text_of(token: object) -> str | None:
    """A token is written as a text, or as an object with `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def write_specials(
    defaults: Mapping[str, str], config: ModelConfig, files: TokenizerFiles, size: int, *, strict: bool
) -> Pairs:
    """The ids of the special tokens, and which of them begin and end a text.

    `defaults` are the family's: name such as `eot` → text. `size` is the vocabulary's. If `strict`, an id beyond it is
    refused; else it is left out, as llama.cpp does for SentencePiece.
    """
    special = _SpecialVocab(files)
    ids: dict[str, int] = {}
    added_ids = {token["content"]: token["id"] for token in reversed(files.added_tokens)}
    candidates = [(name, added_ids.get(text)) for name, text in special.texts.items()] if files.config else []
    candidates += [(name, as_integer(config.find(f"{name}_token_id"))) for name in special.names]
    candidates += [(name, added_ids.get(text)) for name, text in defaults.items()]
    for name, token_id in candidates:
        if type(token_id) is not int or token_id == -1 or name in ids:
            continue
        if token_id < 0 or (token_id >= size and strict):
            raise CannotConvert(f"config.json has {name}_token_id = {token_id}, but only {size} tokens")
        if token_id < size:
            ids[name] = token_id
    for name, key in _ID_KEYS.items():
        if name in ids:
            yield key, Field.uint32(ids[name])
    for name, adds in special.adds.items():
        if name in ("bos", "eos", "sep"):
            yield f"add_{name}_token", Field.boolean(adds)


def read_additions(files: TokenizerFiles) -> Mapping[str, bool]:
    """Name such as `bos` → whether the tokenizer adds this token to a text. A name that no file decides is missing."""
    return _SpecialVocab(files).adds


_PHI3 = re.compile("(phi)-?(3)", re.IGNORECASE)
_PHI3_UNSTRIPPED = frozenset({"<unk>", "<s>", "<|endoftext|>"})
PHI3_TOKENS = ("</s>", "<unk>", "<s>", "<|endoftext|>")
"""Tokens without which llama.cpp's loader ends with `unordered_map::at` if `is_named_phi3` (llama-vocab.cpp)."""


def is_named_phi3(name: str) -> bool:
    """Whether llama.cpp treats a model with this `general.name` as Phi-3."""
    return _PHI3.search(name) is not None


def unlike_phi3(name: str) -> str:
    """The name as a text that llama.cpp does not take for Phi-3's."""
    return _PHI3.sub(r"\1 \2", name)


def name_for_loader(name: str, files: TokenizerFiles, tokens: Field) -> str:
    """Changes a model's name where llama.cpp's loader would draw a wrong conclusion from it.

    If the name contains `phi-3` or `phi3`, all special tokens except three strip the spaces after them, and a
    vocabulary without these three and `</s>` is not loaded (llama-vocab.cpp at b10488).
    """
    strips = {token["content"]: token.get("rstrip") is True for token in files.added_tokens}
    is_named = is_named_phi3(name)
    if not is_named and not any(strips.values()):
        return name
    like_phi3 = all(stripping == (text not in _PHI3_UNSTRIPPED) for text, stripping in strips.items())
    if strips and like_phi3 and set(PHI3_TOKENS) <= set(tokens.value):  # type: ignore[arg-type]
        return name if is_named else f"{name} (Phi-3)"
    return unlike_phi3(name)


_CONFIG_DECIDES = frozenset(
    {"LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "CohereTokenizer", "GPTNeoXTokenizer"}
)
"""Classes for which transformers 4 follows tokenizer_config.json and ignores the post-processor of tokenizer.json.

transformers 5 and llama.cpp's converter (b11434) always follow tokenizer.json. But models are trained with the tokens
that transformers 4 adds: e5-mistral-7b-instruct makes other vectors without EOS (embeddings-benchmark/mteb 5237).
"""


def _follows_config(files: TokenizerFiles) -> bool:
    name = files.config.get("tokenizer_class")
    return (
        files.tokenizer.get("post_processor") is None
        or not isinstance(name, str)
        or name.removesuffix("Fast") in _CONFIG_DECIDES
    )


class _SpecialVocab:
    """The special tokens of tokenizer.json and tokenizer_config.json, read like gguf's SpecialVocab."""

    def __init__(self, files: TokenizerFiles) -> None:
        self.names: tuple[str, ...] = _NAMES
        self.adds: dict[str, bool] = {}
        self._config = dict(files.config)
        if files.tokenizer:
            self._fill_missing()
            self._read_processors(files.tokenizer.get("post_processor"))
        self.texts: dict[str, str] = {}
        for name in self.names:
            adds = self._config.get(f"add_{name}_token")
            if isinstance(adds, bool):
                self.adds[name] = adds if _follows_config(files) else self.adds.get(name, False)
            text = text_of(self._config.get(f"{name}_token"))
            if text is not None:
                self.texts[name] = text

    def _fill_missing(self) -> None:
        if self._config:
            for missing, other in (("bos", "cls"), ("eos", "sep")):
                if not self._config.get(f"{missing}_token") and self._config.get(f"{other}_token"):
                    self._config[f"{missing}_token"] = self._config[f"{other}_token"]

    def _read_processors(self, post_processor: object) -> None:
        if not isinstance(post_processor, dict):
            return
        processors = post_processor.get("processors", [post_processor])
        for processor in processors if isinstance(processors, list) else []:
            processor_type = processor.get("type") if isinstance(processor, dict) else None
            if processor_type == "TemplateProcessing":
                single, pair = processor.get("single") or [], processor.get("pair") or []
                if not isinstance(single, list) or not isinstance(pair, list):
                    raise CannotConvert(f"{TOKENIZER} has an unknown template: {shown(processor)}")
                self._read_template(single, pair)
            elif processor_type == "RobertaProcessing":
                self._read_template(*_roberta_template(processor))
            elif processor_type not in ("ByteLevel", None):
                raise CannotConvert(f"{TOKENIZER} has the unknown post-processor {shown(processor_type)}")

    def _read_template(self, single: Sequence[Any], pair: Sequence[Any]) -> None:
        """Raises CannotConvert if more than one token begins or ends a text."""
        first, last = (_special(single[at]) if len(single) > 1 else None for at in (0, -1))
        if len(single) != 1 + (first is not None) + (last is not None):
            raise CannotConvert(f"{TOKENIZER} has an unknown template: {shown(single)}")
        if first is not None:
            bos, cls = self._get("bos"), self._get("cls")
            if not self._config:
                self._config["bos_token"] = first
            elif first not in (bos, cls):
                for name, text in (("bos", bos), ("cls", cls)):
                    if not text:
                        self._config[f"{name}_token"] = first
            self.adds["bos"] = first in (self._get("bos"), self._get("cls"))
        if last is not None:
            if self._config and last != self._get("eos"):
                self.names = (*self.names, "eot")
                self._config["eot_token"] = self._get("eos")
            self._config["eos_token"] = last
            self.adds["eos"] = True
        self._read_pair(pair, first, last)

    def _read_pair(self, pair: Sequence[Any], first: str | None, last: str | None) -> None:
        start = 1 if pair and first is not None and _special(pair[0]) == first else 0
        stop = len(pair) - (1 if pair and last is not None and _special(pair[-1]) == last else 0)
        match list(pair[start:stop]):
            case [one, *between, two] if between and _sequence(one) == "A" and _sequence(two) == "B":
                ends = (self._get("sep"), self._get("eos"))
                texts = [_special(part) for part in between]
                separators = [text is not None and text in ends for text in texts]
                self.adds["sep"] = (separators[0] and last is None) or separators[1:] == [True]

    def _get(self, name: str) -> str | None:
        return text_of(self._config.get(f"{name}_token"))


def _roberta_template(processor: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """RoBERTa's post-processor as templates for one text and for a pair."""
    begin, end = (processor.get(key) for key in ("cls", "sep"))
    if not isinstance(begin, list) or not isinstance(end, list) or not begin or not end:
        raise CannotConvert(f"{TOKENIZER} has an unknown post-processor: {shown(processor)}")
    (first, last), (one, two) = (
        [{part: {"id": text}} for text in texts]
        for part, texts in (("SpecialToken", (begin[0], end[0])), ("Sequence", ("A", "B")))
    )
    return [first, one, last], [first, one, last, last, two, last]


def _special(part: object) -> str | None:
    return _inner(part, "SpecialToken")


def _sequence(part: object) -> str | None:
    return _inner(part, "Sequence")


def _inner(part: object, key: str) -> str | None:
    inner = part.get(key) if isinstance(part, dict) else None
    text = inner.get("id") if isinstance(inner, dict) else None
    return text if isinstance(text, str) else None
