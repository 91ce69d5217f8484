"""What llama.cpp's server makes of a Jinja, which Ollama leaves to it from 0.30 on where no Go template is sent. Pure.

Its engine is one of its own. It finds out what a template lacks, and changes conversations to suit it
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
    """Renders conversations without tools as it does. Raises Unrenderable for a template that does not compile."""

    def __init__(self, source: str, facts: TokenizerFacts, now: datetime) -> None:
        self._sandbox, self._bos = Sandbox(source, facts, _FILTERS), facts.bos
        self._sandbox.now = now
        self._dialect = replace(Dialect(bare=True), parts=self._takes_parts_only())
        self._reads_system = self._has_system_role()

    def render(self, conversation: Conversation) -> str:
        """Without BOS. Raises Unrenderable where the server answers with an error."""
        messages = self._dialect.messages(conversation, str)
        if not self._reads_system and messages[0]["role"] == "system":
            messages = self._merged(messages)
        return self._sandbox.render([_unlisted(message) for message in messages]).removeprefix(self._bos)

    def _merged(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        system, *rest = messages
        if self._dialect.parts:
            raise Unrenderable("llama-server merges no parts")
        return [rest[0] | {"content": f"{system['content']}\n{rest[0]['content']}"}, *rest[1:]] if rest else []

    def _takes_parts_only(self) -> bool:
        text = _Text(_MARKER)
        try:
            rendered = self._sandbox.render([{"role": "user", "content": text}], tools=[])
        except Unrenderable:
            return text.listed
        return text.listed and _MARKER not in rendered

    def _has_system_role(self) -> bool:
        system = _Message(role="system", content="System message")
        with suppress(Unrenderable):
            self._sandbox.render([system, {"role": "user", "content": "User message"}], tools=[])
        return system.was_read


class _Text(str):  # noqa: SLOT000 - it keeps a mark
    """A text over which its engine does not iterate, as Python does."""

    listed = False

    def __iter__(self) -> Iterator[str]:
        self.listed = True
        raise TypeError("llama-server does not iterate over a text")

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        self.listed = self.listed or not isinstance(key, slice)
        return super().__getitem__(key)


class _Message(dict[str, str]):
    """Knows whether its content was read."""

    was_read = False

    def __getitem__(self, key: str) -> str:
        self.was_read = self.was_read or key == "content"
        return super().__getitem__(key)


def _unlisted(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    return message | {"content": _Text(content)} if isinstance(content, str) else message


def _selecting(name: str) -> Callable[..., Any]:
    """With an attribute and a test, but no value, its engine takes the attribute for the name of a test."""

    @jinja2.pass_context
    def select(context: jinja2.runtime.Context, value: Any, *arguments: Any) -> Any:
        if len(arguments) == len(("attribute", "test")):
            raise jinja2.TemplateError(f"llama-server knows no test {arguments[0]!r}")
        return FILTERS[name](context, value, *arguments)

    return select


_FILTERS: Mapping[str, Callable[..., Any]] = {name: _selecting(name) for name in ("selectattr", "rejectattr")}
