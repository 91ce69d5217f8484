"""The front matter of a model card (README.md): YAML that a stranger wrote. Pure.

Each field is parsed alone and only when it is asked for: a broken field does not hide the others, and a card of any
size costs no more than the fields that are read. Only texts and lists of texts count. They are taken from the nodes of
the YAML, before PyYAML turns them into Python values: the version 1.10 and the language `no` stay texts.
"""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yaml import Node

FRONT_MATTER = re.compile(r"\A---\n(.*?)^---", re.DOTALL | re.MULTILINE)
FIELD = re.compile(r"^([A-Za-z][\w-]*)[ \t]*:(?=\s|\Z)", re.MULTILINE)
MAX_FIELD_LENGTH = 16 * 1024
"""Characters. A longer field is an evaluation table, not a text; PyYAML reads about 100,000 characters a second."""
MAX_BRACKETS = 100
"""Opening brackets in one field: PyYAML needs quadratic time for nested ones."""
NULL = "tag:yaml.org,2002:null"
SURROGATE = re.compile("[\ud800-\udfff]")

CardValue = str | list[str]


class ModelCard(Mapping[str, CardValue]):
    """The fields of a card that are a text or a list of texts; of a list, the items that are texts."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields

    def __getitem__(self, key: str) -> CardValue:
        value = _parse_field(self._fields[key])
        if value is None:
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._fields if key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def read_card(readme: bytes) -> ModelCard:
    # PyYAML refuses a tab at the end of a line.
    text = "\n".join(line.rstrip() for line in readme.decode("utf-8-sig", errors="replace").split("\n"))
    front_matter = FRONT_MATTER.match(text)
    if front_matter is None:
        return ModelCard({})
    yaml_text = front_matter[1]
    starts = [(match[1], match.start()) for match in FIELD.finditer(yaml_text)]
    ends = [*(start for _, start in starts[1:]), len(yaml_text)]
    return ModelCard({key: yaml_text[start:end] for (key, start), end in zip(starts, ends, strict=False)})


def _parse_field(yaml_text: str) -> CardValue | None:
    """The value of the first key in `yaml_text`. A quoted key may follow: FIELD does not find those."""
    import yaml  # 20 ms, which not every start of the proxy needs

    if len(yaml_text) > MAX_FIELD_LENGTH or len(re.findall(r"[\[{]", yaml_text)) > MAX_BRACKETS:
        return None
    try:
        mapping = yaml.compose(yaml_text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        # PyYAML raises ValueError and OverflowError for escapes that are not characters, such as "\UFFFFFFFF".
        return None
    if not isinstance(mapping, yaml.MappingNode):
        return None
    _, node = mapping.value[0]
    if isinstance(node, yaml.SequenceNode):
        return [text for item in node.value if (text := _text_of(item)) is not None]
    return _text_of(node)


def _text_of(node: "Node") -> str | None:
    from yaml import ScalarNode

    if not isinstance(node, ScalarNode) or node.tag == NULL or SURROGATE.search(node.value):
        return None
    return str(node.value).strip()
