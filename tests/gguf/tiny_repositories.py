"""Tiny repositories of many families with random weights, made the same each time: what the conversion is tested on.

Rows are multiples of 256 numbers, so that Ollama can quantize them. `write` puts one into a folder, which is how
llama.cpp's converter got them (`python -m tests.gguf.tiny_repositories FOLDER`).
"""

import json
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tests.kit.tiny_models import (
    Pooling,
    Random,
    Tensors,
    bert_tokenizer,
    safetensors,
    sentence_transformer,
    unigram_tokenizer,
    wordpieces,
)

HIDDEN, FEED_FORWARD, LAYERS, HEADS, KV_HEADS = 256, 512, 2, 4, 2
HEAD = HIDDEN // HEADS
EXPERTS = 4
FOUR_BITS = [sign * number for sign in (1, -1) for number in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)]
"""What MXFP4's numbers stand for, before their scale."""
TEXT = (
    "the quick brown fox jumps over the lazy dog and then the story begins with a small language model that reads "
    "every word in turn while other people are talking about water and fire and the weather of the north"
)
WORDS = TEXT.split()
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
HEAD_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_BEFORE, _ENDINGS = r"[^\r\n\p{L}\p{N}]?", "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PIECES_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + "
    "' [/INST]' }}{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
SPACE = "\u2581"


def _split(*patterns: str, lines: bool = False) -> dict[str, Any]:
    """`lines` has each line go with the ends of those before it."""
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}
        for pattern, behavior in (
            *([(r"(?:\r?\n)+(?!\r?\n)", "MergedWithNext")] if lines else []),
            *((pattern, "Isolated") for pattern in patterns),
        )
    ]
    return {"type": "Sequence", "pretokenizers": [*splits, {**BYTE_LEVEL, "use_regex": False}]}


PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "bailingmoe": _split(
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
    ),
    "deepseek-v3": _split(
        r"\p{N}{1,3}",
        "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
        "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    ),
    "llama-bpe": _split(HEAD_PATTERN + r"|\p{N}{1,3}" + TAIL),
    "qwen2": _split(HEAD_PATTERN + r"|\p{N}" + TAIL),
    "gpt-4o": _split(
        rf"{_BEFORE}{_UPPER}*{_LOWER}+{_ENDINGS}?|{_BEFORE}{_UPPER}+{_LOWER}*{_ENDINGS}?|\p{{N}}{{1,3}}{_CASED_TAIL}"
    ),
    "tekken": _split(rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\p{{N}}{_CASED_TAIL}"),
    "laguna": _split(HEAD_PATTERN + r"|\p{N}" + TAIL, lines=True),
    "qwen35": _split(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
        r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "gpt-2": {**BYTE_LEVEL, "use_regex": True},
    "falcon": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Punctuation", "behavior": "Contiguous"},
            {**BYTE_LEVEL, "use_regex": True},
            {"type": "Digits", "individual_digits": False},
            {"type": "Split", "pattern": {"Regex": "[0-9][0-9][0-9]"}, "behavior": "Isolated", "invert": False},
        ],
    },
    "bloom": _split(" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"),
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, {**BYTE_LEVEL, "use_regex": True}],
    },
}


@cache
def byte_characters() -> tuple[str, ...]:
    """How byte-level BPE writes each byte."""
    kept = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return tuple(chr(byte) if byte in kept else chr(next(others)) for byte in range(256))


def _merges(words: Mapping[tuple[str, ...], int], count: int) -> Iterator[tuple[str, str]]:
    """The pairs that a trainer would merge, most frequent first."""
    current = dict(words)
    for _ in range(count):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in current.items():
            for pair in pairwise(word):
                pairs[pair] += times
        if not pairs:
            return
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        yield best
        current = {_merged(word, best): times for word, times in current.items()}


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    made: list[str] = []
    for text in word:
        if made and (made[-1], text) == pair:
            made[-1] += text
        else:
            made.append(text)
    return tuple(made)


def added_token(text: str, number: int, *, special: bool = True) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": text, **flags, "special": special}


def decoder_of(tokens: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Added tokens as tokenizer_config.json has them: by number."""
    return {str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in tokens}


def pieces_model(texts: Iterable[str], merges: Sequence[str | list[str]]) -> dict[str, Any]:
    """A SentencePiece BPE as tokenizer.json has it."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>",
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {text: number for number, text in enumerate(texts)},
        "merges": merges,
    }


@dataclass(frozen=True)
class Tokenizer:
    """`specials` are numbers by name; `rows` is how many there are."""

    files: Mapping[str, bytes]
    rows: int
    specials: Mapping[str, int]


ENCODER_TOKENS = ("[CLS]", "[SEP]", "[MASK]")


@cache
def byte_pairs(
    pre: str,
    *,
    begins: bool = False,
    merge_lists: bool = False,
    kind: str = "PreTrainedTokenizerFast",
    more: tuple[str, ...] = (),
) -> Tokenizer:
    """A byte-level BPE with this pre-tokenizer; `begins` has a template that puts a token before each text."""
    alphabet = list(byte_characters())
    words = Counter(tuple(byte_characters()[byte] for byte in f" {word}".encode()) for word in WORDS)
    merges = list(_merges(words, 200))
    vocabulary = {text: number for number, text in enumerate([*alphabet, *(a + b for a, b in merges)])}
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", *more]
    added = [added_token(text, len(vocabulary) + at, special=text != "<think>") for at, text in enumerate(specials)]
    ids = {token["content"]: token["id"] for token in added}
    begin = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    sequences: list[dict[str, Any]] = [{"Sequence": {"id": name, "type_id": at}} for at, name in enumerate("AB")]
    template = {
        "type": "TemplateProcessing",
        "single": [begin, sequences[0]],
        "pair": [begin, sequences[0], begin, sequences[1]],
        "special_tokens": {
            "<|endoftext|>": {"id": "<|endoftext|>", "ids": [ids["<|endoftext|>"]], "tokens": ["<|endoftext|>"]}
        },
    }
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS[pre],
        "post_processor": template if begins else {**BYTE_LEVEL, "use_regex": True},
        "decoder": {**BYTE_LEVEL, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre in ("llama-bpe", "tekken"),
            "vocab": vocabulary,
            "merges": [list(pair) if merge_lists else " ".join(pair) for pair in merges],
        },
    }
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    config = {
        **names,
        "added_tokens_decoder": decoder_of(added),
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "tokenizer_class": kind,
    }
    files = {"tokenizer.json": dump(tokenizer), "tokenizer_config.json": dump(config)}
    rows = len(vocabulary) + len(specials) + 2  # two rows without a token, as trained models often have
    return Tokenizer(files, rows, {"bos": ids["<|endoftext|>"], "eos": ids["<|im_end|>"], "pad": ids["<|endoftext|>"]})


@cache
def sentence_pieces(*, model: bool = True, added: bool = False) -> Tokenizer:
    """A SentencePiece BPE that falls back on bytes; `model` has a tokenizer.model, `added` more tokens behind it."""
    words = Counter((SPACE, *word) for word in WORDS)
    characters = sorted({*SPACE, *"".join(WORDS), *"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?:'"})
    merges = list(_merges(words, 200))
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    pieces += [(a + b, -float(rank), 1) for rank, (a, b) in enumerate(merges)]
    pieces += [(text, -float(len(merges) + at), 1) for at, text in enumerate(characters)]
    content = b"".join(_piece(*piece) for piece in pieces)
    content += _field(2, b"\x18\x02\x98\x02\x01") + _field(3, _field(1, b"identity") + b"\x20\x00")
    tokens = [added_token(text, number) for number, text in enumerate(("<unk>", "<s>", "</s>"))]
    tokens += [added_token(text, len(pieces) + at) for at, text in enumerate(("[INST]", "[/INST]") if added else ())]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": tokens,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": pieces_model((text for text, _, _ in pieces), [f"{a} {b}" for a, b in merges]),
    }
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": decoder_of(tokens),
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": PIECES_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "tokenizer_class": "LlamaTokenizer",
    }
    files = {"tokenizer.json": dump(tokenizer), "tokenizer_config.json": dump(config)}
    if model:
        files["tokenizer.model"] = content
    rows = len(pieces) + (2 if added else 0)
    return Tokenizer(files, rows, {"bos": 1, "eos": 2})


def changed(base: Tokenizer, change: Callable[[dict[str, dict[str, Any]]], None], rows: int = 0) -> Tokenizer:
    """The same after `change` was let loose on its parsed files; new ones may be added. `rows` more tokens."""
    files = {path: json.loads(content) for path, content in base.files.items() if path.endswith(".json")}
    change(files)
    whole = {path: content for path, content in base.files.items() if not path.endswith(".json")}
    return Tokenizer(
        {**{path: dump(content) for path, content in files.items()}, **whole}, base.rows + rows, base.specials
    )


def _odd_byte_pairs() -> Tokenizer:
    """Special tokens named in every way, and a token that looks special without being marked."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        tokenizer, config = files["tokenizer.json"], files["tokenizer_config.json"]
        first = tokenizer["added_tokens"][-1]["id"] + 1
        tokenizer["added_tokens"] += [
            added_token("<|tool|>", first, special=False),
            added_token(f"{SPACE}spaced{SPACE}", first + 1, special=False),
        ]
        tokenizer["normalizer"] = {"type": "NFC"}
        config["additional_special_tokens"] = ["<|im_start|>", "the"]
        config["bos_token"] = None
        config["unk_token"] = {"__type": "AddedToken", "content": "<|endoftext|>", "special": True}
        config["added_tokens_decoder"].pop(str(tokenizer["added_tokens"][0]["id"]))
        config["add_bos_token"] = False
        files["special_tokens_map.json"] = {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}

    return changed(byte_pairs("qwen2"), change, rows=2)


def _byte_pairs_with_holes() -> Tokenizer:
    """Two numbers that no token has. What is added stands in the vocabulary too: else transformers numbers it anew."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        tokenizer = files["tokenizer.json"]
        vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
        for _ in range(2):
            del vocabulary[merges.pop().replace(" ", "")]
        vocabulary.update({token["content"]: token["id"] for token in tokenizer["added_tokens"]})

    return changed(byte_pairs("qwen2"), change)


def _ending_byte_pairs() -> Tokenizer:
    """A template that begins and ends each text, where tokenizer_config.json names another end."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        tokenizer = files["tokenizer.json"]
        template = tokenizer["post_processor"]
        end = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
        number = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == "<|im_start|>")
        template["single"] = [*template["single"], end]
        template["pair"] = [*template["single"], template["pair"][-1], end]
        template["special_tokens"]["<|im_start|>"] = {"id": "<|im_start|>", "ids": [number], "tokens": ["<|im_start|>"]}
        tokenizer["post_processor"] = {"type": "Sequence", "processors": [{**BYTE_LEVEL, "use_regex": True}, template]}
        files["tokenizer_config.json"].pop("bos_token")

    return changed(byte_pairs("llama-bpe", begins=True), change)


def encoder_byte_pairs(pre: str = "gpt-2", *, roberta: bool = False) -> Tokenizer:
    """A token begins and ends each text, by a template or as RoBERTa says it."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        tokenizer, config = files["tokenizer.json"], files["tokenizer_config.json"]
        numbers = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
        begin, end = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ENCODER_TOKENS[:2])
        one, two = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
        template = {
            "type": "TemplateProcessing",
            "single": [begin, one, end],
            "pair": [begin, one, end, two, end],
            "special_tokens": {
                name: {"id": name, "ids": [numbers[name]], "tokens": [name]} for name in ENCODER_TOKENS[:2]
            },
        }
        processor = {"type": "RobertaProcessing", "trim_offsets": True, "add_prefix_space": False}
        processor |= {key: [name, numbers[name]] for key, name in zip(("cls", "sep"), ENCODER_TOKENS, strict=False)}
        tokenizer["post_processor"] = processor if roberta else template
        names = dict(zip(("cls_token", "sep_token", "mask_token"), ENCODER_TOKENS, strict=True))
        if roberta:
            names |= {"bos_token": ENCODER_TOKENS[0], "eos_token": ENCODER_TOKENS[1]}
        for key in ("bos_token", "eos_token", "chat_template"):
            del config[key]
        config |= names

    return changed(byte_pairs(pre, more=ENCODER_TOKENS), change)


def _of_class(name: str) -> Callable[[dict[str, dict[str, Any]]], None]:
    """llama.cpp's converter goes by it."""
    return lambda files: files["tokenizer_config.json"].update(tokenizer_class=name)


def _jina_byte_pairs() -> Tokenizer:
    """With the special tokens that transformers takes each tokenizer of this class to have."""
    made = changed(encoder_byte_pairs(roberta=True), _of_class("RobertaTokenizer"))
    names = (*zip(ENCODER_TOKENS, ("<s>", "</s>", "<mask>"), strict=True), ("<|endoftext|>", "<pad>"))
    files = dict(made.files)
    for old, new in (*names, ("<|im_start|>", "<unk>")):
        files = {path: content.replace(old.encode(), new.encode()) for path, content in files.items()}
    return replace(made, files=files)


def _word_pieces() -> Tokenizer:
    pieces = wordpieces()
    return Tokenizer(bert_tokenizer(pieces), len(pieces), {"pad": 0})


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(*unigram_tokenizer(), {"bos": 0, "pad": 1, "eos": 2})
    return changed(tokenizer, lambda files: files["tokenizer_config.json"].update(clean_up_tokenization_spaces=True))


