"""Renders conversations with a template in one dialect."""

import json
from typing import Any

from proxy.chat.conversations import Conversation, Dialect
from proxy.chat.sandbox import Sandbox, Unrenderable


class Renderer:
    """Renders without a leading BOS. `emits_bos` is set once the template has written one.

    A search renders the same conversations many times, so the sandbox keeps the results for all its renderers.
    """

    def __init__(self, sandbox: Sandbox, dialect: Dialect, *, mark_dates: bool = False) -> None:
        self._dialect, self._mark_dates = dialect, mark_dates
        self.sandbox = sandbox
        self.emits_bos = False

    def render(self, conversation: Conversation, *, generation: bool = True) -> str:
        """`generation` asks for the generation prompt. Raises Unrenderable."""
        # Conversations have dicts, which have no hash.
        key = (repr(conversation), self._dialect, self._mark_dates, generation)
        if key not in self.sandbox.results:
            self.sandbox.results[key] = self._attempt(conversation, generation)
        text = self.sandbox.results[key]
        if isinstance(text, Unrenderable):
            raise text
        bos = self.sandbox.bos
        if bos and text.startswith(bos):
            self.emits_bos = True
            return text.removeprefix(bos)
        return text

    def _attempt(self, conversation: Conversation, generation: bool) -> str | Unrenderable:
        try:
            return self.sandbox.render(
                self._dialect.messages(conversation, _dumps),
                mark_dates=self._mark_dates,
                add_generation_prompt=generation,
                **self._dialect.variables(conversation),
            )
        except Unrenderable as error:
            return error


def _dumps(value: Any) -> str:
    # ASCII escapes would hide the sentinels.
    return json.dumps(value, ensure_ascii=False)
