"""Segments a rendered conversation at its sentinels: slots, and the text between them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from proxy.chat.conversations import Conversation
from proxy.chat.json_objects import next_object

_SENTINEL = re.compile("\ue000(\\d+)([a-z]\\d?)\ue001")
_SLOTS = {"s": "system", "u": "user", "a": "assistant", "k": "thinking", "t": "tool"}
_TOOL_FIELDS = {"f": "tool_name", "d": "description"}


class UnsupportedTemplate(Exception):
    """The prober cannot describe this template. The error text is a sentence about it that begins with "it"."""


class Part(NamedTuple):
    """A part of a block: a fixed text, or the name of a field."""

    field: str
    text: str = ""


class Block(NamedTuple):
    """The parts that the template writes for each tool or call, and the text between two of them."""

    parts: tuple[Part, ...]
    separator: str | None


class Occurrence(NamedTuple):
    """Where the output has a value of the conversation. `owner` is a kind of slot or "tools".

    `owner_index` is the index of the message or of the tool.
    """

    start: int
    end: int
    owner: str
    owner_index: int
    field: str


class Slot(NamedTuple):
    """A value of a message, and the text between it and the slot before."""

    text: str
    kind: str
    message_index: int


@dataclass(slots=True)
class Segmenter:
    """Segments many outputs of one template, and collects its blocks of tools, calls and results."""

    encoded_results: bool = False
    tools: list[Block] = field(default_factory=list)
    calls: Block | None = None
    result: Block | None = None

    def segment(self, output: str, conversation: Conversation) -> tuple[list[Slot], str]:
        """The slots in the order of the output, and the text after the last one."""
        slots: list[Slot] = []
        text, at = "", 0
        for group in _groups(self._occurrences(output, conversation)):
            first = group[0]
            text += output[at : first.start]
            if first.owner == "tools":
                text += self._mark_tools(group, output, len(conversation.tools))
            else:
                slots.append(Slot(text, first.owner, first.owner_index))
                self._collect_block(group, output, conversation)
                text = ""
            at = group[-1].end
        return slots, text + output[at:]

    def _collect_block(self, group: list[Occurrence], output: str, conversation: Conversation) -> None:
        owner = group[0].owner
        if owner == "calls":
            runs = list(_runs(group))
            if len(runs) != len(conversation.messages[group[0].owner_index].calls):
                raise UnsupportedTemplate("it does not write every tool call exactly once")
            self.calls = _unify(self.calls, _block(runs, output))
        elif owner == "tool":
            if sum(occurrence.field.startswith("content") for occurrence in group) != 1:
                raise UnsupportedTemplate("it does not write every tool result exactly once")
            self.result = _unify(self.result, _block([group], output))
        elif len(group) != 1:
            raise UnsupportedTemplate("it writes a message more than once")

    def _mark_tools(self, group: list[Occurrence], output: str, count: int) -> str:
        """The text of the group, with a mark for each list of tools."""
        runs = list(_runs(group))
        if len(runs) % count:
            raise UnsupportedTemplate("it does not write every tool")
        text, at = "", group[0].start
        for start in range(0, len(runs), count):
            block = _block(runs[start : start + count], output)
            if block not in self.tools:
                self.tools.append(block)
            text += output[at : runs[start][0].start] + f"\ue002{self.tools.index(block)}\ue003"
            at = runs[start + count - 1][-1].end
        return text

    def _occurrences(self, output: str, conversation: Conversation) -> list[Occurrence]:
        spans = list(_json_spans(output, conversation))
        occurrences = [*spans]
        for match in _SENTINEL.finditer(output):
            if any(span.start <= match.start() < span.end for span in spans):
                continue
            occurrences.append(self._occurrence(match, output))
        for index, message in enumerate(conversation.messages):
            for n, call in enumerate(message.calls):
                occurrences += [
                    Occurrence(match.start(), match.end(), "calls", index, f"id{n}")
                    for match in re.finditer(re.escape(call.identifier), output)
                ]
        occurrences.sort()
        return list(_attribute_to_results(occurrences, conversation))

    def _occurrence(self, match: re.Match[str], output: str) -> Occurrence:
        start, end, index, kind = match.start(), match.end(), int(match[1]), match[2]
        if kind == "t" and self.encoded_results:
            # The quotes come from JSON encoding, and Ollama's `json` writes them again.
            if output[start - 1 : start] != '"' or output[end : end + 1] != '"':
                raise UnsupportedTemplate("it encodes tool results in an unknown way")
            return Occurrence(start - 1, end + 1, "tool", index, "content_json")
        if kind in _SLOTS:
            return Occurrence(start, end, _SLOTS[kind], index, "content")
        if kind in _TOOL_FIELDS:
            return Occurrence(start, end, "tools", index, _TOOL_FIELDS[kind])
        if kind[0] == "n":
            return Occurrence(start, end, "calls", index, f"name{kind[1]}")
        raise UnsupportedTemplate("it does not write tools or calls as JSON")


def _groups(occurrences: list[Occurrence]) -> Iterator[list[Occurrence]]:
    """Neighbours of one message, or neighbours among the tools."""
    group: list[Occurrence] = []
    for occurrence in occurrences:
        if group and not _are_grouped(group[-1], occurrence):
            yield group
            group = []
        group.append(occurrence)
    if group:
        yield group


def _are_grouped(one: Occurrence, other: Occurrence) -> bool:
    return one.owner == other.owner and (one.owner == "tools" or one.owner_index == other.owner_index)


def _attribute_to_results(occurrences: list[Occurrence], conversation: Conversation) -> Iterator[Occurrence]:
    """If a call's name or id occurs a second time, it belongs to the result of this call."""
    results = {
        message.answered.identifier: index for index, message in enumerate(conversation.messages) if message.answered
    }
    seen: set[tuple[int, str]] = set()
    for occurrence in occurrences:
        owner_index, field_ = occurrence.owner_index, occurrence.field
        is_name_or_id = occurrence.owner == "calls" and field_[:-1] in ("name", "id")
        if not is_name_or_id or (owner_index, field_) not in seen:
            seen.add((owner_index, field_))
            yield occurrence
            continue
        call = conversation.messages[owner_index].calls[int(field_[-1])]
        if call.identifier not in results:
            raise UnsupportedTemplate("it writes a tool call more than once")
        result_index = results[call.identifier]
        yield Occurrence(occurrence.start, occurrence.end, "tool", result_index, f"result_{field_[:-1]}")


