"""How llama.cpp's server renders a Jinja; tests/real/test_chat.py compares with a real server."""

from datetime import datetime

import pytest

from proxy.chat.conversations import compose
from proxy.chat.describe import describe
from proxy.chat.facts import ChatTemplate, TokenizerFacts
from proxy.chat.llama_server import LlamaServer
from proxy.chat.sandbox import Unrenderable
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


def test_a_template_without_a_go_template_is_checked_too() -> None:
    source = own_templates.LLAMA_SERVER_DIFFERS["ignores system"] + "\ue000"
    chat = describe(source, FACTS)
    assert chat.template == ""
    assert different(chat) == WITH_SYSTEM
