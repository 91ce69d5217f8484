"""Searches for the best Go template: learns the template in ever smaller scopes, and verifies each result."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from proxy.chat import go_template, tool_calls
from proxy.chat.conversations import Dialect, compose, ordinary_text
from proxy.chat.detection import detect_scope, detect_tools
from proxy.chat.learner import ChatFormat, Learner, Scope
from proxy.chat.program import Each, If, Node, Text
from proxy.chat.renderer import Renderer
from proxy.chat.sandbox import Sandbox, Unrenderable
from proxy.chat.segmentation import UnsupportedTemplate
from proxy.chat.synthesis import synthesize
from proxy.chat.verify import is_exact, verify

# A sentinel, or what `repr` or ASCII-only JSON makes of it.
_LEFT_OVER = re.compile(r"[\ue000-\ue005]|\\ue00[0-5]")


@dataclass(frozen=True, slots=True)
class Attempt:
    """`shapes` has the result of `verify`."""

    scope: Scope
    chat_format: ChatFormat
    program: tuple[Node, ...]
    shapes: dict[str, bool]
    emits_bos: bool

    @property
    def score(self) -> tuple[bool, int]:
        return is_exact(self.shapes), sum(self.shapes.values())


class Search:
    """`failures` has the reasons why attempts failed."""

    def __init__(self, sandbox: Sandbox, dialect: Dialect, think_tags: tuple[str, str] | None) -> None:
        self._sandbox, self._dialect, self._tags = sandbox, dialect, think_tags
        self.failures: list[str] = []

    def best(self) -> Attempt:
        """Raises UnsupportedTemplate if every attempt fails."""
        attempts = list(self._attempts())
        if not attempts:
            raise UnsupportedTemplate("; ".join(dict.fromkeys(self.failures)) or "it follows no known pattern")
        return max(attempts, key=lambda attempt: attempt.score)

    def _attempts(self) -> Iterator[Attempt]:
        """Ends after the first attempt that is right for all shapes."""
        starts = self._starts()
        has_thinking = bool(self._dialect.toggle and self._tags)
        for lenient in (False, True):
            for dialect, start in starts:
                for scope in _shrink(replace(start, lenient=lenient), think=has_thinking):
                    attempt = self._attempt(dialect, scope)
                    if attempt:
                        yield attempt
                        if all(attempt.shapes.values()):
                            return
                        if lenient:
                            break

    def _starts(self) -> list[tuple[Dialect, Scope]]:
        scope = detect_scope(self._sandbox, self._dialect)
        starts = [(self._dialect, scope)]
        try:
            with_tools = detect_tools(self._sandbox, self._dialect, scope)
        except UnsupportedTemplate as error:
            self.failures.append(str(error))
            return starts
        return [with_tools, *starts] if with_tools else starts

    def _attempt(self, dialect: Dialect, scope: Scope) -> Attempt | None:
        unmarked = Renderer(self._sandbox, dialect)
        for mark_dates in (True, False):
            renderer = Renderer(self._sandbox, dialect, mark_dates=mark_dates)
            try:
                chat_format, program = self._learn(renderer, scope)
            except UnsupportedTemplate as error:
                self.failures.append(str(error))
                continue
            thoughts = self._tags is not None and "thinking" in chat_format.gaps
            shapes = verify(program, unmarked, tools=scope.tools, think=scope.think, thoughts=thoughts)
            if is_exact(shapes) or not mark_dates:
                return Attempt(scope, chat_format, program, shapes, renderer.emits_bos or unmarked.emits_bos)
        return None

    def _learn(self, renderer: Renderer, scope: Scope) -> tuple[ChatFormat, tuple[Node, ...]]:
        chat_format = Learner(renderer, self._tags).learn(scope)
        program = synthesize(chat_format, self._tags)
        if _LEFT_OVER.search(go_template.write(program)):
            raise UnsupportedTemplate("it rewrites the text of messages or tools")
        if scope.tools and not chat_format.tools:
            raise UnsupportedTemplate("it does not write tools as JSON")
        if scope.tools and not scope.drops_calls and not _can_parse_calls(renderer, chat_format, program):
            raise UnsupportedTemplate("it writes tool calls in a form that Ollama's parser cannot read")
        return chat_format, program


def call_blocks(nodes: Iterable[Node]) -> Iterator[If]:
    """The parts of a program that write a message's tool calls."""
    for node in nodes:
        if isinstance(node, Each):
            yield from call_blocks(node.body)
        elif isinstance(node, If):
            if getattr(node.test, "feature", "") == "called":
                yield node
            yield from call_blocks(node.then)
            yield from call_blocks(node.other)


def _shrink(scope: Scope, *, think: bool) -> Iterator[Scope]:
    """From the largest scope down to the one that every template should support."""
    for thinks in (True, False) if think else (False,):
        for late, extras in ((True, True), (False, True), (False, False)):
            if scope.late_system or not late:
                yield replace(scope, think=thinks, late_system=late, extras=extras)


def _can_parse_calls(renderer: Renderer, chat_format: ChatFormat, program: tuple[Node, ...]) -> bool:
    """Whether Ollama's parser finds the call in an answer that is written as the Jinja writes it."""
    opener = next((block.then[0] for block in call_blocks(program)), None)
    if not isinstance(opener, Text) or chat_format.calls is None:
        return False
    try:
        answer = renderer.render(compose("UC", ordinary_text, 1), generation=False)
    except Unrenderable:
        answer = renderer.render(compose("UCT", ordinary_text, 1))
    start = max(answer.rfind(opener.text), 0)
    arguments = tool_calls.parse_arguments(answer[start:], tool_calls.opening_tag(opener.text), "look_up")
    return arguments == {"place": "Malmö 1"}
