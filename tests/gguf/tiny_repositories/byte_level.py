"""Tiny byte-level BPE tokenizers, one for each pre-tokenizer."""

from collections import Counter
from functools import cache
from typing import Any

from tests.gguf.tiny_repositories.tokenizer import (
    WORDS,
    Tokenizer,
    decoder_of,
    dump,
    edit_tokenizer,
    frequent_merges,
)
from tests.kit.tiny_tokenizers import added_token

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


def _split(*patterns: str, lines: bool = False) -> dict[str, Any]:
    """With `lines`, line ends belong to the next line."""
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
    **dict.fromkeys(("llama-bpe", "smaug-bpe"), _split(HEAD_PATTERN + r"|\p{N}{1,3}" + TAIL)),
    "jais-2": _split(
        HEAD_PATTERN + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)"
        r"|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"
    ),
    "qwen2": _split(HEAD_PATTERN + r"|\p{N}" + TAIL),
    "gpt-4o": _split(
        rf"{_BEFORE}{_UPPER}*{_LOWER}+{_ENDINGS}?|{_BEFORE}{_UPPER}+{_LOWER}*{_ENDINGS}?|\p{{N}}{{1,3}}{_CASED_TAIL}"
    ),
    "tiny_aya": _split(
        r"\d{1,3}(?=(?:\d{3})*\b)",
        rf"{_BEFORE}{_UPPER}*{_LOWER}+{_ENDINGS}?|{_BEFORE}{_UPPER}+{_LOWER}*{_ENDINGS}?|\p{{N}}{{1,3}}{_CASED_TAIL}",
    ),
    "tekken": _split(rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\p{{N}}{_CASED_TAIL}"),
    "laguna": _split(HEAD_PATTERN + r"|\p{N}" + TAIL, lines=True),
    "qwen35": _split(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
        r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "exaone-moe": _split(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
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
    """The character for each byte in byte-level BPE."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return tuple(chr(byte) if byte in printable else chr(next(others)) for byte in range(256))


@cache
def byte_pairs(
    pre: str,
    *,
    begins: bool = False,
    merge_lists: bool = False,
    tokenizer_class: str = "PreTrainedTokenizerFast",
    more: tuple[str, ...] = (),
) -> Tokenizer:
    """With `begins`, the post-processor puts a token before each text."""
    alphabet = list(byte_characters())
    words = Counter(tuple(byte_characters()[byte] for byte in f" {word}".encode()) for word in WORDS)
    merges = list(frequent_merges(words, 200))
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
        "tokenizer_class": tokenizer_class,
    }
    files = {"tokenizer.json": dump(tokenizer), "tokenizer_config.json": dump(config)}
    rows = len(vocabulary) + len(specials) + 2  # two rows without a token, as trained models often have
    return Tokenizer(files, rows, {"bos": ids["<|endoftext|>"], "eos": ids["<|im_end|>"], "pad": ids["<|endoftext|>"]})


def llama3_tokens() -> Tokenizer:
    return byte_pairs("llama-bpe", begins=True)


def qwen_tokens() -> Tokenizer:
    return byte_pairs("qwen2", merge_lists=True)


def tekken_tokens() -> Tokenizer:
    return byte_pairs("tekken", begins=True)


def pixtral_tokens() -> Tokenizer:
    """With the tokens of Pixtral at the ends of rows and of pictures, in rows that are otherwise unused."""
    base = tekken_tokens()
    texts = ("[IMG_BREAK]", "[IMG_END]")
    added = [added_token(text, base.rows - len(texts) + at, special=True) for at, text in enumerate(texts)]

    def change(files: dict[str, dict[str, Any]]) -> None:
        files["tokenizer.json"]["added_tokens"] += added
        files["tokenizer_config.json"]["added_tokens_decoder"] |= decoder_of(added)

    return edit_tokenizer(base, change)


def smollm_tokens() -> Tokenizer:
    return byte_pairs("smollm")
