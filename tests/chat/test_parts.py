"""The small parts: sandbox, cutting, choices, the program and its Go, stops, the reading of calls."""

import json
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.chat import go_template, toolcalls
from proxy.chat.affixes import common_prefix, common_suffix
from proxy.chat.choices import Contradiction, Example, Fork, Leaf, choose, learn, leaves, shortened
from proxy.chat.conversations import Message, compose, sentinel, spoken
from proxy.chat.cutting import Block, Cutter, Part, Unmodelled
from proxy.chat.facts import TokenizerFacts
from proxy.chat.program import All, AnyOf, Each, If, Is, Not, Out, Remember, Text, collated, run
from proxy.chat.sandbox import Sandbox, Unrenderable
from proxy.chat.stops import first_token, stops
from proxy.chat.verify import canonical

NOW = datetime(2031, 3, 5)  # noqa: DTZ001
FACTS = TokenizerFacts(bos="<s>", eos=("</s>", "<|eos|>"), unk="<unk>", pad="<pad>")


def rendered(source: str, **variables: object) -> str:
    return Sandbox(source, FACTS).render([{"role": "user", "content": "Hi"}], **variables)


def test_the_sandbox_is_set_up_as_in_transformers() -> None:
    assert rendered("  {% if true %}\nx\n  {% endif %}\ny") == "x\ny"
    assert rendered("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"
    assert rendered("{{ {'b': 'é<', 'a': 1} | tojson }}") == '{"b": "é<", "a": 1}'
    assert rendered("{{ [1] | tojson(indent=2) }}") == "[\n  1\n]"
    assert rendered("{% generation %}{{ messages[0].content }}{% endgeneration %}") == "Hi"
    assert rendered("{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token }}") == "<s></s><unk><pad>"
    assert rendered("{{ add_generation_prompt }}{{ x }}", x=1) == "True1"


@pytest.mark.parametrize(
    "source",
    ["{{ raise_exception('no') }}", "{{ messages.append(1) }}", "{{ ''.__class__.x }}", "{{ 1 / 0 }}", "{{ x.y.z }}"],
)
def test_whatever_a_template_breaks_is_one_error(source: str) -> None:
    with pytest.raises(Unrenderable):
        rendered(source)


def test_dates_are_marked_part_by_part() -> None:
    sandbox = Sandbox("{{ strftime_now('%d %b %Y %-m') }}", FACTS)
    sandbox.mark_dates = True
    assert sandbox.render([]) == "\ue004d\ue005 \ue004b\ue005 \ue004Y\ue005 \ue004-m\ue005"
    assert not sandbox.frozen_dates


def test_an_output_is_cut_at_its_sentinels() -> None:
    conversation = compose("SUA", sentinel)
    output = f"<s>{sentinel(0, 's')}<u>{sentinel(1, 'u')}<a>{sentinel(2, 'a')}."
    slots, end = Cutter().cut(output, conversation)
    assert [(slot.text, slot.kind, slot.place) for slot in slots] == [
        ("<s>", "system", 0),
        ("<u>", "user", 1),
        ("<a>", "assistant", 2),
    ]
    assert end == "."


def test_what_is_written_twice_in_a_row_is_not_modelled() -> None:
    with pytest.raises(Unmodelled):
        Cutter().cut(sentinel(0, "u") * 2, compose("U", sentinel))


def test_tools_become_a_block() -> None:
    conversation = compose("U", sentinel, 2)
    cutter = Cutter()
    written = ",\n".join(json.dumps(tool, indent=1, ensure_ascii=False) for tool in conversation.tools)
    slots, _ = cutter.cut(f"T[{written}]{sentinel(0, 'u')}", conversation)
    assert slots[0].text == "T[\ue0020\ue003]"
    assert cutter.tools == [Block((Part("tool"),), ",\n")]


def test_a_tool_that_is_left_out_is_not_modelled() -> None:
    conversation = compose("U", sentinel, 2)
    with pytest.raises(Unmodelled):
        Cutter().cut(json.dumps(conversation.tools[0], ensure_ascii=False) + sentinel(0, "u"), conversation)


def test_tools_may_be_written_field_by_field() -> None:
    conversation = compose("U", sentinel, 2)
    cutter = Cutter()
    written = "".join(
        f"* {tool['function']['name']}: {json.dumps(tool['function']['parameters'], ensure_ascii=False)}\n"
        for tool in conversation.tools
    )
    cutter.cut(written + sentinel(0, "u"), conversation)
    assert cutter.tools == [Block((Part("tool_name"), Part("", ": "), Part("parameters")), "\n* ")]


def test_calls_become_a_block() -> None:
    conversation = compose("UD", sentinel)
    cutter = Cutter()
    calls = ";".join(
        f"{call.name}({json.dumps(call.arguments, ensure_ascii=False)})" for call in conversation.messages[1].calls
    )
    slots, end = cutter.cut(f"{sentinel(0, 'u')}<{calls}>", conversation)
    assert [slot.kind for slot in slots] == ["user", "calls"]
    assert cutter.calls == Block((Part("name"), Part("", "("), Part("arguments")), ");")
    assert end == ")>"


def test_encoded_results_take_their_quotes_along() -> None:
    conversation = compose("UT", sentinel)
    slots, end = Cutter(encoded_results=True).cut(f'{sentinel(0, "u")}<"{sentinel(1, "t")}">', conversation)
    assert slots[1].text == "<"
    assert end == ">"


def test_the_smallest_question_is_asked() -> None:
    examples = [
        Example({"prev": "start", "position": "last", "tools": "no"}, "a"),
        Example({"prev": "start", "position": "before", "tools": "no"}, "a"),
        Example({"prev": "assistant", "position": "last", "tools": "no"}, "b"),
        Example({"prev": "assistant", "position": "before", "tools": "yes"}, "b"),
    ]
    tree = learn(examples)
    assert tree == Fork("prev", ((("start",), Leaf("a")),), Leaf("b"))
    assert choose(tree, {"prev": "system"}) == "b"
    assert leaves(tree) == ["a", "b"]


def test_a_contradiction_is_noticed_or_decided_by_number() -> None:
    examples = [Example({"prev": "user"}, text) for text in ("a", "b", "b")]
    with pytest.raises(Contradiction):
        learn(examples)
    assert learn(examples, lenient=True) == Leaf("b")


def test_a_common_suffix_goes_and_takes_idle_questions_along() -> None:
    tree = Fork("tools", ((("yes",), Leaf("ab")),), Leaf("b"))
    assert shortened(tree, "b") == Fork("tools", ((("yes",), Leaf("a")),), Leaf(""))
    assert shortened(Fork("tools", ((("yes",), Leaf("b")),), Leaf("b")), "b") == Leaf("")


@given(
    st.lists(
        st.tuples(st.sampled_from(["start", "user"]), st.sampled_from(["yes", "no"]), st.sampled_from("ab")),
        min_size=1,
        max_size=8,
    )
)
def test_what_was_learned_is_what_was_seen(seen: list[tuple[str, str, str]]) -> None:
    examples = [Example({"prev": prev, "tools": tools}, text) for prev, tools, text in seen]
    try:
        tree = learn(examples)
    except Contradiction:
        assert len({example.text for example in examples}) > 1
        return
    for example in examples:
        assert choose(tree, example.features) == example.text


@given(st.lists(st.text("ab", max_size=4), min_size=1, max_size=4))
def test_affixes(texts: list[str]) -> None:
    prefix, suffix = common_prefix(texts), common_suffix(texts)
    assert all(text.startswith(prefix) and text.endswith(suffix) for text in texts)
    assert len({text[len(prefix) : len(prefix) + 1] for text in texts}) > 1 or prefix in texts
    assert len({text[: len(text) - len(suffix)][-1:] for text in texts}) > 1 or suffix in texts


def test_neighbours_of_a_role_are_joined_as_ollama_joins_them() -> None:
    messages = [Message("user", "a"), Message("user", "b"), Message("tool", "c"), Message("tool", "d")]
    assert [message.content for message in collated(messages)] == ["a\n\nb", "c", "d"]


def test_a_program_runs_and_is_written() -> None:
    program = (
        Each("messages", (If(Is("prev", ("start",)), (Text("<"),)), Out("content"), Remember("user"))),
        If(Is("tools"), (Text("T"), Each("tools", (Out("tool_name"),), ","))),
        Out("date:-d"),
    )
    conversation = compose("UAU", lambda index, kind: f"{kind}{index}", 2)
    assert run(program, conversation, NOW) == "<u0a1u2Tf0,f15"
    assert go_template.write(program).startswith(
        '{{ $prev := "start" }}{{ range $i, $m := .Messages }}{{ if eq $prev "start" }}<{{ end }}'
        '{{ .Content }}{{ $prev = "user" }}{{ end }}{{ if $.Tools }}T{{ range $n, $one := $.Tools }}'
        "{{ if $n }},{{ end }}{{ .Function.Name }}{{ end }}{{ end }}"
    )


@pytest.mark.parametrize(
    ("test", "written"),
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
def test_tests_in_go(test: Is | Not | All | AnyOf, written: str) -> None:
    assert go_template.expression(test) == written


def test_what_separates_and_leads_stands_inside_of_the_loop() -> None:
    written = go_template.write((Text("<tools>\n"), Each("tools", (Out("tool"),), "\n"), Text("\n</tools>")))
    assert written == "<tools>{{ range $.Tools }}\n{{ json . }}{{ end }}\n</tools>"


def test_a_whole_date_is_ollamas_own() -> None:
    written = go_template.write((Out("date:Y"), Text("-"), Out("date:m"), Text("-"), Out("date:d")))
    assert written == "{{ currentDate }}"


@given(st.lists(st.text("{}a \n%-", max_size=6), min_size=1, max_size=4))
def test_no_text_is_taken_for_an_action(texts: list[str]) -> None:
    gotpl = pytest.importorskip("gotpl")
    program = tuple(node for text in texts for node in (Text(text), If(Is("tools"), (Text(text),)), Out("system")))
    written = gotpl.Environment().from_string(go_template.write(program)).render({"System": "!", "Tools": [1]})
    assert written == "".join(text * 2 + "!" for text in texts)


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
    assert stops(end, marker, FACTS, "<tool_call></think>")[1] == expected


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
    assert toolcalls.read(text, tag, "look") == arguments


def test_the_tag_ends_at_the_first_brace() -> None:
    assert toolcalls.tag('<tool_call>\n{"name": "') == "<tool_call>"
    assert toolcalls.tag(' {"name": "') == "{"


def test_json_is_compared_by_what_it_says() -> None:
    assert canonical('a {"b": 1,\n "a": [1]} {c') == canonical('a {"a":[1],"b":1} {c')
    assert canonical('{"a": 1}') != canonical('{"a": 2}')


def test_spoken_texts_have_no_edges_to_trim() -> None:
    for kind in ("s", "u", "a", "k", "t", "n0", "v1"):
        assert spoken(3, kind) == spoken(3, kind).strip()
