"""The description of a template: capabilities, stops, the tags that Ollama will infer, warnings."""

import pytest

from proxy.chat.describe import LARGEST, describe
from proxy.chat.detection import think_tags
from proxy.chat.facts import ChatTemplate, TokenizerFacts
from tests.chat import own_templates
from tests.chat.inferred_tags import call_tag, thinking_tags, tree

FACTS = TokenizerFacts(bos="<s>", eos=("</s>",))


def test_capabilities_are_those_that_ollama_will_infer() -> None:
    chat = describe(own_templates.TOOLS, FACTS)
    assert chat.capabilities == {"system", "tools", "thinking"}
    assert "$.Tools" in chat.template
    assert describe(own_templates.CHATML, FACTS).capabilities == {"system"}
    assert ".Tools" not in describe(own_templates.CHATML, FACTS).template


@pytest.mark.parametrize("source", [own_templates.TOOLS, own_templates.REASONER, own_templates.TOGGLED])
def test_ollama_infers_the_thinking_tags(source: str) -> None:
    chat = describe(source, FACTS)
    assert chat.think_tags == ("<think>", "</think>")
    assert thinking_tags(tree(chat.template)) == ("<think>", "</think>")


def test_a_model_without_thinking_has_no_tags() -> None:
    chat = describe(own_templates.CHATML, FACTS)
    assert chat.think_tags is None
    assert ".Thinking" not in chat.template


@pytest.mark.parametrize(
    ("name", "tag"),
    [("tools", "<tool_call>"), ("tools in user", "{"), ("ids", "[TOOL_CALLS]["), ("text arguments", "<|call|>")],
)
def test_ollama_infers_the_opening_tag_of_calls(name: str, tag: str) -> None:
    assert call_tag(tree(describe(own_templates.CALLING[name], FACTS).template)) == tag


def test_empty_thoughts_of_the_history_are_not_in_the_header() -> None:
    chat = describe(own_templates.EMPTY_THOUGHTS, FACTS)
    assert all(chat.shapes.values())
    assert thinking_tags(tree(chat.template)) == ("<think>", "</think>")
    assert "if and .Thinking false" not in chat.template


def test_other_tags_in_the_history_do_not_hide_the_tags() -> None:
    source = own_templates.EMPTY_THOUGHTS.replace("'<think>\n'", "'('").replace("'\n</think>\n'", "')'")
    chat = describe(source, FACTS)
    assert "({{ .Thinking }}" in chat.template
    assert chat.shapes["thoughts"]
    assert thinking_tags(tree(chat.template)) == ("<think>", "</think>")


def test_absent_tools_are_none_as_in_transformers() -> None:
    assert "None!" in describe("{% if tools is none %}None!{% endif %}" + own_templates.CHATML, FACTS).template


@pytest.mark.parametrize("source", [own_templates.XML_CALLS, own_templates.OTHER_CALLS])
def test_calls_that_ollama_cannot_parse_mean_no_tools(source: str) -> None:
    chat = describe(source, FACTS)
    assert chat.exact
    assert "tools" not in chat.capabilities
    assert ".Tools" not in chat.template
    assert "the chat template's tools are not supported: " in " ".join(chat.warnings)


def test_bos_is_left_to_ollama() -> None:
    chat = describe(own_templates.VICUNA, FACTS)
    assert chat.emits_bos
    assert "<s>" not in chat.template
    assert not describe(own_templates.CHATML, FACTS).emits_bos


def test_a_sample_is_a_conversation_with_its_bos() -> None:
    sample = describe(own_templates.VICUNA, FACTS).sample
    assert sample.startswith('<s>You answer in verse.\nNever in prose. USER: What\'s "1"')
    assert sample.endswith(" ASSISTANT:")
    assert "<|im_start|>system\n" in describe(own_templates.CHATML, FACTS).sample
    without_system = describe(own_templates.NO_SYSTEM, FACTS).sample
    assert without_system.startswith('<s><start_of_turn>user\nWhat\'s "0"')
    assert "It is 1." in without_system
    assert describe("{{ nothing.at.all }}", FACTS).sample == ""


