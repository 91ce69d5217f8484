"""Renders the probing conversations and learns from them what stands before, in and after every slot."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from proxy.chat import conversations
from proxy.chat.affixes import common_prefix
from proxy.chat.choices import Contradiction, Example, Tree, learn
from proxy.chat.conversations import Conversation, Dialect, Message, compose, sentinel
from proxy.chat.cutting import Block, Cutter, Slot, Unmodelled
from proxy.chat.program import situation
from proxy.chat.sandbox import Sandbox, Unrenderable

_ASSISTANT = ("thinking", "assistant", "calls")


@dataclass(frozen=True, slots=True)
class Scope:
    """What a try at describing the template includes."""

    tools: bool
    think: bool
    place: str
    drops_calls: bool = False
    encoded_results: bool = False
    late_system: bool = False
    extras: bool = True
    lenient: bool = False


@dataclass(slots=True)
class Learned:
    """Trees of the text before each slot and of which slots show; what always stands after each."""

    scope: Scope
    gaps: dict[str, Tree] = field(default_factory=dict)
    shows: dict[str, Tree] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    tools: tuple[Block, ...] = ()
    calls: Block | None = None
    result: Block | None = None
    end_of_turn: str = ""
    user_marker: str = ""


@dataclass(frozen=True, slots=True)
class Gap:
    kind: str
    features: dict[str, str]
    text: str


def _dumps(value: Any) -> str:
    # Escapes would hide the sentinels.
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class _Observed:
    gaps: list[Gap]
    shows: list[tuple[str, Example]]


class Learner:
    """Probes one template in one dialect."""

    def __init__(self, sandbox: Sandbox, dialect: Dialect, bos: str, think_tags: tuple[str, str] | None) -> None:
        self._sandbox, self._dialect, self._bos, self._tags = sandbox, dialect, bos, think_tags
        self.emits_bos = False

    def render(self, conversation: Conversation, *, generation: bool = True) -> str:
        text = self._sandbox.render(
            self._dialect.messages(conversation, _dumps),
            add_generation_prompt=generation,
            **self._dialect.variables(conversation),
        )
        if self._bos and text.startswith(self._bos):
            self.emits_bos = True
            return text.removeprefix(self._bos)
        return text

    def learn(self, scope: Scope) -> Learned:
        cutter = Cutter(scope.encoded_results)
        gaps: list[Gap] = []
        shows: dict[str, list[Example]] = {}
        for shape, tools, think in _plan(scope):
            conversation = compose(shape, sentinel, tools, think)
            try:
                text = self.render(conversation)
                slots, end = cutter.cut(text, conversation)
                observed = _observe(conversation, slots, end, scope)
            except Unrenderable:
                continue
            except Unmodelled:
                if scope.lenient:
                    continue
                raise
            gaps += observed.gaps
            for kind, example in observed.shows:
                shows.setdefault(kind, []).append(example)
        if not gaps:
            raise Unmodelled("it renders no conversation")
        learned = Learned(scope, tools=tuple(cutter.tools), calls=cutter.calls, result=cutter.result)
        learned.after = self._after(scope, gaps)
        turns = [gap.text for gap in gaps if gap.features["prev"] == "assistant" and gap.kind == "user"]
        learned.end_of_turn = turns[0] if turns else learned.after.get("assistant", "")
        shortened = [
            gap
            if _within(gap)
            else replace(gap, text=gap.text.removeprefix(learned.after.get(gap.features["prev"], "")))
            for gap in gaps
        ]
        markers = [gap.text for gap in shortened if gap.kind == "user" and gap.features["prev"] == "assistant"]
        learned.user_marker = markers[0] if markers else ""
        for kind, examples in _by_kind(self._split(shortened)).items():
            learned.gaps[kind] = _learn(examples, lenient=scope.lenient)
        learned.shows = {kind: _learn(examples, lenient=scope.lenient) for kind, examples in shows.items()}
        return learned

    def _after(self, scope: Scope, gaps: Sequence[Gap]) -> dict[str, str]:
        """What always follows a slot: the template's own end of such a conversation, or what all cases share."""
        endings = {"user": "U", "assistant": "UA", "system": "S", "calls": "UC", "tool": "UCT"}
        after = {}
        for kind in sorted({gap.features["prev"] for gap in gaps} - {"start"}):
            texts = [gap.text for gap in gaps if gap.features["prev"] == kind and not _within(gap)]
            shape = endings.get(kind, "")
            ending = self._ending(compose(shape, sentinel, 2 * scope.tools), scope) if shape else None
            if ending is None or not all(text.startswith(ending) for text in texts):
                ending = _whole_tokens(common_prefix(texts))
            after[kind] = ending
        return after

    def _ending(self, conversation: Conversation, scope: Scope) -> str | None:
        try:
            text = self.render(conversation, generation=False)
            return Cutter(scope.encoded_results).cut(text, conversation)[1]
        except (Unrenderable, Unmodelled):
            return None

    def _split(self, gaps: Sequence[Gap]) -> list[Gap]:
        """Takes out what does not depend on what follows: the head, what ends a system text, what opens an answer."""
        usual = _usual(gaps)
        heads, rest = _shared(gaps, "start", usual)
        closers, rest = _shared(rest, "system", usual)
        heads = [replace(gap, kind="head") for gap in heads]
        closers = [replace(gap, kind="closer") for gap in closers]
        headers, rest = self._headers(rest)
        return heads + closers + headers + rest

    def _headers(self, gaps: Sequence[Gap]) -> tuple[list[Gap], list[Gap]]:
        """Splits what opens an assistant's message from what opens its text, its thought or its calls."""
        groups: dict[tuple[str, ...], list[Gap]] = {}
        rest = []
        for gap in gaps:
            if gap.kind in _ASSISTANT and gap.features["prev"] not in ("thinking", "assistant"):
                groups.setdefault(tuple(gap.features[name] for name in ("prev", "tools", "think")), []).append(gap)
            else:
                rest.append(gap)
        plain = [gap.text for group in groups.values() for gap in group if gap.kind == "assistant"]
        headers = []
        for group in groups.values():
            texts = [gap.text for gap in group]
            if all(gap.kind != "assistant" for gap in group):
                texts += plain
            header = _common(texts)
            if self._tags:
                opening, closing = map(re.escape, self._tags)
                header = re.sub(rf"({opening}\s*)?({closing}\s*)?\Z", "", header, count=1)
            for gap in group:
                headers.append(Gap("header", gap.features, header))
                rest.append(Gap(gap.kind, gap.features | {"prev": "header"}, gap.text[len(header) :]))
        return headers, rest


