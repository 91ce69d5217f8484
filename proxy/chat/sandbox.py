"""Renders a chat template as transformers does: its sandbox, filters, globals and whitespace rules."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from proxy.chat.facts import TokenizerFacts

# A Go template gets only the date from Ollama: it has no time of day and cannot compute weekdays.
_DAY_DIRECTIVES = "YymdBb"
_DIRECTIVE = re.compile(r"%(-?[A-Za-z%])")
_SHORTHAND = {"%F": "%Y-%m-%d", "%D": "%m/%d/%y", "%h": "%b"}


class Unrenderable(Exception):
    """The template refuses this conversation, or is broken."""


class _Generation(Extension):
    """`{% generation %}` marks the texts for training; it does not change the output."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def mark_date(form: str, now: datetime) -> tuple[str, bool]:
    """The date with a mark for each part that Ollama can fill in, and whether it can fill in all of them."""
    for short, long in _SHORTHAND.items():
        form = form.replace(short, long)
    complete = True

    def mark(match: re.Match[str]) -> str:
        nonlocal complete
        directive = match[1]
        if directive in _DAY_DIRECTIVES or directive in ("-d", "-m"):
            return f"\ue004{directive}\ue005"
        complete = complete and directive == "%"
        return now.strftime(match[0])

    return _DIRECTIVE.sub(mark, form), complete


class Sandbox:
    """One compiled template. `now` is the time that it writes; `filters` replace filters of Jinja.

    `results` is for renderers. `frozen_dates` is set when a rendering with marks contains a part of the date that
    Ollama cannot fill in. Raises Unrenderable if the template does not compile.
    """

    def __init__(
        self,
        source: str,
        facts: TokenizerFacts,
        *,
        now: datetime | None = None,
        filters: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
    ) -> None:
        self.source, self.bos = source, facts.bos
        self.now = now or datetime.now()  # noqa: DTZ005 - strftime_now is local time in transformers
        self.frozen_dates = False
        self.results: dict[Any, str | Unrenderable] = {}
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters |= {"tojson": _tojson, **filters}
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = self._strftime
        try:
            self._template = environment.from_string(source)
            self.variables = meta.find_undeclared_variables(environment.parse(source))
        except Exception as error:
            raise Unrenderable(f"it does not compile: {error}") from error
        self._tokens = {
            f"{name}_token": text
            for name, text in (
                ("bos", facts.bos),
                ("eos", facts.eos[0] if facts.eos else ""),
                ("unk", facts.unk),
                ("pad", facts.pad),
            )
            if text
        }

    def render(self, messages: list[dict[str, Any]], *, mark_dates: bool = False, **variables: Any) -> str:
        """With `mark_dates`, writes marks for the parts of the date that Ollama can fill in."""
        values: dict[str, Any] = {"add_generation_prompt": True} | variables
        if mark_dates:
            values["strftime_now"] = self._marked_strftime
        try:
            return str(self._template.render(messages=messages, **self._tokens, **values))
        except Exception as error:
            raise Unrenderable(str(error)) from error

    def _strftime(self, form: str) -> str:
        return self.now.strftime(form)

    def _marked_strftime(self, form: str) -> str:
        text, complete = mark_date(form, self.now)
        self.frozen_dates = self.frozen_dates or not complete
        return text