def test_tools_are_written_as_json() -> None:
    template = describe(own_templates.TOOLS, FACTS).template
    assert "{{ json . }}" in template
    assert "{{ . }}" not in template


@pytest.mark.parametrize(
    ("source", "warning"),
    [
        ("{{ raise_exception('never') }}", "cannot be rendered: never"),
        ("{% if %}", "does not compile"),
        ("always the same", "leaves out the user's message"),
        ("{{ messages[0].content[::-1] }}", "leaves out the user's message"),
        ("\ud800{{ messages[0].content }}", "not Unicode"),
        (" " * (LARGEST + 1), "too large"),
        ("{{ messages[0].content }}\ue000", "rewrites"),
    ],
)
def test_an_unsupported_template_has_a_reason(source: str, warning: str) -> None:
    chat = describe(source, FACTS)
    assert not chat.exact
    assert chat.template == ""
    assert warning in " ".join(chat.warnings)


def test_an_inexact_template_has_a_warning() -> None:
    source = own_templates.CHATML.replace("m.content", "m.content.replace('verse', 'prose')")
    chat = describe(source, FACTS)
    assert chat.shapes["user"]
    assert not chat.shapes["system"]
    assert not chat.exact
    assert "differs from the chat template in these conversations: system" in " ".join(chat.warnings)


def test_ignored_system_messages_have_a_warning() -> None:
    source = "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    chat = describe(source, FACTS)
    assert chat.exact
    assert "system" not in chat.capabilities
    assert "the chat template ignores system messages" in chat.warnings


@pytest.mark.parametrize("trimmed", ["system", "user", "assistant", "tool"])
def test_a_template_that_trims_is_detected(trimmed: str) -> None:
    expression = f"(m.content | trim if m.role == '{trimmed}' else m.content)"
    chat = describe(own_templates.CHATML.replace("m.content", expression), FACTS)
    assert chat.exact
    assert chat.trims == (trimmed != "tool")


def test_a_frozen_time_of_day_has_a_warning() -> None:
    source = "{{ strftime_now('%H:%M on %A') }}" + own_templates.CHATML
    assert any("date of the pull" in warning for warning in describe(source, FACTS).warnings)
    assert not any("date" in warning for warning in describe(own_templates.DATED, FACTS).warnings)


def test_a_template_may_fail_on_tools_that_are_none() -> None:
    source = "{% for t in tools %}{{ t }}{% endfor %}" + own_templates.CHATML
    assert describe(source, FACTS).exact


def test_a_contradiction_leaves_the_rest_correct() -> None:
    """No feature identifies the thirteenth message, which is written differently."""
    source = own_templates.CHATML.replace("m.role + '\n'", "m.role + ('!\n' if loop.index == 13 else '\n')")
    chat = describe(source, FACTS)
    assert chat.shapes["turns"]
    assert not chat.shapes["long"]
    assert not chat.exact


@pytest.mark.parametrize(
    ("source", "tags"),
    [
        ("a </think> b", ("<think>", "</think>")),
        ("[THINK] and [/THINK]", ("[THINK]", "[/THINK]")),
        ("<|END_THINKING|>", ("<|START_THINKING|>", "<|END_THINKING|>")),
        ("<seed:think>", ("<seed:think>", "</seed:think>")),
        ("I think so", None),
    ],
)
def test_think_tags_by_their_form(source: str, tags: tuple[str, str] | None) -> None:
    assert think_tags(source) == tags


def test_results_round_trip_through_json() -> None:
    for source in (own_templates.TOOLS, own_templates.CHATML, "{% if %}"):
        chat = describe(source, FACTS)
        assert ChatTemplate.parse(chat.as_json()) == chat
    assert TokenizerFacts.parse(FACTS.as_json()) == FACTS
