"""Finds the chat template among the files of a repository, in the order of transformers 5.24. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from proxy.errors import Refusal
from proxy.gguf.header import GgufHeader
from proxy.planning.json_files import UPLOAD_AGAIN, json_object
from proxy.planning.weights import TOKENIZER_CONFIG, check_path
from proxy.sources.base import RepositoryFile

DEFAULT = "default"
"""The name of the template that counts if the caller names none."""
_OF_PROCESSOR = ("processor_config.json", "chat_template.json")
_FILE = re.compile(r"chat_template\.jinja|additional_chat_templates/(?P<name>[^/]+)\.jinja")
_Place = Mapping[str, tuple[str, str]]
"""The templates of one place: name to text and file."""


@dataclass(frozen=True, slots=True)
class FoundTemplate:
    """The chat template and the file that has it.

    `unchosen`: the names of the templates, if there are several and none of them is the default.
    """

    jinja: str | None = None
    source: str = "none"
    unchosen: tuple[str, ...] = ()


def template_files(repository: str, files: Iterable[RepositoryFile]) -> list[RepositoryFile]:
    """The files that may have a chat template, beside tokenizer_config.json. Raises Refusal for an unsafe path."""
    chosen = [file for file in files if file.size and (file.path in _OF_PROCESSOR or _FILE.fullmatch(file.path))]
    for file in chosen:
        check_path(repository, file.path)
    return chosen


def find_template(repository: str, contents: Mapping[str, bytes], tokenizer_config: Mapping[str, Any]) -> FoundTemplate:
    """First what a tokenizer of transformers reads, then what a processor reads. Raises Refusal.

    Without a default, transformers demands a name. There is no choice if only one template exists, so this one counts.
    """
    return _choose(_places(repository, contents, tokenizer_config))


def find_gguf_template(header: GgufHeader) -> FoundTemplate:
    """llama.cpp's converter writes each template but the default under its name. Raises GgufError."""
    key = "tokenizer.chat_template"
    texts = {DEFAULT: header.get(key, str)}
    texts |= {str(name): header.get(f"{key}.{name}", str) for name in header.get(f"{key}s", list) or ()}
    found = _choose([{name: (text, "gguf") for name, text in texts.items() if text}])
    return found if found.jinja else FoundTemplate(None, "gguf", found.unchosen)


def _choose(places: Iterable[_Place]) -> FoundTemplate:
    without_default: list[_Place] = []
    for place in places:
        if DEFAULT in place:
            return FoundTemplate(*place[DEFAULT])
        if place:
            without_default.append(place)
    if not without_default:
        return FoundTemplate()
    first = without_default[0]
    return FoundTemplate(*next(iter(first.values()))) if len(first) == 1 else FoundTemplate(unchosen=tuple(first))


def _places(repository: str, contents: Mapping[str, bytes], tokenizer_config: Mapping[str, Any]) -> Iterator[_Place]:
    yield dict(_of_files(repository, contents))
    yield _of_value(tokenizer_config.get("chat_template"), TOKENIZER_CONFIG)
    for path in _OF_PROCESSOR:
        if path in contents:
            yield _of_value(json_object(f"{repository}/{path}", contents[path]).get("chat_template"), path)


def _of_files(repository: str, contents: Mapping[str, bytes]) -> Iterator[tuple[str, tuple[str, str]]]:
    # chat_template.jinja comes first: a file with the name `default` replaces it.
    for path in sorted(contents, key=lambda path: ("/" in path, path)):
        match = _FILE.fullmatch(path)
        if match and contents[path].strip():
            try:
                yield match["name"] or DEFAULT, (contents[path].decode(), path)
            except UnicodeDecodeError as error:
                raise Refusal(f"{repository}/{path} is not UTF-8 text; {UPLOAD_AGAIN}") from error


def _of_value(value: Any, path: str) -> _Place:
    """A text, or several texts with names: an object, or in older files a list of {name, template}."""
    if isinstance(value, list):
        entries = [entry for entry in value if isinstance(entry, dict) and isinstance(entry.get("name"), str)]
        value = {entry["name"]: entry.get("template") for entry in entries}
    named = value if isinstance(value, dict) else {DEFAULT: value}
    return {name: (text, path) for name, text in named.items() if isinstance(text, str) and text}
