"""Cuts a rendered conversation at its sentinels into slots and the text between them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from proxy.chat.conversations import Conversation
from proxy.chat.objects import next_object

_SENTINEL = re.compile("\ue000(\\d+)([a-z]\\d?)\ue001")
_SLOTS = {"s": "system", "u": "user", "a": "assistant", "k": "thinking", "t": "tool"}
_TOOL_FIELDS = {"f": "tool_name", "d": "description"}


class Unmodelled(Exception):
    """An output that this way of describing a template cannot say."""


class Part(NamedTuple):
    """A piece of a repeated block: text, or the name of a field."""

    field: str
    text: str = ""


class Block(NamedTuple):
    """What is written once for every tool or call, and what stands between two."""

    parts: tuple[Part, ...]
    separator: str | None


class Token(NamedTuple):
    start: int
    end: int
    owner: str
    place: int
    field: str


class Slot(NamedTuple):
    """One thing that a message says, and the text since the slot before it."""

    text: str
    kind: str
    place: int


@dataclass(slots=True)
class Cutter:
    """Cuts many outputs of one template, and gathers what its blocks of tools, calls and results look like."""

    encoded_results: bool = False
    tools: list[Block] = field(default_factory=list)
    calls: Block | None = None
    result: Block | None = None

    def cut(self, output: str, conversation: Conversation) -> tuple[list[Slot], str]:
        """The slots in the order of the output, and the text after the last one."""
        tokens = self._tokens(output, conversation)
        slots: list[Slot] = []
        text, at, n = "", 0, 0
        while n < len(tokens):
            token = tokens[n]
            stop = n + 1
            while stop < len(tokens) and (tokens[stop].owner, tokens[stop].place) == (token.owner, token.place):
                stop += 1
            if token.owner == "tools":
                while stop < len(tokens) and tokens[stop].owner == "tools":
                    stop += 1
                group = tokens[n:stop]
                text += output[at : token.start] + self._tools(group, output, len(conversation.tools))
            else:
                group = tokens[n:stop]
                slots.append(Slot(text + output[at : token.start], token.owner, token.place))
                self._gather(token.owner, group, output, conversation)
                text = ""
            at, n = group[-1].end, stop
        return slots, text + output[at:]

    def _gather(self, owner: str, group: list[Token], output: str, conversation: Conversation) -> None:
        if owner == "calls":
            runs = list(_runs(group))
            if len(runs) != len(conversation.messages[group[0].place].calls):
                raise Unmodelled("calls are written more than once, or not all of them")
            self.calls = _merged(self.calls, _block(runs, output))
        elif owner == "tool":
            if sum(token.field.startswith("content") for token in group) != 1:
                raise Unmodelled("a tool's result is written more than once")
            self.result = _merged(self.result, _block([group], output))
        elif len(group) != 1:
            raise Unmodelled("a message is written more than once")

    def _tools(self, group: list[Token], output: str, count: int) -> str:
        runs = list(_runs(group))
        if len(runs) % count:
            raise Unmodelled("not every tool is written")
        text, at = "", group[0].start
        for start in range(0, len(runs), count):
            block = _block(runs[start : start + count], output)
            if block not in self.tools:
                self.tools.append(block)
            text += output[at : runs[start][0].start] + f"\ue002{self.tools.index(block)}\ue003"
            at = runs[start + count - 1][-1].end
        return text

    def _tokens(self, output: str, conversation: Conversation) -> list[Token]:
        spans = list(_json_spans(output, conversation))
        tokens = [*spans]
        for match in _SENTINEL.finditer(output):
            if any(span.start <= match.start() < span.end for span in spans):
                continue
            tokens.append(self._token(match, output))
        for index, message in enumerate(conversation.messages):
            for n, call in enumerate(message.calls):
                tokens += [
                    Token(found.start(), found.end(), "calls", index, f"id{n}")
                    for found in re.finditer(re.escape(call.identifier), output)
                ]
        tokens.sort()
        return list(_attributed(tokens, conversation))

    def _token(self, match: re.Match[str], output: str) -> Token:
        start, end, index, kind = match.start(), match.end(), int(match[1]), match[2]
        if kind == "t" and self.encoded_results:
            # json.dumps put quotes around it, and Ollama's `json` does it again.
            if output[start - 1 : start] != '"' or output[end : end + 1] != '"':
                raise Unmodelled("a tool's result is encoded in a way of its own")
            return Token(start - 1, end + 1, "tool", index, "content_json")
        if kind in _SLOTS:
            return Token(start, end, _SLOTS[kind], index, "content")
        if kind in _TOOL_FIELDS:
            return Token(start, end, "tools", index, f"{_TOOL_FIELDS[kind]}")
        if kind[0] == "n":
            return Token(start, end, "calls", index, f"name{kind[1]}")
        raise Unmodelled("tools or calls are not written as JSON")


def _attributed(tokens: list[Token], conversation: Conversation) -> Iterator[Token]:
    """A call's name or id that comes back after the calls belongs to the result that answers it."""
    results = {
        message.answers.identifier: index for index, message in enumerate(conversation.messages) if message.answers
    }
    seen: set[tuple[int, str]] = set()
    for token in tokens:
        if token.owner != "calls" or token.field[:-1] not in ("name", "id") or (token.place, token.field) not in seen:
            seen.add((token.place, token.field))
            yield token
            continue
        call = conversation.messages[token.place].calls[int(token.field[-1])]
        if call.identifier not in results:
            raise Unmodelled("calls are written more than once")
        yield Token(token.start, token.end, "tool", results[call.identifier], f"result_{token.field[:-1]}")