def _usual(gaps: Sequence[Gap]) -> dict[str, str]:
    """What most often opens a turn of each kind in mid-conversation."""
    seen: dict[str, Counter[str]] = {}
    for gap in gaps:
        if gap.features["prev"] not in ("start", "system"):
            seen.setdefault(gap.kind, Counter())[gap.text] += 1
    return {kind: texts.most_common(1)[0][0] for kind, texts in seen.items()}


def _shared(gaps: Sequence[Gap], prev: str, usual: Mapping[str, str]) -> tuple[list[Gap], list[Gap]]:
    """Takes what stands before the usual opening of a turn, whoever's it is, out of the gaps after `prev`."""
    groups: dict[tuple[str, ...], list[Gap]] = {}
    shared, rest = [], []
    for gap in gaps:
        if gap.features["prev"] != prev:
            rest.append(gap)
        elif gap.kind == "system":
            shared.append(replace(gap, text=""))
            rest.append(gap)
        else:
            groups.setdefault(tuple(gap.features[name] for name in ("tools", "think", "system")), []).append(gap)
    for group in groups.values():
        texts = {
            gap.text.removesuffix(usual[gap.kind]) if gap.text.endswith(usual.get(gap.kind, "\0")) else None
            for gap in group
        }
        common = texts.pop() if len(texts) == 1 else None
        if common is None:
            several = len({gap.kind for gap in group}) > 1
            common = _whole_tokens(common_prefix([gap.text for gap in group])) if several else ""
        for gap in group:
            shared.append(replace(gap, text=common))
            rest.append(replace(gap, text=gap.text[len(common) :]))
    return shared, rest


def _common(texts: Sequence[str]) -> str:
    common = common_prefix(texts)
    return common if common in texts else _whole_tokens(common)


