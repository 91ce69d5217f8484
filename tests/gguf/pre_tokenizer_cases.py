"""Tokenizers whose tokens reveal how a text is split, texts to split, and where llama.cpp splits differently."""

# ruff: noqa: RUF001 - the texts are odd on purpose

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
from tokenizers import Tokenizer as HfTokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from proxy.gguf import pretokenizers
from proxy.gguf.pretokenizers import PRE_TOKENIZER_NAMES, Fingerprint
from proxy.gguf.sentencepiece import PIECE, SCORE, TEXT, TYPE, PieceType, TokenPiece
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.byte_level import byte_characters, byte_pairs
from tests.gguf.tiny_repositories.repository import HIDDEN, Weights
from tests.gguf.tiny_repositories.sentencepiece import sentence_pieces
from tests.gguf.tiny_repositories.tokenizer import SPACE, Tokenizer, decoder_of, edit_tokenizer
from tests.kit.tiny_tokenizers import added_token

PreTokenizer = tuple[Fingerprint, bool]
SEPARATOR = "<|next|>"
TRAINING_TEXTS = (
    "the quick brown fox jumps over the lazy dog",
    "I'm you've he'd she'll we're it's don't 'tis",
    "I'M YOU'VE HE'D SHE'LL WE'RE IT'S DON'T 'Sblood",
    "we\u2019re can\u2019t \u2018quoted\u2019 rock'n'roll O'Neill ''' 's'",
    "camelCaseHTTPServer XMLHttpRequest iPhone IOError aB Ab AB ABc abC",
    "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m stra\u00dfe \u0130stanbul \u01c5 \u017fet \u1e9e",
    "e\u0301 n\u0303a A\u030a o\u0308\u0301x",
    "1 12 123 1234 12345 123456 1234567 12345678 123456789 1234567890",
    "a1b22c333d4444 x86_64 v1.2.3 3.14159 1,000,000.00 1e10 0xFF 50% $100 #1",
    "2024-01-31T12:34:56Z 192.168.0.1 +49(30)123456",
    "\u0661\u0662\u0663\u0664 \u0967\u0968\u0969 \uff11\uff12\uff13 \u00bd\u00b2\u2460\u2167 x\u00b2+y\u2083",
    "  two   spaces    four     five",
    "\ttab\t\ttabs \t mixed \t",
    "line\nline\n\nline\n\n\n line\n  indented\n\n    more",
    "cr\r\nlf\r\n\r\n  end\rold\r\r",
    "trailing space ",
    "trailing spaces   ",
    "trailing newline\n",
    "trailing both \n ",
    " leading",
    "   ",
    "\n",
    " \n \n ",
    "\t \n",
    "no\u00a0break thin\u2009thin em\u2003\u2003em ideo\u3000graphic \u202fnarrow \u205f\u1680",
    "next\u0085line vertical\x0btab form\x0cfeed sep\x1c\x1d\x1e\x1f para\u2028\u2029end",
    "zero\u200bwidth joi\u200dner non\u200cjoiner \ufeffbom soft\u00adhyphen \u2060word",
    "日本語のテキスト、ひらがなとカタカナ。ｶﾞｶﾞ 々〇ー",
    "你好，世界！今天是2024年1月31日。《书》“引”——\U00020000\u9fff\u3400",
    "한국어 문장입니다. \u1112\u1161\u11ab ㄱㅏ 힣\ud7b0",
    "العربية مَرْحَبًا، كيف؟ ۱۲۳۔ فارسی",
    "עברית שָׁלוֹם ועולם־מלא",
    "ภาษาไทยน้ำใหญ่ และที่นี่ ๑๒๓",
    "हिन्दी क्षेत्र नमस्ते। বাংলা தமிழ் తెలుగు",
    "Привет, мир! СССР ёжИкИ українська Ελληνικά ΟΔΟΣ Հայերեն ქართულ",
    "Tiếng Việt Ứng dụng ἄνθρωπος አማርኛ བོད་ မြန်မာ",
    "🚀🙂\u200d↔\ufe0f 👩\u200d👩\u200d👧 👍🏽🏳\ufe0f\u200d🌈 🇩🇪1\ufe0f\u20e3 x😀y",
    "∀x∈ℝ: ∑ᵢ √x² ≤ ∫εdx ≠ ∞ → ±×÷ 𝔘𝔫𝔦 \u210f\u2102 aₐ",
    "©®™ €£¥₿ §¶† █░│ …—– «»„“ °ªº \u02bc\u02c6 \ufb01\ufb02 \ue000\ufffd",
    "def f(x, *args, **kw):\n    return {'a': [1, 2], \"b\": x**2}  # ok\n",
    "if (a&&b||!c) { i++; p->q = a[i]>>2 ^ ~mask; } // c++ != c#\n\t}\r\n",
    '<div class="a">&amp;</div>\n/* multi\n * line\n */ $HOME/.cache \\n \\u00e9 C:\\dir',
    "https://example.com/a/b?c=d&e=%20f#g user@host.org //path/ /etc/",
    "SELECT * FROM t WHERE a='b' AND c<>'d''e';--x\n",
    "... !!! ?!? ,,, ;: --- ___ *** ### ~~~ ``` === +++ ((([[[{{{}}}]]])))",
    "(hello) [world] {x} <y> \"z\" 'w' `v` a|b a/b a\\b a-b a_b a.b a,b a:b a;b!",
    "-word .word $word @word #word /word ~word ^word =word +word |word (word 'word \u00bfword —word",
    " .  ,   ! \n. \n\n! .\n\n.\r\n! /\n//\n",
    f"{SPACE}under{SPACE} _x_ Ġgpt Ċ [PAD1] <0x0A> <unk>",
)
"""Every part that a known pre-tokenizer makes of these is a token, so that another split gives other tokens."""
TEXTS = (
    *TRAINING_TEXTS,
    "<|im_start|>user\nhi<|im_end|>\n<think> yes </think>",
    "a <think>b<think> c<|im_end|> <|im_endx|> <|im",
    "jumping foxes' dogs overquick thelazy IT'SA 99 8765 2025-12-30 nonsense'll",
    "日本語世界 миру 한국문장 مرحبا 🚀🚀 {{x}} ==> !=\n\n\n\t\tfoo",
)
UNMERGED_TOKENS = ("Ġoverquick", "jumping")
"""Tokens that appear only with `ignore_merges`."""

