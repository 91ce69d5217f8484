"""The front matter of model cards: texts and lists of texts in any YAML, and nothing that a hostile card could do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.planning.card import MAX_BRACKETS, MAX_FIELD_LENGTH, read_card


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
        # Values that YAML 1.1 would turn into something else.
        ("a: no", "no"),
        ("a: 1.10", "1.10"),
        ("a: 2024-01-01", "2024-01-01"),
        ("a: [no, en, 1]", ["no", "en", "1"]),
        ("a: ~", None),
        ("a: ''", ""),
        # What a text cannot hold, or YAML does not allow.
        ('a: "\\ud800"', None),
        ('a: "\\UFFFFFFFF"', None),
        ('a: "\\u00e9"', "é"),
        ("a: b\x07", None),
        ("a: !!python/object/apply:os.system [echo]", ["echo"]),
        ('a: b\n"c": d', "b"),
        # Aliases are not expanded, and none leads to another field.
        ("a: &b c", "c"),
        ("b: &c d\na: *c", None),
        ("a: [&b c, *b]", ["c", "c"]),
        ("a: &b [c, *b]", ["c"]),
        ("a: {<<: *b}", None),
    ],
)
def test_a_field(written: str, value: str | list[str] | None) -> None:
    for line_end in ("\n", "\r\n"):
        card = f"---\nx: y\n{written}\nz: y\n---\na: text\n".replace("\n", line_end).encode()
        fields = read_card(card)
        assert fields.get("a") == value
        assert fields["x"] == "y"


def test_a_broken_field_does_not_hide_the_others() -> None:
    assert read_card(b"---\ntags: [x\n\tb: 'c\nlicense: mit\n---\n")["license"] == "mit"


def test_a_field_that_is_too_long_is_left_out() -> None:
    """Evaluation results (`model-index`) have hundreds of KB in the cards of embedding models."""
    rows = "- name: x\n" * MAX_FIELD_LENGTH
    assert dict(read_card(f"---\nmodel-index:\n{rows}license: mit\n---\n".encode())) == {"license": "mit"}


def test_the_longest_field_is_read() -> None:
    value = "x" * (MAX_FIELD_LENGTH - len("a: \n"))
    assert read_card(f"---\na: {value}\n---\n".encode())["a"] == value
    assert "a" not in read_card(f"---\na: {value}x\n---\n".encode())


def test_aliases_of_aliases_cost_nothing() -> None:
    """The "billion laughs": each level holds the one before ten times."""
    levels = [f"  - &l{level + 1} [{', '.join([f'*l{level}'] * 10)}]" for level in range(9)]
    card = "\n".join(["---", "a:", "  - &l0 [x]", *levels, "  - y", "---", ""])
    assert read_card(card.encode())["a"] == ["y"]


@pytest.mark.parametrize("card", [b"", b"# Title\n", b"---\nlicense: mit\n", b"x\n---\nlicense: mit\n---\n"])
def test_a_card_without_front_matter_says_nothing(card: bytes) -> None:
    assert read_card(card) == {}


@given(st.binary() | st.text(alphabet="a-:[]{}'\"#>| \n\t,\\é").map(lambda text: f"---\na: {text}\n---\n".encode()))
def test_any_card_is_read(card: bytes) -> None:
    for value in read_card(card).values():
        assert isinstance(value, str) or all(isinstance(item, str) for item in value)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "part", ["a:\n", "- a\n", "a: [", "'", '"', "a: ''", " ", "#", "\n", "a: |", "- - ", "{", "\t-", "? ", "&a ", "[a,"]
)
def test_no_card_takes_long(part: str) -> None:
    small = MAX_FIELD_LENGTH // len(part) - 10
    for count in (small, 200_000):
        for card in (f"---\na: {part * count}x\n---\n", f"---\na: {part * count}\n---\n", f"---\n{part * count}"):
            read_card(card.encode()).get("a")
    nested = part * (MAX_BRACKETS - 1)
    read_card(f"---\na: {nested}\n---\n".encode()).get("a")
