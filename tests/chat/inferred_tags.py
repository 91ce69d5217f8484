"""Infers from a Go template what Ollama infers: the thinking tags and the opening tag of calls."""

import re

_PIECE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
Node = tuple[str, str, list["Node"], list["Node"]]


def tree(template: str) -> list[Node]:
    """The nodes (kind, text or pipeline, body, else) of a template by `go_template.write`: no comments, no trims."""
    pieces = _PIECE.split(template)
    stack: list[tuple[list[Node], int]] = []
    root: list[Node] = []
    here = root
    for n, piece in enumerate(pieces):
        if n % 2 == 0:
            if piece:
                here.append(("text", piece, [], []))
            continue
        word = piece.strip()
        if word.startswith(("if ", "range ")):
            node: Node = (word.split()[0], word, [], [])
            here.append(node)
            stack.append((here, 1))
            here = node[2]
        elif word.startswith("else if "):
            inner: Node = ("if", word.removeprefix("else "), [], [])
            outer, depth = stack.pop()
            outer_node = _last_open(outer, depth)
            outer_node[3].append(inner)
            stack.append((outer, depth + 1))
            here = inner[2]
        elif word == "else":
            here = _last_open(*stack[-1])[3]
        elif word == "end":
            here, _ = stack.pop()
        else:
            here.append(("action", word, [], []))
    assert not stack
    return root


def _last_open(nodes: list[Node], depth: int) -> Node:
    node = nodes[-1]
    for _ in range(depth - 1):
        node = node[3][-1]
    return node


def thinking_tags(nodes: list[Node], tags: tuple[str, str] = ("", "")) -> tuple[str, str]:
    for kind, text, body, other in nodes:
        if kind != "text" and re.search(r"(?<![$\w])\.Thinking", text):
            first, last = nodes[0], nodes[-1]
            tags = (
                first[1].strip() if first[0] == "text" else tags[0],
                last[1].strip() if last[0] == "text" else tags[1],
            )
        tags = thinking_tags(other, thinking_tags(body, tags))
    return tags


def call_tag(nodes: list[Node]) -> str:
    calls = _call_node(nodes)
    text = _first_text(calls[2]) if calls else None
    return (text or "").split("{")[0].strip() or "{"


def _call_node(nodes: list[Node]) -> Node | None:
    for node in nodes:
        if node[0] == "if" and re.search(r"(?<![$\w])\.ToolCalls", node[1]):
            return node
        inner = _call_node(node[2]) or _call_node(node[3])
        if inner:
            return inner
    return None


def _first_text(nodes: list[Node]) -> str | None:
    for kind, text, body, other in nodes:
        if kind == "text" and text.strip():
            return text
        if kind == "action":
            return None
        if kind in ("if", "range"):
            return _first_text(body) or _first_text(other)
    return None