def _ending_pieces() -> Tokenizer:
    """As e5-mistral has it: the template begins each text, and tokenizer_config.json alone says that one ends it."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        begin, *sequences = (
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}},
        )
        files["tokenizer.json"]["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [begin, sequences[0]],
            "pair": [begin, sequences[0], begin, sequences[1]],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        }
        config = files["tokenizer_config.json"]
        config["add_eos_token"] = True
        del config["chat_template"], config["add_bos_token"]

    return changed(sentence_pieces(), change)


def _odd_pieces() -> Tokenizer:
    """Added tokens in a file of their own, a hole before one of them, and no space before a text."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        config = files["tokenizer_config.json"]
        last = max(files["tokenizer.json"]["model"]["vocab"].values())
        files["added_tokens.json"] = {"<|user|>": last + 1, "plain": last + 3}
        files.pop("tokenizer.json")
        config["added_tokens_decoder"] = {
            "1": {"content": "<s>", "special": True},
            str(last + 4): {"content": f"{SPACE}x{SPACE}", "special": False},
            str(last + 5): {"content": "<unused7>", "special": False},
        }
        config["add_prefix_space"] = False
        config["add_eos_token"] = True

    return changed(sentence_pieces(), change, rows=8)


def _hunyuan_byte_pairs() -> Tokenizer:
    """Nothing fills a text."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        files["tokenizer_config.json"].pop("pad_token")

    return changed(byte_pairs("deepseek-v3", more=("<|eos|>",)), change)


def _phi4_mini_byte_pairs() -> Tokenizer:
    """Whole words are taken before any merge, which makes no difference: merges make them all."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        files["tokenizer.json"]["model"]["ignore_merges"] = True

    return changed(byte_pairs("gpt-4o", kind="GPT2Tokenizer"), change)


def _internlm2_pieces() -> Tokenizer:
    """The pieces have room for the added tokens, as InternLM's do, and no space comes before a text."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        last = max(files["tokenizer.json"]["model"]["vocab"].values())
        tokenizer = files["tokenizer.json"]
        tokenizer["added_tokens"].append(added_token("<|im_end|>", last + 1))
        tokenizer["added_tokens"].append(added_token("<|plugin|>", last + 2, special=False))
        tokenizer["normalizer"] = tokenizer["normalizer"]["normalizers"][1]
        files["tokenizer_config.json"]["added_tokens_decoder"] |= {
            str(last + 1): {"content": "<|im_end|>", "special": True},
        }

    base = sentence_pieces()
    more = changed(base, change, rows=4)
    pieces = [*(f"[UNUSED_TOKEN_{number}]" for number in range(3)), "\0"]
    content = b"".join(_piece(text, -500.0, 1) for text in pieces)
    normalizer = _field(3, _field(1, b"identity") + b"\x18\x00")
    return replace(more, files={**more.files, "tokenizer.model": base.files["tokenizer.model"] + content + normalizer})


GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] + "
    "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


@cache
def gemma_pieces(*, model: bool = True, ends: bool = False) -> Tokenizer:
    """Gemma's order of tokens: control, code, turns, lines, bytes, text. No space comes before a text. `model` has a
    tokenizer.model, `ends` a token behind each text.
    """
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<unused{number}>" for number in range(103))]
    first[67:71] = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|file_separator|>"]
    first[106:] = ["<start_of_turn>", "<end_of_turn>", "\n\n", "\n\n\n"]
    kinds = {"<pad>": 3, "<eos>": 3, "<bos>": 3, "<unk>": 2}
    words = Counter((*(SPACE if at else ""), *word) for at, word in enumerate(WORDS))
    characters = sorted({SPACE, "\n", *"".join(WORDS), *"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?:'"})
    merges = list(_merges(words, 200))
    pieces = [(text, 0.0, kinds.get(text, 4)) for text in first]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    pieces += [(a + b, -float(rank), 1) for rank, (a, b) in enumerate(merges)]
    pieces += [(text, -float(len(merges) + at), 1) for at, text in enumerate(characters)]
    content = b"".join(_piece(*piece) for piece in pieces)
    content += _field(2, b"\x18\x02\x98\x02\x01") + _field(3, _field(1, b"identity") + b"\x18\x00\x20\x00")
    tokens = [added_token(text, number, special=not text.startswith("\n")) for number, text in enumerate(first)]
    begin, end = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("<bos>", "<eos>"))
    last = [end] if ends else []
    sequences: list[dict[str, Any]] = [{"Sequence": {"id": name, "type_id": at}} for at, name in enumerate("AB")]
    underscores = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    spaces = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": tokens,
        "normalizer": underscores,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, sequences[0], *last],
            "pair": [begin, sequences[0], *last, begin, sequences[1], *last],
            "special_tokens": {
                name: {"id": name, "ids": [number], "tokens": [name]}
                for name, number in (("<bos>", 2), *((("<eos>", 1),) if ends else ()))
            },
        },
        "decoder": {"type": "Sequence", "decoders": [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": pieces_model((text for text, _, _ in pieces), [[a, b] for a, b in merges]),
    }
    config = {
        "add_bos_token": True,
        "add_eos_token": ends,
        "added_tokens_decoder": decoder_of(tokens),
        **{f"{kind}_token": f"<{kind}>" for kind in ("bos", "eos", "pad", "unk")},
        "chat_template": GEMMA_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "tokenizer_class": "GemmaTokenizer",
    }
    files = {"tokenizer.json": dump(tokenizer), "tokenizer_config.json": dump(config)}
    if model:
        files["tokenizer.model"] = content
    return Tokenizer(files, len(pieces), {"bos": 2, "eos": 1, "pad": 0})


GEMMA4_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|turn>' + message['role'] + '\n' + message['content'] + "
    "'<turn|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}"
)


@cache
def gemma4_pieces() -> Tokenizer:
    """The same order of tokens, with the turns of Gemma 4, merged by rank."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        tokenizer, config = files["tokenizer.json"], files["tokenizer_config.json"]
        more = {67: '<|"|>', 68: "<|channel>", 69: "<channel|>", 70: "<|image|>", 105: "<|turn>", 106: "<turn|>"}
        more |= {107: "<unused62>"}
        vocabulary = {number: text for text, number in tokenizer["model"]["vocab"].items()} | more
        tokenizer["model"]["vocab"] = {text: number for number, text in vocabulary.items()}
        tokenizer["model"]["merges"][:0] = [["\n", "\n"], ["\n\n", "\n"]]
        del more[107]
        named = dict(enumerate(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))) | more
        added = [added_token(text, number) for number, text in named.items()]
        tokenizer["added_tokens"] = [*added, *(added_token("\n" * (at - 106), at, special=False) for at in (108, 109))]
        config["added_tokens_decoder"] = decoder_of(tokenizer["added_tokens"])
        config["extra_special_tokens"] = list(more.values())
        config["mask_token"] = "<mask>"
        config["chat_template"] = GEMMA4_TEMPLATE

    return changed(gemma_pieces(model=False), change)


