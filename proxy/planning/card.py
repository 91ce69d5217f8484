"""The front matter of a model card (README.md). Pure.

It is read field by field, and not as YAML: a broken field does not take the others with it, and nobody can write one
that takes long to read.
"""

import re

FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)^---", re.DOTALL | re.MULTILINE)
FIELD = re.compile(r"^([A-Za-z][\w-]*)[ \t]*:(?=\s|\Z)", re.MULTILINE)
FIRST_ITEM = re.compile(r"\s*?^([ \t]*)-(?=\s)", re.MULTILINE)
FLOW_LIST = re.compile(r"\[([^\[\]{}]*)\]\s*(?:#[^\n]*)?\Z")
QUOTED = re.compile(r"""(?:"([^"\\]*)"|'((?:[^']|'')*)')\s*(?:#[^\n]*)?\Z""")
COMMENT = re.compile(r"(?:^|(?<=[ \t]))#.*")
NOTHING = ("", "~", "null", "Null", "NULL")
NOT_PLAIN = tuple("[]{}&*!|>%@`,?")

Card = dict[str, str | list[str]]


def read_card(readme: bytes) -> Card:
    """The fields that are a text or a list of texts; what is more than that is left out."""
    text = readme.decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
    front = FRONT_MATTER.match(text)
    _, *found = FIELD.split(front[1]) if front else [""]
    fields = {key: _value(content) for key, content in zip(found[::2], found[1::2], strict=True)}
    return {key: value for key, value in fields.items() if value is not None}


def _value(content: str) -> str | list[str] | None:
    lines = content.split("\n")
    text = "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if first := FIRST_ITEM.match(text):
        _, *items = re.split(rf"^{first[1]}-(?=\s)", text, flags=re.MULTILINE)
        return _texts(items)
    if flow := FLOW_LIST.match(text.strip()):
        return _texts(flow[1].split(","))
    return _text(text)


def _texts(items: list[str]) -> list[str]:
    return [text for text in map(_text, items) if text is not None]


def _text(written: str) -> str | None:
    """Quoted, folded over lines, or plain."""
    written = written.strip()
    if quoted := QUOTED.match(written):
        return " ".join((quoted[1] or (quoted[2] or "").replace("''", "'")).split("\n"))
    first, _, more = written.partition("\n")
    if first[:1] in (">", "|"):
        return (" " if first[0] == ">" else "\n").join(line.strip() for line in more.split("\n")) or None
    text = " ".join(COMMENT.sub("", line).strip() for line in written.split("\n")).strip()
    if text in NOTHING or text.startswith((*NOT_PLAIN, '"', "'")) or ": " in text or text.endswith(":"):
        return None
    return text
