"""The process around the comparison: no tokenizer.json, however broken or large, crashes the server or holds it up."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

import pytest

from proxy.tokenizing.compare import Comparer, compare
from proxy.tokenizing.comparison import compare as compare_here
from proxy.tokenizing.verdict import Verdict
from proxy.tokenizing.worker import question_of
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.writing import plan


def repository() -> tuple[Mapping[str, bytes], bytes]:
    files = REPOSITORIES["llama"].files()
    return files, plan(files).header


async def test_a_comparison_comes_through() -> None:
    files, header = repository()
    assert await compare(files, header, "") == compare_here(files, header, "") == Verdict()
    other = plan(REPOSITORIES["qwen3"].files()).header
    verdict = await compare(files, other, "")
    assert verdict.refused
    assert verdict == compare_here(files, other, "")


async def test_without_tokenizer_json_there_is_nothing_to_compare() -> None:
    assert await Comparer(seconds=0.0).compare({"tokenizer.model": b"x"}, b"", "") == Verdict()


async def test_results_are_remembered_by_all_that_goes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    comparer = Comparer(remembered=6)
    worked: list[Sequence[bytes]] = []

    async def work(question: Sequence[bytes]) -> Verdict:
        worked.append(question)
        return Verdict(str(len(worked)))

    monkeypatch.setattr(comparer, "_work", work)
    tokenizer = {"tokenizer.json": b"a"}
    cases = [
        (tokenizer, b"h", ""),
        (tokenizer, b"h", "sample"),
        (tokenizer, b"other", ""),
        ({"tokenizer.json": b"b"}, b"h", ""),
        ({**tokenizer, "tokenizer_config.json": b"c"}, b"h", ""),
        ({**tokenizer, "special_tokens_map.json": b"c"}, b"h", ""),
    ]
    for _ in range(2):
        for at, case in enumerate(cases):
            assert (await comparer.compare(*case)).refused == str(at + 1)
    await comparer.compare({**tokenizer, "model.safetensors": b"w"}, b"h", "")
    assert len(worked) == len(cases)


async def test_a_late_answer_is_said_and_not_remembered() -> None:
    comparer = Comparer(seconds=0.0)
    for _ in range(2):
        (remark,) = (await comparer.compare(*repository(), "")).remarks
        assert remark.endswith("could not be compared with tokenizer.json: it takes too long")
    assert not comparer._results


async def test_a_worker_that_cannot_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.workers.processes.sys.executable", "/nowhere/python")
    (remark,) = (await Comparer().compare(*repository(), "")).remarks
    assert "could not be compared" in remark


@pytest.mark.parametrize("tokenizer", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": null}', b"[" * 100_000])
async def test_a_broken_file_is_said(tokenizer: bytes) -> None:
    (remark,) = (await Comparer().compare({"tokenizer.json": tokenizer}, repository()[1], "")).remarks
    assert "could not be compared" in remark


WORKS = "import sys, proxy.tokenizing.worker as w; w._SECONDS, w._MEMORY = {}; w.main()"


def answered(seconds: float, memory: int) -> subprocess.CompletedProcess[bytes]:
    """By a worker with these limits."""
    question = b"".join(question_of(*repository(), ""))
    program = WORKS.format((seconds, memory))
    return subprocess.run([sys.executable, "-c", program], input=question, capture_output=True, timeout=60, check=False)


@pytest.mark.skipif(not hasattr(signal, "SIGPROF"), reason="this platform has no such clock")
def test_the_worker_ends_itself_after_its_time_of_the_processor() -> None:
    assert answered(0.001, 1 << 31).returncode == -signal.SIGPROF


def test_the_worker_answers_within_its_limits() -> None:
    ready, _, answer = answered(60.0, 1 << 31).stdout.partition(b"\n")
    assert ready == b"ready"
    assert Verdict.parse(json.loads(answer)) == Verdict()


async def test_an_answer_that_does_not_come_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object, **__: object) -> bytes:
        return b""

    monkeypatch.setattr("proxy.tokenizing.compare.ask_worker", nothing)
    (remark,) = (await Comparer().compare(*repository(), "")).remarks
    assert remark.endswith("it takes too much time or memory")
