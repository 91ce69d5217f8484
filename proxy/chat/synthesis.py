"""Builds a program from a learned chat format."""

import re
from collections.abc import Iterable

from proxy.chat.affixes import common_suffix
from proxy.chat.decision_tree import Fork, Leaf, Tree, leaves, strip_suffix
from proxy.chat.learner import ChatFormat
from proxy.chat.program import All, AnyOf, DeadThinking, Each, If, Insert, Is, Node, Not, Remember, Test, Text
from proxy.chat.segmentation import Block, Part

_MARK = re.compile("\ue002(\\d+)\ue003|\ue004(-?\\w)\ue005")


def synthesize(chat_format: ChatFormat, think_tags: tuple[str, str] | None) -> tuple[Node, ...]:
    return _Builder(chat_format, think_tags).program()


class _Builder:
    def __init__(self, chat_format: ChatFormat, think_tags: tuple[str, str] | None) -> None:
        self._format, self._tags = chat_format, think_tags
        self._scope = chat_format.scope
        self._writes_calls = self._scope.tools and not self._scope.drops_calls

    def program(self) -> tuple[Node, ...]:
        roles = []
        if self._scope.system_place == "in place":
            roles.append(("system", self._slot("system", (Insert("content"),))))
        roles += [("user", self._user()), ("assistant", self._assistant())]
        if self._scope.tools and self._format.result:
            roles.append(("tool", self._slot("tool", tuple(map(_part, self._format.result.parts)))))
        body: tuple[Node, ...] = ()
        for role, nodes in reversed(roles):
            body = (If(Is("role", (role,)), tuple(nodes), body),)
        head: tuple[Node, ...] = tuple(self._tree("head"))
        if self._scope.system_place == "head":
            head = (*head, If(Is("systems"), tuple(self._slot("system", (Insert("system"),)))))
        # If the last message is the assistant's, Ollama's users want the model to continue it.
        awaits_answer = All((Is("final"), Not(Is("role", ("assistant",)))))
        end = tuple(self._tree("end"))
        return (*head, Each("messages", (*body, If(awaits_answer, end)) if end else body))

    def _user(self) -> list[Node]:
        nodes: list[Node] = []
        system_place = self._scope.system_place
        if system_place == "last user":
            guard = All((Is("systems"), Is("position", ("last",))))
            nodes.append(If(guard, tuple(self._slot("system", (Insert("system"),)))))
        content: tuple[Node, ...] = (Insert("content"),)
        if system_place in ("refused", "elsewhere"):
            content = (If(All((Is("systems"), Is("first"))), (Insert("system"), Text("\n\n"))), *content)
        return nodes + self._slot("user", content)

    def _assistant(self) -> list[Node]:
        nodes = [*self._tree("header"), Remember("header"), *self._thinking()]
        content = self._slot("assistant", (Insert("content"),), is_answer=True)
        if not self._writes_calls:
            return nodes + content
        return [*nodes, If(AnyOf((Is("content"), Is("calls", ("no",)))), tuple(content)), *self._calls()]

    def _thinking(self) -> list[Node]:
        """Writes the thoughts of the history. Ollama infers the tags from the texts around `.Thinking`."""
        if self._tags is None:
            return []
        presence = self._format.presence.get("thinking", Leaf("no"))
        if "yes" not in leaves(presence):
            return [DeadThinking(self._tags)]
        tree, ending = self._format.gaps.get("thinking", Leaf("")), self._format.endings.get("thinking", "")
        opening = leaves(tree)[0] if isinstance(tree, Leaf) else ""
        body = (*self._tree("thinking"), Insert("thinking"), Remember("thinking"), Text(ending))
        condition = _condition(presence)
        nodes: list[Node] = [If(All((Is("thinking"), condition)) if condition else Is("thinking"), body)]
        if (opening.strip(), ending.strip()) != self._tags:
            nodes.append(DeadThinking(self._tags))
        return nodes

    def _calls(self) -> list[Node]:
        block, tree = self._format.calls, self._format.gaps.get("calls", Leaf(""))
        if block is None:
            return []
        opener = _common_suffix(tree)
        before = nodes_of(strip_suffix(tree, opener), self._format)
        ending = self._format.endings.get("calls", "")
        body = (Text(opener), self._each_call(block, opener, ending), Remember("calls"), Text(ending))
        return [*([If(Is("calls"), tuple(before))] if before else []), If(Is("called"), body)]

    def _each_call(self, block: Block, opener: str, ending: str) -> Each:
        separator = block.separator
        if separator is None:
            # The template accepts one call per message. The program writes more calls one below the other.
            closing, opening = re.match(r'[\]}"]*', ending), re.search(r"\{?[^{}]*$", opener)
            separator = f"{closing[0] if closing else ''}\n{opening[0] if opening else ''}"
        return Each("calls", tuple(map(_part, block.parts)), separator)

    def _slot(self, kind: str, content: tuple[Node, ...], *, is_answer: bool = False) -> list[Node]:
        """`is_answer`: no ending after the last message, which the model may continue."""
        text = self._format.endings.get(kind, "")
        ending: tuple[Node, ...] = (Text(text),) if text else ()
        if ending and is_answer:
            goes_on = Is("final", ("no",))
            ending = (If(All((goes_on, Is("calls", ("no",)))) if self._writes_calls else goes_on, ending),)
        if kind == "system":
            ending = (*ending, *self._tree("closer"))
        nodes = [*self._tree(kind), *content, Remember(kind), *ending]
        presence = self._format.presence.get(kind, Leaf("yes"))
        if leaves(presence) == ["no"]:
            return []
        condition = _condition(presence)
        return [If(condition, tuple(nodes))] if condition else nodes

    def _tree(self, kind: str) -> list[Node]:
        return nodes_of(self._format.gaps.get(kind, Leaf("")), self._format)


