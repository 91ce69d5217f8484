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

# Ollama's templates know the day only: what is finer cannot be said, and weekdays cannot be computed.
_DAY_DIRECTIVES = "YymdBb"
_DIRECTIVE = re.compile(r"%(-?[A-Za-z%])")
_SHORTHAND = {"%F": "%Y-%m-%d", "%D": "%m/%d/%y", "%h": "%b"}


class Unrenderable(Exception):
    """The template refuses this conversation, or is broken."""


class _Generation(Extension):
    """`{% generation %}` marks what a model is trained on; it renders as if it were not there."""

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


def marked_date(form: str, now: datetime) -> tuple[str, bool]:
    """The date in this form with a mark for every part that Ollama can fill in, and whether that is all of them."""
    for short, long in _SHORTHAND.items():
        form = form.replace(short, long)
    whole = True

    def mark(match: re.Match[str]) -> str:
        nonlocal whole
        directive = match[1]
        if directive in _DAY_DIRECTIVES or directive in ("-d", "-m"):
            return f"\ue004{directive}\ue005"
        whole = whole and directive == "%"
        return now.strftime(match[0])

    return _DIRECTIVE.sub(mark, form), whole


class Sandbox:
    """One template. With `mark_dates` the output carries marks instead of the parts of today's date.

    `filters` stand in for those of Jinja.
    """

    def __init__(
        self, source: str, facts: TokenizerFacts, filters: Mapping[str, Callable[..., Any]] = MappingProxyType({})
    ) -> None:
        self.now = datetime.now()  # noqa: DTZ005 - strftime_now is local time in transformers
        self.mark_dates = False
        self.frozen_dates = False
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters |= {"tojson": _tojson, **filters}
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = self._strftime_now
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

    def render(self, messages: list[dict[str, Any]], **variables: Any) -> str:
        given: Mapping[str, Any] = {"add_generation_prompt": True} | variables
        try:
            return str(self._template.render(messages=messages, **self._tokens, **given))
        except Exception as error:
            raise Unrenderable(str(error)) from error

    def _strftime_now(self, form: str) -> str:
        if not self.mark_dates:
            return self.now.strftime(form)
        text, whole = marked_date(form, self.now)
        self.frozen_dates = self.frozen_dates or not whole
        return text
