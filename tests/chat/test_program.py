"""Programs run as Ollama would run them, and are written in Go."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.chat import go_template
from proxy.chat.conversations import Message, compose
from proxy.chat.program import All, AnyOf, Each, If, Insert, Is, Not, Remember, Text, collate, run
from proxy.chat.verify import canonical_json

NOW = datetime(2031, 3, 5)  # noqa: DTZ001


def test_consecutive_messages_are_joined_as_in_ollama() -> None:
    messages = [Message("user", "a"), Message("user", "b"), Message("tool", "c"), Message("tool", "d")]
    assert [message.content for message in collate(messages)] == ["a\n\nb", "c", "d"]


def test_a_program_runs_and_is_written() -> None:
    program = (
        Each("messages", (If(Is("prev", ("start",)), (Text("<"),)), Insert("content"), Remember("user"))),
        If(Is("tools"), (Text("T"), Each("tools", (Insert("tool_name"),), ","))),
        Insert("date:-d"),
    )
    conversation = compose("UAU", lambda index, kind: f"{kind}{index}", 2)
    assert run(program, conversation, NOW) == "<u0a1u2Tf0,f15"
    assert go_template.write(program).startswith(
        '{{ $prev := "start" }}{{ range $i, $m := .Messages }}{{ if eq $prev "start" }}<{{ end }}'
        '{{ .Content }}{{ $prev = "user" }}{{ end }}{{ if $.Tools }}T{{ range $n, $one := $.Tools }}'
        "{{ if $n }},{{ end }}{{ .Function.Name }}{{ end }}{{ end }}"
    )


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        (Is("prev", ("tool", "user")), 'eq $prev "tool" "user"'),
        (Not(Is("role", ("tool",))), 'ne .Role "tool"'),
        (Not(Is("tools")), "not $.Tools"),
        (All((Is("thinking"), Is("position", ("after",)))), "and .Thinking (gt $i $lastUser)"),
        (All((Is("content"),)), ".Content"),
        (AnyOf((Is("content"), Is("calls", ("no",)))), "or .Content (not $m.ToolCalls)"),
        (Is("think", ("off", "")), "or (and $.IsThinkSet (not $.Think)) (not $.IsThinkSet)"),
    ],
)
def test_tests_in_go(test: Is | Not | All | AnyOf, expected: str) -> None:
    assert go_template.expression(test) == expected


def test_a_separator_before_the_first_item_is_in_the_loop() -> None:
    template = go_template.write((Text("<tools>\n"), Each("tools", (Insert("tool"),), "\n"), Text("\n</tools>")))
    assert template == "<tools>{{ range $.Tools }}\n{{ json . }}{{ end }}\n</tools>"


def test_an_iso_date_is_ollamas_own() -> None:
    template = go_template.write((Insert("date:Y"), Text("-"), Insert("date:m"), Text("-"), Insert("date:d")))
    assert template == "{{ currentDate }}"


@given(st.lists(st.text("{}a \n%-", max_size=6), min_size=1, max_size=4))
def test_no_text_becomes_an_action(texts: list[str]) -> None:
    gotpl = pytest.importorskip("gotpl")
    program = tuple(node for text in texts for node in (Text(text), If(Is("tools"), (Text(text),)), Insert("system")))
    output = gotpl.Environment().from_string(go_template.write(program)).render({"System": "!", "Tools": [1]})
    assert output == "".join(text * 2 + "!" for text in texts)


def test_json_is_compared_by_value() -> None:
    assert canonical_json('a {"b": 1,\n "a": [1]} {c') == canonical_json('a {"a":[1],"b":1} {c')
    assert canonical_json('{"a": 1}') != canonical_json('{"a": 2}')
