"""Renders the probing conversations and learns the texts before, in and after every slot."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from proxy.chat import conversations
from proxy.chat.affixes import common_prefix
from proxy.chat.conversations import Conversation, Message, compose, sentinel
from proxy.chat.decision_tree import Contradiction, Example, Tree, learn_tree
from proxy.chat.program import message_features
from proxy.chat.renderer import Renderer
from proxy.chat.sandbox import Unrenderable
from proxy.chat.segmentation import Block, Segmenter, Slot, UnsupportedTemplate

_ASSISTANT = ("thinking", "assistant", "calls")
_OF_CONVERSATION = ("tools", "think", "system")
"""The features of a whole conversation: a Go template knows no others before the first message."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which conversations an attempt covers, and what is already known of the template.

    `system_place` is where the template writes the system message: "in place", "head", "last user", "elsewhere",
    "ignored" or "refused". `lenient` accepts conversations that the result gets wrong.
    """

    tools: bool
    think: bool
    system_place: str
    drops_calls: bool = False
    encoded_results: bool = False
    late_system: bool = False
    extras: bool = True
    lenient: bool = False


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """What the template writes, by kind of slot.

    `gaps`: the text before a slot. `presence`: whether a slot is written ("yes" or "no"). `endings`: the text that
    always follows a slot.
    """

    scope: Scope
    gaps: Mapping[str, Tree] = field(default_factory=dict)
    presence: Mapping[str, Tree] = field(default_factory=dict)
    endings: Mapping[str, str] = field(default_factory=dict)
    tools: tuple[Block, ...] = ()
    calls: Block | None = None
    result: Block | None = None
    end_of_turn: str = ""
    user_marker: str = ""


@dataclass(frozen=True, slots=True)
class Gap:
    """The text between the slot `features["prev"]` and a slot of `kind`."""

    kind: str
    features: dict[str, str]
    text: str


_Presence = tuple[str, Example]


class Learner:
    """Probes one template in one dialect."""

    def __init__(self, renderer: Renderer, think_tags: tuple[str, str] | None) -> None:
        self._renderer, self._tags = renderer, think_tags

    def learn(self, scope: Scope) -> ChatFormat:
        """Raises UnsupportedTemplate."""
        segmenter = Segmenter(scope.encoded_results)
        gaps, presence = self._probe(segmenter, scope)
        if not gaps:
            raise UnsupportedTemplate("it renders no conversation")
        endings = self._endings(scope, gaps)
        before_user = [gap.text for gap in gaps if _starts_next_turn(gap)]
        stripped = [_strip_ending(gap, endings) for gap in gaps]
        markers = [gap.text for gap in stripped if _starts_next_turn(gap)]
        return ChatFormat(
            scope,
            gaps=_learn_trees(((gap.kind, Example(gap.features, gap.text)) for gap in self._split(stripped)), scope),
            presence=_learn_trees(presence, scope),
            endings=endings,
            tools=tuple(segmenter.tools),
            calls=segmenter.calls,
            result=segmenter.result,
            end_of_turn=before_user[0] if before_user else endings.get("assistant", ""),
            user_marker=markers[0] if markers else "",
        )

    def _probe(self, segmenter: Segmenter, scope: Scope) -> tuple[list[Gap], list[_Presence]]:
        all_gaps: list[Gap] = []
        all_presence: list[_Presence] = []
        for shape, tools, think in _probes(scope):
            conversation = compose(shape, sentinel, tools, think)
            try:
                slots, end = segmenter.segment(self._renderer.render(conversation), conversation)
                gaps, presence = _observe(conversation, slots, end, scope)
            except Unrenderable:
                continue
            except UnsupportedTemplate:
                if scope.lenient:
                    continue
                raise
            all_gaps += gaps
            all_presence += presence
        return all_gaps, all_presence

    def _endings(self, scope: Scope, gaps: Sequence[Gap]) -> dict[str, str]:
        """The text that always follows a slot.

        It is what the template writes after a conversation that ends with this slot, or else the common prefix of all
        gaps after it.
        """
        shapes = {"user": "U", "assistant": "UA", "system": "S", "calls": "UC", "tool": "UCT"}
        endings = {}
        for kind in sorted({gap.features["prev"] for gap in gaps} - {"start"}):
            texts = [gap.text for gap in gaps if gap.features["prev"] == kind and not _is_within_message(gap)]
            shape = shapes.get(kind, "")
            ending = self._ending(compose(shape, sentinel, 2 * scope.tools), scope) if shape else None
            if ending is None or not all(text.startswith(ending) for text in texts):
                ending = _whole_markers(common_prefix(texts))
            endings[kind] = ending
        return endings

    def _ending(self, conversation: Conversation, scope: Scope) -> str | None:
        try:
            text = self._renderer.render(conversation, generation=False)
            return Segmenter(scope.encoded_results).segment(text, conversation)[1]
        except (Unrenderable, UnsupportedTemplate):
            return None

    def _split(self, gaps: Sequence[Gap]) -> list[Gap]:
        """Makes gaps of their own for texts that do not depend on the next slot.

        These are the head, the end of a system message (closer) and the start of an answer (header).
        """
        openings = _most_common_openings(gaps)
        heads, others = _split_shared(gaps, "start", openings)
        closers, others = _split_shared(others, "system", openings)
        heads = [Gap("head", {name: gap.features[name] for name in _OF_CONVERSATION}, gap.text) for gap in heads]
        closers = [replace(gap, kind="closer") for gap in closers]
        headers, others = self._split_headers(others)
        return heads + closers + headers + others

    def _split_headers(self, gaps: Sequence[Gap]) -> tuple[list[Gap], list[Gap]]:
        """Separates the start of an assistant's message from the start of its text, thought or calls."""
        groups: dict[tuple[str, ...], list[Gap]] = {}
        others = []
        for gap in gaps:
            if gap.kind in _ASSISTANT and gap.features["prev"] not in ("thinking", "assistant"):
                groups.setdefault(tuple(gap.features[name] for name in ("prev", "tools", "think")), []).append(gap)
            else:
                others.append(gap)
        assistant_texts = [gap.text for group in groups.values() for gap in group if gap.kind == "assistant"]
        headers = []
        for group in groups.values():
            texts = [gap.text for gap in group]
            if all(gap.kind != "assistant" for gap in group):
                texts += assistant_texts
            header = self._without_think_tags(_common_header(texts))
            for gap in group:
                headers.append(Gap("header", gap.features, header))
                others.append(Gap(gap.kind, gap.features | {"prev": "header"}, gap.text[len(header) :]))
        return headers, others

    def _without_think_tags(self, header: str) -> str:
        if not self._tags:
            return header
        opening, closing = map(re.escape, self._tags)
        return re.sub(rf"({opening}\s*)?({closing}\s*)?\Z", "", header, count=1)