def nodes_of(tree: Tree, chat_format: ChatFormat) -> list[Node]:
    """The nodes that write the text of the right leaf. The common suffix of all leaves is written once."""
    if isinstance(tree, Leaf):
        return list(_replace_marks(tree.text, chat_format))
    suffix = _from_word_start(_common_suffix(tree))
    rest = strip_suffix(tree, suffix)
    nodes = _if_chain(rest, chat_format) if isinstance(rest, Fork) else nodes_of(rest, chat_format)
    return [*nodes, *_replace_marks(suffix, chat_format)]


def _if_chain(tree: Fork, chat_format: ChatFormat) -> list[Node]:
    other = tuple(nodes_of(tree.other, chat_format))
    for values, branch in reversed(tree.branches):
        other = (If(Is(tree.feature, values), tuple(nodes_of(branch, chat_format)), other),)
    return list(other)


def _condition(tree: Tree) -> Test | None:
    """The test for a tree with the leaves "yes" and "no"; None if it is always "yes"."""
    if isinstance(tree, Leaf):
        return None
    tests: list[Test] = []
    earlier: list[Test] = []
    for values, branch in tree.branches:
        test = Is(tree.feature, values)
        earlier.append(Not(test))
        if leaves(branch) != ["no"]:
            inner = _condition(branch)
            tests.append(All((test, inner)) if inner else test)
    if leaves(tree.other) != ["no"]:
        inner = _condition(tree.other)
        tests.append(All((*earlier, inner) if inner else tuple(earlier)))
    return tests[0] if len(tests) == 1 else AnyOf(tuple(tests))


def _common_suffix(tree: Tree) -> str:
    suffix = common_suffix(leaves(tree))
    # A mark stands for a value from Ollama and must stay whole.
    partial_mark = re.match("[^\ue002\ue004]*[\ue003\ue005]", suffix)
    return suffix[partial_mark.end() :] if partial_mark else suffix


def _from_word_start(suffix: str) -> str:
    """The suffix from the start of a marker or a word, because people read these templates."""
    match = re.search(r"[<\[#\n]|(?<=\s)\S|\A\s", suffix)
    return suffix[match.start() :] if match else ""


def _replace_marks(text: str, chat_format: ChatFormat) -> Iterable[Node]:
    at = 0
    for match in _MARK.finditer(text):
        if match.start() > at:
            yield Text(text[at : match.start()])
        if match[1]:
            block = chat_format.tools[int(match[1])]
            yield Each("tools", tuple(map(_part, block.parts)), block.separator or "")
        else:
            yield Insert(f"date:{match[2]}")
        at = match.end()
    if at < len(text):
        yield Text(text[at:])


def _part(part: Part) -> Node:
    return Insert(part.field) if part.field else Text(part.text)
