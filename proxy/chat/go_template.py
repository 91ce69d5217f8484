"""Writes a program as a Go template for Ollama."""

import re
from collections.abc import Iterator, Sequence

from proxy.chat.program import All, AnyOf, DeadThinking, Each, If, Insert, Is, Node, Not, Remember, Test, Text

_FIELDS = {
    "content": ".Content",
    "content_json": "json .Content",
    "thinking": ".Thinking",
    "system": "$.System",
    "name": ".Function.Name",
    "arguments": "json .Function.Arguments",
    "id": ".ID",
    "result_id": ".ToolCallID",
    "result_name": ".ToolName",
    # {{ . }} and {{ .Function }} print Go structs since 0.14.
    "tool": "json .",
    "function": "json .Function",
    "parameters": "json .Function.Parameters",
    "tool_name": ".Function.Name",
    "description": ".Function.Description",
}
_TESTS = {
    ("tools", "yes"): "$.Tools",
    ("tools", "no"): "not $.Tools",
    ("think", "on"): "$.Think",
    ("think", "off"): "and $.IsThinkSet (not $.Think)",
    ("think", ""): "not $.IsThinkSet",
    ("system", "yes"): 'eq (index $.Messages 0).Role "system"',
    ("system", "no"): 'ne (index $.Messages 0).Role "system"',
    ("systems", "yes"): "$.System",
    ("position", "last"): "eq $i $lastUser",
    ("position", "before"): "lt $i $lastUser",
    ("position", "after"): "gt $i $lastUser",
    ("first", "yes"): "eq $i $firstUser",
    ("first", "no"): "ne $i $firstUser",
    # Ollama takes the first text after `if .ToolCalls` as the opening tag of calls: other tests must look different.
    ("called", "yes"): ".ToolCalls",
    ("calls", "yes"): "$m.ToolCalls",
    ("calls", "no"): "not $m.ToolCalls",
    ("content", "yes"): ".Content",
    ("content", "no"): "not .Content",
    ("thinking", "yes"): ".Thinking",
    ("final", "yes"): "eq (len (slice $.Messages $i)) 1",
    ("final", "no"): "gt (len (slice $.Messages $i)) 1",
}
_VARIABLES = {"prev": "$prev", "role": ".Role"}
_OPPOSITE = {"yes": "no", "no": "yes"}
_DATES = {
    "Y": "{{ slice (currentDate) 0 4 }}",
    "y": "{{ slice (currentDate) 2 4 }}",
    "m": "{{ slice (currentDate) 5 7 }}",
    "d": "{{ slice (currentDate) 8 10 }}",
    "-m": '{{ if eq (slice (currentDate) 5 6) "1" }}1{{ end }}{{ slice (currentDate) 6 7 }}',
    "-d": (
        '{{ if ne (slice (currentDate) 8 9) "0" }}{{ slice (currentDate) 8 9 }}{{ end }}{{ slice (currentDate) 9 10 }}'
    ),
}
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_ISO_DATE = (Insert("date:Y"), Text("-"), Insert("date:m"), Text("-"), Insert("date:d"))


def write(program: Sequence[Node]) -> str:
    features = {test.feature for test in _tests(program)}
    return "".join((*_prelude(features), *_nodes(program, "prev" in features)))


def _prelude(features: set[str]) -> Iterator[str]:
    if "prev" in features:
        yield '{{ $prev := "start" }}'
    if "first" in features:
        yield (
            "{{ $firstUser := -1 }}{{ range $i, $m := .Messages }}"
            '{{ if and (eq .Role "user") (lt $firstUser 0) }}{{ $firstUser = $i }}{{ end }}{{ end }}'
        )
    if "position" in features:
        yield (
            "{{ $lastUser := -1 }}{{ range $i, $m := .Messages }}"
            '{{ if eq .Role "user" }}{{ $lastUser = $i }}{{ end }}{{ end }}'
        )


def _nodes(nodes: Sequence[Node], remembers: bool) -> Iterator[str]:
    """`remembers`: the program needs the variable `$prev`."""
    nodes = _join_texts(nodes)
    at = 0
    while at < len(nodes):
        node, after = nodes[at], nodes[at + 1] if at + 1 < len(nodes) else None
        at += 1
        if nodes[at - 1 : at + 4] == _ISO_DATE:
            yield "{{ currentDate }}"
            at += 4
        elif isinstance(node, Text) and isinstance(after, Each) and _ends_with_separator(node.text, after):
            yield literal(node.text.removesuffix(after.separator), before_action=True)
            yield "{{ range $.Tools }}" + literal(after.separator, before_action=True)
            yield from _nodes(after.body, remembers)
            yield "{{ end }}"
            at += 1
        else:
            yield from _node(node, remembers, is_last=after is None)