def _observe(conversation: Conversation, slots: Sequence[Slot], end: str, scope: Scope) -> "_Observed":
    whole = {
        "tools": "yes" if conversation.tools else "no",
        "think": conversation.think,
        "system": "yes" if conversation.messages[0].role == "system" else "no",
    }
    observed = _Observed([], [])
    rest = list(slots)
    prev = "start"
    for kind, place, features in _expected(conversation, scope):
        seen = bool(rest) and (rest[0].kind, rest[0].place) == (kind, place)
        situated = whole | features | {"prev": prev}
        observed.shows.append((kind, Example(situated, "yes" if seen else "no")))
        if seen:
            observed.gaps.append(Gap(kind, situated, rest.pop(0).text))
            prev = kind
    if rest:
        raise Unmodelled("messages are written in another order, or more than once")
    observed.gaps.append(Gap("end", whole | {"prev": prev}, end))
    return observed


def _within(gap: Gap) -> bool:
    """Whether it stands between an assistant's text and calls, inside of one message."""
    return gap.kind == "calls" and gap.features["prev"] == "assistant"


def _plan(scope: Scope) -> Iterable[tuple[str, int, str]]:
    plain: tuple[str, ...] = conversations.PLAIN
    called: tuple[str, ...] = conversations.CALLED + conversations.CALLED_TWICE
    if scope.extras:
        plain += conversations.OPENED_BY_ASSISTANT + conversations.THOUGHT
        called += conversations.THOUGHT_AND_CALLED
    if scope.place == "elsewhere":
        plain = tuple(shape for shape in plain if "S" not in shape)
        called = tuple(shape for shape in called if "S" not in shape)
    if scope.late_system:
        plain += conversations.LATE_SYSTEM
    if scope.drops_calls:
        called = tuple(shape for shape in called if not set(shape) & set("CDRM"))
        called += conversations.UNHEARD_CALLS
    for think in ("", "on", "off") if scope.think else ("",):
        for tools in (0, 2) if scope.tools else (0,):
            for shape in plain + (called if tools else ()):
                yield shape, tools, think


def _expected(conversation: Conversation, scope: Scope) -> Iterable[tuple[str, int, dict[str, str]]]:
    """The slots in the order in which the template writes them, with what is special about their messages."""
    messages = conversation.messages
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    first, last = (users[0], users[-1]) if users else (-1, -1)
    for index, message in enumerate(messages):
        features = situation(index, first, last, len(messages), message)
        if scope.place == "last user" and index == last and messages[0].role == "system":
            yield "system", 0, features
        if message.role == "system" and scope.place == "last user":
            continue
        for kind in _slots_of(message, drops_calls=scope.drops_calls):
            yield kind, index, features


def _slots_of(message: Message, *, drops_calls: bool) -> Iterable[str]:
    if message.role != "assistant":
        yield message.role
        return
    if message.thinking:
        yield "thinking"
    if message.content:
        yield "assistant"
    if message.calls and not drops_calls:
        yield "calls"


def _by_kind(gaps: Iterable[Gap]) -> dict[str, list[Example]]:
    kinds: dict[str, list[Example]] = {}
    for gap in gaps:
        kinds.setdefault(gap.kind, []).append(Example(gap.features, gap.text))
    return kinds


def _learn(examples: Sequence[Example], *, lenient: bool) -> Tree:
    try:
        return learn(examples, lenient=lenient)
    except Contradiction as error:
        raise Unmodelled("what stands between two messages depends on more than their roles and places") from error


def _whole_tokens(text: str) -> str:
    """Up to the last place where a marker can end, so that no `<|im_` is torn from its `start|>`."""
    match = re.match(r".*[>\]\n]", text, re.DOTALL)
    return match[0] if match else ""


def find_place(slots: Sequence[Slot]) -> str:
    """Where a system text of the first message comes out, given one or more turns."""
    order = [slot.kind for slot in slots if slot.kind in ("system", "user", "assistant")]
    if "system" not in order:
        return "ignored"
    if order[0] == "system":
        return "in place"
    users = [place for place, kind in enumerate(order) if kind == "user"]
    if users and order.index("system") == users[-1] - 1:
        return "last user"
    return "elsewhere"
