"""A chat template as a small program. `go_template` writes it in Go; `run` runs it to compare it with the Jinja."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from proxy.chat.conversations import Call, Conversation, Message


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Insert:
    """Writes a field of the current message, call or tool. "system" is all system messages, "date:d" today's day."""

    field: str


@dataclass(frozen=True, slots=True)
class Is:
    """Whether a feature has one of these values."""

    feature: str
    values: tuple[str, ...] = ("yes",)


@dataclass(frozen=True, slots=True)
class Not:
    test: "Test"


@dataclass(frozen=True, slots=True)
class All:
    tests: tuple["Test", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    tests: tuple["Test", ...]


Test = Is | Not | All | AnyOf


@dataclass(frozen=True, slots=True)
class If:
    test: Test
    then: tuple["Node", ...]
    other: tuple["Node", ...] = ()


@dataclass(frozen=True, slots=True)
class Remember:
    """Sets the feature `prev` to the kind of slot that was written last."""

    kind: str


@dataclass(frozen=True, slots=True)
class Each:
    """Repeats `body` over the "messages", "calls" or "tools", with `separator` between two items."""

    over: str
    body: tuple["Node", ...]
    separator: str = ""


@dataclass(frozen=True, slots=True)
class DeadThinking:
    """Code that never runs: Ollama infers the thinking tags from the text around `.Thinking`."""

    tags: tuple[str, str]


Node = Text | Insert | If | Remember | Each | DeadThinking


_NOTHING = Message("")


@dataclass(slots=True)
class _State:
    conversation: Conversation
    now: datetime
    features: dict[str, str]
    message: Message = _NOTHING
    call: Call | None = None
    tool: Mapping[str, Any] | None = None


def run(program: Sequence[Node], conversation: Conversation, now: datetime) -> str:
    """The output of Ollama, except that JSON has Python's spaces."""
    features = {
        "prev": "start",
        "tools": "yes" if conversation.tools else "no",
        "think": conversation.think,
        "system": "yes" if conversation.messages[:1] and conversation.messages[0].role == "system" else "no",
        "systems": "yes" if _system(conversation) else "no",
    }
    return "".join(_run(program, _State(conversation, now, features)))


def _run(nodes: Sequence[Node], state: _State) -> Iterable[str]:
    for node in nodes:
        match node:
            case Text(text):
                yield text
            case Insert(field):
                yield _field(field, state)
            case If(test, then, other):
                yield from _run(then if holds(test, state.features) else other, state)
            case Remember(kind):
                state.features["prev"] = kind
            case Each():
                yield from _each(node, state)
            case DeadThinking():
                pass


def holds(test: Test, features: Mapping[str, str]) -> bool:
    match test:
        case Is(feature, values):
            return features.get(feature, "no") in values
        case Not(inner):
            return not holds(inner, features)
        case All(tests):
            return all(holds(inner, features) for inner in tests)
        case AnyOf(tests):
            return any(holds(inner, features) for inner in tests)


def _each(node: Each, state: _State) -> Iterable[str]:
    if node.over == "messages":
        yield from _messages(node, state)
        return
    items: Sequence[Any] = state.message.calls if node.over == "calls" else state.conversation.tools
    for n, item in enumerate(items):
        if node.over == "calls":
            state.call = item
        else:
            state.tool = item
        yield node.separator if n else ""
        yield from _run(node.body, state)


def _messages(node: Each, state: _State) -> Iterable[str]:
    messages = collate(state.conversation.messages)
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    first, last = (users[0], users[-1]) if users else (-1, -1)
    for index, message in enumerate(messages):
        state.message = message
        state.features |= message_features(index, first, last, len(messages), message) | {
            "role": message.role,
            "called": "yes" if message.calls else "no",
            "content": "yes" if message.content else "no",
            "thinking": "yes" if message.thinking else "no",
        }
        yield from _run(node.body, state)


def message_features(index: int, first: int, last: int, count: int, message: Message) -> dict[str, str]:
    """`first` and `last` are the indexes of the first and the last user message, `count` is the number of messages."""
    return {
        "position": "last" if index == last else "after" if index > last else "before",
        "first": "yes" if index == first else "no",
        "final": "yes" if index == count - 1 else "no",
        "calls": "yes" if message.calls else "no",
    }


def collate(messages: Iterable[Message]) -> list[Message]:
    """Ollama joins consecutive messages of one role before the template gets them, except tool results."""
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1].role == message.role and message.role != "tool":
            joined[-1] = replace(joined[-1], content=f"{joined[-1].content}\n\n{message.content}")
        else:
            joined.append(message)
    return joined


def _field(field: str, state: _State) -> str:
    if field.startswith("date:"):
        return _date_part(field.removeprefix("date:"), state.now)
    if field in ("tool", "function", "parameters", "tool_name", "description"):
        return _tool_field(field, state.tool) if state.tool is not None else ""
    if field in ("name", "arguments", "id"):
        return _call_field(field, state.call) if state.call else ""
    if field == "system":
        return _system(state.conversation)
    return _message_field(field, state.message)


def _message_field(field: str, message: Message) -> str:
    match field:
        case "content":
            return message.content
        case "content_json":
            return json.dumps(message.content, ensure_ascii=False)
        case "thinking":
            return message.thinking
        case "result_name" if message.answered:
            return message.answered.name
        case "result_id" if message.answered:
            return message.answered.identifier
    return ""


def _call_field(field: str, call: Call) -> str:
    match field:
        case "name":
            return call.name
        case "arguments":
            return json.dumps(call.arguments, ensure_ascii=False)
    return call.identifier


def _system(conversation: Conversation) -> str:
    return "\n\n".join(message.content for message in conversation.messages if message.role == "system")


def _tool_field(field: str, tool: Mapping[str, Any]) -> str:
    function = tool["function"]
    match field:
        case "tool_name":
            return str(function["name"])
        case "description":
            return str(function["description"])
        case "function":
            return json.dumps(function, ensure_ascii=False)
        case "parameters":
            return json.dumps(function["parameters"], ensure_ascii=False)
    return json.dumps(tool, ensure_ascii=False)


def _date_part(directive: str, now: datetime) -> str:
    match directive:
        case "-d":
            return str(now.day)
        case "-m":
            return str(now.month)
    return now.strftime(f"%{directive}")