def _starts_next_turn(gap: Gap) -> bool:
    return gap.features["prev"] == "assistant" and gap.kind == "user"


def _strip_ending(gap: Gap, endings: Mapping[str, str]) -> Gap:
    if _is_within_message(gap):
        return gap
    return replace(gap, text=gap.text.removeprefix(endings.get(gap.features["prev"], "")))


def _most_common_openings(gaps: Sequence[Gap]) -> dict[str, str]:
    """The most common text before each kind of slot, except at the start of a conversation."""
    seen: dict[str, Counter[str]] = {}
    for gap in gaps:
        if gap.features["prev"] not in ("start", "system"):
            seen.setdefault(gap.kind, Counter())[gap.text] += 1
    return {kind: texts.most_common(1)[0][0] for kind, texts in seen.items()}


def _split_shared(gaps: Sequence[Gap], prev: str, openings: Mapping[str, str]) -> tuple[list[Gap], list[Gap]]:
    """Separates each gap after `prev` into the text before the usual opening of a message, and the rest."""
    groups: dict[tuple[str, ...], list[Gap]] = {}
    shared, others = [], []
    for gap in gaps:
        if gap.features["prev"] != prev:
            others.append(gap)
        elif gap.kind == "system":
            shared.append(replace(gap, text=""))
            others.append(gap)
        else:
            groups.setdefault(tuple(gap.features[name] for name in _OF_CONVERSATION), []).append(gap)
    for group in groups.values():
        common = _text_before_openings(group, openings)
        for gap in group:
            shared.append(replace(gap, text=common))
            others.append(replace(gap, text=gap.text[len(common) :]))
    return shared, others


def _text_before_openings(group: Sequence[Gap], openings: Mapping[str, str]) -> str:
    texts = {
        gap.text.removesuffix(openings[gap.kind]) if gap.text.endswith(openings.get(gap.kind, "\0")) else None
        for gap in group
    }
    common = texts.pop() if len(texts) == 1 else None
    if common is not None:
        return common
    has_several_kinds = len({gap.kind for gap in group}) > 1
    return _whole_markers(common_prefix([gap.text for gap in group])) if has_several_kinds else ""