_MARKS = "llama.cpp does not count marks as part of a word"
_CASE = "llama.cpp knows upper and lower case in ASCII alone"
_NO_CASE = "llama.cpp does not split a word before an upper-case letter"
_HAN = "llama.cpp does not count 々 and 〇 as Chinese characters"
_TILDE = "llama.cpp does not count ~ as a symbol"
_SPACES = "llama.cpp counts all of Unicode's spaces as one class, which is not in a range with CJK"
_LAST_SPACE = "Ollama's engine leaves another one of several spaces to the next word"
_IGNORES_MERGES = "Ollama's engine always uses a whole word without merges"
_ALL_DIGITS = "llama.cpp groups the digits of each number from its end, also before a letter, and all kinds of digits"
_LINES = "llama.cpp splits between CR and LF"
_NFC = "neither llama.cpp nor Ollama composes characters"


def _of(*beginnings: str) -> list[str]:
    return [next(text for text in TEXTS if text.startswith(beginning)) for beginning in beginnings]


_MARKED = dict.fromkeys(_of("e\u0301", "العربية", "עברית", "ภาษาไทย", "हिन्दी", "Tiếng"), _MARKS)
_CASED = {
    **_MARKED,
    **dict.fromkeys(_of("Привет", "∀x"), _CASE),
}
_DEEPSEEK = dict.fromkeys(_of("no\u00a0break", "next\u0085line"), _SPACES)
DEVIATIONS: Mapping[str, Mapping[str, str]] = {
    "tekken": _CASED,
    "gpt-4o": _CASED,
    "kimi-k2": {
        **_MARKED,
        **dict.fromkeys(_of("camelCase", "a1b22", "Привет", "∀x"), _NO_CASE),
        **dict.fromkeys(_of("日本語のテ"), _HAN),
    },
    "laguna": dict.fromkeys([text for text in TEXTS if "\r\n" in text], _LINES),
    "tiny_aya": dict.fromkeys(_of("\u0661\u0662", "你好"), _ALL_DIGITS),
    "deepseek-v3": dict.fromkeys(_of("if (", "...", "-word"), _TILDE),
    "deepseek-llm": _DEEPSEEK,
    "deepseek-coder": _DEEPSEEK,
}
"""Pre-tokenizer → the texts that llama.cpp splits differently, and why. Ollama 0.24 and 0.33 agree."""
ENGINE_DEVIATIONS = {
    **dict.fromkeys(_of("no\u00a0break", "next\u0085line"), _LAST_SPACE),
    **dict.fromkeys(_of("jumping"), _IGNORES_MERGES),
}
"""Texts that Ollama's own engine, before 0.30, splits differently, and why."""
NFC_DEVIATIONS = dict.fromkeys(_of("e\u0301", "한국어"), _NFC)
"""Texts that differ if tokenizer.json has the normalizer NFC."""


