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

from proxy.chat.conversations import Conversation, Dialect
from proxy.chat.facts import TokenizerFacts
from proxy.chat.sandbox import Sandbox, Unrenderable

_MARKER = "STRING_MARKER"


class LlamaServer:
    """Renders conversations without tools. Raises Unrenderable if the template does not compile."""

    def __init__(self, source: str, facts: TokenizerFacts, now: datetime) -> None:
        self._sandbox = Sandbox(source, facts, now=now, filters=_FILTERS)
        self._dialect = replace(Dialect(bare=True), parts=self._takes_parts_only())
        self._reads_system = self._detect_system_role()

    def render(self, conversation: Conversation) -> str:
        """Without a leading BOS. Raises Unrenderable if the server answers with an error."""
        messages = self._dialect.messages(conversation, str)
        if not self._reads_system and messages[0]["role"] == "system":
            messages = self._merge_system(messages)
        text = self._sandbox.render([_with_server_text(message) for message in messages])
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