def _piece(text: str, score: float, kind: int) -> bytes:
    return _field(1, _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    size, length = len(content), bytearray()
    while True:
        size, low = size >> 7, size & 0x7F
        length.append(low | (0x80 if size else 0))
        if not size:
            return bytes([number << 3 | 2, *length]) + content


def dump(value: object) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"


@dataclass(frozen=True)
class Tiny:
    """One repository: `change` overrules its config, `weights` makes the tensors from it."""

    architecture: str
    model_type: str
    weights: Callable[["Weights"], None]
    tokenizer: Callable[[], Tokenizer] = lambda: byte_pairs("gpt-2")
    change: Mapping[str, Any] = field(default_factory=dict)
    dtype: Any = "BF16"
    shards: int = 1
    drop: tuple[str, ...] = ()
    generation: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0.6})
    card: str | None = None
    """The front matter of README.md."""
    part_of: str | None = None
    """The model type of the whole, of which this is the text, behind a tensor of what sees."""
    places: tuple[str, str] = ("language_model.model.", "vision_tower.")
    """How the names of tensors begin in there: those of the text's layers, and those of what sees."""
    pooling: Pooling | None = None
    """Of a model that embeds texts, whose tensors have no `model.` before their names."""
    dense: bool = False
    """Whether two matrices come behind the pooling."""

    def config(self) -> dict[str, Any]:
        tokenizer = self.tokenizer()
        config = {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "vocab_size": tokenizer.rows,
            "hidden_size": HIDDEN,
            "intermediate_size": FEED_FORWARD,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "max_position_embeddings": 2048,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            **{f"{kind}_token_id": number for kind, number in tokenizer.specials.items()},
            **self.change,
        }
        return {key: value for key, value in config.items() if key not in self.drop}

    def files(self) -> dict[str, bytes]:
        config = self.config()
        weights = Weights(config)
        text, eyes = self.places
        if self.part_of:
            weights.add(f"{eyes}patch_embedding.weight", 8, 8)
        self.weights(weights)
        if self.part_of:
            config = _whole(config, self.part_of)
            weights.tensors = {
                name if name.startswith(eyes) else _placed(name, text): x for name, x in weights.tensors.items()
            }
        if self.pooling:
            weights.tensors = {name.removeprefix("model."): x for name, x in weights.tensors.items()}
        names = list(weights.tensors)
        each = -(-len(names) // self.shards)
        files = {
            "config.json": dump(config),
            **self.tokenizer().files,
            "generation_config.json": dump(self.generation),
        }
        if self.pooling:
            files |= sentence_transformer(HIDDEN, self.pooling, normalize=True, dense=FEED_FORWARD if self.dense else 0)
        if self.card:
            files["README.md"] = f"---\n{self.card}---\n# A tiny model\n".encode()
        if self.shards == 1:
            return files | {"model.safetensors": safetensors(weights.tensors, self.dtype)}
        index: dict[str, str] = {}
        for number in range(self.shards):
            path = f"model-{number + 1:05d}-of-{self.shards:05d}.safetensors"
            part = {name: weights.tensors[name] for name in names[number * each : (number + 1) * each]}
            files[path] = safetensors(part, self.dtype)
            index |= dict.fromkeys(part, path)
        return files | {"model.safetensors.index.json": dump({"metadata": {}, "weight_map": index})}


def _placed(name: str, text: str) -> str:
    """An output lies beside the text's layers only where the text is a model of its own."""
    output = "language_model.lm_head." if text == "language_model.model." else "lm_head."
    return text + name.removeprefix("model.") if name.startswith("model.") else name.replace("lm_head.", output)


def _whole(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The settings of a model that sees, in which those of its text have a place of their own."""
    outer = ("architectures", "torch_dtype", "bos_token_id", "eos_token_id", "tie_word_embeddings")
    outside = {key: config[key] for key in outer if key in config}
    within = {key: value for key, value in config.items() if key not in outside}
    return {**outside, "model_type": kind, "text_config": within, "vision_config": {"hidden_size": 8}}


class Weights:
    """Tensors in the order in which they are asked for."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.tensors: Tensors = {}
        self._random = Random(7)

    def add(self, name: str, *shape: int) -> None:
        self.tensors[name] = self._random.weights(*shape)

    def decays(self, name: str, *shape: int) -> None:
        """As state spaces begin their training: in each row the logarithms of 1, 2, 3 and so on."""
        self.tensors[name] = np.resize(np.log(np.arange(1, shape[-1] + 1, dtype=np.float32)), shape)

    def norm(self, name: str, *shape: int, bias: bool = False) -> None:
        """Near 1, as a trained one."""
        self.tensors[f"{name}.weight"] = 1 + self._random.weights(*(shape or (HIDDEN,)))
        if bias:
            self.add(f"{name}.bias", *(shape or (HIDDEN,)))

    def linear(self, name: str, *shape: int, bias: bool = False) -> None:
        self.add(f"{name}.weight", *shape)
        if bias:
            self.add(f"{name}.bias", shape[0])

    @property
    def head(self) -> int:
        return self.config.get("head_dim") or HEAD

    def ends(self, *, bias: bool = False, norm: bool = True) -> None:
        self.add("model.embed_tokens.weight", self.config["vocab_size"], HIDDEN)
        if norm:
            self.norm("model.norm", bias=bias)
        if not self.config.get("tie_word_embeddings"):
            self.add("lm_head.weight", self.config["vocab_size"], HIDDEN)

    def layers(self) -> Iterator[str]:
        for layer in range(self.config["num_hidden_layers"]):
            yield f"model.layers.{layer}."

    def attention(self, layer: str, *, bias: str = "", norms: tuple[int, int] | None = None) -> None:
        """`bias` says by their letters which have one; `norms` are the sizes of Q's and K's."""
        kv_heads = self.config["num_key_value_heads"]
        for part, heads in (("q", HEADS), ("k", kv_heads), ("v", kv_heads)):
            self.linear(f"{layer}self_attn.{part}_proj", heads * self.head, HIDDEN, bias=part in bias)
        self.linear(f"{layer}self_attn.o_proj", HIDDEN, HEADS * self.head, bias="o" in bias)
        for part, size in zip("qk", norms or (), strict=False):
            self.norm(f"{layer}self_attn.{part}_norm", size)

    def mlp(self, layer: str, size: int = FEED_FORWARD, *, gate: bool = True, name: str = "mlp") -> None:
        for part in ("gate", "up") if gate else ("up",):
            self.linear(f"{layer}{name}.{part}_proj", size, HIDDEN)
        self.linear(f"{layer}{name}.down_proj", HIDDEN, size)

    def three(self, name: str, size: int = FEED_FORWARD) -> None:
        """The matrices of an MLP under their numbers."""
        for number, shape in ((1, (size, HIDDEN)), (2, (HIDDEN, size)), (3, (size, HIDDEN))):
            self.linear(f"{name}w{number}", *shape)

    def experts(self, layer: str) -> None:
        self.linear(f"{layer}mlp.gate", EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            self.mlp(layer, HIDDEN, name=f"mlp.experts.{expert}")

    def packed_experts(self, name: str, rows: int, columns: int) -> None:
        """In MXFP4 where the config says so, else the same numbers turned over."""
        blocks = self._random.octets(0, 256, EXPERTS, rows, columns // 32, 16)
        scales = self._random.octets(119, 123, EXPERTS, rows, columns // 32)
        if "quantization_config" in self.config:
            self.tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        else:
            nibbles = np.stack((blocks & 15, blocks >> 4), axis=-1).reshape(EXPERTS, rows, columns // 32, 32)
            numbers = np.ldexp(np.array(FOUR_BITS, np.float32)[nibbles], scales[..., None].astype(np.int32) - 127)
            self.tensors[name] = numbers.reshape(EXPERTS, rows, columns).swapaxes(1, 2)
        self.add(f"{name}_bias", EXPERTS, rows)

    def mixer(self, name: str, inner: int, *, norm: bool = True) -> None:
        """Of Mamba's second kind."""
        heads, groups, state, kernel = (
            next(self.config[key] for key in keys if key in self.config)
            for keys in (
                ("mamba_n_heads", "mamba_num_heads"),
                ("mamba_n_groups", "n_groups"),
                ("mamba_d_state", "ssm_state_size"),
                ("mamba_d_conv", "conv_kernel"),
            )
        )
        inner_and_states = inner + 2 * groups * state
        self.linear(f"{name}in_proj", inner + inner_and_states + heads, HIDDEN)
        self.add(f"{name}conv1d.weight", inner_and_states, 1, kernel)
        self.add(f"{name}conv1d.bias", inner_and_states)
        self.add(f"{name}dt_bias", heads)
        self.decays(f"{name}A_log", heads)
        self.add(f"{name}D", heads)
        if norm:
            self.norm(f"{name}norm", inner)
        self.linear(f"{name}out_proj", HIDDEN, inner)

    def norms(self, layer: str, *names: str, size: int = HIDDEN, bias: bool = False) -> None:
        for name in names or ("input_layernorm", "post_attention_layernorm"):
            self.norm(f"{layer}{name}", size, bias=bias)


def _plain(weights: Weights) -> None:
    """Llama and what is built like it; biases where the config says so."""
    weights.ends()
    bias = "qkvo" if weights.config.get("attention_bias") else ""
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, bias=bias)
        weights.mlp(layer)


def _qwen2(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, bias="qkv")
        weights.mlp(layer)


def _qwen3(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, norms=(weights.head, weights.head))
        weights.mlp(layer)


def _gemma(weights: Weights) -> None:
    """Its first kind has two norms a layer, the later ones four, and the last kind norms of its heads."""
    first, last = (weights.config["model_type"] == kind for kind in ("gemma", "gemma3_text"))
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        if not first:
            weights.norms(layer, "pre_feedforward_layernorm", "post_feedforward_layernorm")
        weights.attention(layer, norms=(weights.head, weights.head) if last else None)
        weights.mlp(layer)


def _roberta(weights: Weights) -> None:
    config = weights.config
    for name, rows in (
        ("word", "vocab_size"),
        ("position", "max_position_embeddings"),
        ("token_type", "type_vocab_size"),
    ):
        weights.add(f"embeddings.{name}_embeddings.weight", config[rows], HIDDEN)
    weights.norm("embeddings.LayerNorm", bias=True)
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}."
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            weights.linear(f"{layer}attention.{part}", HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}intermediate.dense", FEED_FORWARD, HIDDEN, bias=True)
        weights.linear(f"{layer}output.dense", HIDDEN, FEED_FORWARD, bias=True)
        weights.norms(layer, "attention.output.LayerNorm", "output.LayerNorm", bias=True)
    weights.linear("pooler.dense", HIDDEN, HIDDEN, bias=True)


def _jina_bert(weights: Weights) -> None:
    """In the form of Jina's first code, or of its second."""
    config = weights.config
    second = "post-norm" in config["auto_map"]["AutoModel"]
    names = ("up_gated_layer", "down_layer") if second else ("gated_layers", "wo")
    weights.add("embeddings.word_embeddings.weight", config["vocab_size"], HIDDEN)
    weights.add("embeddings.token_type_embeddings.weight", 2, HIDDEN)
    weights.norm("embeddings.LayerNorm", bias=True)
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}."
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            weights.linear(f"{layer}attention.{part}", HIDDEN, HIDDEN, bias=True)
        weights.norms(layer, "attention.output.LayerNorm", bias=True)
        weights.linear(f"{layer}mlp.{names[0]}", 2 * FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}mlp.{names[1]}", HIDDEN, FEED_FORWARD, bias=True)
        more = ("layer_norm_1", "layer_norm_2", "attention.self.layer_norm_q", "attention.self.layer_norm_k")
        weights.norms(layer, *(more if second else ("mlp.layernorm",)), bias=True)
    weights.linear("pooler.dense", HIDDEN, HIDDEN, bias=True)


def _nomic_bert(weights: Weights) -> None:
    """Every other layer has experts where the config says so, and then there are biases."""
    config = weights.config
    bias = "moe_every_n_layers" in config
    weights.add("embeddings.word_embeddings.weight", config["vocab_size"], HIDDEN)
    weights.add("embeddings.token_type_embeddings.weight", config["type_vocab_size"], HIDDEN)
    weights.norm("emb_ln", bias=True)
    for number in range(LAYERS):
        layer = f"encoder.layers.{number}."
        weights.linear(f"{layer}attn.Wqkv", 3 * HIDDEN, HIDDEN, bias=bias)
        weights.linear(f"{layer}attn.out_proj", HIDDEN, HIDDEN, bias=bias)
        weights.norms(layer, "norm1", "norm2", bias=True)
        if bias and number % 2:
            weights.linear(f"{layer}mlp.router.layer", EXPERTS, HIDDEN)
            for name in ("w1", "w2"):
                weights.add(f"{layer}mlp.experts.mlp.{name}", EXPERTS * FEED_FORWARD, HIDDEN)
            weights.tensors[f"{layer}mlp.experts.bias"] = np.zeros(HIDDEN, np.float32)
            continue
        for name in ("fc1",) if bias else ("fc11", "fc12"):
            weights.linear(f"{layer}mlp.{name}", FEED_FORWARD, HIDDEN, bias=bias)
        weights.linear(f"{layer}mlp.fc2", HIDDEN, FEED_FORWARD, bias=bias)


def _modern_bert(weights: Weights) -> None:
    weights.add("embeddings.tok_embeddings.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("embeddings.norm")
    for number in range(weights.config["num_hidden_layers"]):
        layer = f"layers.{number}."
        weights.norms(layer, *(("attn_norm",) if number else ()), "mlp_norm")
        weights.linear(f"{layer}attn.Wqkv", 3 * HIDDEN, HIDDEN)
        weights.linear(f"{layer}attn.Wo", HIDDEN, HIDDEN)
        weights.linear(f"{layer}mlp.Wi", 2 * FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}mlp.Wo", HIDDEN, FEED_FORWARD)
    weights.norm("final_norm")


def _gemma4(weights: Weights) -> None:
    """Heads that see all have another size, and perhaps no V; the last layers may have no K and V of their own."""
    config = weights.config
    layers, inputs = config["num_hidden_layers"], config["hidden_size_per_layer_input"]
    weights.ends()
    weights.tensors["model.embed_tokens.weight"] *= 2
    _layer_inputs(weights)
    for number, layer in enumerate(weights.layers()):
        weights.norms(layer)
        weights.norms(layer, "pre_feedforward_layernorm", "post_feedforward_layernorm")
        full = config["layer_types"][number] == "full_attention"
        shared = number >= layers - config["num_kv_shared_layers"]
        size, kv_heads = (GLOBAL_HEAD, 1) if full and config["attention_k_eq_v"] else (weights.head, KV_HEADS)
        size = GLOBAL_HEAD if full else size
        parts = "q" if shared else "qk" if full and config["attention_k_eq_v"] else "qkv"
        for part in parts:
            weights.linear(f"{layer}self_attn.{part}_proj", (HEADS if part == "q" else kv_heads) * size, HIDDEN)
        for part in parts[:2]:
            weights.norm(f"{layer}self_attn.{part}_norm", size)
            weights.tensors[f"{layer}self_attn.{part}_norm.weight"] *= np.float32(0.4)
        weights.linear(f"{layer}self_attn.o_proj", HIDDEN, HEADS * size)
        weights.mlp(layer, FEED_FORWARD * (2 if shared and config.get("use_double_wide_mlp") else 1))
        weights.tensors[f"{layer}layer_scalar"] = np.array([0.75 + number / 8], dtype=np.float32)
        if inputs:
            weights.linear(f"{layer}per_layer_input_gate", inputs, HIDDEN)
            weights.linear(f"{layer}per_layer_projection", HIDDEN, inputs)
            weights.norm(f"{layer}post_per_layer_input_norm")
        if config["enable_moe_block"]:
            weights.linear(f"{layer}router.proj", EXPERTS, HIDDEN)
            weights.add(f"{layer}router.scale", HIDDEN)
            weights.tensors[f"{layer}router.scale"] += 16
            weights.add(f"{layer}router.per_expert_scale", EXPERTS)
            weights.tensors[f"{layer}router.per_expert_scale"] += 1
            weights.add(f"{layer}experts.gate_up_proj", EXPERTS, 2 * HIDDEN, HIDDEN)
            weights.add(f"{layer}experts.down_proj", EXPERTS, HIDDEN, HIDDEN)
            for name in ("post_feedforward_layernorm_1", "pre_feedforward_layernorm_2", "post_feedforward_layernorm_2"):
                weights.norm(f"{layer}{name}")


def _gemma3n(weights: Weights) -> None:
    weights.ends()
    weights.tensors["model.embed_tokens.weight"] *= 2
    _layer_inputs(weights)
    for at in range(3):
        weights.linear(f"model.altup_projections.{at}", HIDDEN, HIDDEN)
        weights.linear(f"model.altup_unembed_projections.{at}", HIDDEN, HIDDEN)
    for layer in weights.layers():
        weights.norms(layer)
        weights.norms(layer, "pre_feedforward_layernorm", "post_feedforward_layernorm", "post_per_layer_input_norm")
        weights.norms(layer, "altup.router_norm", "laurel.post_laurel_norm")
        weights.attention(layer, norms=(weights.head, weights.head))
        for part in "qk":
            weights.tensors[f"{layer}self_attn.{part}_norm.weight"] *= np.float32(0.4)
        weights.mlp(layer)
        weights.norm(f"{layer}altup.correct_output_scale")
        scale = weights.tensors.pop(f"{layer}altup.correct_output_scale.weight")
        weights.tensors[f"{layer}altup.correct_output_scale"] = scale
        weights.linear(f"{layer}altup.correction_coefs", 4, 4)
        weights.linear(f"{layer}altup.prediction_coefs", 16, 4)
        weights.linear(f"{layer}altup.modality_router", 4, HIDDEN)
        weights.tensors[f"{layer}altup.modality_router.weight"] *= np.float32(HIDDEN)
        weights.linear(f"{layer}laurel.linear_left", 64, HIDDEN)
        weights.linear(f"{layer}laurel.linear_right", HIDDEN, 64)
        inputs = weights.config["hidden_size_per_layer_input"]
        weights.linear(f"{layer}per_layer_input_gate", inputs, HIDDEN)
        weights.linear(f"{layer}per_layer_projection", HIDDEN, inputs)


def _layer_inputs(weights: Weights) -> None:
    inputs = weights.config["hidden_size_per_layer_input"]
    whole = weights.config["num_hidden_layers"] * inputs
    if inputs:
        weights.linear("model.embed_tokens_per_layer", weights.config["vocab_size_per_layer_input"], whole)
        weights.linear("model.per_layer_model_projection", whole, HIDDEN)
        weights.norm("model.per_layer_projection_norm", inputs)


def _olmo(weights: Weights) -> None:
    weights.ends(norm=False)
    for layer in weights.layers():
        weights.attention(layer)
        weights.mlp(layer)


def _olmo2(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer, "post_attention_layernorm", "post_feedforward_layernorm")
        weights.attention(layer, norms=(HEADS * weights.head, weights.config["num_key_value_heads"] * weights.head))
        weights.mlp(layer)


def _starcoder2(weights: Weights) -> None:
    weights.ends(bias=True)
    for layer in weights.layers():
        weights.norms(layer, bias=True)
        weights.attention(layer, bias="qkvo")
        weights.linear(f"{layer}mlp.c_fc", FEED_FORWARD, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.c_proj", HIDDEN, FEED_FORWARD, bias=True)


def _stablelm(weights: Weights) -> None:
    weights.ends(bias=True)
    for layer in weights.layers():
        weights.norms(layer, bias=True)
        weights.attention(layer, bias="qkv" if weights.config["use_qkv_bias"] else "")
        weights.mlp(layer)


def _stablelm_norms(weights: Weights) -> None:
    _stablelm(weights)
    for layer in weights.layers():
        for part, heads in (("q", HEADS), ("k", KV_HEADS)):
            for head in range(heads):
                weights.norm(f"{layer}self_attn.{part}_layernorm.norms.{head}", HEAD)


def _arcee(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer)
        weights.mlp(layer, gate=False)


def _mixtral(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer)
        weights.linear(f"{layer}block_sparse_moe.gate", EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            weights.three(f"{layer}block_sparse_moe.experts.{expert}.")


def _qwen2_moe(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, bias="qkv")
        weights.experts(layer)
        weights.mlp(layer, FEED_FORWARD, name="mlp.shared_expert")
        weights.linear(f"{layer}mlp.shared_expert_gate", 1, HIDDEN)


def _qwen3_moe(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, norms=(weights.head, weights.head))
        weights.experts(layer)


def _fused_experts(weights: Weights) -> None:
    """As transformers 5 saves them."""
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, norms=(weights.head, weights.head))
        weights.linear(f"{layer}mlp.gate", EXPERTS, HIDDEN)
        weights.add(f"{layer}mlp.experts.gate_up_proj", EXPERTS, 2 * HIDDEN, HIDDEN)
        weights.add(f"{layer}mlp.experts.down_proj", EXPERTS, HIDDEN, HIDDEN)


def _llama4(weights: Weights) -> None:
    """All experts in one tensor, with rows for columns."""
    config = weights.config
    weights.ends()
    for number, layer in enumerate(weights.layers(), start=1):
        weights.norms(layer)
        weights.attention(layer)
        if number % config["interleave_moe_layer_step"]:
            weights.mlp(layer, config["intermediate_size_mlp"], name="feed_forward")
            continue
        size = config["intermediate_size"]
        weights.linear(f"{layer}feed_forward.router", EXPERTS, HIDDEN)
        weights.add(f"{layer}feed_forward.experts.gate_up_proj", EXPERTS, HIDDEN, 2 * size)
        weights.add(f"{layer}feed_forward.experts.down_proj", EXPERTS, size, HIDDEN)
        weights.mlp(layer, size, name="feed_forward.shared_expert")


def _gpt_oss(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, bias="qkvo")
        weights.add(f"{layer}self_attn.sinks", HEADS)
        weights.linear(f"{layer}mlp.router", EXPERTS, HIDDEN, bias=True)
        weights.packed_experts(f"{layer}mlp.experts.gate_up_proj", 2 * FEED_FORWARD, HIDDEN)
        weights.packed_experts(f"{layer}mlp.experts.down_proj", HIDDEN, FEED_FORWARD)


def _lfm2(weights: Weights) -> None:
    """A convolution where the config says so; experts behind the first layers that are dense."""
    config = weights.config
    weights.add("model.embed_tokens.weight", config["vocab_size"], HIDDEN)
    weights.norm("model.embedding_norm")
    for number, (layer, kind) in enumerate(zip(weights.layers(), config["layer_types"], strict=True)):
        weights.norms(layer, "operator_norm", "ffn_norm")
        if kind == "conv":
            weights.linear(f"{layer}conv.in_proj", 3 * HIDDEN, HIDDEN)
            weights.add(f"{layer}conv.conv.weight", HIDDEN, 1, config["conv_L_cache"])
            weights.linear(f"{layer}conv.out_proj", HIDDEN, HIDDEN)
        else:
            for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
                weights.linear(f"{layer}self_attn.{part}_proj", heads * HEAD, HIDDEN)
            weights.linear(f"{layer}self_attn.out_proj", HIDDEN, HIDDEN)
            weights.norms(layer, "self_attn.q_layernorm", "self_attn.k_layernorm", size=HEAD)
        if number < config.get("num_dense_layers", LAYERS):
            weights.three(f"{layer}feed_forward.")
            continue
        weights.linear(f"{layer}feed_forward.gate", EXPERTS, HIDDEN)
        weights.add(f"{layer}feed_forward.expert_bias", EXPERTS)
        for expert in range(EXPERTS):
            weights.three(f"{layer}feed_forward.experts.{expert}.", config["moe_intermediate_size"])


def _linear_attention(weights: Weights) -> None:
    """Qwen3-Next and Qwen3.5: attention where the config says so, with experts or without, and more tokens ahead."""
    config = weights.config
    weights.ends()
    for number, layer in enumerate(weights.layers(), 1):
        weights.norms(layer)
        if number % config.get("full_attention_interval", 4):
            _delta_net(weights, f"{layer}linear_attn.")
        else:
            kv_rows = config["num_key_value_heads"] * weights.head
            for part, rows in (("q", 2 * HEADS * weights.head), ("k", kv_rows), ("v", kv_rows)):
                weights.linear(f"{layer}self_attn.{part}_proj", rows, HIDDEN)
            weights.linear(f"{layer}self_attn.o_proj", HIDDEN, HEADS * weights.head)
            weights.norm(f"{layer}self_attn.q_norm", weights.head)
            weights.norm(f"{layer}self_attn.k_norm", weights.head)
        if "num_experts" not in config:
            weights.mlp(layer)
            continue
        if "rope_parameters" in config:
            weights.linear(f"{layer}mlp.gate", EXPERTS, HIDDEN)
            weights.add(f"{layer}mlp.experts.gate_up_proj", EXPERTS, 2 * HIDDEN, HIDDEN)
            weights.add(f"{layer}mlp.experts.down_proj", EXPERTS, HIDDEN, HIDDEN)
        else:
            weights.experts(layer)
        weights.mlp(layer, FEED_FORWARD, name="mlp.shared_expert")
        weights.linear(f"{layer}mlp.shared_expert_gate", 1, HIDDEN)
    weights.linear("mtp.fc", HIDDEN, 2 * HIDDEN)


def _delta_net(weights: Weights, name: str) -> None:
    config = weights.config
    heads = config["linear_num_value_heads"]
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    values = heads * config["linear_value_head_dim"]
    fused = config["model_type"] == "qwen3_next"
    for part, rows in (
        (("qkvz", 2 * keys + 2 * values), ("ba", 2 * heads))
        if fused
        else (("qkv", 2 * keys + values), ("z", values), ("b", heads), ("a", heads))
    ):
        weights.linear(f"{name}in_proj_{part}", rows, HIDDEN)
    weights.add(f"{name}conv1d.weight", 2 * keys + values, 1, config["linear_conv_kernel_dim"])
    weights.tensors[f"{name}conv1d.weight"] *= 8  # as large as trained ones
    weights.add(f"{name}dt_bias", heads)
    weights.decays(f"{name}A_log", heads)
    weights.norm(f"{name}norm", config["linear_value_head_dim"])
    weights.linear(f"{name}out_proj", HIDDEN, values)


def _olmoe(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, norms=(HEADS * HEAD, HEADS * HEAD))
        weights.experts(layer)


def _granite_moe(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer)
        weights.linear(f"{layer}block_sparse_moe.router.layer", EXPERTS, HIDDEN)
        weights.add(f"{layer}block_sparse_moe.input_linear.weight", EXPERTS, 2 * FEED_FORWARD, HIDDEN)
        weights.add(f"{layer}block_sparse_moe.output_linear.weight", EXPERTS, HIDDEN, FEED_FORWARD)
        if weights.config.get("shared_intermediate_size"):
            weights.linear(f"{layer}shared_mlp.input_linear", 2 * FEED_FORWARD, HIDDEN)
            weights.linear(f"{layer}shared_mlp.output_linear", HIDDEN, FEED_FORWARD)


def _granite_hybrid(weights: Weights) -> None:
    """Attention where the config says so, and a shared MLP with experts or without."""
    config = weights.config
    weights.ends()
    for layer, kind in zip(weights.layers(), config["layer_types"], strict=True):
        weights.norms(layer)
        if kind == "attention":
            weights.attention(layer)
        else:
            weights.mixer(f"{layer}mamba.", 2 * HIDDEN)
        if config["num_local_experts"]:
            weights.linear(f"{layer}block_sparse_moe.router.layer", EXPERTS, HIDDEN)
            weights.add(f"{layer}block_sparse_moe.input_linear.weight", EXPERTS, 2 * FEED_FORWARD, HIDDEN)
            weights.add(f"{layer}block_sparse_moe.output_linear.weight", EXPERTS, HIDDEN, FEED_FORWARD)
        weights.linear(f"{layer}shared_mlp.input_linear", 2 * FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}shared_mlp.output_linear", HIDDEN, FEED_FORWARD)


def _falcon_h1(weights: Weights) -> None:
    weights.add("model.embed_tokens.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("model.final_layernorm")
    weights.add("lm_head.weight", weights.config["vocab_size"], HIDDEN)
    for layer in weights.layers():
        weights.norms(layer, "input_layernorm", "pre_ff_layernorm")
        weights.mixer(f"{layer}mamba.", weights.config["mamba_d_ssm"], norm=weights.config["mamba_rms_norm"])
        weights.attention(layer)
        weights.mlp(layer, name="feed_forward")


def _nemotron_h(weights: Weights) -> None:
    """Layers by the letters of the pattern."""
    config = weights.config
    weights.add("backbone.embeddings.weight", config["vocab_size"], HIDDEN)
    weights.norm("backbone.norm_f")
    weights.add("lm_head.weight", config["vocab_size"], HIDDEN)
    for number, kind in enumerate(config["hybrid_override_pattern"]):
        layer = f"backbone.layers.{number}."
        weights.norm(f"{layer}norm")
        if kind == "M":
            weights.mixer(f"{layer}mixer.", config["mamba_num_heads"] * config["mamba_head_dim"])
        elif kind == "*":
            for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
                weights.linear(f"{layer}mixer.{part}_proj", heads * weights.head, HIDDEN)
            weights.linear(f"{layer}mixer.o_proj", HIDDEN, HEADS * weights.head)
        elif kind == "-":
            weights.mlp(layer, gate=False, name="mixer")
        else:
            weights.linear(f"{layer}mixer.gate", EXPERTS, HIDDEN)
            weights.add(f"{layer}mixer.gate.e_score_correction_bias", EXPERTS)
            latent = config.get("moe_latent_size") or HIDDEN
            for expert in range(EXPERTS):
                weights.linear(f"{layer}mixer.experts.{expert}.up_proj", config["moe_intermediate_size"], latent)
                weights.linear(f"{layer}mixer.experts.{expert}.down_proj", latent, config["moe_intermediate_size"])
            size = config["moe_shared_expert_intermediate_size"]
            weights.mlp(layer, size, gate=False, name="mixer.shared_experts")
            if "moe_latent_size" in config:
                weights.linear(f"{layer}mixer.fc1_latent_proj", latent, HIDDEN)
                weights.linear(f"{layer}mixer.fc2_latent_proj", HIDDEN, latent)


def _cohere(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer, "input_layernorm")
        weights.attention(layer)
        if weights.config.get("use_qk_norm"):
            weights.norm(f"{layer}self_attn.q_norm", HEADS, HEAD)
            weights.norm(f"{layer}self_attn.k_norm", KV_HEADS, HEAD)
        weights.mlp(layer)


def _phi3(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.linear(f"{layer}self_attn.qkv_proj", (HEADS + 2 * KV_HEADS) * HEAD, HIDDEN)
        weights.linear(f"{layer}self_attn.o_proj", HIDDEN, HIDDEN)
        weights.linear(f"{layer}mlp.gate_up_proj", 2 * FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}mlp.down_proj", HIDDEN, FEED_FORWARD)


def _cohere2(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer, "input_layernorm")
        weights.attention(layer)
        weights.mlp(layer)


def _glm4(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(
            layer, "input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm"
        )
        weights.attention(layer, bias="qkv")
        weights.linear(f"{layer}mlp.gate_up_proj", 2 * FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}mlp.down_proj", HIDDEN, FEED_FORWARD)


def _glm(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, bias="qkv")
        weights.linear(f"{layer}mlp.gate_up_proj", 2 * FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}mlp.down_proj", HIDDEN, FEED_FORWARD)


def _exaone4(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer, "post_attention_layernorm", "post_feedforward_layernorm")
        weights.attention(layer, norms=(HEAD, HEAD))
        weights.mlp(layer)


def _nemotron(weights: Weights) -> None:
    weights.ends(bias=True)
    for layer in weights.layers():
        weights.norms(layer, bias=True)
        weights.attention(layer)
        weights.mlp(layer, gate=False)


def _phi2(weights: Weights) -> None:
    weights.add("model.embed_tokens.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("model.final_layernorm", bias=True)
    weights.linear("lm_head", weights.config["vocab_size"], HIDDEN, bias=True)
    for layer in weights.layers():
        weights.norms(layer, "input_layernorm", bias=True)
        for part in ("q_proj", "k_proj", "v_proj", "dense"):
            weights.linear(f"{layer}self_attn.{part}", HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.fc1", 4 * HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.fc2", HIDDEN, 4 * HIDDEN, bias=True)


def _gpt_neox(weights: Weights) -> None:
    weights.add("gpt_neox.embed_in.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("gpt_neox.final_layer_norm", bias=True)
    weights.add("embed_out.weight", weights.config["vocab_size"], HIDDEN)
    for number in range(LAYERS):
        layer = f"gpt_neox.layers.{number}."
        weights.norms(layer, bias=True)
        weights.linear(f"{layer}attention.query_key_value", 3 * HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}attention.dense", HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.dense_h_to_4h", FEED_FORWARD, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.dense_4h_to_h", HIDDEN, FEED_FORWARD, bias=True)


def _falcon(weights: Weights) -> None:
    weights.add("transformer.word_embeddings.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("transformer.ln_f", bias=True)
    for number in range(LAYERS):
        layer = f"transformer.h.{number}."
        weights.norms(layer, "ln_attn", "ln_mlp", bias=True)
        weights.linear(f"{layer}self_attention.query_key_value", (HEADS + 2 * KV_HEADS) * HEAD, HIDDEN)
        weights.linear(f"{layer}self_attention.dense", HIDDEN, HIDDEN)
        weights.linear(f"{layer}mlp.dense_h_to_4h", 4 * HIDDEN, HIDDEN)
        weights.linear(f"{layer}mlp.dense_4h_to_h", HIDDEN, 4 * HIDDEN)


def _bloom(weights: Weights) -> None:
    weights.add("word_embeddings.weight", weights.config["vocab_size"], HIDDEN)
    weights.norms("", "word_embeddings_layernorm", "ln_f", bias=True)
    for number in range(LAYERS):
        layer = f"h.{number}."
        weights.norms(layer, bias=True)
        weights.linear(f"{layer}self_attention.query_key_value", 3 * HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}self_attention.dense", HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.dense_h_to_4h", 4 * HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.dense_4h_to_h", HIDDEN, 4 * HIDDEN, bias=True)


def _exaone(weights: Weights) -> None:
    weights.add("transformer.wte.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("transformer.ln_f")
    weights.add("lm_head.weight", weights.config["vocab_size"], HIDDEN)
    for number in range(LAYERS):
        layer = f"transformer.h.{number}."
        weights.norms(layer, "ln_1", "ln_2")
        for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            weights.linear(f"{layer}attn.attention.{part}_proj", heads * HEAD, HIDDEN)
        weights.linear(f"{layer}attn.attention.out_proj", HIDDEN, HIDDEN)
        weights.linear(f"{layer}mlp.c_fc_0", FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}mlp.c_fc_1", FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}mlp.c_proj", HIDDEN, FEED_FORWARD)


def _internlm2(weights: Weights) -> None:
    weights.add("model.tok_embeddings.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("model.norm")
    weights.add("output.weight", weights.config["vocab_size"], HIDDEN)
    for layer in weights.layers():
        weights.norms(layer, "attention_norm", "ffn_norm")
        weights.linear(f"{layer}attention.wqkv", (HEADS + 2 * KV_HEADS) * HEAD, HIDDEN)
        weights.linear(f"{layer}attention.wo", HIDDEN, HIDDEN)
        weights.linear(f"{layer}feed_forward.w1", FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}feed_forward.w2", HIDDEN, FEED_FORWARD)
        weights.linear(f"{layer}feed_forward.w3", FEED_FORWARD, HIDDEN)


def _deepseek(weights: Weights) -> None:
    """The first layer is dense."""
    weights.ends()
    for number, layer in enumerate(weights.layers()):
        weights.norms(layer)
        weights.attention(layer)
        _dense_or_experts(weights, number, layer)


def _dense_or_experts(weights: Weights, number: int, layer: str) -> None:
    if number < weights.config.get("first_k_dense_replace", 1):
        weights.mlp(layer, weights.config["intermediate_size"])
    else:
        weights.experts(layer)
        weights.mlp(layer, HIDDEN, name="mlp.shared_experts")


def _deepseek2(weights: Weights) -> None:
    """With a layer behind the last, for predicting more than one token, where the config says so."""
    config = weights.config
    weights.ends()
    nope, turned, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    for number in range(config["num_hidden_layers"] + config.get("num_nextn_predict_layers", 0)):
        layer = f"model.layers.{number}."
        weights.norms(layer)
        if config["q_lora_rank"]:
            weights.linear(f"{layer}self_attn.q_a_proj", config["q_lora_rank"], HIDDEN)
            weights.norm(f"{layer}self_attn.q_a_layernorm", config["q_lora_rank"])
            weights.linear(f"{layer}self_attn.q_b_proj", HEADS * (nope + turned), config["q_lora_rank"])
        else:
            weights.linear(f"{layer}self_attn.q_proj", HEADS * (nope + turned), HIDDEN)
        weights.linear(f"{layer}self_attn.kv_a_proj_with_mqa", config["kv_lora_rank"] + turned, HIDDEN)
        weights.norm(f"{layer}self_attn.kv_a_layernorm", config["kv_lora_rank"])
        weights.linear(f"{layer}self_attn.kv_b_proj", HEADS * (nope + value), config["kv_lora_rank"])
        weights.linear(f"{layer}self_attn.o_proj", HIDDEN, HEADS * value)
        _dense_or_experts(weights, number, layer)
        if number >= config.get("first_k_dense_replace", 1) and config.get("scoring_func", "sigmoid") == "sigmoid":
            weights.add(f"{layer}mlp.gate.e_score_correction_bias", EXPERTS)


def _glm4_moe(weights: Weights) -> None:
    """With a layer behind the last, where the config says so."""
    config = weights.config
    weights.ends()
    for number in range(config["num_hidden_layers"] + config.get("num_nextn_predict_layers", 0)):
        layer = f"model.layers.{number}."
        weights.norms(layer)
        weights.attention(layer, bias="qkv", norms=(HEAD, HEAD) if config["use_qk_norm"] else None)
        _dense_or_experts(weights, number, layer)
        if number:
            weights.add(f"{layer}mlp.gate.e_score_correction_bias", EXPERTS)
        if number == config["num_hidden_layers"]:
            weights.linear(f"{layer}eh_proj", HIDDEN, 2 * HIDDEN)
            weights.norms(layer, "enorm", "hnorm", "shared_head.norm")


def _ernie4_5_moe(weights: Weights) -> None:
    weights.ends()
    for number, layer in enumerate(weights.layers()):
        weights.norms(layer)
        weights.attention(layer)
        _dense_or_experts(weights, number, layer)
        if number:
            weights.add(f"{layer}mlp.moe_statics.e_score_correction_bias", 1, EXPERTS)
    weights.norm("model.mtp_emb_norm.0")


def _bailing_moe2(weights: Weights) -> None:
    weights.add("model.word_embeddings.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("model.norm")
    weights.add("lm_head.weight", weights.config["vocab_size"], HIDDEN)
    for number, layer in enumerate(weights.layers()):
        weights.norms(layer)
        weights.linear(f"{layer}attention.query_key_value", (HEADS + 2 * KV_HEADS) * HEAD, HIDDEN)
        weights.linear(f"{layer}attention.dense", HIDDEN, HIDDEN)
        weights.norms(layer, "attention.query_layernorm", "attention.key_layernorm", size=HEAD)
        _dense_or_experts(weights, number, layer)
        if number:
            weights.add(f"{layer}mlp.gate.expert_bias", EXPERTS)


def _laguna(weights: Weights) -> None:
    """As its repositories are, or with transformers' names for what is routed."""
    config = weights.config
    new = config["gating"] == "per-element"
    weights.ends()
    for number, layer in enumerate(weights.layers()):
        heads = config.get("num_attention_heads_per_layer", [HEADS] * (number + 1))[number]
        weights.norms(layer)
        for part, rows in (("q", heads * HEAD), ("k", KV_HEADS * HEAD), ("v", KV_HEADS * HEAD)):
            weights.linear(f"{layer}self_attn.{part}_proj", rows, HIDDEN)
        weights.linear(f"{layer}self_attn.g_proj", heads * (HEAD if new else 1), HIDDEN)
        weights.linear(f"{layer}self_attn.o_proj", HIDDEN, heads * HEAD)
        weights.norms(layer, "self_attn.q_norm", "self_attn.k_norm", size=HEAD)
        if config["mlp_layer_types"][number] == "dense":
            weights.mlp(layer)
            continue
        weights.experts(layer)
        weights.mlp(layer, FEED_FORWARD, name="mlp.shared_experts" if new else "mlp.shared_expert")
        weights.add(f"{layer}mlp.{'gate' if new else 'experts'}.e_score_correction_bias", EXPERTS)


def _hunyuan(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer)
        weights.norm(f"{layer}self_attn.query_layernorm", HEAD)
        weights.norm(f"{layer}self_attn.key_layernorm", HEAD)
        weights.mlp(layer)


def _mamba(weights: Weights) -> None:
    config = weights.config
    weights.add("backbone.embeddings.weight", config["vocab_size"], HIDDEN)
    weights.norm("backbone.norm_f")
    for number in range(config["num_hidden_layers"]):
        layer = f"backbone.layers.{number}."
        weights.norm(f"{layer}norm")
        _first_mixer(
            weights,
            f"{layer}mixer.",
            config["intermediate_size"],
            config["state_size"],
            config["time_step_rank"],
        )


def _first_mixer(weights: Weights, name: str, inner: int, state: int, rank: int) -> None:
    """Of Mamba's first kind."""
    weights.decays(f"{name}A_log", inner, state)
    weights.add(f"{name}D", inner)
    weights.linear(f"{name}in_proj", 2 * inner, HIDDEN)
    weights.add(f"{name}conv1d.weight", inner, 1, 4)
    weights.add(f"{name}conv1d.bias", inner)
    weights.linear(f"{name}x_proj", rank + 2 * state, inner)
    weights.linear(f"{name}dt_proj", inner, rank, bias=True)
    weights.linear(f"{name}out_proj", HIDDEN, inner)


def _jamba(weights: Weights) -> None:
    """Of four layers the third attends, and the second and fourth have experts."""
    weights.add("model.embed_tokens.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("model.final_layernorm")
    weights.add("lm_head.weight", weights.config["vocab_size"], HIDDEN)
    for number, layer in enumerate(weights.layers()):
        weights.norms(layer, "input_layernorm", "pre_ff_layernorm")
        if number == 2:
            weights.attention(layer)
        else:
            _first_mixer(weights, f"{layer}mamba.", 2 * HIDDEN, 16, 16)
            weights.norm(f"{layer}mamba.dt_layernorm", 16)
            weights.norm(f"{layer}mamba.b_layernorm", 16)
            weights.norm(f"{layer}mamba.c_layernorm", 16)
        if number % 2:
            weights.linear(f"{layer}feed_forward.router", EXPERTS, HIDDEN)
            for expert in range(EXPERTS):
                weights.mlp(layer, name=f"feed_forward.experts.{expert}")
        else:
            weights.mlp(layer, name="feed_forward")


def _llama3() -> Tokenizer:
    return byte_pairs("llama-bpe", begins=True)


def _qwen() -> Tokenizer:
    return byte_pairs("qwen2", merge_lists=True)


def _tekken() -> Tokenizer:
    return byte_pairs("tekken", begins=True)


def _gpt_4o() -> Tokenizer:
    return byte_pairs("gpt-4o", begins=True)


def _qwen35() -> Tokenizer:
    return byte_pairs("qwen35", merge_lists=True)


def _glm_tokens() -> Tokenizer:
    return byte_pairs("llama-bpe", more=("[gMASK]", "<|user|>", "<|observation|>"))


def _laguna_tokens() -> Tokenizer:
    """One that ends a turn, and is not marked as special."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        added = files["tokenizer.json"]["added_tokens"]
        added[-1]["special"] = False
        names = {"eos_token": added[0]["content"], "added_tokens_decoder": decoder_of(added)}
        files["tokenizer_config.json"] |= names

    return changed(byte_pairs("laguna", more=("</assistant>",)), change)


def _smollm() -> Tokenizer:
    return byte_pairs("smollm")


def _pieces() -> Tokenizer:
    return sentence_pieces(added=True)


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
MINISTRAL3: dict[str, Any] = {
    "head_dim": 128,
    "rms_norm_eps": 1e-4,
    "max_position_embeddings": 4096,
    "sliding_window": None,
    "rope_parameters": {
        "rope_type": "yarn",
        "type": "yarn",
        "rope_theta": 1e5,
        "factor": 16.0,
        "original_max_position_embeddings": 8,
        "beta_fast": 4.0,
        "beta_slow": 0.5,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.3,
    },
}
LLAMA4: dict[str, Any] = {
    "num_hidden_layers": 5,  # the fourth has no rope
    "head_dim": 128,
    "rms_norm_eps": 1e-4,
    "intermediate_size_mlp": 2 * FEED_FORWARD,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 1,
    "use_qk_norm": True,
    "attention_chunk_size": 8192,
    "attn_temperature_tuning": True,
    "floor_scale": 8192,
    "attn_scale": 0.1,
}
LAGUNA: dict[str, Any] = {
    "head_dim": HEAD,
    "num_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": HIDDEN,
    "shared_expert_intermediate_size": FEED_FORWARD,
    "rms_norm_eps": 1e-4,
    "moe_routed_scaling_factor": 2.5,
    "moe_router_logit_softcapping": 0.0,
    "moe_apply_router_weight_on_input": False,
}
LAGUNA_YARN = {
    "rope_type": "yarn",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "attention_factor": 1.2079441541679836,
    "partial_rotary_factor": 0.5,
}
GRANITE = {
    "attention_multiplier": 0.015625,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 8.0,
}
MOE = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": HIDDEN}
DEEPSEEK = {
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": HIDDEN,
    "first_k_dense_replace": 1,
    "norm_topk_prob": False,
    "scoring_func": "softmax",
}
MLA = {"kv_lora_rank": 256, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64}
GLM4_MOE_LITE = {
    **{key: value for key, value in DEEPSEEK.items() if key not in ("scoring_func", "first_k_dense_replace")},
    **MLA,
    "q_lora_rank": 256,
    "num_key_value_heads": HEADS,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "n_group": 1,
    "topk_group": 1,
    "rms_norm_eps": 1e-4,
}
FOUR = {"num_hidden_layers": 4}  # where llama.cpp takes only every fourth layer to see all, and wants one
GPT_OSS: dict[str, Any] = {
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "head_dim": 128,
    "sliding_window": 8,
    "attention_bias": True,
    "swiglu_limit": 7.0,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_theta": 20000.0,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 8.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": True,
        "original_max_position_embeddings": 256,
    },
}
SAMPLING = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.05, "do_sample": True}
TIED = {"tie_word_embeddings": True}
MAMBA = {
    "vocab_size": 376,
    "intermediate_size": 2 * HIDDEN,
    "state_size": 16,
    "conv_kernel": 4,
    "time_step_rank": 16,
    "layer_norm_epsilon": 1e-5,
    **TIED,
}
GRANITE4 = {
    **GRANITE,
    **TIED,
    "vocab_size": 376,
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "shared_intermediate_size": FEED_FORWARD,
    "position_embedding_type": "nope",
    "mamba_n_heads": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 64,
    "mamba_d_head": 64,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
}
NEMOTRON_H = {
    "vocab_size": 376,
    "num_hidden_layers": 4,
    "head_dim": 128,
    "layer_norm_epsilon": 1e-4,
    "rms_norm_eps": 1e-4,
    "mlp_hidden_act": "relu2",
    "mamba_num_heads": 8,
    "mamba_head_dim": 64,
    "n_groups": 2,
    "ssm_state_size": 64,
    "conv_kernel": 4,
    "time_step_min": 0.001,
}
NEMOTRON_H_MOE = {
    **NEMOTRON_H,
    "hybrid_override_pattern": "ME*E",
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": HIDDEN,
    "moe_shared_expert_intermediate_size": FEED_FORWARD,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "n_group": 1,
    "topk_group": 1,
}
FALCON_H1 = {
    "vocab_size": 384,
    "head_dim": HEAD,
    "mamba_d_ssm": 384,
    "mamba_n_heads": 6,
    "mamba_d_head": 64,
    "mamba_n_groups": 1,
    "mamba_d_state": 64,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_rms_norm": False,
    "embedding_multiplier": 5.656854249492381,
    "lm_head_multiplier": 0.0195312,
    "key_multiplier": 0.390625,
    "attention_in_multiplier": 1.1,
    "attention_out_multiplier": 0.9375,
    "mlp_multipliers": [0.8838834764831845, 0.5859375],
    "ssm_in_multiplier": 1.25,
    "ssm_out_multiplier": 0.23570226039551587,
    "ssm_multipliers": [0.3535533905932738, 0.25, 0.17677669529663687, 0.5, 0.3535533905932738],
}
DELTA_NET = {
    "head_dim": 64,
    "rope_theta": 5000.0,
    "partial_rotary_factor": 0.5,
    "full_attention_interval": 2,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_conv_kernel_dim": 3,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 8,
    **FOUR,
}
DELTA_NET_MOE = {**DELTA_NET, **MOE, "shared_expert_intermediate_size": FEED_FORWARD}
NEXT_ROPE = {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5}
QWEN3_5_ROPE = {**NEXT_ROPE, "mrope_interleaved": True, "mrope_section": [6, 5, 5]}
QWEN3_5_PLACES = ("model.language_model.", "model.visual.")
NOMIC_BERT = {
    "n_positions": 8192,
    "max_trained_positions": 2048,
    "n_embd": HIDDEN,
    "n_inner": FEED_FORWARD,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "type_vocab_size": 2,
    "layer_norm_epsilon": 1e-4,
    "activation_function": "swiglu",
    "causal": False,
    "prenorm": False,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
}


def _jina_bert_of(code: str) -> dict[str, Any]:
    return {
        "auto_map": {
            "AutoConfig": f"{code}--configuration_bert.JinaBertConfig",
            "AutoModel": f"{code}--modeling_bert.JinaBertModel",
            "AutoModelForMaskedLM": f"{code}--modeling_bert.JinaBertForMaskedLM",
        },
        "emb_pooler": "mean",
        "feed_forward_type": "geglu",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-4,
        "model_max_length": 8192,
        "position_embedding_type": "alibi",
        "type_vocab_size": 2,
    }


NOT_NOMICS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("max_position_embeddings", "hidden_act", "rms_norm_eps", "rope_theta", "tie_word_embeddings"),
)
MODERN_BERT = {
    "num_hidden_layers": 4,
    "norm_eps": 1e-4,
    "local_attention": 8,
    "global_attn_every_n_layers": 2,
    "global_rope_theta": 40000.0,
    "local_rope_theta": 5000.0,
    "hidden_activation": "gelu",
}
NO_ATTENTION = ("num_attention_heads", "num_key_value_heads", "rms_norm_eps", "rope_theta", "max_position_embeddings")

GEMMA = {"hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True, "rms_norm_eps": 1e-6}
GEMMA3 = {
    **GEMMA,
    "num_hidden_layers": 6,
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
    "sliding_window": 64,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    "layer_types": [*["sliding_attention"] * 5, "full_attention"],
}
GEMMA_EMBEDDING = {**GEMMA3, "sliding_window": 8, "use_bidirectional_attention": True, "rope_scaling": None}
GLOBAL_HEAD = 128
GEMMA4 = {
    "hidden_activation": "gelu_pytorch_tanh",
    **TIED,
    "num_hidden_layers": 6,
    "head_dim": 64,
    "global_head_dim": GLOBAL_HEAD,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "enable_moe_block": False,
    "sliding_window": 8,
    "final_logit_softcapping": 20.0,
    "layer_types": [*["sliding_attention"] * 2, "full_attention"] * 2,
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    },
}
GEMMA3N = {
    "hidden_activation": "gelu_pytorch_tanh",
    **TIED,
    "num_hidden_layers": 5,
    "head_dim": 64,
    "hidden_size_per_layer_input": 256,
    "vocab_size_per_layer_input": gemma_pieces().rows,
    "num_kv_shared_layers": 0,
    "activation_sparsity_pattern": [0.95] * 5,
    "altup_num_inputs": 4,
    "altup_active_idx": 0,
    "laurel_rank": 64,
    "sliding_window": 8,
    "rope_theta": 5e5,
    "rope_local_base_freq": 2e4,
}
REPOSITORIES: dict[str, Tiny] = {
    "arcee": Tiny("ArceeForCausalLM", "arcee", _arcee, _llama3, {"hidden_act": "relu2"}),
    "bailingmoe2": Tiny(
        "BailingMoeV2ForCausalLM",
        "bailing_moe",
        _bailing_moe2,
        lambda: byte_pairs("bailingmoe"),
        {
            "num_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "num_shared_experts": 1,
            "moe_intermediate_size": HIDDEN,
            "moe_shared_expert_intermediate_size": HIDDEN,
            "first_k_dense_replace": 1,
            "n_group": 2,
            "topk_group": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "score_function": "sigmoid",
            "num_nextn_predict_layers": 0,
            "use_qk_norm": True,
            "head_dim": HEAD,
            "partial_rotary_factor": 0.5,
        },
    ),
    "bloom": Tiny(
        "BloomForCausalLM",
        "bloom",
        _bloom,
        lambda: byte_pairs("bloom"),
        {"layer_norm_epsilon": 1e-5, "n_layer": LAYERS, "n_head": HEADS, "seq_length": 2048, **TIED},
        drop=("rms_norm_eps", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "rope_theta"),
    ),
    "cohere": Tiny(
        "CohereForCausalLM",
        "cohere",
        _cohere,
        change={"layer_norm_eps": 1e-5, "logit_scale": 0.0625, **TIED},
        drop=("rms_norm_eps",),
    ),
    "cohere_v5": Tiny(
        "CohereForCausalLM",
        "cohere",
        _cohere,
        change={
            "layer_norm_eps": 1e-4,
            "logit_scale": 0.125,
            "attention_bias": False,
            "use_qk_norm": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
            **TIED,
        },
        drop=("rms_norm_eps", "rope_theta"),
    ),
    "cohere2": Tiny(
        "Cohere2ForCausalLM",
        "cohere2",
        _cohere2,
        change={"layer_norm_eps": 1e-5, "logit_scale": 0.25, "rotary_pct": 1.0, "sliding_window": 1024, **TIED, **FOUR},
        drop=("rms_norm_eps",),
    ),
    "deepseek": Tiny("DeepseekForCausalLM", "deepseek", _deepseek, _pieces, DEEPSEEK),
    "deepseek2": Tiny(
        "DeepseekV2ForCausalLM",
        "deepseek_v2",
        _deepseek2,
        _qwen,
        {
            **DEEPSEEK,
            **MLA,
            "num_key_value_heads": HEADS,
            "q_lora_rank": None,
            # So many it has to have for llama.cpp to look for no low rank of Q.
            "num_hidden_layers": 26,
            "first_k_dense_replace": 25,
            "intermediate_size": HIDDEN,
            "rope_scaling": {
                "type": "yarn",
                "factor": 40,
                "original_max_position_embeddings": 4096,
                "beta_fast": 32,
                "beta_slow": 1,
                "mscale": 0.707,
                "mscale_all_dim": 0.707,
            },
        },
    ),
    "deepseek3": Tiny(
        "DeepseekV3ForCausalLM",
        "deepseek_v3",
        _deepseek2,
        _qwen,
        {
            **DEEPSEEK,
            **MLA,
            "num_key_value_heads": HEADS,
            "q_lora_rank": 256,
            "n_group": 2,
            "topk_group": 1,
            "scoring_func": "sigmoid",
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "num_nextn_predict_layers": 1,
        },
    ),
    "ernie4_5": Tiny("Ernie4_5ForCausalLM", "ernie4_5", _plain, _pieces, {"head_dim": 64, **TIED}),
    "ernie4_5moe": Tiny(
        "Ernie4_5_MoeForCausalLM",
        "ernie4_5_moe",
        _ernie4_5_moe,
        _pieces,
        {
            "moe_num_experts": EXPERTS,
            "moe_k": 2,
            "moe_layer_interval": 1,
            "moe_layer_start_index": 1,
            "moe_layer_end_index": 1,
            "moe_intermediate_size": HIDDEN,
            "moe_num_shared_experts": 1,
            **TIED,
        },
    ),
    "exaone": Tiny(
        "ExaoneForCausalLM",
        "exaone",
        _exaone,
        _smollm,
        {
            "activation_function": "silu",
            "layer_norm_epsilon": 1e-5,
            "num_layers": LAYERS,
            "rope_scaling": LLAMA3_ROPE,
        },
        drop=("rms_norm_eps", "num_hidden_layers", "hidden_act"),
    ),
    "eurobert": Tiny(
        "EuroBertModel",
        "eurobert",
        _plain,
        lambda: encoder_byte_pairs("llama-bpe"),
        {"rope_theta": 250000.0, "rms_norm_eps": 1e-4, **TIED},
        pooling="mean",
    ),
    "exaone4": Tiny(
        "Exaone4ForCausalLM",
        "exaone4",
        _exaone4,
        change={
            "sliding_window": None,
            "layer_types": ["full_attention"] * 2,
            "rope_scaling": {**LLAMA3_ROPE, "factor": 16.0},
            "rope_theta": 1e6,
        },
    ),
    "falcon": Tiny(
        "FalconForCausalLM",
        "falcon",
        _falcon,
        lambda: byte_pairs("falcon"),
        {"layer_norm_epsilon": 1e-5, "num_kv_heads": KV_HEADS, "new_decoder_architecture": True, **TIED},
        drop=("rms_norm_eps", "num_key_value_heads", "intermediate_size"),
    ),
    "gemma": Tiny("GemmaForCausalLM", "gemma", _gemma, gemma_pieces, {"head_dim": 128, **GEMMA}),
    "gemma2": Tiny(
        "Gemma2ForCausalLM",
        "gemma2",
        _gemma,
        gemma_pieces,
        {
            **GEMMA,
            "head_dim": 64,
            "query_pre_attn_scalar": 64,
            "sliding_window": 64,
            "attn_logit_softcapping": 40.0,
            "final_logit_softcapping": 20.0,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "gemma3": Tiny("Gemma3ForCausalLM", "gemma3_text", _gemma, gemma_pieces, GEMMA3),
    "gemma3_eyes": Tiny(
        "Gemma3ForConditionalGeneration",
        "gemma3_text",
        _gemma,
        gemma_pieces,
        {**GEMMA3, "hidden_act": None},
        drop=("layer_types", "rope_local_base_freq", "hidden_act"),
        part_of="gemma3",
    ),
    "gemma3_json": Tiny("Gemma3ForCausalLM", "gemma3_text", _gemma, lambda: gemma_pieces(model=False), GEMMA3),
    "gemma3_v5": Tiny(
        "Gemma3ForCausalLM",
        "gemma3_text",
        _gemma,
        gemma_pieces,
        {
            **GEMMA3,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        drop=("rope_theta", "rope_scaling", "rope_local_base_freq"),
    ),
    "gemma_embedding": Tiny(
        "Gemma3TextModel",
        "gemma3_text",
        _gemma,
        lambda: gemma_pieces(ends=True),
        GEMMA_EMBEDDING,
        dtype="F32",
        pooling="mean",
        dense=True,
    ),
    "gemma_embedding_v5": Tiny(
        "Gemma3TextModel",
        "gemma3_text",
        _gemma,
        lambda: gemma_pieces(ends=True),
        {
            **GEMMA_EMBEDDING,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        drop=("rope_theta", "rope_scaling", "rope_local_base_freq"),
        pooling="mean",
    ),
    "gemma3n": Tiny("Gemma3nForCausalLM", "gemma3n_text", _gemma3n, gemma_pieces, GEMMA3N, drop=("hidden_act",)),
    "gemma3n_v5": Tiny(
        "Gemma3nForConditionalGeneration",
        "gemma3n_text",
        _gemma3n,
        gemma_pieces,
        {
            **GEMMA3N,
            "intermediate_size": [FEED_FORWARD] * 5,
            "layer_types": [*["sliding_attention"] * 4, "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            },
        },
        drop=("rope_theta", "rope_local_base_freq", "hidden_act"),
        part_of="gemma3n",
        places=("model.language_model.", "model.vision_tower."),
    ),
    "gemma4": Tiny(
        "Gemma4ForCausalLM", "gemma4_text", _gemma4, gemma4_pieces, GEMMA4, drop=("rope_theta", "hidden_act")
    ),
    "gemma4_inputs": Tiny(
        "Gemma4ForConditionalGeneration",
        "gemma4_text",
        _gemma4,
        gemma4_pieces,
        {
            **GEMMA4,
            "attention_k_eq_v": False,
            "num_global_key_value_heads": None,
            "hidden_size_per_layer_input": 256,
            "vocab_size_per_layer_input": gemma4_pieces().rows,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "layer_types": [*["sliding_attention"] * 3, "full_attention", "sliding_attention", "full_attention"],
        },
        drop=("rope_theta", "hidden_act"),
        part_of="gemma4",
        places=("model.language_model.", "model.vision_tower."),
    ),
    "gemma4_moe": Tiny(
        "Gemma4ForCausalLM",
        "gemma4_text",
        _gemma4,
        gemma4_pieces,
        {
            **GEMMA4,
            "per_layer_config": {at: {"head_dim": GLOBAL_HEAD, "num_key_value_heads": 1} for at in "25"},
            "enable_moe_block": True,
            "num_experts": EXPERTS,
            "top_k_experts": 2,
            "moe_intermediate_size": HIDDEN,
        },
        drop=("rope_theta", "hidden_act", "global_head_dim", "num_global_key_value_heads"),
    ),
    "glm": Tiny(
        "GlmForCausalLM",
        "glm",
        _glm,
        lambda: byte_pairs("llama-bpe", more=("<|user|>", "<|assistant|>")),
        {
            "head_dim": 64,
            "partial_rotary_factor": 0.5,
            "attention_bias": True,
            "rms_norm_eps": 1e-4,
            "rope_theta": 50000.0,
            # Where llama.cpp's converter looks for what transformers has above.
            "layernorm_epsilon": 1e-4,
            "rope_ratio": 5,
            "seq_length": 2048,
        },
    ),
    "glm_v5": Tiny(
        "GlmForCausalLM",
        "glm",
        _glm,
        lambda: byte_pairs("llama-bpe", more=("<|user|>", "<|assistant|>")),
        {
            "head_dim": 64,
            "attention_bias": True,
            "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25, "rope_theta": 50000.0},
            "layernorm_epsilon": 1e-5,
            "rope_ratio": 5,
            "seq_length": 2048,
            **TIED,
        },
        drop=("rope_theta",),
    ),
    "glm4": Tiny(
        "Glm4ForCausalLM",
        "glm4",
        _glm4,
        lambda: byte_pairs("llama-bpe", more=("<|user|>", "<|assistant|>")),
        {"head_dim": 64, "partial_rotary_factor": 0.5, "attention_bias": True},
    ),
    "glm4moe": Tiny(
        "Glm4MoeForCausalLM",
        "glm4_moe",
        _glm4_moe,
        _glm_tokens,
        {
            **{key: value for key, value in DEEPSEEK.items() if key != "scoring_func"},
            "norm_topk_prob": True,
            "head_dim": 64,
            "partial_rotary_factor": 0.5,
            "attention_bias": True,
            "use_qk_norm": True,
            "routed_scaling_factor": 1.5,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "glm4moelite": Tiny(
        "Glm4MoeLiteForCausalLM",
        "glm4_moe_lite",
        _deepseek2,
        _glm_tokens,
        {**GLM4_MOE_LITE, "rope_theta": 50000.0, "rope_scaling": None, "first_k_dense_replace": 1},
    ),
    "glm4moelite_v5": Tiny(
        "Glm4MoeLiteForCausalLM",
        "glm4_moe_lite",
        _deepseek2,
        _glm_tokens,
        {
            **GLM4_MOE_LITE,
            "num_hidden_layers": 3,
            "mlp_layer_types": ["dense", "dense", "sparse"],
            "first_k_dense_replace": 2,
            "norm_topk_prob": False,
            "rope_interleave": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0, "partial_rotary_factor": 1.0},
        },
        drop=("rope_theta",),
    ),
    "hunyuan": Tiny(
        "HunYuanDenseV1ForCausalLM",
        "hunyuan_v1_dense",
        _hunyuan,
        _hunyuan_byte_pairs,
        {
            "head_dim": 64,
            "num_experts": 1,
            "pad_token_id": -1,
            "eod_token_id": 373,
            "max_position_embeddings": 32768,
            "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0, "beta_fast": 32, "mscale": 1.0},
            "rope_theta": 10000.0,
            "use_qk_norm": True,
            **TIED,
        },
        generation={"eos_token_id": [371, 373], "top_k": 20},
    ),
    "gptneox": Tiny(
        "GPTNeoXForCausalLM",
        "gpt_neox",
        _gpt_neox,
        change={"hidden_act": "gelu", "rotary_pct": 0.25, "layer_norm_eps": 1e-5, "use_parallel_residual": True},
        drop=("rms_norm_eps", "num_key_value_heads", "rope_theta"),
    ),
    "gpt_oss": Tiny(
        "GptOssForCausalLM",
        "gpt_oss",
        _gpt_oss,
        lambda: byte_pairs("gpt-4o"),
        {
            **GPT_OSS,
            "quantization_config": {
                "quant_method": "mxfp4",
                "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
            },
        },
    ),
    "gpt_oss_v5": Tiny(
        "GptOssForCausalLM",
        "gpt_oss",
        _gpt_oss,
        lambda: byte_pairs("gpt-4o"),
        {
            **{key: value for key, value in GPT_OSS.items() if key not in ("layer_types", "rope_scaling")},
            "rope_parameters": {**GPT_OSS["rope_scaling"], "rope_theta": GPT_OSS["rope_theta"]},
        },
        drop=("rope_theta",),
    ),
    "granite": Tiny("GraniteForCausalLM", "granite", _plain, _smollm, {**GRANITE, **TIED}),
    "granitemoe": Tiny(
        "GraniteMoeForCausalLM",
        "granitemoe",
        _granite_moe,
        _smollm,
        {**GRANITE, **TIED, "num_local_experts": EXPERTS, "num_experts_per_tok": 2},
    ),
    "granite4": Tiny(
        "GraniteMoeHybridForCausalLM",
        "granitemoehybrid",
        _granite_hybrid,
        change={**GRANITE4, "layer_types": ["attention"] * 2, "position_embedding_type": "rope"},
    ),
    "granitehybrid": Tiny(
        "GraniteMoeHybridForCausalLM",
        "granitemoehybrid",
        _granite_hybrid,
        change={**GRANITE4, "layer_types": ["mamba", "attention"], "mamba_n_groups": 2, "tie_word_embeddings": False},
    ),
    "granitehybridmoe": Tiny(
        "GraniteMoeHybridForCausalLM",
        "granitemoehybrid",
        _granite_hybrid,
        change={
            **GRANITE4,
            "layer_types": ["mamba", "attention"],
            "num_local_experts": EXPERTS,
            "num_experts_per_tok": 2,
        },
    ),
    "granitemoeshared": Tiny(
        "GraniteMoeSharedForCausalLM",
        "granitemoeshared",
        _granite_moe,
        _smollm,
        {
            **GRANITE,
            **TIED,
            "num_local_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": FEED_FORWARD,
        },
    ),
    "internlm2": Tiny(
        "InternLM2ForCausalLM",
        "internlm2",
        _internlm2,
        _internlm2_pieces,
        {"bias": False, "rope_theta": 1e6, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    ),
    "jamba": Tiny(
        "JambaForCausalLM",
        "jamba",
        _jamba,
        _pieces,
        {
            "num_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "attn_layer_period": 4,
            "attn_layer_offset": 2,
            "mamba_d_state": 16,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
            "mamba_dt_rank": 16,
            **FOUR,
        },
        drop=("rope_theta",),
    ),
    "llama": Tiny("LlamaForCausalLM", "llama", _plain, _llama3, {"rope_scaling": LLAMA3_ROPE, "rope_theta": 500000.0}),
    "llama-2": Tiny("LlamaForCausalLM", "llama", _plain, sentence_pieces),
    "llama-bias": Tiny(
        "LlamaForCausalLM",
        "llama",
        _plain,
        _smollm,
        {"attention_bias": True, "rope_scaling": {"type": "linear", "factor": 2.0}, **TIED},
        dtype="F16",
    ),
    "llama4": Tiny(
        "Llama4ForCausalLM",
        "llama4_text",
        _llama4,
        _gpt_4o,
        {
            **LLAMA4,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "factor": 16.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 1.0,
                "original_max_position_embeddings": 64,
            },
            "layer_types": [*["chunked_attention"] * 3, "full_attention", "chunked_attention"],
            "no_rope_layers": [1, 1, 1, 0, 1],
            "moe_layers": [0, 1, 2, 3, 4],
        },
        drop=("rope_theta",),
    ),
    "llama4_eyes": Tiny(
        "Llama4ForConditionalGeneration",
        "llama4_text",
        _llama4,
        _gpt_4o,
        {
            **LLAMA4,
            "interleave_moe_layer_step": 2,
            "num_experts_per_tok": 2,
            "no_rope_layers": [],
            "rope_theta": 5e5,
        },
        part_of="llama4",
        places=("language_model.model.", "vision_model."),
    ),
    "llama_v5": Tiny(
        "LlamaForCausalLM",
        "llama",
        _plain,
        _llama3,
        {"rope_parameters": {**LLAMA3_ROPE, "rope_theta": 500000.0}, **TIED},
        drop=("rope_theta", "rms_norm_eps"),
        shards=3,
    ),
    "falcon_h1": Tiny("FalconH1ForCausalLM", "falcon_h1", _falcon_h1, change=FALCON_H1),
    "falcon_h1_norm": Tiny(
        "FalconH1ForCausalLM",
        "falcon_h1",
        _falcon_h1,
        change={**FALCON_H1, "mamba_rms_norm": True, "mamba_norm_before_gate": False, "mamba_n_groups": 2},
    ),
    "falcon_mamba": Tiny("FalconMambaForCausalLM", "falcon_mamba", _mamba, change=MAMBA, drop=NO_ATTENTION),
    "mamba": Tiny("MambaForCausalLM", "mamba", _mamba, change=MAMBA, drop=NO_ATTENTION),
    "lfm2": Tiny(
        "Lfm2ForCausalLM",
        "lfm2",
        _lfm2,
        lambda: byte_pairs("llama-bpe"),
        {
            "layer_types": ["conv", "full_attention"],
            "norm_eps": 2e-5,
            "conv_L_cache": 4,
            "block_ff_dim": 500,
            "block_auto_adjust_ff_dim": True,
            "block_ffn_dim_multiplier": 1.1,
            "block_multiple_of": 256,
            "rope_theta": 30000.0,
            **TIED,
        },
        drop=("rms_norm_eps", "intermediate_size"),
    ),
    "lfm2moe": Tiny(
        "Lfm2MoeForCausalLM",
        "lfm2_moe",
        _lfm2,
        lambda: byte_pairs("llama-bpe"),
        {
            **MOE,
            "num_hidden_layers": 4,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
            "num_dense_layers": 2,
            "norm_eps": 2e-5,
            "conv_L_cache": 3,
            "conv_bias": False,
            "use_expert_bias": True,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 30000.0},
            "tie_embedding": True,
        },
        drop=("rms_norm_eps", "rope_theta", "tie_word_embeddings"),
    ),
    "mistral_model": Tiny("MistralModel", "mistral", _plain, _ending_pieces, TIED, pooling="lasttoken"),
    "llama_model": Tiny("LlamaModel", "llama", _plain, _llama3, TIED, pooling="mean"),
    "modern_bert": Tiny(
        "ModernBertModel",
        "modernbert",
        _modern_bert,
        encoder_byte_pairs,
        {**MODERN_BERT, "layer_norm_eps": 1e-4},
        drop=("num_key_value_heads", "rms_norm_eps", "rope_theta", "hidden_act"),
        pooling="cls",
    ),
    "modern_bert_v5": Tiny(
        "ModernBertModel",
        "modernbert",
        _modern_bert,
        encoder_byte_pairs,
        {
            **MODERN_BERT,
            "hidden_activation": "silu",
            "layer_types": ["full_attention", "sliding_attention"] * 2,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 40000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
            },
        },
        drop=(
            *("num_key_value_heads", "rms_norm_eps", "rope_theta", "hidden_act"),
            *("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"),
        ),
        pooling="mean",
    ),
    "minicpm": Tiny(
        "MiniCPMForCausalLM",
        "minicpm",
        _plain,
        _pieces,
        {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 128, **TIED},
        drop=("rope_theta",),
    ),
    "llama_f32": Tiny(
        "LlamaForCausalLM",
        "llama",
        _plain,
        sentence_pieces,
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "num_key_value_heads": HEADS, **TIED},
        dtype="F32",
    ),
    "llama_pieces": Tiny("LlamaForCausalLM", "llama", _plain, _odd_pieces, TIED),
    "mistral": Tiny("MistralForCausalLM", "mistral", _plain, _pieces, {"sliding_window": 4096, "head_dim": 128}),
    "ministral": Tiny(
        "MinistralForCausalLM",
        "ministral",
        _plain,
        _tekken,
        {"head_dim": 64, "sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"]},
    ),
    "ministral3": Tiny(
        "Ministral3ForCausalLM",
        "ministral3",
        _plain,
        _tekken,
        {**MINISTRAL3, "rope_parameters": {**MINISTRAL3["rope_parameters"], "mscale_all_dim": 0.5}},
        drop=("rope_theta",),
    ),
    "ministral3_eyes": Tiny(
        "Mistral3ForConditionalGeneration",
        "ministral3",
        _plain,
        _tekken,
        {**MINISTRAL3, **TIED},
        drop=("rope_theta",),
        part_of="mistral3",
    ),
    "mistral3_eyes": Tiny(
        "Mistral3ForConditionalGeneration",
        "mistral",
        _plain,
        _tekken,
        {"head_dim": 128, "rope_theta": 1e9, "sliding_window": None},
        drop=("tie_word_embeddings",),
        part_of="mistral3",
    ),
    "mixtral": Tiny(
        "MixtralForCausalLM",
        "mixtral",
        _mixtral,
        _pieces,
        {"num_local_experts": EXPERTS, "num_experts_per_tok": 2, "rope_theta": 1e6, "sliding_window": None},
        shards=2,
    ),
    "nemotron": Tiny(
        "NemotronForCausalLM",
        "nemotron",
        _nemotron,
        _pieces,
        {"hidden_act": "relu2", "norm_eps": 1e-5, "partial_rotary_factor": 0.5},
        drop=("rms_norm_eps",),
    ),
    "nemotron_h": Tiny(
        "NemotronHForCausalLM",
        "nemotron_h",
        _nemotron_h,
        _tekken,
        {**NEMOTRON_H, "hybrid_override_pattern": "M-*M"},
        drop=("hidden_act",),
    ),
    "nemotron_h_moe": Tiny(
        "NemotronHForCausalLM", "nemotron_h", _nemotron_h, _tekken, NEMOTRON_H_MOE, drop=("hidden_act",)
    ),
    "nemotron_h_latent": Tiny(
        "NemotronHForCausalLM",
        "nemotron_h",
        _nemotron_h,
        _tekken,
        {**NEMOTRON_H_MOE, "moe_latent_size": 512, "norm_topk_prob": False},
        drop=("hidden_act",),
    ),
    "olmo": Tiny("OlmoForCausalLM", "olmo", _olmo, change={"clip_qkv": 8.0}, drop=("rms_norm_eps",)),
    "olmo2": Tiny("Olmo2ForCausalLM", "olmo2", _olmo2, _llama3),
    "olmo2_tokens": Tiny("Olmo2ForCausalLM", "olmo2", _olmo2, _ending_byte_pairs),
    "olmo3": Tiny(
        "Olmo3ForCausalLM",
        "olmo3",
        _olmo2,
        _qwen,
        {"sliding_window": 1024, "layer_types": [*["sliding_attention"] * 3, "full_attention"], **FOUR},
    ),
    "olmo3_v5": Tiny(
        "Olmo3ForCausalLM",
        "olmo3",
        _olmo2,
        _qwen,
        {
            "sliding_window": 8,
            "layer_types": [*["sliding_attention"] * 3, "full_attention"],
            "rms_norm_eps": 1e-4,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 50000.0},
                "full_attention": {
                    "rope_type": "yarn",
                    "rope_theta": 50000.0,
                    "factor": 8.0,
                    "attention_factor": 1.2079441541679836,
                    "beta_fast": 32.0,
                    "beta_slow": 1.0,
                    "original_max_position_embeddings": 256,
                },
            },
            **FOUR,
        },
        drop=("rope_theta",),
    ),
    "olmoe": Tiny(
        "OlmoeForCausalLM",
        "olmoe",
        _olmoe,
        change={
            "num_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "intermediate_size": HIDDEN,
            "norm_topk_prob": False,
            "num_key_value_heads": HEADS,
        },
    ),
    "phi2": Tiny(
        "PhiForCausalLM",
        "phi",
        _phi2,
        change={
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-5,
            "partial_rotary_factor": 0.5,
            "num_key_value_heads": HEADS,
            "intermediate_size": 4 * HIDDEN,
        },
        drop=("rms_norm_eps",),
    ),
    "phi3": Tiny(
        "Phi3ForCausalLM",
        "phi3",
        _phi3,
        _pieces,
        {
            "sliding_window": 2047,
            "original_max_position_embeddings": 1024,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0] * (HEAD // 2),
                "long_factor": [1.0 + at / 8 for at in range(HEAD // 2)],
            },
            "pad_token_id": 0,
        },
    ),
    "phi3_v5": Tiny(
        "Phi3ForCausalLM",
        "phi3",
        _phi3,
        _pieces,
        {
            "rms_norm_eps": 1e-4,
            "sliding_window": None,
            "original_max_position_embeddings": 1024,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 50000.0,
                "partial_rotary_factor": 1.0,
                "original_max_position_embeddings": 1024,
                "short_factor": [1.0 + at / 16 for at in range(HEAD // 2)],
                "long_factor": [1.0 + at / 8 for at in range(HEAD // 2)],
            },
            "pad_token_id": 0,
        },
        drop=("rope_theta",),
    ),
    "phi4_mini": Tiny(
        "Phi3ForCausalLM",
        "phi3",
        _phi3,
        _phi4_mini_byte_pairs,
        {
            "sliding_window": 262144,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 1024,
            "rope_theta": 50000.0,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0 + at / 16 for at in range(3 * HEAD // 8)],
                "long_factor": [1.0 + at / 8 for at in range(3 * HEAD // 8)],
            },
            **TIED,
        },
    ),
    "phi4": Tiny(
        "Phi3ForCausalLM",
        "phi3",
        _phi3,
        lambda: byte_pairs("gpt-2", kind="GPT2Tokenizer"),
        {"sliding_window": None, "original_max_position_embeddings": 2048, "partial_rotary_factor": 0.75},
    ),
    "qwen2": Tiny(
        "Qwen2ForCausalLM",
        "qwen2",
        _qwen2,
        _qwen,
        {"rope_theta": 1e6, "rope_scaling": YARN, "use_sliding_window": False},
    ),
    "qwen2_holes": Tiny("Qwen2ForCausalLM", "qwen2", _qwen2, _byte_pairs_with_holes, TIED),
    "qwen2_tokens": Tiny(
        "Qwen2ForCausalLM",
        "qwen2",
        _qwen2,
        _odd_byte_pairs,
        {**TIED, "eos_token_id": [458, 460]},
        generation=SAMPLING,
        card="license: other\nlicense_name: mine\ntags:\n- tiny\nlanguage: en\nbase_model:\n- acme/Large-v2\n",
    ),
    "qwen2moe": Tiny(
        "Qwen2MoeForCausalLM",
        "qwen2_moe",
        _qwen2_moe,
        _qwen,
        {**MOE, "shared_expert_intermediate_size": FEED_FORWARD, "norm_topk_prob": False},
    ),
    "qwen3": Tiny("Qwen3ForCausalLM", "qwen3", _qwen3, _qwen, {"head_dim": 128, "rope_theta": 1e6, **TIED}, shards=2),
    "qwen3moe": Tiny(
        "Qwen3MoeForCausalLM", "qwen3_moe", _qwen3_moe, _qwen, {**MOE, "head_dim": 64, "norm_topk_prob": True}
    ),
    "qwen3moe_v5": Tiny(
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        _fused_experts,
        _qwen,
        {**MOE, "head_dim": 64, "norm_topk_prob": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        drop=("rope_theta",),
    ),
    "laguna": Tiny(
        "LagunaForCausalLM",
        "laguna",
        _laguna,
        _laguna_tokens,
        {
            **LAGUNA,
            "num_hidden_layers": 5,
            "num_attention_heads_per_layer": [4, 8, 6, 2, 4],
            "sliding_window": 8,
            "layer_types": ["full_attention", *["sliding_attention"] * 3, "full_attention"],
            "mlp_layer_types": ["dense", *["sparse"] * 4],
            "mlp_only_layers": [0],
            "decoder_sparse_step": 1,
            "norm_topk_prob": True,
            "swa_attention_sink_enabled": False,
            "gating": "per-head",
            "gating_types": ["per_head"] * 5,
            "eos_token_id": [369, 373],
            "rope_parameters": {
                "full_attention": LAGUNA_YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 1.0},
            },
        },
        drop=("rope_theta",),
    ),
    "laguna_full": Tiny(
        "LagunaForCausalLM",
        "laguna",
        _laguna,
        _laguna_tokens,
        {
            **LAGUNA,
            "num_hidden_layers": 3,
            "mlp_layer_types": ["dense", "dense", "sparse"],
            "gating": "per-element",
            "sliding_window": 0,
            "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5000.0}},
        },
        drop=("rope_theta",),
    ),
    "qwen3_next": Tiny(
        "Qwen3NextForCausalLM",
        "qwen3_next",
        _linear_attention,
        _qwen,
        {**DELTA_NET_MOE, "full_attention_interval": 4},
        drop=("layer_types",),
    ),
    "qwen3_next_v5": Tiny(
        "Qwen3NextForCausalLM",
        "qwen3_next",
        _linear_attention,
        _qwen,
        {
            **DELTA_NET_MOE,
            "linear_num_value_heads": 4,
            "norm_topk_prob": True,
            "rope_parameters": NEXT_ROPE,
            **TIED,
        },
        drop=("rope_theta", "partial_rotary_factor"),
    ),
    "qwen3_5": Tiny(
        "Qwen3_5ForCausalLM",
        "qwen3_5_text",
        _linear_attention,
        _qwen35,
        {**DELTA_NET, "rope_parameters": QWEN3_5_ROPE},
        drop=("rope_theta", "partial_rotary_factor"),
    ),
    "qwen3_5_eyes": Tiny(
        "Qwen3_5ForConditionalGeneration",
        "qwen3_5_text",
        _linear_attention,
        _qwen35,
        {
            **DELTA_NET,
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 4,
            "rope_parameters": {**NEXT_ROPE, "mrope_interleaved": True},
            **TIED,
        },
        drop=("rope_theta", "partial_rotary_factor"),
        part_of="qwen3_5",
        places=QWEN3_5_PLACES,
    ),
    "qwen3_5moe": Tiny(
        "Qwen3_5MoeForCausalLM",
        "qwen3_5_moe_text",
        _linear_attention,
        _qwen35,
        {**DELTA_NET_MOE, "rope_scaling": {"mrope_section": [6, 5, 5]}},
        drop=("intermediate_size",),
    ),
    "qwen3_5moe_eyes": Tiny(
        "Qwen3_5MoeForConditionalGeneration",
        "qwen3_5_moe_text",
        _linear_attention,
        _qwen35,
        {**DELTA_NET_MOE, "rope_parameters": QWEN3_5_ROPE},
        drop=("rope_theta", "partial_rotary_factor", "intermediate_size"),
        part_of="qwen3_5_moe",
        places=QWEN3_5_PLACES,
    ),
    "jina_bert": Tiny(
        "JinaBertForMaskedLM",
        "bert",
        _jina_bert,
        lambda: changed(_word_pieces(), _of_class("BertTokenizer")),
        _jina_bert_of("jinaai/jina-bert-implementation"),
        drop=("num_key_value_heads", "rms_norm_eps", "rope_theta", "tie_word_embeddings"),
        pooling="mean",
    ),
    "jina_bert_code": Tiny(
        "JinaBertModel",
        "bert",
        _jina_bert,
        _jina_byte_pairs,
        {**_jina_bert_of("jinaai/jina-bert-v2-qk-post-norm"), "pad_token_id": 1},
        drop=("num_key_value_heads", "rms_norm_eps", "rope_theta", "tie_word_embeddings"),
        pooling="mean",
    ),
    "nomic_bert": Tiny(
        "NomicBertModel", "nomic_bert", _nomic_bert, _word_pieces, NOMIC_BERT, drop=NOT_NOMICS, pooling="mean"
    ),
    "nomic_bert_moe": Tiny(
        "NomicBertModel",
        "nomic_bert",
        _nomic_bert,
        _unigram,
        {
            **NOMIC_BERT,
            **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), True),
            "n_positions": 2048,
            "type_vocab_size": 1,
            "rotary_emb_base": 5000.0,
            "activation_function": "gelu",
            "moe_every_n_layers": 2,
            "moe_normalize_expert_weights": False,
            "moe_top_k": 2,
            "num_experts": EXPERTS,
        },
        drop=NOT_NOMICS,
        pooling="mean",
    ),
    "nomic_bert_v5": Tiny(
        "NomicBertModel",
        "nomic_bert",
        _nomic_bert,
        _word_pieces,
        {
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-4,
            "head_dim": HEAD,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        },
        drop=("num_key_value_heads", "rms_norm_eps", "rope_theta", "tie_word_embeddings"),
        pooling="cls",
    ),
    "roberta": Tiny(
        "RobertaModel",
        "roberta",
        _roberta,
        lambda: encoder_byte_pairs(roberta=True),
        {
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-4,
            "max_position_embeddings": 130,
            "pad_token_id": 1,
            "type_vocab_size": 1,
        },
        drop=("num_key_value_heads", "rms_norm_eps", "rope_theta", "tie_word_embeddings"),
        pooling="mean",
    ),
    "seed_oss": Tiny("SeedOssForCausalLM", "seed_oss", _qwen2, _qwen, {"head_dim": 64, "attention_bias": True}),
    "smollm3": Tiny("SmolLM3ForCausalLM", "smollm3", _plain, _llama3, {"no_rope_layer_interval": 4, **TIED}),
    "stablelm": Tiny(
        "StableLmForCausalLM",
        "stablelm",
        _stablelm,
        _qwen,
        {"partial_rotary_factor": 0.25, "use_qkv_bias": True, "layer_norm_eps": 1e-5, "use_parallel_residual": False},
        drop=("rms_norm_eps",),
    ),
    "stablelm-norms": Tiny(
        "StableLmForCausalLM",
        "stablelm",
        _stablelm_norms,
        _qwen,
        {"partial_rotary_factor": 0.25, "use_qkv_bias": False, "layer_norm_eps": 1e-5, "qk_layernorm": True},
        drop=("rms_norm_eps",),
    ),
    "starcoder2": Tiny(
        "Starcoder2ForCausalLM",
        "starcoder2",
        _starcoder2,
        _smollm,
        {"norm_epsilon": 1e-5, "hidden_act": "gelu_pytorch_tanh", **TIED},
        drop=("rms_norm_eps",),
    ),
}
"""By the name of the file with the figures that llama.cpp's converter came to."""


def write(name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in REPOSITORIES[name].files().items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)


if __name__ == "__main__":
    for each in sys.argv[2:] or REPOSITORIES:
        write(each, Path(sys.argv[1]) / each)
