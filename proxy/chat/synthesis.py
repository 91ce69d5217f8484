"""Puts what was learned together as a program."""

import re
from collections.abc import Iterable

from proxy.chat.affixes import common_suffix
from proxy.chat.choices import Fork, Leaf, Tree, leaves, shortened
from proxy.chat.cutting import Block, Part
from proxy.chat.learning import Learned
from proxy.chat.program import All, AnyOf, DeadThinking, Each, If, Is, Node, Not, Out, Remember, Test, Text

_MARK = re.compile("\ue002(\\d+)\ue003|\ue004(-?\\w)\ue005")


def synthesise(learned: Learned, think_tags: tuple[str, str] | None) -> tuple[Node, ...]:
    return _Writer(learned, think_tags).program()


class _Writer:
    def __init__(self, learned: Learned, think_tags: tuple[str, str] | None) -> None:
        self._learned, self._tags = learned, think_tags
        self._scope = learned.scope

    def program(self) -> tuple[Node, ...]:
        roles = []
        if self._scope.place == "in place":
            roles.append(("system", self._slot("system", (Out("content"),))))
        roles += [("user", self._user()), ("assistant", self._assistant())]
        if self._scope.tools and self._learned.result:
            roles.append(("tool", self._slot("tool", tuple(map(_part, self._learned.result.parts)))))
        body: tuple[Node, ...] = ()
        for role, nodes in reversed(roles):
            body = (If(Is("role", (role,)), tuple(nodes), body),)
        head: tuple[Node, ...] = tuple(self._tree("head"))
        if self._scope.place == "head":
            head = (
                *head,
                If(Is("systems"), tuple(self._slot("system", (Out("system"),)))),
            )
        # A conversation that ends with the assistant is one that Ollama's users want continued.
        asked = All((Is("final"), Not(Is("role", ("assistant",)))))
        end = tuple(self._tree("end"))
        return (*head, Each("messages", (*body, If(asked, end)) if end else body))

    def _user(self) -> list[Node]:
        nodes: list[Node] = []
        place = self._scope.place
        if place == "last user":
            guard = All((Is("systems"), Is("position", ("last",))))
            nodes.append(If(guard, tuple(self._slot("system", (Out("system"),)))))
        own: tuple[Node, ...] = (Out("content"),)
        if place in ("refused", "elsewhere"):
            own = (If(All((Is("systems"), Is("first"))), (Out("system"), Text("\n\n"))), *own)
        return nodes + self._slot("user", own)

    def _assistant(self) -> list[Node]:
        learned = self._learned
        calling = self._scope.tools and not self._scope.drops_calls
        nodes = [*self._tree("header"), Remember("header")]
        nodes += self._thinking()
        content = self._slot("assistant", (Out("content"),), final=True)
        nodes += [If(AnyOf((Is("content"), Is("calls", ("no",)))), tuple(content))] if calling else content
        if calling:
            nodes += self._calls(learned)
        return nodes

    def _thinking(self) -> list[Node]:
        """Thoughts of the history, and what Ollama infers the tags from: text, `.Thinking` and text alone."""
        if self._tags is None:
            return []
        shows = self._learned.shows.get("thinking", Leaf("no"))
        if "yes" not in leaves(shows):
            return [DeadThinking(self._tags)]
        tree, ending = self._learned.gaps.get("thinking", Leaf("")), self._learned.after.get("thinking", "")
        opening = leaves(tree)[0] if isinstance(tree, Leaf) else ""
        body = (*self._tree("thinking"), Out("thinking"), Remember("thinking"), Text(ending))
        shown = _condition(shows)
        nodes: list[Node] = [If(All((Is("thinking"), shown)) if shown else Is("thinking"), body)]
        if (opening.strip(), ending.strip()) != self._tags:
            nodes.append(DeadThinking(self._tags))
        return nodes

    def _calls(self, learned: Learned) -> list[Node]:
        block, tree = learned.calls, learned.gaps.get("calls", Leaf(""))
        if block is None:
            return []
        opener = _common_suffix(tree)
        before = nodes_of(shortened(tree, opener), learned)
        ending = learned.after.get("calls", "")
        body = (Text(opener), self._each_call(block, opener, ending), Remember("calls"), Text(ending))
        return [*([If(Is("calls"), tuple(before))] if before else []), If(Is("called"), body)]

    def _each_call(self, block: Block, opener: str, ending: str) -> Each:
        separator = block.separator
        if separator is None:
            # The template takes one call a message: more are written one below the other.
            closed, opened = re.match(r'[\]}"]*', ending), re.search(r"\{?[^{}]*$", opener)
            separator = f"{closed[0] if closed else ''}\n{opened[0] if opened else ''}"
        return Each("calls", tuple(map(_part, block.parts)), separator)

    def _slot(self, kind: str, own: tuple[Node, ...], *, final: bool = False) -> list[Node]:
        ending: tuple[Node, ...] = (Text(self._learned.after.get(kind, "")),)
        if ending == (Text(""),):
            ending = ()
        elif final:
            goes_on = Is("final", ("no",))
            ending = (
                If(
                    All((goes_on, Is("calls", ("no",))))
                    if self._scope.tools and not self._scope.drops_calls
                    else goes_on,
                    ending,
                ),
            )
        if kind == "system":
            ending = (*ending, *self._tree("closer"))
        nodes = [*self._tree(kind), *own, Remember(kind), *ending]
        tree = self._learned.shows.get(kind, Leaf("yes"))
        if leaves(tree) == ["no"]:
            return []
        shown = _condition(tree)
        return [If(shown, tuple(nodes))] if shown else nodes

    def _tree(self, kind: str) -> list[Node]:
        return nodes_of(self._learned.gaps.get(kind, Leaf("")), self._learned)


