"""Detects a template's dialect, its thinking tags, and how it handles system messages and tools."""

import re
from contextlib import suppress
from dataclasses import replace

from proxy.chat.conversations import Dialect, compose, sentinel
from proxy.chat.learner import Scope, find_system_place
from proxy.chat.renderer import Renderer
from proxy.chat.sandbox import Sandbox, Unrenderable
from proxy.chat.segmentation import Segmenter, Slot, UnsupportedTemplate

_ANGLE_BRACKETS = re.compile(r"</?([\w:]*(?:think|thought|reason)[\w:]*)>")
_SQUARE_BRACKETS = re.compile(r"\[/?([A-Z_]*(?:THINK|REASON)[A-Z_]*)\]")
_START_END = re.compile(r"<\|(START|END)_([A-Z_]*(?:THINK|REASON)[A-Z_]*)\|>")
_OPENING = re.compile(r"(<[^<>\s]{1,40}>\w*|\[[A-Z_]{1,40}\])\s*\Z")
_CLOSING = re.compile(r"\s*(<[^<>\s]{1,40}>|\[/[A-Z_]{1,40}\])")
_TOGGLE = re.compile(r"\b[a-z_]*(?:think|reason)[a-z_]*\b")
_MAX_TOGGLES = 12


def detect_dialect(sandbox: Sandbox) -> Dialect:
    """The dialect for conversations without tools.

    Raises Unrenderable or UnsupportedTemplate if the template does not write a user's message in any dialect.
    """
    dialect = _plain_dialect(sandbox)
    return replace(dialect, toggle=_detect_toggle(sandbox, dialect))


def detect_think_tags(sandbox: Sandbox, dialect: Dialect) -> tuple[str, str] | None:
    tags = think_tags(sandbox.source) or _rendered_think_tags(sandbox, dialect)
    # A template with a toggle but without tags is for a thinking model, and nearly all of these use <think>.
    return tags or (("<think>", "</think>") if dialect.toggle else None)


def think_tags(source: str) -> tuple[str, str] | None:
    """The tags by their form in the template's source."""
    for pattern, opening, closing in (
        (_ANGLE_BRACKETS, "<{}>", "</{}>"),
        (_SQUARE_BRACKETS, "[{}]", "[/{}]"),
    ):
        match = pattern.search(source)
        if match:
            return opening.format(match[1]), closing.format(match[1])
    match = _START_END.search(source)
    return (f"<|START_{match[2]}|>", f"<|END_{match[2]}|>") if match else None


def detect_scope(sandbox: Sandbox, dialect: Dialect) -> Scope:
    """The scope without tools and thinking."""
    system_place = _system_place(sandbox, dialect)
    if system_place == "in place" and not _writes_late_system(sandbox, dialect):
        system_place = "head"
    return Scope(tools=False, think=False, system_place=system_place, late_system=system_place == "in place")


def detect_tools(sandbox: Sandbox, dialect: Dialect, scope: Scope) -> tuple[Dialect, Scope] | None:
    """The dialect and the scope with tools; None if the template does not use the `tools` of a request.

    Raises UnsupportedTemplate if it uses them but renders no call.
    """
    plain = _render(sandbox, dialect, "U")
    with_tools = _render(sandbox, dialect, "U", 2)
    if "tools" not in sandbox.source or with_tools is None or with_tools == plain:
        return None
    for identifiers in (False, True):
        for text_arguments in (False, True):
            with_calls = replace(dialect, identifiers=identifiers, text_arguments=text_arguments)
            text = _render(sandbox, with_calls, "UCT", 2)
            if text is None:
                continue
            drops_calls = sentinel(1, "n0") not in text
            if not drops_calls and sentinel(1, "v0") not in text:
                continue
            encoded = _encodes_results(sandbox, with_calls)
            return with_calls, replace(scope, tools=True, drops_calls=drops_calls, encoded_results=encoded)
    raise UnsupportedTemplate("it cannot render a conversation with tool calls")


def _render(sandbox: Sandbox, dialect: Dialect, shape: str, tools: int = 0) -> str | None:
    try:
        return Renderer(sandbox, dialect).render(compose(shape, sentinel, tools))
    except Unrenderable:
        return None


def _plain_dialect(sandbox: Sandbox) -> Dialect:
    for shape in ("U", "SU"):
        for dialect in (Dialect(), Dialect(bare=True), Dialect(parts=True)):
            text = _render(sandbox, dialect, shape)
            if text is not None and sentinel(len(shape) - 1, "u") in text:
                return dialect
    Renderer(sandbox, Dialect()).render(compose("U", sentinel))
    raise UnsupportedTemplate("it leaves out the user's message")


def _detect_toggle(sandbox: Sandbox, dialect: Dialect) -> str:
    """The variable that changes the output; "" if there is none."""
    names = {match[0] for match in _TOGGLE.finditer(sandbox.source)}
    likely_first = sorted(names, key=lambda name: (name not in sandbox.variables, len(name), name))
    for name in likely_first[:_MAX_TOGGLES]:
        renderer = Renderer(sandbox, replace(dialect, toggle=name))
        for shape in ("U", "SU", "UAU"):
            outputs: set[str] = set()
            for think in ("on", "off"):
                with suppress(Unrenderable):
                    outputs.add(renderer.render(compose(shape, sentinel, 0, think)))
            if len(outputs) > 1:
                return name
    return ""


def _rendered_think_tags(sandbox: Sandbox, dialect: Dialect) -> tuple[str, str] | None:
    """The tags that the template writes around a thought of the history."""
    for shape in ("UKU", "URT"):
        text = _render(sandbox, dialect, shape, 2 * (shape == "URT")) or ""
        before, thought, after = text.partition(sentinel(1, "k"))
        opening, closing = _OPENING.search(before), _CLOSING.match(after)
        if thought and opening and closing:
            return opening[1], closing[1]
    return None


def _segment(sandbox: Sandbox, dialect: Dialect, shape: str) -> list[Slot]:
    conversation = compose(shape, sentinel)
    return Segmenter().segment(Renderer(sandbox, dialect).render(conversation), conversation)[0]


def _system_place(sandbox: Sandbox, dialect: Dialect) -> str:
    system_place = "refused"
    for shape in ("SUAU", "SU"):
        try:
            return find_system_place(_segment(sandbox, dialect, shape))
        except Unrenderable:
            continue
        except UnsupportedTemplate:
            system_place = "elsewhere"
    return system_place


def _writes_late_system(sandbox: Sandbox, dialect: Dialect) -> bool:
    """Whether a system message in mid-conversation keeps its place."""
    try:
        kinds = [slot.kind for slot in _segment(sandbox, dialect, "UASU")]
    except (Unrenderable, UnsupportedTemplate):
        return False
    return kinds == ["user", "assistant", "system", "user"]


def _encodes_results(sandbox: Sandbox, dialect: Dialect) -> bool:
    """Whether the template writes a tool's result as a JSON string."""
    conversation = compose("UCT", lambda index, kind: 'q"q' if kind == "t" else sentinel(index, kind), 2)
    try:
        return 'q\\"q' in Renderer(sandbox, dialect).render(conversation)
    except Unrenderable:
        return False
