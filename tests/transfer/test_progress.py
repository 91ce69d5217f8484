"""The lines of a pull: totals first, never too many, never backwards, never silent."""

import asyncio
import json
from typing import Any

import pytest
from wcwidth import wcswidth

from proxy.transfer.progress import MAX_BARS, MAX_COLUMNS, NOTHING_DIGEST, BlobProgress, Line, Progress


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


async def read(progress: Progress) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    subscription = progress.subscribe()
    async for batch in subscription.batches():
        lines += [json.loads(line) for line in batch.splitlines()]
    return lines


async def test_a_late_client_first_gets_the_state_of_every_bar() -> None:
    progress = Progress()
    progress.status("pulling manifest")
    progress.announce([(digest(1), 100, 0), (digest(2), 50, 50)])
    progress.moved(digest(1), 30)
    reader = asyncio.create_task(read(progress))
    await asyncio.sleep(0)
    progress.success()
    assert await reader == [
        {"status": "pulling manifest"},
        {"status": "pulling 000000000000", "digest": digest(1), "total": 100, "completed": 30},
        {"status": "pulling 000000000000", "digest": digest(2), "total": 50, "completed": 50},
        {"status": "success"},
    ]


async def test_a_zero_is_omitted_as_ollama_does() -> None:
    progress = Progress()
    progress.announce([(digest(1), 100, 0)])
    progress.fail("broken")
    lines = await read(progress)
    assert lines == [{"status": "pulling 000000000000", "digest": digest(1), "total": 100}, {"error": "broken"}]


def rows(text: str) -> list[str]:
    return [row.status for row in Line(text).rows()]


def test_a_status_too_long_for_a_terminal_is_several_lines() -> None:
    fits = "a" * MAX_COLUMNS
    assert rows(fits) == [fits]
    assert rows(f"{fits}b") == [fits, "b"]
    text = "warning: " + "Qwen3-Coder says 'hello'; " * 10
    assert " ".join(rows(text)) == text.strip()
    assert all(len(row) <= MAX_COLUMNS for row in rows(text))
    assert not any(row.endswith("-") for row in rows(text))


@pytest.mark.parametrize("text", ["模板不能用" * 20, "<｜User｜> is unknown; " * 5], ids=["chinese", "deepseek"])
def test_wide_characters_take_two_columns(text: str) -> None:
    assert all(wcswidth(row) <= MAX_COLUMNS for row in rows(text))
    assert "".join(rows(text)).replace(" ", "") == text.replace(" ", "")


async def test_the_error_is_the_last_line() -> None:
    progress = Progress()
    reader = asyncio.create_task(read(progress))
    await asyncio.sleep(0)
    progress.status("pulling manifest")
    progress.fail("what happened")
    assert await reader == [{"status": "pulling manifest"}, {"error": "what happened"}]


async def test_nothing_comes_after_the_end() -> None:
    """A cancelled pull may still finish its model, and report progress."""
    progress = Progress()
    progress.announce([(digest(1), 100, 0)])
    reader = asyncio.create_task(read(progress))
    await asyncio.sleep(0)
    progress.fail("what happened")
    progress.status("writing manifest")
    progress.moved(digest(1), 30)
    assert (await reader)[-1] == {"error": "what happened"}
    assert (await read(progress))[-1] == {"error": "what happened"}


async def test_more_files_than_bars_share_the_last_bar() -> None:
    progress = Progress()
    progress.announce([(digest(number), 10, 10 * (number == 19)) for number in range(20)])
    for number in range(20):
        progress.moved(digest(number), 0 if number == 19 else 10)
    reader = asyncio.create_task(read(progress))
    await asyncio.sleep(0)
    progress.success()
    bars = [line for line in await reader if "digest" in line]
    assert len(bars) == MAX_BARS
    assert {line["total"] for line in bars[:-1]} == {10}
    assert bars[-1]["total"] == bars[-1]["completed"] == 50


async def test_completed_stays_within_the_total() -> None:
    """Small files move without a bar."""
    progress = Progress()
    progress.announce([(digest(1), 100, 0)])
    progress.moved(digest(1), 150)
    progress.moved(digest(2), 10)
    reader = asyncio.create_task(read(progress))
    await asyncio.sleep(0)
    progress.success()
    assert [(line["digest"], line["total"], line["completed"]) for line in await reader if "digest" in line] == [
        (digest(1), 100, 100)
    ]


