"""The Go template says what the Jinja says, rendered by gotpl as Ollama renders it."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.chat.conversations import Conversation, Dialect, compose, spoken
from proxy.chat.describe import describe
from proxy.chat.facts import ChatTemplate, TokenizerFacts
from proxy.chat.learning import Learner
from proxy.chat.sandbox import Sandbox, Unrenderable
from proxy.chat.verify import CORE, canonical
from tests.chat import own_templates

pytest.importorskip("gotpl")

from tests.chat.ollama_rendering import render

FACTS = TokenizerFacts(bos="<s>", eos=("</s>",))
SHAPES = {name: shapes[0] for name, shapes in CORE.items()}


def compared(
    source: str, chat: ChatTemplate, dialect: Dialect, conversations: list[Conversation]
) -> Iterator[tuple[str, str]]:
    sandbox = Sandbox(source, FACTS)
    learner = Learner(sandbox, dialect, FACTS.bos, None)
    for conversation in conversations:
        try:
            wanted = learner.render(conversation)
        except Unrenderable:
            continue
        got = render(chat.template, conversation, sandbox.now)
        yield (canonical(wanted), canonical(got)) if conversation.tools else (wanted, got)


@pytest.mark.parametrize("name", own_templates.PLAIN)
def test_plain_conversations_are_exact(name: str) -> None:
    source = own_templates.PLAIN[name]
    chat = describe(source, FACTS)
    assert chat.exact
    dialect = Dialect(parts=name == "parts")
    pairs = list(compared(source, chat, dialect, [compose(shape, spoken) for shape in SHAPES.values()]))
    assert len(pairs) >= 3
    for wanted, got in pairs:
        assert got == wanted


@pytest.mark.parametrize("name", own_templates.CALLING)
def test_definitions_calls_and_results_are_exact(name: str) -> None:
    source = own_templates.CALLING[name]
    chat = describe(source, FACTS)
    assert "tools" in chat.capabilities
    dialect = Dialect(identifiers=name == "ids", text_arguments=name == "text arguments")
    shapes = ("U", "SU", "UAU", "UCT", "SUCT", "UCTAU", "UCTCT", "UDTT", "UBTAU", "SUAUCTAU")
    pairs = list(compared(source, chat, dialect, [compose(shape, spoken, 2) for shape in shapes]))
    pairs += compared(source, chat, dialect, [compose(shape, spoken, 1) for shape in shapes])
    assert len(pairs) >= 16
    for wanted, got in pairs:
        assert got == wanted


@pytest.mark.parametrize("source", [own_templates.TOOLS, own_templates.TOGGLED])
@pytest.mark.parametrize("think", ["on", "off"])
def test_thinking_is_switched(source: str, think: str) -> None:
    chat = describe(source, FACTS)
    assert "thinking" in chat.capabilities
    dialect = Dialect(toggle="enable_thinking")
    shapes = [*SHAPES.values(), *(["UKU", "URT", "URTRT", "UMT"] if source == own_templates.TOOLS else [])]
    conversations = [compose(shape, spoken, 2 * ("T" in shape), think) for shape in shapes]
    for wanted, got in compared(source, chat, dialect, conversations):
        assert got == wanted


def test_the_date_is_todays_on_every_day() -> None:
    chat = describe(own_templates.DATED, FACTS)
    sandbox = Sandbox(own_templates.DATED, FACTS)
    for month, day in (
        (1, 1),
        (2, 28),
        (3, 3),
        (4, 30),
        (5, 15),
        (6, 9),
        (7, 10),
        (8, 8),
        (9, 9),
        (10, 1),
        (11, 22),
        (12, 31),
    ):
        sandbox.now = sandbox.now.replace(year=2031, month=month, day=day)
        wanted = sandbox.render([{"role": "user", "content": "Hello"}])
        got = render(chat.template, compose("U", lambda _index, _kind: "Hello"), sandbox.now)
        assert got == wanted


def test_an_answer_that_was_begun_is_continued() -> None:
    chat = describe(own_templates.CHATML, FACTS)
    got = render(chat.template, compose("UA", lambda _index, kind: kind), Sandbox("", FACTS).now)
    assert got == "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\na"


def test_refused_system_texts_open_the_first_user_turn() -> None:
    chat = describe(own_templates.NO_SYSTEM, FACTS)
    got = render(chat.template, compose("SUAU", lambda index, kind: f"{kind}{index}"), Sandbox("", FACTS).now)
    assert got.startswith("<start_of_turn>user\ns0\n\nu1<end_of_turn>\n<start_of_turn>model\na2")
    assert got.count("s0") == 1
    assert any("refuses system" in warning for warning in chat.warnings)


@pytest.mark.skipif("CHAT_TEMPLATES" not in os.environ, reason="CHAT_TEMPLATES names no file of templates")
def test_real_templates_are_exact() -> None:
    """At least 95 of 100 on every shape, counting what the Jinja itself renders."""
    templates = json.loads(Path(os.environ["CHAT_TEMPLATES"]).read_text())
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for source in templates.values():
        chat = describe(source, FACTS)
        dialect = Dialect()
        try:
            Learner(Sandbox(source, FACTS), dialect, FACTS.bos, None).render(compose("U", spoken))
        except Unrenderable:
            dialect = replace(dialect, bare=True)
        for name, shape in SHAPES.items():
            try:
                for wanted, got in compared(source, chat, dialect, [compose(shape, spoken)]):
                    total[name] += 1
                    right[name] += wanted == got
            except Unrenderable:
                continue
    print({name: f"{right[name]}/{total[name]}" for name in total})
    for name in SHAPES:
        assert right[name] >= 0.95 * total[name], (name, right[name], total[name])