def _node(node: Node, remembers: bool, *, is_last: bool) -> Iterator[str]:
    match node:
        case Text(text):
            yield literal(text, before_action=not is_last)
        case Insert(field) if field.startswith("date:"):
            yield _date(field.removeprefix("date:"))
        case Insert(field):
            yield "{{ " + _FIELDS[field] + " }}"
        case If():
            yield from _if(node, remembers)
        case Remember(kind):
            yield f'{{{{ $prev = "{kind}" }}}}' if remembers else ""
        case Each():
            yield from _each(node, remembers)
        case DeadThinking((opening, closing)):
            yield "{{ if and .Thinking false }}" + literal(opening, before_action=True)
            yield "{{ .Thinking }}" + literal(closing, before_action=True) + "{{ end }}"


def _ends_with_separator(text: str, each: Each) -> bool:
    """Whether the separator of the tools is also before the first tool, so that it can be inside the loop."""
    return each.over == "tools" and bool(each.separator) and text.endswith(each.separator)


def _join_texts(nodes: Sequence[Node]) -> tuple[Node, ...]:
    joined: list[Node] = []
    for node in nodes:
        before = joined[-1] if joined else None
        if isinstance(node, Text) and isinstance(before, Text):
            joined[-1] = Text(before.text + node.text)
        elif node != Text(""):
            joined.append(node)
    return tuple(joined)


def _if(node: If, remembers: bool) -> Iterator[str]:
    keyword = "if"
    while True:
        if not node.then and node.other:
            node = If(Not(node.test), node.other)
        yield f"{{{{ {keyword} {expression(node.test)} }}}}"
        yield from _before_action(node.then, remembers)
        if len(node.other) != 1 or not isinstance(node.other[0], If):
            break
        node, keyword = node.other[0], "else if"
    if node.other:
        yield "{{ else }}"
        yield from _before_action(node.other, remembers)
    yield "{{ end }}"


def _before_action(nodes: Sequence[Node], remembers: bool) -> Iterator[str]:
    """Nodes before an action. If they end with a brace, it must not join the braces of the action."""
    inner = _join_texts(nodes)
    if inner and isinstance(inner[-1], Text):
        yield from _nodes(inner[:-1], remembers) if len(inner) > 1 else ()
        yield literal(inner[-1].text, before_action=True)
    else:
        yield from _nodes(inner, remembers)


def _each(node: Each, remembers: bool) -> Iterator[str]:
    if node.over == "messages":
        yield "{{ range $i, $m := .Messages }}"
    else:
        yield "{{ range $n, $one := " + {"calls": ".ToolCalls", "tools": "$.Tools"}[node.over] + " }}"
        if node.separator:
            yield "{{ if $n }}" + literal(node.separator, before_action=True) + "{{ end }}"
    yield from _before_action(node.body, remembers)
    yield "{{ end }}"


def _date(part: str) -> str:
    if part in _DATES:
        return _DATES[part]
    names = _MONTHS if part == "B" else [name[:3] for name in _MONTHS]
    branches = "{{ else ".join(
        f'if eq (slice (currentDate) 5 7) "{number:02}" }}}}{name}' for number, name in enumerate(names, 1)
    )
    return "{{ " + branches + "{{ end }}"


def literal(text: str, *, before_action: bool) -> str:
    """Plain text. If Go could read a brace as the start of an action, an action writes this brace."""
    text = re.sub(r"\{(?=\{)", '{{ "{" }}', text)
    if before_action and text.endswith("{"):
        text = text[:-1] + '{{ "{" }}'
    return text


def expression(test: Test) -> str:
    match test:
        case Is("prev" | "role" as feature, values):
            return " ".join(("eq", _VARIABLES[feature], *(f'"{value}"' for value in values)))
        case Is(feature, (value,)):
            return _TESTS[feature, value]
        case Is(feature, values):
            return expression(AnyOf(tuple(Is(feature, (value,)) for value in values)))
        case Not(Is("role" | "prev", (_,)) as inner):
            return expression(inner).replace("eq", "ne", 1)
        case Not(Is(feature, ("yes" | "no" as value,))) if (feature, _OPPOSITE[value]) in _TESTS:
            return _TESTS[feature, _OPPOSITE[value]]
        case Not(inner):
            return f"not {_operand(inner)}"
        case All((inner,)) | AnyOf((inner,)):
            return expression(inner)
        case All(tests):
            return "and " + " ".join(map(_operand, tests))
        case AnyOf(tests):
            return "or " + " ".join(map(_operand, tests))


def _operand(test: Test) -> str:
    text = expression(test)
    return f"({text})" if " " in text else text


def _tests(nodes: Sequence[Node]) -> Iterator[Is]:
    for node in nodes:
        match node:
            case If(test, then, other):
                yield from _atoms(test)
                yield from _tests(then)
                yield from _tests(other)
            case Each(_, body, _):
                yield from _tests(body)


def _atoms(test: Test) -> Iterator[Is]:
    match test:
        case Is():
            yield test
        case Not(inner):
            yield from _atoms(inner)
        case All(tests) | AnyOf(tests):
            for inner in tests:
                yield from _atoms(inner)