def _json_spans(output: str, conversation: Conversation) -> Iterator[Occurrence]:
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
    while json_object := next_object(output, at):
        start, end, value = json_object
        match = next((entry for entry in known if entry[0] == value), None)
        if match:
            yield Occurrence(start, end, *match[1:])
        at = end if match else start + 1


def _runs(group: list[Occurrence]) -> Iterator[list[Occurrence]]:
    """Splits a group: one run for each tool or call."""
    run: list[Occurrence] = []
    for occurrence in group:
        if run and _item(run[-1]) != _item(occurrence):
            yield run
            run = []
        run.append(occurrence)
    yield run


def _item(occurrence: Occurrence) -> object:
    """Which tool, or which call of its message."""
    return occurrence.owner_index if occurrence.owner == "tools" else occurrence.field[-1]


def _block(runs: list[list[Occurrence]], output: str) -> Block:
    forms = {tuple(_parts(run, output)) for run in runs}
    separators = {output[a[-1].end : b[0].start] for a, b in pairwise(runs)}
    if len(forms) > 1 or len(separators) > 1:
        raise UnsupportedTemplate("it does not write all tools or calls in the same way")
    return Block(forms.pop(), separators.pop() if separators else None)


def _parts(run: list[Occurrence], output: str) -> Iterator[Part]:
    for occurrence, after in zip(run, [*run[1:], None], strict=True):
        yield Part(occurrence.field.rstrip("0123456789"))
        if after:
            yield Part("", output[occurrence.end : after.start])


def _unify(known: Block | None, block: Block) -> Block:
    """One block for both; `separator` is None in a block that was seen with one item only."""
    if known is None:
        return block
    if known.parts != block.parts or (
        None not in (known.separator, block.separator) and known.separator != block.separator
    ):
        raise UnsupportedTemplate("it does not write all tools or calls in the same way")
    return Block(known.parts, block.separator if known.separator is None else known.separator)
