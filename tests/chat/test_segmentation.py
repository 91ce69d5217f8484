"""Outputs are segmented at their sentinels; tools, calls and results become blocks."""

import json

import pytest

from proxy.chat.conversations import compose, ordinary_text, sentinel
from proxy.chat.segmentation import Block, Part, Segmenter, UnsupportedTemplate


def test_an_output_is_segmented_at_its_sentinels() -> None:
    conversation = compose("SUA", sentinel)
    output = f"<s>{sentinel(0, 's')}<u>{sentinel(1, 'u')}<a>{sentinel(2, 'a')}."
    slots, end = Segmenter().segment(output, conversation)
    assert [(slot.text, slot.kind, slot.message_index) for slot in slots] == [
        ("<s>", "system", 0),
        ("<u>", "user", 1),
        ("<a>", "assistant", 2),
    ]
    assert end == "."


def test_a_message_written_twice_in_a_row_is_unsupported() -> None:
    with pytest.raises(UnsupportedTemplate):
        Segmenter().segment(sentinel(0, "u") * 2, compose("U", sentinel))


def test_tools_become_a_block() -> None:
    conversation = compose("U", sentinel, 2)
    segmenter = Segmenter()
    tools = ",\n".join(json.dumps(tool, indent=1, ensure_ascii=False) for tool in conversation.tools)
    slots, _ = segmenter.segment(f"T[{tools}]{sentinel(0, 'u')}", conversation)
    assert slots[0].text == "T[\ue0020\ue003]"
    assert segmenter.tools == [Block((Part("tool"),), ",\n")]


def test_a_tool_that_is_left_out_is_unsupported() -> None:
    conversation = compose("U", sentinel, 2)
    with pytest.raises(UnsupportedTemplate):
        Segmenter().segment(json.dumps(conversation.tools[0], ensure_ascii=False) + sentinel(0, "u"), conversation)


def test_tools_may_be_written_field_by_field() -> None:
    conversation = compose("U", sentinel, 2)
    segmenter = Segmenter()
    tools = "".join(
        f"* {tool['function']['name']}: {json.dumps(tool['function']['parameters'], ensure_ascii=False)}\n"
        for tool in conversation.tools
    )
    segmenter.segment(tools + sentinel(0, "u"), conversation)
    assert segmenter.tools == [Block((Part("tool_name"), Part("", ": "), Part("parameters")), "\n* ")]


def test_calls_become_a_block() -> None:
    conversation = compose("UD", sentinel)
    segmenter = Segmenter()
    calls = ";".join(
        f"{call.name}({json.dumps(call.arguments, ensure_ascii=False)})" for call in conversation.messages[1].calls
    )
    slots, end = segmenter.segment(f"{sentinel(0, 'u')}<{calls}>", conversation)
    assert [slot.kind for slot in slots] == ["user", "calls"]
    assert segmenter.calls == Block((Part("name"), Part("", "("), Part("arguments")), ");")
    assert end == ")>"


def test_encoded_results_include_their_quotes() -> None:
    conversation = compose("UT", sentinel)
    output = f'{sentinel(0, "u")}<"{sentinel(1, "t")}">'
    slots, end = Segmenter(encoded_results=True).segment(output, conversation)
    assert slots[1].text == "<"
    assert end == ">"


def test_ordinary_texts_have_no_whitespace_at_their_ends() -> None:
    for kind in ("s", "u", "a", "k", "t", "n0", "v1"):
        assert ordinary_text(3, kind) == ordinary_text(3, kind).strip()
