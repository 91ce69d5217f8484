"""The texts for the comparison of two tokenizers. Pure."""
# ruff: noqa: RUF001 - some letters look like ASCII letters

from collections.abc import Iterator, Mapping, Sequence

COMMON_TEXTS: Sequence[str] = (
    "What is the capital of France? It's Paris, isn't it: I'm sure they'll say so, and we've said it.",
    "HELLO WORLD, I'M HERE; YOU'LL SEE IT'S Fine!",
    "1 12 123 1234 12345 1234567 3.14 1,000.00 2024-01-31 x86_64 v1.2.3 a1b22c333",
    "two  spaces, three   spaces,     five",
    "\ta tab,\n a line\n\n  an indented one\n\n\n\tand\r\nmore\n",
    'def f(x, *args):\n    """Doc."""\n    return {"a": [1, 2], \'b\': x**2}  # ok\n',
    "if (a && b || !c) { i++; p->q = a[i] >> 2; }\n<div class=\"a\">&amp;</div>\nSELECT * FROM t WHERE a='b';--x\n",
    "https://example.com/a/b?c=d&e=%20f#g user@host.org C:\\dir $HOME/.cache | `ls` {{x}} ==> != ... !? (([])) $5.00",
    "Der Fluß ist schön, le café est fermé, mañana, Ångström",
    "Привет, мир!",
    "Ελληνικά",
    "你好，世界！今天是2024年。",
    "日本語のテキスト、カタカナ。",
    "한국어 문장입니다.",
    "Good 😀 news 🚀🚀!",
)
"""Their tokens must be equal. Texts on which llama.cpp b10488 differs from every tokenizer of a model are left out."""

RARE_TEXTS: Mapping[str, str] = {
    "characters that are not composed": "e\u0301te\u0301 A\u030a n\u0303 \u1112\u1161\u11ab",
    "letters with marks": (
        "हिन्दी क्षेत्र, ภาษาไทยน้ำใหญ่, "
        "\u0645\u064e\u0631\u0652\u062d\u064e\u0628\u064b\u0627, \u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd"
    ),
    "upper case beyond ASCII": "СССР ёжИкИ ÉCOLE ÅngströmÅ straßE",
    "words in camel case": "camelCase, iPhone, XMLHttpRequest, aB Ab ABc abC",
    "Arabic and Hebrew": "\u0645\u0631\u062d\u0628\u0627 \u0628\u0643\u0645 123 \u05e9\u05dc\u05d5\u05dd \u05d0\u05d1",
    "the character ~": "a ~b ~/x ~~~ !~ $x=~y",
    "spaces beyond ASCII": "no\u00a0break, em\u2003\u2003em, ideo\u3000graphic",
    "emoji of several parts": "👩\u200d👩\u200d👧 👍🏽 🏳\ufe0f\u200d🌈 🇩🇪 1\ufe0f\u20e3",
    "control characters": "form\x0cfeed, sep\x1c\x1d, del\x7f, next\x85line, zero\u200bwidth, \ufeffmark",
    "digits beyond ASCII": "\u0661\u0662\u0663\u0664 \u0967\u0968 \uff11\uff12 \u00bd x\u00b2 \u2167 \u2460",
    "rare characters": (
        "\U00020000 \u1f80 \u0f40 \u2203x\u2208\u211d \u2026\u2014\u201cq\u201d\u2019s \u2581 \ufffd \ufb01 \U0001f9ff"
    ),
    "lines that end with CR and LF": "one\r\ntwo;\r\n\r\n  three\r\n",
    "numbers after several spaces": "[\n    123,\n    4567,\n] a  12   1234",
    "letters after long numbers": "1920px 10000ms 2048x1536 20240131_1 123456abc 2025年",
    "a space at the beginning": " two",
    "a space at the end": "two ",
}
"""Unusual texts by their description. Other tokens for them are a warning, not a refusal."""

_SPLITS_CR_LF = frozenset({"laguna"})
"""For these pre-tokenizers llama.cpp b10488 splits between CR and LF; the models' own tokenizers do not."""
_GROUPS_ALL_DIGITS = frozenset({"tiny_aya"})
"""For these llama.cpp b10488 groups the digits of each number from its end, the models' own tokenizers only where no
letter follows."""


def common_texts(pre: str) -> Iterator[str]:
    """COMMON_TEXTS for this pre-tokenizer, without what llama.cpp is known to split otherwise. RARE_TEXTS keeps it."""
    for text in COMMON_TEXTS:
        known = text.replace("\r\n", "\n") if pre in _SPLITS_CR_LF else text
        yield known.replace("2024年", "2024 年") if pre in _GROUPS_ALL_DIGITS else known
