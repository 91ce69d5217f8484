"""Compares a program with the Jinja on conversations that it was not learned from."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence

from proxy.chat.conversations import Conversation, compose, spoken
from proxy.chat.llama_server import LlamaServer
from proxy.chat.objects import next_object
from proxy.chat.program import Node, run
from proxy.chat.sandbox import Sandbox, Unrenderable

CORE = {"user": ("U",), "system": ("SU",), "turns": ("UAU",), "system turns": ("SUAU",), "long": ("UAUAUAUAUAUAU",)}
_MORE = {"opened by assistant": ("AU", "AUAUAU"), "late system": ("UASU", "SUAUASU")}
_THINKING = ("U", "SU", "UAU", "SUAUAU")
_THOUGHT = ("UKU", "SUKUKU")
_DEFINED = ("U", "SU", "UAU", "SUAUAU")
_CALLED = ("UCT", "SUCT", "UAUCT", "UCTAU", "SUCTCT", "UCTAUCTAUCT", "SUBTAU")
_CALLED_TWICE = ("UDTT", "SUDTTAU")

Render = Callable[[Conversation], str]


def verify(
    program: Sequence[Node], render: Render, sandbox: Sandbox, *, tools: bool, think: bool, thought: bool
) -> dict[str, bool]:
    """For every group of shapes that the Jinja renders: whether all of them are the same."""
    sandbox.mark_dates = False
    results = {}
    for name, given in _groups(tools=tools, think=think, thought=thought):
        verdicts = [same for same in (_same(program, render, sandbox, one) for one in given) if same is not None]
        if verdicts:
            results[name] = all(verdicts)
    return results


def verify_native(server: LlamaServer, render: Render) -> tuple[dict[str, bool], bool]:
    """The same of llama.cpp's server, for the shapes of CORE, and whether it starts with the Jinja.

    It renders a user's message when it starts, and ends where that fails.
    """
    results, loads = {}, True
    for name, (shape,) in CORE.items():
        conversation = compose(shape, spoken)
        try:
            wanted = render(conversation)
        except Unrenderable:
            continue
        try:
            results[name] = server.render(conversation) == wanted
        except Unrenderable:
            results[name] = False
            loads = loads and name != "user"
    return results, loads


def exact(shapes: Mapping[str, bool]) -> bool:
    core = [same for name, same in shapes.items() if name in CORE]
    return bool(core) and all(core)


def _groups(*, tools: bool, think: bool, thought: bool) -> Iterable[tuple[str, list[Conversation]]]:
    for name, shapes in (CORE | _MORE).items():
        yield name, [compose(shape, spoken) for shape in shapes]
    if think:
        for value in ("on", "off"):
            yield f"thinking {value}", [compose(shape, spoken, 0, value) for shape in _THINKING]
    if thought:
        yield "thoughts", [compose(shape, spoken) for shape in _THOUGHT]
    if tools:
        yield "tools", [compose(shape, spoken, count) for shape in _DEFINED for count in (1, 3)]
        yield "tool calls", [compose(shape, spoken, 2) for shape in _CALLED]
        yield "parallel calls", [compose(shape, spoken, 2) for shape in _CALLED_TWICE]
    if tools and think:
        yield "tools, thinking on", [compose(shape, spoken, 2, "on") for shape in (*_DEFINED, *_CALLED)]
        yield "tools, thinking off", [compose(shape, spoken, 2, "off") for shape in (*_DEFINED, *_CALLED)]
    if tools and thought:
        yield "thoughts and calls", [compose(shape, spoken, 2) for shape in ("URT", "URTRTAU", "SUMTRTAU")]


def _same(program: Sequence[Node], render: Render, sandbox: Sandbox, conversation: Conversation) -> bool | None:
    try:
        wanted = render(conversation)
    except Unrenderable:
        return None
    got = run(program, conversation, sandbox.now)
    return wanted == got or (bool(conversation.tools) and canonical(wanted) == canonical(got))


def canonical(text: str) -> str:
    """With every JSON object written one way: Python and Go put other spaces and another order into it."""
    parts, at = [], 0
    while found := next_object(text, at):
        start, end, value = found
        parts += [text[at:start], json.dumps(value, sort_keys=True)]
        at = end
    return "".join((*parts, text[at:]))
