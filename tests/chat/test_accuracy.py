"""The Go template, rendered with gotpl as in Ollama, writes the same text as the Jinja."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from proxy.chat.conversations import Conversation, Dialect, compose, ordinary_text
from proxy.chat.decision_tree import Leaf, Tree
from proxy.chat.describe import describe
from proxy.chat.facts import ChatTemplate, TokenizerFacts
from proxy.chat.learner import Learner, Scope
from proxy.chat.renderer import Renderer
from proxy.chat.sandbox import Sandbox, Unrenderable
from proxy.chat.verify import CORE, canonical_json
from tests.chat import own_templates

pytest.importorskip("gotpl")

from tests.chat.ollama_rendering import render

FACTS = TokenizerFacts(bos="<s>", eos=("</s>",))
SHAPES = {name: shapes[0] for name, shapes in CORE.items()}


def render_both(
    source: str, chat: ChatTemplate, dialect: Dialect, conversations: list[Conversation]
) -> Iterator[tuple[str, str]]:
    """The texts of the Jinja and of the Go template, for each conversation that the Jinja renders."""
    sandbox = Sandbox(source, FACTS)
    renderer = Renderer(sandbox, dialect)
    for conversation in conversations:
        try:
            expected = renderer.render(conversation)
        except Unrenderable:
            continue
        output = render(chat.template, conversation, sandbox.now)
        yield (canonical_json(expected), canonical_json(output)) if conversation.tools else (expected, output)


@pytest.mark.parametrize("name", own_templates.PLAIN)
def test_plain_conversations_are_exact(name: str) -> None:
    source = own_templates.PLAIN[name]
    chat = describe(source, FACTS)
    assert chat.exact
    dialect = Dialect(parts=name == "parts")
    pairs = list(render_both(source, chat, dialect, [compose(shape, ordinary_text) for shape in SHAPES.values()]))
    assert len(pairs) >= 3
    for expected, output in pairs:
        assert output == expected


@pytest.mark.parametrize("name", own_templates.CALLING)
def test_definitions_calls_and_results_are_exact(name: str) -> None:
    source = own_templates.CALLING[name]
    chat = describe(source, FACTS)
    assert "tools" in chat.capabilities
    dialect = Dialect(identifiers=name == "ids", text_arguments=name == "text arguments")
    shapes = ("U", "SU", "UAU", "UCT", "SUCT", "UCTAU", "UCTCT", "UDTT", "UBTAU", "SUAUCTAU")
    pairs = list(render_both(source, chat, dialect, [compose(shape, ordinary_text, 2) for shape in shapes]))
    pairs += render_both(source, chat, dialect, [compose(shape, ordinary_text, 1) for shape in shapes])
    assert len(pairs) >= 16
    for expected, output in pairs:
        assert output == expected


@pytest.mark.parametrize("source", [own_templates.TOOLS, own_templates.TOGGLED])
@pytest.mark.parametrize("think", ["on", "off"])
def test_thinking_is_switched(source: str, think: str) -> None:
    chat = describe(source, FACTS)
    assert "thinking" in chat.capabilities
    dialect = Dialect(toggle="enable_thinking")
    shapes = [*SHAPES.values(), *(["UKU", "URT", "URTRT", "UMT"] if source == own_templates.TOOLS else [])]
    conversations = [compose(shape, ordinary_text, 2 * ("T" in shape), think) for shape in shapes]
    for expected, output in render_both(source, chat, dialect, conversations):
        assert output == expected


def test_the_date_is_right_on_every_day() -> None:
    chat = describe(own_templates.DATED, FACTS)
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
        now = datetime(2031, month, day)  # noqa: DTZ001
        expected = Sandbox(own_templates.DATED, FACTS, now=now).render([{"role": "user", "content": "Hello"}])
        output = render(chat.template, compose("U", lambda _index, _kind: "Hello"), now)
        assert output == expected


def test_a_started_answer_is_continued() -> None:
    chat = describe(own_templates.CHATML, FACTS)
    output = render(chat.template, compose("UA", lambda _index, kind: kind), Sandbox("", FACTS).now)
    assert output == "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\na"


def test_refused_system_messages_open_the_first_user_message() -> None:
    chat = describe(own_templates.NO_SYSTEM, FACTS)
    output = render(chat.template, compose("SUAU", lambda index, kind: f"{kind}{index}"), Sandbox("", FACTS).now)
    assert output.startswith("<start_of_turn>user\ns0\n\nu1<end_of_turn>\n<start_of_turn>model\na2")
    assert output.count("s0") == 1
    assert any("refuses system" in warning for warning in chat.warnings)


def features_of(tree: Tree) -> set[str]:
    if isinstance(tree, Leaf):
        return set()
    return {tree.feature, *features_of(tree.other)}.union(*(features_of(branch) for _, branch in tree.branches))


def test_the_head_depends_on_the_whole_conversation_only() -> None:
    """Before the first message, a Go template knows no position (Bielik's template got one)."""
    head = (
        "{% if messages[0].role == 'system' or tools %}<|im_start|>system\n"
        "{{ messages[0].content if messages[0].role == 'system' else '' }}"
        "{{ tools | tojson if tools else '' }}{{ 'Think.' if enable_thinking else '' }}<|im_end|>\n{% endif %}"
    )
    source = head + own_templates.TOOLS[own_templates.TOOLS.index("{%- set ns = namespace(last=-1)") :]
    renderer = Renderer(Sandbox(source, FACTS), Dialect(toggle="enable_thinking"))
    chat_format = Learner(renderer, None).learn(Scope(tools=True, think=True, system_place="head", lenient=True))
    assert features_of(chat_format.gaps["head"]) == {"tools", "think", "system"}


@pytest.mark.timeout(600)
@pytest.mark.skipif("CHAT_TEMPLATES" not in os.environ, reason="CHAT_TEMPLATES names no file of templates")
def test_real_templates_are_exact() -> None:
    """At least 95 of 100 for every shape, among the templates that render it."""
    templates = json.loads(Path(os.environ["CHAT_TEMPLATES"]).read_text())
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for source in templates.values():
        chat = describe(source, FACTS)
        dialect = Dialect()
        try:
            Renderer(Sandbox(source, FACTS), dialect).render(compose("U", ordinary_text))
        except Unrenderable:
            dialect = replace(dialect, bare=True)
        for name, shape in SHAPES.items():
            try:
                for expected, output in render_both(source, chat, dialect, [compose(shape, ordinary_text)]):
                    total[name] += 1
                    right[name] += expected == output
            except Unrenderable:
                continue
    print({name: f"{right[name]}/{total[name]}" for name in total})
    for name in SHAPES:
        assert right[name] >= 0.95 * total[name], (name, right[name], total[name])
