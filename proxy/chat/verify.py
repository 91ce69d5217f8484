"""Compares a program with the Jinja on conversations from which it was not learned."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from proxy.chat.conversations import Conversation, compose, ordinary_text
from proxy.chat.json_objects import next_object
from proxy.chat.llama_server import LlamaServer
from proxy.chat.program import Node, run
from proxy.chat.renderer import Renderer
from proxy.chat.sandbox import Unrenderable

CORE = {"user": ("U",), "system": ("SU",), "turns": ("UAU",), "system turns": ("SUAU",), "long": ("UAUAUAUAUAUAU",)}
THINKING = {"think not set": "", "thinking on": "on", "thinking off": "off"}
"""How a request sets `think`, for templates that depend on it."""
_MORE = {"opened by assistant": ("AU", "AUAUAU"), "late system": ("UASU", "SUAUASU")}
_WITHOUT_CALLS = ("U", "SU", "UAU", "SUAUAU")
_THOUGHTS = ("UKU", "SUKUKU")
_CALLS = ("UCT", "SUCT", "UAUCT", "UCTAU", "SUCTCT", "UCTAUCTAUCT", "SUBTAU")
_PARALLEL_CALLS = ("UDTT", "SUDTTAU")
_THOUGHTS_AND_CALLS = ("URT", "URTRTAU", "SUMTRTAU")


def verify(program: Sequence[Node], renderer: Renderer, *, tools: bool, think: bool, thoughts: bool) -> dict[str, bool]:
    """For each group of conversations that the Jinja renders: whether the program writes the same texts."""
    shapes = {}
    for name, conversations in _groups(tools=tools, think=think, thoughts=thoughts):
        results = [_is_same(program, renderer, conversation) for conversation in conversations]
        rendered = [result for result in results if result is not None]
        if rendered:
            shapes[name] = all(rendered)
    return shapes


def verify_thinking(program: Sequence[Node], renderer: Renderer, *, thinks: bool) -> dict[str, bool]:
    """For each kind of THINKING, whether the program writes the Jinja's texts for all shapes of CORE.

    `thinks`: Ollama takes the model for a thinking one. Then it sets `think` where a request does not.
    """
    default = "on" if thinks else ""

    def write(conversation: Conversation) -> str:
        return run(program, replace(conversation, think=conversation.think or default), renderer.sandbox.now)

    return {
        kind: all(_compare(write, renderer, value).values()) for kind, value in THINKING.items() if thinks or not value
    }


def verify_native(server: LlamaServer, renderer: Renderer, *, toggles: bool) -> dict[str, bool]:
    """For each kind of CORE, and of THINKING if the Jinja `toggles` it, whether llama.cpp's server writes its texts.

    A kind of CORE is right if it is with one setting of thinking: the kinds of THINKING tell which settings are.
    """
    settings = THINKING.items() if toggles else [("", "")]
    results = {kind: _compare(server.render, renderer, value) for kind, value in settings}
    core = {name: any(result.get(name, False) for result in results.values()) for name in next(iter(results.values()))}
    return core | ({kind: all(result.values()) for kind, result in results.items()} if toggles else {})


def _compare(write: Callable[[Conversation], str], renderer: Renderer, think: str) -> dict[str, bool]:
    """By shape of CORE, whether `write` gives the Jinja's text. The shapes that the Jinja refuses are left out."""
    same = {}
    for name, (shape,) in CORE.items():
        conversation = compose(shape, ordinary_text, 0, think)
        try:
            expected = renderer.render(conversation)
        except Unrenderable:
            continue
        try:
            same[name] = write(conversation) == expected
        except Unrenderable:
            same[name] = False
    return same


def is_exact(shapes: Mapping[str, bool]) -> bool:
    core = [same for name, same in shapes.items() if name in CORE]
    return bool(core) and all(core)


def _groups(*, tools: bool, think: bool, thoughts: bool) -> Iterable[tuple[str, list[Conversation]]]:
    for name, shapes in (CORE | _MORE).items():
        yield name, [compose(shape, ordinary_text) for shape in shapes]
    if think:
        for value in ("on", "off"):
            yield f"thinking {value}", [compose(shape, ordinary_text, 0, value) for shape in _WITHOUT_CALLS]
    if thoughts:
        yield "thoughts", [compose(shape, ordinary_text) for shape in _THOUGHTS]
    if tools:
        yield "tools", [compose(shape, ordinary_text, count) for shape in _WITHOUT_CALLS for count in (1, 3)]
        yield "tool calls", [compose(shape, ordinary_text, 2) for shape in _CALLS]
        yield "parallel calls", [compose(shape, ordinary_text, 2) for shape in _PARALLEL_CALLS]
    if tools and think:
        yield "tools, thinking on", [compose(shape, ordinary_text, 2, "on") for shape in (*_WITHOUT_CALLS, *_CALLS)]
        yield "tools, thinking off", [compose(shape, ordinary_text, 2, "off") for shape in (*_WITHOUT_CALLS, *_CALLS)]
    if tools and thoughts:
        yield "thoughts and calls", [compose(shape, ordinary_text, 2) for shape in _THOUGHTS_AND_CALLS]


def _is_same(program: Sequence[Node], renderer: Renderer, conversation: Conversation) -> bool | None:
    """None if the Jinja does not render the conversation."""
    try:
        expected = renderer.render(conversation)
    except Unrenderable:
        return None
    output = run(program, conversation, renderer.sandbox.now)
    return expected == output or (bool(conversation.tools) and canonical_json(expected) == canonical_json(output))


def canonical_json(text: str) -> str:
    """The text with all its JSON objects in one form: Python and Go differ in spaces and in the order of keys."""
    parts, at = [], 0
    while json_object := next_object(text, at):
        start, end, value = json_object
        parts += [text[at:start], json.dumps(value, sort_keys=True)]
        at = end
    return "".join((*parts, text[at:]))
