"""The prober's process: no template, however broken or hostile, crashes or blocks it."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.chat.describe import describe
from proxy.chat.facts import ChatTemplate, TokenizerFacts
from proxy.chat.probe import Prober, probe
from tests.chat import own_templates

FACTS = TokenizerFacts(bos="<s>", eos=("</s>",))

HOSTILE = {
    "endless": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "endless for tools": own_templates.CHATML
    + "{% if tools %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}",
    "huge text": "{{ 'x' * 10**9 }}",
    "huge sum": "{{ ('x' * 10**8) ~ ('y' * 10**8) ~ ('z' * 10**8) ~ ('x' * 10**8) ~ ('y' * 10**8) ~ ('z' * 10**8) }}",
    "huge number": "{% set n = 10 ** 10 ** 8 %}{{ n }}",
    "huge output": "{% for m in messages %}{{ 'abc ' * 1000000 }}{{ m.content }}{% endfor %}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "unclosed": "{% if true %}" * 3000,
    "escape": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "format": "{{ '{0.__class__}'.format(messages) }}",
    "nul": "\0{{ messages[0].content }}",
    "surrogate": "\ud800{{ messages[0].content }}",
    "sentinels": "\ue0000u\ue001{{ messages[0].content }}",
    "half a sentinel": "{% for m in messages %}{{ m.content[:2] }}{% endfor %}",
    "backwards": "{% for m in messages %}{{ m.content | reverse }}{% endfor %}",
    "mutation": "{{ messages.append(messages) }}{{ messages }}",
    "empty": "",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_template_costs_seconds(name: str) -> None:
    prober = Prober()
    start = time.monotonic()
    chat = await prober.probe(HOSTILE[name], FACTS)
    assert time.monotonic() - start < 80, "wall-clock time on a busy machine; the processor time is 3 seconds"
    assert chat.warnings
    assert not chat.exact or name == "endless for tools"


async def test_the_worker_gives_the_description() -> None:
    chat = await probe(own_templates.TOOLS, FACTS)
    assert chat == describe(own_templates.TOOLS, FACTS)


async def test_the_cache_has_a_limited_size(monkeypatch: pytest.MonkeyPatch) -> None:
    prober = Prober(remembered=2)
    questions: list[bytes] = []

    async def ask(question: bytes) -> ChatTemplate:
        questions.append(question)
        return ChatTemplate()

    monkeypatch.setattr(prober, "_ask", ask)
    for source in "abacab":
        await prober.probe(source, FACTS)
    assert len(questions) == 4, "c replaces b, and then b replaces c"
    await prober.probe("b", TokenizerFacts())
    assert len(questions) == 5, "other facts are another question"


async def test_a_late_answer_is_not_cached() -> None:
    prober = Prober(seconds=0.0)
    for _ in range(2):
        assert (await prober.probe(own_templates.CHATML, FACTS)).warnings == (
            "the chat template takes too long to probe",
        )
    assert not prober._results


async def test_a_cancelled_caller_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[asyncio.subprocess.Process] = []
    create: Callable[..., object] = asyncio.create_subprocess_exec

    async def spy(*args: object, **options: object) -> asyncio.subprocess.Process:
        process = await create(*args, **options)  # type: ignore[misc]
        assert isinstance(process, asyncio.subprocess.Process)
        started.append(process)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spy)
    task = asyncio.create_task(Prober().probe(HOSTILE["endless"], FACTS))
    while not started:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert started[0].returncode is not None


async def test_a_worker_that_cannot_start_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.workers.processes.sys.executable", "/nowhere/python")
    chat = await Prober().probe(own_templates.CHATML, FACTS)
    assert "could not be probed" in chat.warnings[0]


def run_worker(source: str) -> subprocess.CompletedProcess[bytes]:
    question = json.dumps({"jinja": source, "facts": FACTS.as_json()}).encode()
    return subprocess.run(
        [sys.executable, "-m", "proxy.chat.template_worker"],
        input=question,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(not hasattr(signal, "SIGPROF"), reason="this platform has no such clock")
def test_the_worker_limits_its_processor_time() -> None:
    assert run_worker(HOSTILE["endless"]).returncode == -signal.SIGPROF


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_the_worker_has_a_memory_limit() -> None:
    answer = run_worker("{{ 'x' * 900000000 }}").stdout
    assert b"cannot be rendered" in answer


_FRAGMENTS = st.sampled_from(
    [
        "{% for m in messages %}", "{% endfor %}", "{{ m.content }}", "{{ m.role }}", "{% endif %}", "{% else %}",
        "{% if add_generation_prompt %}", "{% if loop.first %}", "{{ messages[-1].content }}", "{{ m.content | trim }}",
        "{{ m.tool_calls }}", "{% for t in tools %}", "{{ t | tojson }}", "{{ tools | tojson }}", "{{ bos_token }}",
        "{{ '{{' }}", "{%", "}}", "{#", "<|a|>", "\n", "</think>", "{{ enable_thinking }}", "{{ m.content * 3 }}",
        "{{ strftime_now('%d %Q %Y') }}", "{{ m.content[1:] }}", "{% set m = messages[0] %}", "\ue000", "é",
        "{{ m.reasoning_content }}",
    ]
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_FRAGMENTS, max_size=12).map("".join) | st.text(max_size=40))
def test_no_template_crashes_the_description(source: str) -> None:
    chat = describe(source, FACTS)
    assert chat.template or chat.warnings
    assert "\ue000" not in chat.template


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_FRAGMENTS, min_size=1, max_size=8).map("".join))
def test_every_go_template_parses(middle: str) -> None:
    gotpl = pytest.importorskip("gotpl")
    chat = describe("{% for m in messages %}<{{ m.role }}>{{ m.content }}" + middle + "{% endfor %}", FACTS)
    if chat.template:
        functions = {"json": str, "currentDate": lambda: "2031-03-05"}
        gotpl.Environment(functions=functions, missing_key="zero").from_string(chat.template)