def pre_tokenizer_json(steps: Fingerprint) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": [_step(step) for step in steps if isinstance(step, tuple)]}


def _step(step: tuple[Any, ...]) -> dict[str, Any]:
    match step:
        case "Split", pattern, behavior, invert:
            return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}
        case "Punctuation", behavior:
            return {"type": "Punctuation", "behavior": behavior}
        case "Digits", individual:
            return {"type": "Digits", "individual_digits": individual}
        case "ByteLevel", words:
            return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": words}
    raise AssertionError(step)


def load_tokenizer(tokenizer: Tokenizer) -> HfTokenizer:
    return HfTokenizer.from_str(tokenizer.files["tokenizer.json"].decode())


@cache
def _parts() -> list[str]:
    """All parts that known pre-tokenizers make of the training texts, in byte-level characters."""
    parts: set[str] = set()
    for steps, _ in PRE_TOKENIZER_NAMES:
        tokenizer = load_tokenizer(edit_tokenizer(byte_pairs("gpt-2"), partial(_set_pre_tokenizer, (steps, False))))
        assert tokenizer.pre_tokenizer is not None
        for text in TRAINING_TEXTS:
            parts.update(part for part, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
    return sorted(parts)


@cache
def _all_merges() -> list[tuple[str, str]]:
    """Merges of bytes that make one token of each part."""
    return _train(_parts(), byte_characters())[1]


def _set_pre_tokenizer(pre_tokenizer: PreTokenizer, files: Mapping[str, dict[str, Any]]) -> None:
    steps, ignores_merges = pre_tokenizer
    files["tokenizer.json"]["pre_tokenizer"] = pre_tokenizer_json(steps)
    files["tokenizer.json"]["model"]["ignore_merges"] = ignores_merges


def _train(words: Sequence[str], alphabet: Sequence[str] = ()) -> tuple[list[str], list[tuple[str, str]]]:
    """Characters and merges that make one token of each word."""
    tokenizer = HfTokenizer(BPE())
    trainer = BpeTrainer(vocab_size=20_000, min_frequency=1, show_progress=False, initial_alphabet=list(alphabet))
    tokenizer.train_from_iterator(words, trainer)
    merges = [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]
    merged = {left + right for left, right in merges}
    return sorted(token for token in tokenizer.get_vocab() if token not in merged), merges


def _possible_merges(merges: Sequence[tuple[str, str]], known: set[str], name: str) -> Iterator[tuple[str, str]]:
    """The merges of `known` texts that lead to tokens which this pre-tokenizer can make."""
    is_impossible: Callable[[str], bool] = pretokenizers._JOINS.get(name, lambda _: False)
    for left, right in merges:
        if left in known and right in known and not is_impossible(left + right):
            known.add(left + right)
            yield left, right


@cache
def covering_bpe(pre_tokenizer: PreTokenizer, name: str, *, composes: bool = False) -> Tokenizer:
    """A byte-level BPE with this pre-tokenizer, and with the tokens that the pre-tokenizer called `name` can make.

    `composes` adds the normalizer NFC, as in Qwen.
    """
    merges = list(_possible_merges(_all_merges(), set(byte_characters()), name))
    texts = [*byte_characters(), *dict.fromkeys(left + right for left, right in merges), *UNMERGED_TOKENS]
    vocabulary = {text: token_id for token_id, text in enumerate(texts)}

    def change(files: dict[str, dict[str, Any]]) -> None:
        tokenizer = files["tokenizer.json"]
        _set_pre_tokenizer(pre_tokenizer, files)
        tokenizer["normalizer"] = {"type": "NFC"} if composes else None
        tokenizer["model"].update(vocab=vocabulary, merges=[list(merge) for merge in merges])
        _renumber(files, [token["content"] for token in tokenizer["added_tokens"]], len(vocabulary))

    files = edit_tokenizer(byte_pairs("gpt-2", more=(SEPARATOR,)), change).files
    added = json.loads(files["tokenizer.json"])["added_tokens"]
    ids = {token["content"]: token["id"] for token in added}
    specials = {"bos": ids["<|endoftext|>"], "eos": ids["<|im_end|>"], "pad": ids["<|endoftext|>"]}
    return Tokenizer(files, len(vocabulary) + len(added) + 2, specials)


def _renumber(files: Mapping[str, dict[str, Any]], contents: Sequence[str], first: int) -> None:
    added = [added_token(text, first + at, special=text != "<think>") for at, text in enumerate(contents)]
    files["tokenizer.json"]["added_tokens"] = added
    _set_decoder(files, added)


def _set_decoder(files: Mapping[str, dict[str, Any]], added: Sequence[Mapping[str, Any]]) -> None:
    config = files["tokenizer_config.json"]
    config["added_tokens_decoder"] = decoder_of(added)
    config.pop("chat_template", None)


@cache
def covering_pieces(*, model: bool) -> Tokenizer:
    """A SentencePiece BPE of the words in the training texts, without some letters, which become bytes."""
    words = sorted({SPACE + word for text in TRAINING_TEXTS for word in text.split(" ")} | {SPACE * 2, SPACE * 4})
    characters, all_merges = _train(words)
    known = {text for text in characters if text not in "Å∀ไ한😀"}
    merges = list(_possible_merges(all_merges, set(known), ""))
    pieces = [
        TokenPiece("<unk>", PieceType.UNKNOWN),
        TokenPiece("<s>", PieceType.CONTROL),
        TokenPiece("</s>", PieceType.CONTROL),
    ]
    pieces += [TokenPiece(f"<0x{byte:02X}>", PieceType.BYTE) for byte in range(256)]
    texts = dict.fromkeys([*(left + right for left, right in merges), *sorted(known)])
    pieces += [TokenPiece(text, PieceType.NORMAL, -float(rank)) for rank, text in enumerate(texts)]
    vocabulary = {piece.text: token_id for token_id, piece in enumerate(pieces)}
    trainer_spec = b"\x12\x02\x18\x02"  # model_type = BPE

    def change(files: dict[str, dict[str, Any]]) -> None:
        tokenizer = files["tokenizer.json"]
        tokenizer["model"].update(vocab=vocabulary, merges=[list(merge) for merge in merges])
        added = [added_token(text, at) for at, text in enumerate(("<unk>", "<s>", "</s>"))]
        more = ("[INST]", "<think>", SEPARATOR)
        added += [added_token(text, len(pieces) + at, special=text != "<think>") for at, text in enumerate(more)]
        tokenizer["added_tokens"] = added
        _set_decoder(files, added)

    files = dict(edit_tokenizer(sentence_pieces(model=False), change).files)
    if model:
        files["tokenizer.model"] = write_pieces(pieces) + trainer_spec
    return Tokenizer(files, len(pieces) + 3, {"bos": 1, "eos": 2})


def silent_repository(name: str, tokenizer: Tokenizer) -> dict[str, bytes]:
    """A tiny repository with this tokenizer. The model always predicts EOS."""
    tiny = REPOSITORIES[name]
    pattern = np.where(np.arange(HIDDEN) % 2, 1, -1).astype(np.float32)

    def always_eos(weights: Weights) -> None:
        tiny.weights(weights)
        for path, tensor in weights.tensors.items():
            if tensor.ndim > 1:
                weights.tensors[path] = np.zeros_like(tensor)
        weights.tensors["model.embed_tokens.weight"] += pattern
        weights.tensors["lm_head.weight"][tokenizer.specials["eos"]] = pattern

    change = {**tiny.change, "tie_word_embeddings": False, "num_hidden_layers": 1}
    return replace(tiny, tokenizer=lambda: tokenizer, weights=always_eos, change=change, dtype="F16").files()


def split_at(tokens: Sequence[int], separator: int) -> list[list[int]]:
    """The tokens of each text."""
    texts: list[list[int]] = [[]]
    for token in tokens:
        if token == separator:
            texts.append([])
        else:
            texts[-1].append(token)
    return texts


def write_pieces(pieces: Iterable[TokenPiece]) -> bytes:
    """A tokenizer.model with pieces only."""
    model = []
    for text, piece_type, score in pieces:
        content = text.encode()
        fields = (
            bytes([TEXT]),
            _to_varint(len(content)),
            content,
            struct.pack("<Bf", SCORE, score),
            bytes([TYPE, piece_type]),
        )
        piece = b"".join(fields)
        model.append(bytes([PIECE]) + _to_varint(len(piece)) + piece)
    return b"".join(model)


def _to_varint(value: int) -> bytes:
    varint = bytearray()
    while value > 0x7F:
        varint.append(value & 0x7F | 0x80)
        value >>= 7
    varint.append(value)
    return bytes(varint)
