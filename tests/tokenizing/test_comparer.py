"""The comparison's process: no tokenizer.json, however broken or large, crashes or delays the server."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

import pytest

from proxy.tokenizing.comparer import Comparer, compare
from proxy.tokenizing.comparison import compare_tokenizers
from proxy.tokenizing.token_worker import build_question
from proxy.tokenizing.verdict import Verdict
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.writing import plan


def repository() -> tuple[Mapping[str, bytes], bytes]:
    files = REPOSITORIES["llama"].files()
    return files, plan(files).header


async def test_the_worker_gives_the_verdict_of_the_comparison() -> None:
    files, header = repository()
    assert await compare(files, header, "") == compare_tokenizers(files, header, "") == Verdict()
    other = plan(REPOSITORIES["qwen3"].files()).header
    verdict = await compare(files, other, "")
    assert verdict.refusal
    assert verdict == compare_tokenizers(files, other, "")


async def test_without_tokenizer_json_there_is_nothing_to_compare() -> None:
    assert await Comparer(seconds=0.0).compare({"tokenizer.model": b"x"}, b"", "") == Verdict()


async def test_tiktoken_model_is_compared() -> None:
    files = REPOSITORIES["kimi_k2"].files()
    header = plan(files).header
    assert await compare(files, header, "") == Verdict()
    (remark,) = (await compare({**files, "tokenization_kimi.py": b""}, header, "")).remarks
    assert "could not be compared" in remark
    assert "tokenization_kimi.py splits texts in an unknown way" in remark


async def test_results_are_cached_by_the_whole_question(monkeypatch: pytest.MonkeyPatch) -> None:
    comparer = Comparer(remembered=6)
    questions: list[Sequence[bytes]] = []

    async def ask(question: Sequence[bytes]) -> Verdict:
        questions.append(question)
        return Verdict(str(len(questions)))

    monkeypatch.setattr(comparer, "_ask", ask)
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
            assert (await comparer.compare(*case)).refusal == str(at + 1)
    await comparer.compare({**tokenizer, "model.safetensors": b"w"}, b"h", "")
    assert len(questions) == len(cases)


async def test_a_late_answer_is_a_remark_and_not_cached() -> None:
    comparer = Comparer(seconds=0.0)
    for _ in range(2):
        (remark,) = (await comparer.compare(*repository(), "")).remarks
        assert remark.endswith("could not be compared with the repository's: the comparison takes too long")
    assert not comparer._results


async def test_a_worker_that_cannot_start_is_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.workers.processes.sys.executable", "/nowhere/python")
    (remark,) = (await Comparer().compare(*repository(), "")).remarks
    assert "could not be compared" in remark


@pytest.mark.parametrize("tokenizer", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": null}', b"[" * 100_000])
async def test_a_broken_file_is_a_remark(tokenizer: bytes) -> None:
    (remark,) = (await Comparer().compare({"tokenizer.json": tokenizer}, repository()[1], "")).remarks
    assert "could not be compared" in remark


WORKER_WITH_LIMITS = "import sys, proxy.tokenizing.token_worker as w; w._SECONDS, w._MEMORY = {}; w.main()"


def run_worker(seconds: float, memory: int) -> subprocess.CompletedProcess[bytes]:
    question = b"".join(build_question(*repository(), ""))
    program = WORKER_WITH_LIMITS.format((seconds, memory))
    return subprocess.run([sys.executable, "-c", program], input=question, capture_output=True, timeout=60, check=False)


@pytest.mark.skipif(not hasattr(signal, "SIGPROF"), reason="this platform has no such clock")
def test_the_worker_ends_itself_at_its_cpu_time_limit() -> None:
    assert run_worker(0.001, 1 << 31).returncode == -signal.SIGPROF


def test_the_worker_answers_within_its_limits() -> None:
    ready, _, answer = run_worker(60.0, 1 << 31).stdout.partition(b"\n")
    assert ready == b"ready"
    assert Verdict.parse(json.loads(answer)) == Verdict()


async def test_a_missing_answer_is_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_answer(*_: object, **__: object) -> bytes:
        return b""

    monkeypatch.setattr("proxy.tokenizing.comparer.ask_worker", no_answer)
    (remark,) = (await Comparer().compare(*repository(), "")).remarks
    assert remark.endswith("the comparison takes too much time or memory")