def _common_header(texts: Sequence[str]) -> str:
    common = common_prefix(texts)
    return common if common in texts else _whole_markers(common)


def _observe(
    conversation: Conversation, slots: Sequence[Slot], end: str, scope: Scope
) -> tuple[list[Gap], list[_Presence]]:
    """The gaps of a rendering, and for each expected slot whether it is there."""
    conversation_features = {
        "tools": "yes" if conversation.tools else "no",
        "think": conversation.think,
        "system": "yes" if conversation.messages[0].role == "system" else "no",
    }
    gaps: list[Gap] = []
    presence: list[_Presence] = []
    remaining = list(slots)
    prev = "start"
    for kind, message_index, own_features in _expected_slots(conversation, scope):
        is_written = bool(remaining) and (remaining[0].kind, remaining[0].message_index) == (kind, message_index)
        features = conversation_features | own_features | {"prev": prev}
        presence.append((kind, Example(features, "yes" if is_written else "no")))
        if is_written:
            gaps.append(Gap(kind, features, remaining.pop(0).text))
            prev = kind
    if remaining:
        raise UnsupportedTemplate("it writes messages in another order, or more than once")
    gaps.append(Gap("end", conversation_features | {"prev": prev}, end))
    return gaps, presence


def _is_within_message(gap: Gap) -> bool:
    """Whether it is between the text and the calls of one message."""
    return gap.kind == "calls" and gap.features["prev"] == "assistant"


def _probes(scope: Scope) -> Iterable[tuple[str, int, str]]:
    """Shape, number of tools and `think` of each probing conversation."""
    plain: tuple[str, ...] = conversations.PLAIN
    with_calls: tuple[str, ...] = conversations.CALLS + conversations.PARALLEL_CALLS
    if scope.extras:
        plain += conversations.ASSISTANT_FIRST + conversations.THOUGHTS
        with_calls += conversations.THOUGHTS_AND_CALLS
    if scope.system_place == "elsewhere":
        plain = tuple(shape for shape in plain if "S" not in shape)
        with_calls = tuple(shape for shape in with_calls if "S" not in shape)
    if scope.late_system:
        plain += conversations.LATE_SYSTEM
    if scope.drops_calls:
        with_calls = tuple(shape for shape in with_calls if not set(shape) & set("CDRM"))
        with_calls += conversations.DROPPED_CALLS
    for think in ("", "on", "off") if scope.think else ("",):
        for tools in (0, 2) if scope.tools else (0,):
            for shape in plain + (with_calls if tools else ()):
                yield shape, tools, think


def _expected_slots(conversation: Conversation, scope: Scope) -> Iterable[tuple[str, int, dict[str, str]]]:
    """Kind, message index and features of the slots, in the order in which the template writes them."""
    messages = conversation.messages
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    first, last = (users[0], users[-1]) if users else (-1, -1)
    for index, message in enumerate(messages):
        features = message_features(index, first, last, len(messages), message)
        if scope.system_place == "last user" and index == last and messages[0].role == "system":
            yield "system", 0, features
        if message.role == "system" and scope.system_place == "last user":
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


def _learn_trees(examples: Iterable[tuple[str, Example]], scope: Scope) -> dict[str, Tree]:
    by_kind: dict[str, list[Example]] = {}
    for kind, example in examples:
        by_kind.setdefault(kind, []).append(example)
    try:
        return {kind: learn_tree(group, lenient=scope.lenient) for kind, group in by_kind.items()}
    except Contradiction as error:
        raise UnsupportedTemplate(
            "its text between two messages depends on more than their roles and positions"
        ) from error


def _whole_markers(text: str) -> str:
    """The text up to the last possible end of a marker, so that `<|im_start|>` is not cut after `<|im_`."""
    match = re.match(r".*[>\]\n]", text, re.DOTALL)
    return match[0] if match else ""


def find_system_place(slots: Sequence[Slot]) -> str:
    """Where the template writes a system message that comes first, by the order of the slots."""
    order = [slot.kind for slot in slots if slot.kind in ("system", "user", "assistant")]
    if "system" not in order:
        return "ignored"
    if order[0] == "system":
        return "in place"
    users = [at for at, kind in enumerate(order) if kind == "user"]
    if users and order.index("system") == users[-1] - 1:
        return "last user"
    return "elsewhere"
