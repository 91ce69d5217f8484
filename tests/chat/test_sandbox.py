"""The sandbox renders as transformers does."""

from typing import Any

import pytest

from proxy.chat.facts import TokenizerFacts
from proxy.chat.sandbox import Sandbox, Unrenderable

FACTS = TokenizerFacts(bos="<s>", eos=("</s>", "<|eos|>"), unk="<unk>", pad="<pad>")


def render(source: str, **variables: Any) -> str:
    return Sandbox(source, FACTS).render([{"role": "user", "content": "Hi"}], **variables)


def test_the_sandbox_is_set_up_as_in_transformers() -> None:
    assert render("  {% if true %}\nx\n  {% endif %}\ny") == "x\ny"
    assert render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"
    assert render("{{ {'b': 'é<', 'a': 1} | tojson }}") == '{"b": "é<", "a": 1}'
    assert render("{{ [1] | tojson(indent=2) }}") == "[\n  1\n]"
    assert render("{% generation %}{{ messages[0].content }}{% endgeneration %}") == "Hi"
    assert render("{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token }}") == "<s></s><unk><pad>"
    assert render("{{ add_generation_prompt }}{{ x }}", x=1) == "True1"


@pytest.mark.parametrize(
    "source",
    ["{{ raise_exception('no') }}", "{{ messages.append(1) }}", "{{ ''.__class__.x }}", "{{ 1 / 0 }}", "{{ x.y.z }}"],
)
def test_every_error_of_a_template_is_unrenderable(source: str) -> None:
    with pytest.raises(Unrenderable):
        render(source)


def test_dates_are_marked_part_by_part() -> None:
    sandbox = Sandbox("{{ strftime_now('%d %b %Y %-m') }}", FACTS)
    assert sandbox.render([], mark_dates=True) == "\ue004d\ue005 \ue004b\ue005 \ue004Y\ue005 \ue004-m\ue005"
    assert not sandbox.frozen_dates
