"""Conversations to probe with: letters in, messages out, for the Jinja and for Ollama.

S system, U user, A assistant, K assistant that thought, C one tool call, B text and a call, R thought and a call,
M thought, text and a call, D two calls, T tool result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PLAIN = ("U", "UAU", "UAUAU", "SU", "SUAU", "SUAUAU")
OPENED_BY_ASSISTANT = ("AU", "AUAU", "SAU")
LATE_SYSTEM = ("UASU", "UASUAU")
THOUGHT = ("UKU", "UKUAU", "SUKU")
CALLED = ("UCT", "UCTAU", "SUCT", "SUCTAU", "UAUCT", "UCTCT", "UCTCTAU", "UBT", "UBTAU", "UCTUCT")
CALLED_TWICE = ("UDT", "UDTT", "UDTTAU", "UDTTUCT")
UNHEARD_CALLS = ("UBTT", "UBTTAU")
THOUGHT_AND_CALLED = ("URT", "URTAU", "URTRT", "UMT")

ROLES = {"S": "system", "U": "user", "T": "tool"}


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: dict[str, Any]
    identifier: str


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str = ""
    thinking: str = ""
    calls: tuple[Call, ...] = ()
    answers: Call | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, tools as Ollama's API takes them, and the `think` of a request ("" where it is not set)."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    think: str = ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a template wants of its input where habits differ."""

    parts: bool = False
    text_arguments: bool = False
    identifiers: bool = False
    toggle: str = ""
    bare: bool = False

    def variables(self, conversation: Conversation) -> dict[str, Any]:
        # transformers passes tools that are None, which some templates do not expect.
        given: dict[str, Any] = {} if self.bare else {"tools": None, "documents": None}
        if conversation.tools:
            given["tools"] = list(conversation.tools)
        if conversation.think and self.toggle:
            given[self.toggle] = conversation.think == "on"
        return given

    def messages(self, conversation: Conversation, dumps: Callable[[Any], str]) -> list[dict[str, Any]]:
        said: list[dict[str, Any]] = []
        for message in conversation.messages:
            entry: dict[str, Any] = {"role": message.role, "content": message.content}
            if self.parts and message.content:
                entry["content"] = [{"type": "text", "text": message.content}]
            if message.thinking:
                entry["reasoning_content"] = entry["reasoning"] = entry["thinking"] = message.thinking
            if message.calls:
                entry["tool_calls"] = [self._call(call, dumps) for call in message.calls]
            if message.answers and self.identifiers:
                entry |= {"name": message.answers.name, "tool_call_id": message.answers.identifier}
            said.append(entry)
        return said

    def _call(self, call: Call, dumps: Callable[[Any], str]) -> dict[str, Any]:
        arguments = dumps(call.arguments) if self.text_arguments else call.arguments
        entry: dict[str, Any] = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
        return {"id": call.identifier} | entry if self.identifiers else entry


def sentinel(index: int, kind: str) -> str:
    """Private-use characters: no template writes, trims or escapes them."""
    return f"\ue000{index}{kind}\ue001"


def compose(shape: str, text: Callable[[int, str], str], tools: int = 0, think: str = "") -> Conversation:
    """`text(index, kind)` says what a message says: s, u, a, k (thought), t, n and v (a call's name and its value)."""
    messages: list[Message] = []
    pending: list[Call] = []
    for index, letter in enumerate(shape):
        if letter in ROLES:
            answered = pending.pop(0) if letter == "T" and pending else None
            messages.append(Message(ROLES[letter], text(index, letter.lower()), answers=answered))
            continue
        calls = tuple(
            Call(text(index, f"n{n}"), {"place": text(index, f"v{n}")}, f"call{index:04d}{n}")
            for n in range({"D": 2}.get(letter, int(letter in "CBRM")))
        )
        content = text(index, "a") if letter in "AKBM" else ""
        pending = list(calls)
        messages.append(Message("assistant", content, text(index, "k") if letter in "KRM" else "", calls))
    return Conversation(tuple(messages), tuple(tool(n, text) for n in range(tools)), think)


def tool(number: int, text: Callable[[int, str], str]) -> dict[str, Any]:
    properties = {"place": {"type": "string", "description": text(number, "p")}}
    return {
        "type": "function",
        "function": {
            "name": text(number, "f"),
            "description": text(number, "d"),
            "parameters": {"type": "object", "properties": properties, "required": ["place"]},
        },
    }


_WORDS = {
    "s": "You answer in verse.\nNever in prose.",
    "u": "What's \"{}\" & <b> in 'Malmö'? 1 < 2",
    "a": "It is {}.\n\nAnd: {{x}} # é",
    "k": "First, number {} … then the rest.",
    "t": "result {} of the look-up",
    "n0": "look_up",
    "n1": "find_out",
    "v0": "Malmö {}",
    "v1": "Oslo {}",
    "f": "look_up_{}",
    "d": "Looks up {}.",
    "p": "The place {}.",
}


def spoken(index: int, kind: str) -> str:
    """Ordinary text, to verify with: quotes, braces, lines and letters beyond ASCII, no whitespace at the edges."""
    return _WORDS[kind].format(index)
