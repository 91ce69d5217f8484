"""Stops and tool calls by the rules of Ollama."""

import pytest

from proxy.chat import tool_calls
from proxy.chat.facts import TokenizerFacts
from proxy.chat.stops import find_stops, first_token

FACTS = TokenizerFacts(bos="<s>", eos=("</s>", "<|eos|>"), unk="<unk>", pad="<pad>")


@pytest.mark.parametrize(
    ("end", "marker", "expected"),
    [
        ("<|im_end|>\n<|im_start|>user\n", "<|im_start|>user\n", ("<|im_end|>", "</s>", "<|eos|>")),
        ("</s>\n### User:\n", "\n### User:\n", ("</s>", "<|eos|>")),
        ("\n\n### User:\n", "\n\n### User:\n", ("</s>", "<|eos|>", "### User:")),
        ("\n\nUSER: ", "\n\nUSER: ", ("</s>", "<|eos|>", "USER:")),
        ("\n", "\n", ("</s>", "<|eos|>")),
        ("<s>[INST] ", "<s>[INST] ", ("</s>", "<|eos|>")),
        ("<tool_call>", "", ("</s>", "<|eos|>")),
    ],
)
def test_stops(end: str, marker: str, expected: tuple[str, ...]) -> None:
    assert find_stops(end, marker, FACTS, "<tool_call></think>")[1] == expected


def test_the_longest_known_token_wins() -> None:
    facts = TokenizerFacts(added=("<|e|>", "<|e|>\n", "end of"))
    assert first_token(" <|e|>\nx", facts) == "<|e|>\n"
    assert first_token("end of it", facts) == "end of"
    assert first_token("nothing", facts) == ""


@pytest.mark.parametrize(
    ("text", "tag", "arguments"),
    [
        ('<tool_call>\n{"name": "look", "arguments": {"a": 1}}\n</tool_call>', "<tool_call>", {"a": 1}),
        ('{"name": "look", "parameters": {"a": "}"}}', "{", {"a": "}"}),
        ('Well: {"name": "look", "parameters": {}}', "{", None),
        ('[{"function": {"name": "look", "arguments": "{\\"a\\": 1}"}}]', "[", {"a": 1}),
        ('<call>look\n{"a": {"b": 2}}', "<call>", {"a": {"b": 2}}),
        ('<call>{"look": {"a": 1}}', "<call>", {"a": 1}),
        ("<call>look(a=1)", "<call>", None),
        ('<call>other{"a": 1}', "<call>", None),
        ('look{"a": 1}', "<call>", None),
    ],
)
def test_calls_are_read_as_ollama_reads_them(text: str, tag: str, arguments: object) -> None:
    assert tool_calls.parse_arguments(text, tag, "look") == arguments


def test_the_opening_tag_ends_at_the_first_brace() -> None:
    assert tool_calls.opening_tag('<tool_call>\n{"name": "') == "<tool_call>"
    assert tool_calls.opening_tag(' {"name": "') == "{"