def _json_spans(output: str, conversation: Conversation) -> Iterator[Token]:
    known: list[tuple[Any, str, int, str]] = []
    for index, tool in enumerate(conversation.tools):
        function = tool["function"]
        known += [
            (tool, "tools", index, "tool"),
            (function, "tools", index, "function"),
            (function["parameters"], "tools", index, "parameters"),
        ]
    for index, message in enumerate(conversation.messages):
        known += [(call.arguments, "calls", index, f"arguments{n}") for n, call in enumerate(message.calls)]
    if not known:
        return
    at = 0
    while found := next_object(output, at):
        start, end, value = found
        match = next((entry for entry in known if entry[0] == value), None)
        if match:
            yield Token(start, end, *match[1:])
        at = end if match else start + 1


def _runs(group: list[Token]) -> Iterator[list[Token]]:
    """A group's tokens by the tool or call that they speak of."""
    run: list[Token] = []
    for token in group:
        if run and _subject(run[-1]) != _subject(token):
            yield run
            run = []
        run.append(token)
    yield run


def _subject(token: Token) -> object:
    return token.place if token.owner == "tools" else token.field[-1]


def _block(runs: list[list[Token]], output: str) -> Block:
    forms = {tuple(_parts(run, output)) for run in runs}
    separators = {output[a[-1].end : b[0].start] for a, b in pairwise(runs)}
    if len(forms) > 1 or len(separators) > 1:
        raise Unmodelled("tools or calls are not all written alike")
    return Block(forms.pop(), separators.pop() if separators else None)


def _parts(run: list[Token], output: str) -> Iterator[Part]:
    for token, after in zip(run, [*run[1:], None], strict=True):
        yield Part(token.field.rstrip("0123456789"))
        if after:
            yield Part("", output[token.end : after.start])


def _merged(known: Block | None, block: Block) -> Block:
    if known is None:
        return block
    if known.parts != block.parts or (
        None not in (known.separator, block.separator) and known.separator != block.separator
    ):
        raise Unmodelled("tools or calls are not all written alike")
    return Block(known.parts, block.separator if known.separator is None else known.separator)
