"""With the opening comment, Ollama takes no chat template for one of its own, and renders it as without the comment."""

import json
import os
from pathlib import Path

import pytest

from proxy.chat.facts import TokenizerFacts
from proxy.chat.sandbox import Sandbox
from proxy.planning.modelfile import OPENING
from tests.chat import own_templates

DIFFERENT = 100
"""From this edit distance on, two templates are different for Ollama (template/template.go: Named)."""
LIKE_OLLAMAS = {**own_templates.PLAIN, **own_templates.CALLING}
"""Templates of the same styles as those of Ollama."""


def least_distance(opening: str, template: str) -> int:
    """The least edit distance between `template` and the opening with any text after it.

    The best alignment divides `template` into two parts, the first of which is aligned with the opening.
    """
    row = list(range(len(template) + 1))
    for index, letter in enumerate(opening, 1):
        above, row = row, [index]
        for n, other in enumerate(template, 1):
            row.append(min(above[n] + 1, row[-1] + 1, above[n - 1] + (letter != other)))
    return min(row)


def test_the_distance_is_that_of_the_best_continuation() -> None:
    assert least_distance("kitten", "sitting on it") == 2
    assert least_distance("abc", "xyz") == 3
    assert least_distance("", "abc") == 0


@pytest.mark.parametrize("name", LIKE_OLLAMAS)
def test_no_template_is_near_one_of_ollamas_styles(name: str) -> None:
    assert least_distance(OPENING, LIKE_OLLAMAS[name]) >= DIFFERENT


@pytest.mark.skipif("OLLAMA_SOURCE" not in os.environ, reason="OLLAMA_SOURCE names no folder with Ollama's source")
def test_no_template_is_near_one_of_ollamas() -> None:
    index = json.loads((Path(os.environ["OLLAMA_SOURCE"]) / "template" / "index.json").read_text())
    assert len(index) >= 37
    for entry in index:
        assert least_distance(OPENING, entry["template"]) >= DIFFERENT, entry["name"]


@pytest.mark.parametrize(
    "begin", ["", "\n", "  ", " \n\n", "\n  {% set x = 1 %}", "   {% set x = 1 %}\n", "\n {{- '!' }}"]
)
@pytest.mark.parametrize("rest", ["{% if true %}a{% endif %}", "a", "{{ 'a' }}"])
def test_the_opening_is_not_rendered(begin: str, rest: str) -> None:
    facts = TokenizerFacts()
    assert Sandbox(OPENING + begin + rest, facts).render([]) == Sandbox(begin + rest, facts).render([])
