"""Renders a Jinja as llama.cpp's server does: Ollama 0.30 and newer use it when no Go template was sent. Pure.

The server has a Jinja engine of its own. It detects what a template does not support, and adapts the conversations
(common/jinja/caps.cpp, common/chat.cpp and common/jinja/value.cpp at b10488).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, SupportsIndex

import jinja2
from jinja2.filters import FILTERS

from proxy.chat.conversations import Conversation, Dialect, compose
from proxy.chat.facts import TokenizerFacts
from proxy.chat.preference import jinja_capabilities
from proxy.chat.sandbox import Sandbox, Unrenderable

_MARKER = "STRING_MARKER"


class LlamaServer:
    """Renders conversations without tools. Raises Unrenderable if the template does not compile."""

    def __init__(self, source: str, facts: TokenizerFacts, now: datetime) -> None:
        self._has_tags = "thinking" in jinja_capabilities(source)
        self._dates = {"date_string": now.strftime("%d %b %Y"), "datetime": now.strftime("%b %d %Y")}
        self._sandbox = Sandbox(source, facts, now=now, filters=_FILTERS)
        self._dialect = replace(Dialect(bare=True), parts=self._takes_parts_only())
        self._reads_system = self._detect_system_role()

    def starts(self) -> bool:
        """Whether the server starts with this template. Before, it renders these conversations, the first for its log.

        Ollama sets the log's level to 4 (llm/llama_server.go, 0.33 to 0.40).
        """
        for shape in ("SUAU", "U"):
            try:
                self._render(compose(shape, lambda index, kind: f"{kind}{index}"), thinks=True)
            except Unrenderable as error:
                # For the server's engine an undefined value is an empty text.
                if not isinstance(error.__cause__, jinja2.UndefinedError):
                    return False
        return True

    def render(self, conversation: Conversation) -> str:
        """Without a leading BOS. Raises Unrenderable if the server answers with an error, or if it is not known.

        If a request does not set `think`, Ollama sets it for a template with the usual tags. For other templates the
        server decides by an analysis of its own.
        """
        text = self._render(conversation, thinks=conversation.think != "off")
        if not (conversation.think or self._has_tags) and text != self._render(conversation, thinks=False):
            raise Unrenderable("llama-server decides whether it thinks")
        return text

    def _render(self, conversation: Conversation, *, thinks: bool) -> str:
        messages = self._dialect.messages(conversation, str)
        if not self._reads_system and messages[0]["role"] == "system":
            messages = self._merge_system(messages)
        values: dict[str, Any] = {"enable_thinking": thinks, **self._dates}
        text = self._sandbox.render([_with_server_text(message) for message in messages], **values)
        return text.removeprefix(self._sandbox.bos)

    def _merge_system(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        system, *rest = messages
        if self._dialect.parts:
            raise Unrenderable("llama-server cannot merge content parts")
        return [rest[0] | {"content": f"{system['content']}\n{rest[0]['content']}"}, *rest[1:]] if rest else []

    def _takes_parts_only(self) -> bool:
        text = _Text(_MARKER)
        try:
            rendered = self._sandbox.render([{"role": "user", "content": text}], tools=[])
        except Unrenderable:
            return text.was_iterated
        return text.was_iterated and _MARKER not in rendered

    def _detect_system_role(self) -> bool:
        system = _Message(role="system", content="System message")
        with suppress(Unrenderable):
            self._sandbox.render([system, {"role": "user", "content": "User message"}], tools=[])
        return system.was_read


class _Text(str):  # noqa: SLOT000 - it has an attribute
    """Notes whether the template iterates over it. Python would iterate, the server's engine does not."""

    was_iterated = False

    def __iter__(self) -> Iterator[str]:
        self.was_iterated = True
        raise TypeError("llama-server does not iterate over a text")

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        self.was_iterated = self.was_iterated or not isinstance(key, slice)
        return super().__getitem__(key)


class _Message(dict[str, str]):
    """Notes whether the template reads its content."""

    was_read = False

    def __getitem__(self, key: str) -> str:
        self.was_read = self.was_read or key == "content"
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.was_read = self.was_read or key == "content"
        return super().get(key, default)


def _with_server_text(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    return message | {"content": _Text(content)} if isinstance(content, str) else message


def _server_select(name: str) -> Callable[..., Any]:
    """If a filter gets an attribute and a test without a value, the server's engine uses the attribute as a test."""

    @jinja2.pass_context
    def select(context: jinja2.runtime.Context, value: Any, *arguments: Any) -> Any:
        if len(arguments) == len(("attribute", "test")):
            raise jinja2.TemplateError(f"llama-server has no test {arguments[0]!r}")
        return FILTERS[name](context, value, *arguments)

    return select


_FILTERS: Mapping[str, Callable[..., Any]] = {name: _server_select(name) for name in ("selectattr", "rejectattr")}
