"""The front matter of model cards: plain fields in the shapes in which people write them, and no others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.planning.card import read_card


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("a: b", "b"),
        ("a:   b c \t", "b c"),
        ("a : b", "b"),
        ("a: b # c", "b"),
        ("a: b#c", "b#c"),
        ("a: 'b # it''s'  # c", "b # it's"),
        ('a: "b: c"', "b: c"),
        ("a: 1.0", "1.0"),
        ("a: https://x/y:z", "https://x/y:z"),
        ("a: >-\n  b\n  c\n", "b c"),
        ("a: |\n  b\n  c\n", "b\nc"),
        ("a:\n  b", "b"),
        ("a: b\n  c", "b c"),
        ("a: [b, 'c', \"d e\",]", ["b", "c", "d e"]),
        ("a: [\n  b, # x\n  c\n]", ["b", "c"]),
        ("a: []", []),
        ("a:\n- b\n- 'c'", ["b", "c"]),
        ("a:\n\n  # x\n  - b # c\n\n  - >-\n    c\n    d", ["b", "c d"]),
        ("a:\n- b: c\n  d:\n  - e\n- f", ["f"]),
        ("a:\n- \n- b", ["b"]),
        ("a: b\na: c", "c"),
        ("a: null", None),
        ("a:", None),
        ("a: # b", None),
        ("a: {b: c}", None),
        ("a:\n  b: c", None),
        ("a: b: c", None),
        ("a: *b", None),
        ("a: 'b", None),
        ("a: [b, c", None),
        ("b: |\n  a: c", None),
        ("---\na: b", None),
    ],
)
def test_a_field(written: str, value: str | list[str] | None) -> None:
    for line_end in ("\n", "\r\n"):
        card = f"---\nx: y\n{written}\nz: y\n---\na: text\n".replace("\n", line_end).encode()
        fields = read_card(card)
        assert fields.get("a") == value
        assert fields["x"] == "y"


def test_a_broken_field_takes_no_other_with_it() -> None:
    assert read_card(b"---\ntags: [x\n\tb: 'c\nlicense: mit\n---\n")["license"] == "mit"


@pytest.mark.parametrize("card", [b"", b"# Title\n", b"---\nlicense: mit\n", b"x\n---\nlicense: mit\n---\n"])
def test_a_card_without_front_matter_says_nothing(card: bytes) -> None:
    assert read_card(card) == {}


@given(st.binary() | st.text(alphabet="a-:[]{}'\"#>| \n\t,\\é").map(lambda text: f"---\na: {text}\n---\n".encode()))
def test_any_card_is_read(card: bytes) -> None:
    for value in read_card(card).values():
        assert isinstance(value, str) or all(isinstance(item, str) for item in value)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "part", ["a:\n", "- a\n", "a: [", "'", '"', "a: ''", " ", "#", "\n", "a: |", "- - ", "{", "\t-"]
)
def test_no_card_takes_long(part: str) -> None:
    for card in (f"---\na: {part * 200_000}\n---\n", f"---\n{part * 200_000}"):
        read_card(card.encode())
