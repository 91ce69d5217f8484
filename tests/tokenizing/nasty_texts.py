"""Random texts that tokenizers disagree on, the same each time."""

import random
from collections.abc import Iterator, Sequence

from tests.gguf.tiny_repositories.tokenizer import WORDS

_SPACES = (" ", " ", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\xa0", "\u2003", "\u3000")
_PIECES = (
    *WORDS,
    *("Hello", "HELLO", "hELLO", "world", "I'm", "we'LL", "it's", "IT'S", "don't", "'re", "\u2019s", "x'"),
    *("1", "12", "123", "1234", "12345678", "3.14", "1,000", "\u0663\u0664", "\u2167", "\xbd", "\xb2"),
    *("\u4f60\u597d", "\u3053\u3093\u306b\u3061\u306f", "\u30ab\u30bf", "\ud55c\uad6d\uc5b4", "\u1112\u1161\u11ab"),
    *("\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f"),
    *(
        "\xe9t\xe9",
        "e\u0301te\u0301",
        "\xc9COLE",
        "E\u0301COLE",
        "Malm\xf6",
        "stra\xdfe",
        "\u0130stanbul",
        "\xf1\u0303",
    ),
    *(
        "\u05e9\u05dc\u05d5\u05dd",
        "\u0645\u0631\u062d\u0628\u0627",
        "\u0928\u092e\u0938\u094d\u0924\u0947",
        "\u0e44\u0e17\u0e22",
    ),
    *("for i in x[1:]:", "return(a+b)", 'f("s")', "</div>", "$x=~y", "`a|b`", "{{}}", "!=", "->", "_a_", "#", "~", "^"),
    *(
        "...",
        "!?",
        "\u2026",
        "\u201cquoted\u201d",
        "\uff0c\u3002",
        "a/b\\c",
        "--",
        "\u2014",
        "@user",
        "%",
        "&amp;",
        "\u20ac5",
    ),
    *("\x01", "\x1c", "\x7f", "\x85", "\u200b", "\u200f", "\ufeff", "\u2581", "\ufffd", "\U000e0001", "\u0378"),
)


def nasty_texts(count: int, specials: Sequence[str], seed: int = 1) -> Iterator[str]:
    """Of up to a dozen pieces, with special tokens among them."""
    chance = random.Random(seed)
    for _ in range(count):
        made = []
        for _ in range(chance.randint(1, 12)):
            made.append(chance.choice(specials) if specials and chance.random() < 0.15 else chance.choice(_PIECES))
            if chance.random() < 0.6:
                made.append(chance.choice(_SPACES))
        yield "".join(made[chance.randint(0, 1) :])
