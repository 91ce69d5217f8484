"""How llama.cpp's server renders a Jinja; tests/real/test_chat.py compares with a real server."""

from datetime import datetime

import pytest

from proxy.chat.conversations import compose
from proxy.chat.describe import describe
from proxy.chat.facts import ChatTemplate, TokenizerFacts
from proxy.chat.llama_server import LlamaServer
from proxy.chat.sandbox import Unrenderable
from proxy.chat.verify import THINKING
from tests.chat import own_templates

FACTS = TokenizerFacts(bos="<s>", eos=("</s>",))
WITH_SYSTEM = {"system", "system turns"}
ALL = {"user", "turns", "long", *WITH_SYSTEM}


def text(index: int, kind: str) -> str:
    return f"{kind}{index}"


def render(source: str, shape: str) -> str:
    return LlamaServer(source, FACTS, datetime(2031, 3, 5)).render(compose(shape, text))  # noqa: DTZ001


def different(chat: ChatTemplate) -> set[str]:
    return {name for name, same in chat.native.items() if not same}


@pytest.mark.parametrize("name", own_templates.PLAIN)
def test_most_templates_are_rendered_as_in_transformers(name: str) -> None:
    chat = describe(own_templates.PLAIN[name], FACTS)
    assert chat.native.keys() == chat.shapes.keys() & ALL
    assert not different(chat)
    assert chat.loads


@pytest.mark.parametrize(
    ("name", "shapes", "loads"),
    [
        ("ignores system", WITH_SYSTEM, True),
        ("looks for images", WITH_SYSTEM, True),
        ("selects by a test", ALL, False),
    ],
)
def test_some_templates_are_rendered_differently(name: str, shapes: set[str], *, loads: bool) -> None:
    chat = describe(own_templates.LLAMA_SERVER_DIFFERS[name], FACTS)
    assert chat.exact
    assert (different(chat), chat.loads) == (shapes, loads)


def test_an_unread_system_message_opens_the_next_message() -> None:
    assert "<|im_start|>user\ns0\nu1<|im_end|>" in render(own_templates.LLAMA_SERVER_DIFFERS["ignores system"], "SU")
    assert "<start_of_turn>user\ns0\nu1<end_of_turn>" in render(own_templates.NO_SYSTEM, "SU")
    assert render(own_templates.LLAMA_SERVER_DIFFERS["ignores system"], "S").count("s0") == 0


def test_a_template_that_iterates_over_texts_gets_parts() -> None:
    rendered = render(own_templates.LLAMA_SERVER_DIFFERS["looks for images"], "SU")
    assert rendered.startswith("<|im_start|>system\n[{'type': 'text', 'text': 's0'}]<|im_end|>")
    assert "<|im_start|>user\nu1<|im_end|>" in rendered


def test_content_parts_are_not_merged() -> None:
    source = (
        "{% for m in messages if m.role == 'user' %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
    )
    assert render(source, "U") == "u0"
    with pytest.raises(Unrenderable, match="cannot merge content parts"):
        render(source, "SU")


@pytest.mark.parametrize(
    ("source", "shape", "think", "text"),
    [
        ("{{ date_string is defined }}", "U", "", "True"),
        ("{{ date_string }}, {{ datetime }}", "U", "", "05 Mar 2031, Mar 05 2031"),
        ("{{ enable_thinking }}<think></think>", "U", "", "True<think></think>"),
        ("{{ enable_thinking }}", "U", "on", "True"),
        ("{{ enable_thinking }}", "U", "off", "False"),
        ("{{ messages[0].get('content') }}", "SU", "", "s0"),
    ],
)
def test_what_the_server_passes_to_a_template(source: str, shape: str, think: str, text: str) -> None:
    conversation = compose(shape, lambda index, kind: f"{kind}{index}", 0, think)
    assert LlamaServer(source, FACTS, datetime(2031, 3, 5)).render(conversation) == text  # noqa: DTZ001


def test_a_default_that_the_server_decides_is_unknown() -> None:
    with pytest.raises(Unrenderable, match="llama-server decides"):
        render("{{ enable_thinking }}", "U")


def test_dates_that_only_the_server_defines_differ() -> None:
    """Llama 3.1's template writes a date of its own where the caller gives none."""
    source = "{% if date_string is not defined %}{% set date_string = '26 Jul 2024' %}{% endif %}{{ date_string }}\n"
    chat = describe(source + own_templates.CHATML, FACTS)
    assert chat.exact
    assert not any(chat.native.values())


@pytest.mark.parametrize(
    ("default", "kinds"),
    [
        ("true", set()),
        # If a request does not set `think`, Ollama does.
        ("false", {"think not set"}),
    ],
)
def test_the_settings_of_thinking_are_kinds_too(default: str, kinds: set[str]) -> None:
    source = (
        own_templates.CHATML + "{% if enable_thinking is not defined %}{% set enable_thinking = " + default + " %}"
        "{% endif %}{{ '<think>' if enable_thinking else '<think></think>' }}"
    )
    chat = describe(source, FACTS)
    assert chat.native.keys() == ALL | set(THINKING)
    assert different(chat) == kinds
    assert {name for name, same in chat.shapes.items() if not same} == kinds


def test_a_variable_of_another_name_does_not_switch_llama_server() -> None:
    chat = describe(own_templates.TOGGLED.replace("enable_thinking", "reasoning"), FACTS)
    assert different(chat) == {"thinking off"}


@pytest.mark.parametrize(
    ("refusal", "starts"),
    [
        ("{% if messages | length > 1 %}{{ raise_exception('short!') }}{% endif %}", False),
        ("{% if messages | length == 1 %}{{ raise_exception('long!') }}{% endif %}", False),
        ("{% if messages[0].role == 'system' and messages[0].content %}{{ raise_exception('no!') }}{% endif %}", False),
        ("{% if messages | length == 2 %}{{ raise_exception('two!') }}{% endif %}", True),
        ("{{ '' if messages[0].role == 'system' else 'a' + guideline }}", True),
    ],
)
def test_the_server_renders_two_conversations_at_its_start(refusal: str, *, starts: bool) -> None:
    assert LlamaServer(refusal + own_templates.CHATML, FACTS, datetime(2031, 3, 5)).starts() is starts  # noqa: DTZ001


def test_a_template_without_a_go_template_is_checked_too() -> None:
    source = own_templates.LLAMA_SERVER_DIFFERS["ignores system"] + "\ue000"
    chat = describe(source, FACTS)
    assert chat.template == ""
    assert different(chat) == WITH_SYSTEM
