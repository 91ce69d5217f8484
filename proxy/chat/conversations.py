"""Conversations to probe with: a shape is a word whose letters are the messages, for the Jinja and for Ollama.

S system, U user, A assistant, K assistant with a thought, C one tool call, B text and a call, R thought and a call,
M thought, text and a call, D two calls, T tool result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PLAIN = ("U", "UAU", "UAUAU", "SU", "SUAU", "SUAUAU")
ASSISTANT_FIRST = ("AU", "AUAU", "SAU")
LATE_SYSTEM = ("UASU", "UASUAU")
THOUGHTS = ("UKU", "UKUAU", "SUKU")
CALLS = ("UCT", "UCTAU", "SUCT", "SUCTAU", "UAUCT", "UCTCT", "UCTCTAU", "UBT", "UBTAU", "UCTUCT")
PARALLEL_CALLS = ("UDT", "UDTT", "UDTTAU", "UDTTUCT")
DROPPED_CALLS = ("UBTT", "UBTTAU")
THOUGHTS_AND_CALLS = ("URT", "URTAU", "URTRT", "UMT")

ROLES = {"S": "system", "U": "user", "T": "tool"}


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: dict[str, Any]
    identifier: str


@dataclass(frozen=True, slots=True)
class Message:
    """`answered` is the call to which a tool result belongs."""

    role: str
    content: str = ""
    thinking: str = ""
    calls: tuple[Call, ...] = ()
    answered: Call | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """`tools` are as in Ollama's API; `think` is "on", "off", or "" if the request does not set it."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    think: str = ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The form of a template's input, where templates differ.

    `parts`: contents are lists of parts. `text_arguments`: the arguments of calls are JSON texts. `identifiers`: calls
    and results have ids. `toggle`: the variable that switches thinking. `bare`: absent tools are undefined, not None.
    """

    parts: bool = False
    text_arguments: bool = False
    identifiers: bool = False
    toggle: str = ""
    bare: bool = False

    def variables(self, conversation: Conversation) -> dict[str, Any]:
        # transformers passes None for absent tools; some templates do not expect it.
        variables: dict[str, Any] = {} if self.bare else {"tools": None, "documents": None}
        if conversation.tools:
            variables["tools"] = list(conversation.tools)
        if conversation.think and self.toggle:
            variables[self.toggle] = conversation.think == "on"
        return variables

    def messages(self, conversation: Conversation, dumps: Callable[[Any], str]) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        for message in conversation.messages:
            entry: dict[str, Any] = {"role": message.role, "content": message.content}
            if self.parts and message.content:
                entry["content"] = [{"type": "text", "text": message.content}]
            if message.thinking:
                entry["reasoning_content"] = entry["reasoning"] = entry["thinking"] = message.thinking
            if message.calls:
                entry["tool_calls"] = [self._call(call, dumps) for call in message.calls]
            if message.answered and self.identifiers:
                entry |= {"name": message.answered.name, "tool_call_id": message.answered.identifier}
            entries.append(entry)
        return entries

    def _call(self, call: Call, dumps: Callable[[Any], str]) -> dict[str, Any]:
        arguments = dumps(call.arguments) if self.text_arguments else call.arguments
        entry: dict[str, Any] = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
        return {"id": call.identifier} | entry if self.identifiers else entry


def sentinel(index: int, kind: str) -> str:
    """A text of private-use characters: no template writes, trims or escapes them."""
    return f"\ue000{index}{kind}\ue001"


def compose(shape: str, text: Callable[[int, str], str], tools: int = 0, think: str = "") -> Conversation:
    """`text(index, kind)` gives the texts.

    Kinds of a message: s, u, a, k (thought), t; n0, n1 and v0, v1 are the name and the argument of a call.
    Kinds of a tool: f (name), d (description), p (description of its parameter).
    """
    messages: list[Message] = []
    pending: list[Call] = []
    for index, letter in enumerate(shape):
        if letter in ROLES:
            answered = pending.pop(0) if letter == "T" and pending else None
            messages.append(Message(ROLES[letter], text(index, letter.lower()), answered=answered))
            continue
        calls = tuple(
            Call(text(index, f"n{n}"), {"place": text(index, f"v{n}")}, f"call{index:04d}{n}")
            for n in range({"D": 2}.get(letter, int(letter in "CBRM")))
        )
        content = text(index, "a") if letter in "AKBM" else ""
        pending = list(calls)
        messages.append(Message("assistant", content, text(index, "k") if letter in "KRM" else "", calls))
    return Conversation(tuple(messages), tuple(_tool(n, text) for n in range(tools)), think)


def _tool(number: int, text: Callable[[int, str], str]) -> dict[str, Any]:
    properties = {"place": {"type": "string", "description": text(number, "p")}}
    return {
        "type": "function",
        "function": {
            "name": text(number, "f"),
            "description": text(number, "d"),
            "parameters": {"type": "object", "properties": properties, "required": ["place"]},
        },
    }


_ORDINARY = {
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


def ordinary_text(index: int, kind: str) -> str:
    """A text to verify with: quotes, braces, lines and letters beyond ASCII, but no whitespace at its ends."""
    return _ORDINARY[kind].format(index)