def nodes_of(tree: Tree, learned: Learned) -> list[Node]:
    if isinstance(tree, Leaf):
        return list(_marked(tree.text, learned))
    suffix = _tidy(_common_suffix(tree))
    rest = shortened(tree, suffix)
    return [*(_choice(rest, learned) if isinstance(rest, Fork) else nodes_of(rest, learned)), *_marked(suffix, learned)]


def _choice(tree: Fork, learned: Learned) -> list[Node]:
    other = tuple(nodes_of(tree.other, learned))
    for values, branch in reversed(tree.branches):
        other = (If(Is(tree.feature, values), tuple(nodes_of(branch, learned)), other),)
    return list(other)


def _condition(tree: Tree) -> Test | None:
    """The test of a tree of yes and no; None where it is always yes."""
    if isinstance(tree, Leaf):
        return None
    tests: list[Test] = []
    earlier: list[Test] = []
    for values, branch in tree.branches:
        here = Is(tree.feature, values)
        earlier.append(Not(here))
        if leaves(branch) != ["no"]:
            inner = _condition(branch)
            tests.append(All((here, inner)) if inner else here)
    if leaves(tree.other) != ["no"]:
        inner = _condition(tree.other)
        tests.append(All((*earlier, inner) if inner else tuple(earlier)))
    return tests[0] if len(tests) == 1 else AnyOf(tuple(tests))


def _common_suffix(tree: Tree) -> str:
    suffix = common_suffix(leaves(tree))
    # Marks stand for what Ollama fills in and are not to be torn.
    torn = re.match("[^\ue002\ue004]*[\ue003\ue005]", suffix)
    return suffix[torn.end() :] if torn else suffix


def _tidy(suffix: str) -> str:
    """From where a marker or a word begins: people read these templates."""
    match = re.search(r"[<\[#\n]|(?<=\s)\S|\A\s", suffix)
    return suffix[match.start() :] if match else ""


def _marked(text: str, learned: Learned) -> Iterable[Node]:
    at = 0
    for match in _MARK.finditer(text):
        if match.start() > at:
            yield Text(text[at : match.start()])
        if match[1]:
            block = learned.tools[int(match[1])]
            yield Each("tools", tuple(map(_part, block.parts)), block.separator or "")
        else:
            yield Out(f"date:{match[2]}")
        at = match.end()
    if at < len(text):
        yield Text(text[at:])


def _part(part: Part) -> Node:
    return Out(part.field) if part.field else Text(part.text)