async def test_a_bar_has_at_most_one_line_in_60_ms(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    progress = Progress()

    async def nap(seconds: float) -> None:
        naps.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", nap)
    progress.announce([(digest(1), 1000, 0)])
    subscription = progress.subscribe()
    batches = []
    async for batch in subscription.batches():
        batches.append([json.loads(line) for line in batch.splitlines()])
        for _ in range(100):
            progress.moved(digest(1), 1)
        if len(batches) == 3:
            progress.success()
        if len(batches) == 4:
            break
    assert all(len([line for line in batch if "digest" in line]) <= 1 for batch in batches)
    assert naps == [0.06] * 3


async def test_a_silence_is_filled_with_the_newest_bar() -> None:
    progress = Progress(keep_alive=0.01)
    progress.announce([(digest(1), 100, 0), (digest(2), 100, 0)])
    progress.moved(digest(2), 40)
    progress.status("verifying sha256 digest")
    batches = progress.subscribe().batches()
    await anext(batches)
    expected = {"status": "pulling 000000000000", "digest": digest(2), "total": 100, "completed": 40}
    assert [json.loads(await anext(batches)) for _ in range(2)] == [expected, expected]


async def test_a_silence_before_the_first_bar_has_a_line_too() -> None:
    progress = Progress(keep_alive=0.01)
    progress.status("pulling manifest")
    batches = progress.subscribe().batches()
    await anext(batches)
    line = json.loads(await anext(batches))
    assert line == {"status": "pulling e3b0c44298fc", "digest": NOTHING_DIGEST, "total": 1, "completed": 1}


async def test_a_pull_can_end_without_a_line() -> None:
    """Before its first line, Ollama may have to answer instead."""
    progress = Progress()
    reader = asyncio.create_task(read(progress))
    await asyncio.sleep(0)
    progress.end_silently()
    assert await reader == []


def completed(progress: Progress) -> dict[str, int]:
    return {digest: line.completed for digest, line in progress._bars.items()}


def test_bars_follow_the_bytes_of_their_files_both_ways() -> None:
    """They fill in the order of the stretches, and empty when bytes are taken back."""
    progress = Progress()
    first, second = digest(1), digest(2)
    progress.announce([(first, 60, 0), (second, 40, 0)])
    blob = BlobProgress(progress, [(first, 10, 10), (second, 20, 20), (first, 50, 50), (second, 20, 20)])
    seen = []
    for size in (5, 15, 20, 60, -100, 35, 0, 65):
        blob.moved(size)
        seen.append(completed(progress))
    assert [(bars[first], bars[second]) for bars in seen] == [
        (5, 0),
        (10, 10),
        (20, 20),
        (60, 40),
        (0, 0),
        (15, 20),
        (15, 20),
        (60, 40),
    ]


def test_a_bar_counts_bytes_of_its_file_and_not_of_the_blob() -> None:
    """7 bytes of the first file become 3 bytes of the blob, 10 bytes of the second become 30."""
    progress = Progress()
    first, second = digest(1), digest(2)
    progress.announce([(first, 7, 0), (second, 10, 0)])
    blob = BlobProgress(progress, [(first, 3, 7), (second, 30, 10)])
    seen = []
    for size in (1, 1, 1, 14, 1, 15, -33, 33):
        blob.moved(size)
        seen.append(completed(progress))
    assert [(bars[first], bars[second]) for bars in seen] == [
        (2, 0),
        (4, 0),
        (7, 0),
        (7, 4),
        (7, 5),
        (7, 10),
        (0, 0),
        (7, 10),
    ]


def test_files_that_share_a_bar_have_their_own_progress() -> None:
    progress = Progress()
    progress.name_files({digest(number): f"part-{number}" for number in range(19)})
    progress.announce([(digest(number), 10, 10 * (number == 19)) for number in range(20)])
    progress.moved(digest(18), 7)
    progress.moved(digest(18), -3)
    progress.moved(digest(17), 99)
    parts = [(file.path, file.total, file.completed) for file in progress.files]
    assert parts[:17] == [(f"part-{number}", 10, 0) for number in range(17)]
    assert parts[17:] == [("part-17", 10, 10), ("part-18", 10, 4), ("", 10, 10)]


def test_the_latest_status_is_kept() -> None:
    progress = Progress()
    assert progress.latest_status == ""
    progress.status("pulling manifest")
    progress.announce([(digest(1), 100, 0)])
    progress.moved(digest(1), 30)
    assert progress.latest_status == "pulling manifest"
    progress.status("writing manifest")
    assert progress.latest_status == "writing manifest"
