"""Pulls as a user sees them: Ollama's own command line in a terminal."""

import json
import re
import signal
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from proxy.app import App
from proxy.config.sections import Config
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.tiny_llama import tiny_llama
from proxy.transfer.progress import MAX_BARS, Line
from tests.kit.real_ollama import RealOllama
from tests.kit.support import NO_TEMPLATE, Client, fetched, settings
from tests.kit.terminal import CTRL_C, ROWS, Terminal, in_terminal
from tests.kit.tiny_models import tiny_parrot
from tests.real.test_lifecycle import larger_llama

pytestmark = pytest.mark.timeout(300)

Files = Mapping[str, bytes | Path]

SLOW = 400_000
NARROW = 62  # Ollama's bars need at least 61 columns
BAR = re.compile(r"(pulling [0-9a-f]{12}): +(\d+)% ▕█* *▏ +[.\d]+ [KMG]?B(/ *[.\d]+ [KMG]?B.*)?")
SPINNER = re.compile(r"(.*?)(?: [⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏])?")
ENDS = ["verifying sha256 digest", "writing manifest"]
REMOVING = "removing unused layers"
"""Only if no other test has left the small blob with which a proxy finds out how Ollama keeps blobs."""


class Case(NamedTuple):
    """A terminal and a repository to pull."""

    shards: int
    columns: int = 80
    above: int = 0
    chats: bool = True


CASES = [
    Case(1),
    Case(1, above=ROWS),
    Case(1, columns=NARROW, chats=False),
    Case(30),
    Case(30, above=ROWS),
    Case(30, columns=NARROW),
    Case(30, columns=120),
    Case(30, chats=False),
]


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Files]:
    """The repositories by their number of shards."""
    return {1: tiny_llama(), 30: larger_llama(tmp_path_factory.mktemp("large") / "files", hidden=256, shards=30)}


def without_template(files: Files) -> Files:
    tokenizer = files["tokenizer_config.json"]
    assert isinstance(tokenizer, bytes)
    fields = json.loads(tokenizer)
    del fields["chat_template"]
    return {**files, "tokenizer_config.json": json.dumps(fields).encode()}


def config(hub: StandInHub, ollama: RealOllama) -> Config:
    return settings(hub.endpoint, ollama.url, ollama={"reclaim": True})


def typed(
    ollama: RealOllama, app: App, *arguments: str, columns: int = 80, above: int = 0
) -> AbstractAsyncContextManager[Terminal]:
    environment = ollama.environment(app.address.url) | {"TERM": "xterm-256color"}
    return in_terminal([ollama.binary, *arguments], environment, columns=columns, above=above)


def named(row: str) -> str:
    """The text of a row without its bar or spinner."""
    found = BAR.fullmatch(row) or SPINNER.fullmatch(row)
    assert found is not None
    return found[1]


def reached(rows: list[str]) -> dict[str, int]:
    """The percentages of the bars."""
    return {found[1]: int(found[2]) for row in rows if (found := BAR.fullmatch(row))}


def is_moving(rows: list[str]) -> bool:
    return any(0 < percent < 100 for percent in reached(rows).values())


def steady(terminal: Terminal) -> list[str]:
    """The texts of all rows in their order. Fails if a row wraps, changes its text, moves, or if a bar shrinks."""
    assert terminal.screen.wrapped == []
    assert terminal.screen.unknown == []
    assert not terminal.screen.cursor.hidden
    frames = [frame for frame in terminal.frames if frame]
    order = list(dict.fromkeys(named(row) for frame in frames for row in frame))
    percents: dict[str, int] = {}
    for frame in frames:
        assert all(row.isprintable() for row in frame)
        first = order.index(named(frame[0]))
        assert [named(row) for row in frame] == order[first : first + len(frame)]
        assert first == 0 or len(frame) >= ROWS - 1, frame
        assert len({(row.index("▕"), row.index("▏")) for row in frame if "▕" in row}) <= 1, frame
        bars = reached(frame)
        assert all(percent >= percents.get(bar, 0) for bar, percent in bars.items()), frame
        percents |= bars
    assert any(is_moving(frame) for frame in frames)
    return order


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
async def test_every_row_stays_in_its_place(
    real_ollama: RealOllama, hub: StandInHub, repositories: Mapping[int, Files], case: Case
) -> None:
    """From the first row to `success`, in narrow and wide terminals, with few and many shards."""
    files = repositories[case.shards]
    hub.add("acme/tiny", files if case.chats else without_template(files))
    hub.line = SLOW
    name = "hf.co/acme/tiny:q4_K_M"
    async with App(config(hub, real_ollama)) as app:
        async with typed(real_ollama, app, "pull", name, columns=case.columns, above=case.above) as terminal:
            await terminal.until(is_moving)
            hub.line = None
            assert await terminal.ended() == 0, terminal.rows
        assert (await real_ollama.cli(app.address.url, "rm", name))[0] == 0
    bars = reached([row for frame in terminal.frames for row in frame])
    warning = [] if case.chats else [row.status for row in Line(NO_TEMPLATE).rows()]
    expected = ["pulling manifest", *warning, *bars, *ENDS]
    expected += [*([REMOVING] if any(REMOVING in row for frame in terminal.frames for row in frame) else []), "success"]
    assert len(bars) == min(case.shards, MAX_BARS)
    assert len(expected) - len(warning) <= ROWS
    assert steady(terminal) == expected
    assert set(reached(terminal.rows).values()) == {100}
    assert [named(row) for row in terminal.rows] == expected[-ROWS:]


async def test_a_refusal_is_one_message(
    real_ollama: RealOllama, real_app: App, hub: StandInHub, session: aiohttp.ClientSession
) -> None:
    hub.add("acme/tiny", tiny_llama())
    name = "hf.co/acme/tiny:iq2_xs"
    async with typed(real_ollama, real_app, "pull", name) as terminal:
        assert await terminal.ended() == 1
    [*_, line] = await Client(real_app.address.url, session).pull(name)
    assert "importance matrix" in line["error"]
    first, *rest = terminal.rows
    assert first.strip(" ⠋") == "pulling manifest"
    assert "".join(row.ljust(80) for row in rest).rstrip() == f"Error: {line['error']}"
    assert terminal.screen.unknown == []


async def test_a_failure_is_shown_below_the_bars(real_ollama: RealOllama, real_app: App, hub: StandInHub) -> None:
    hub.add("acme/tiny", tiny_llama(seed=1, shards=3))
    hub.faults.append(Fault("model-00002-of-00003.safetensors", "corrupt", after=200_000, times=-1))
    hub.line = 4 * SLOW
    async with typed(real_ollama, real_app, "pull", "hf.co/acme/tiny:q4_K_M") as terminal:
        assert await terminal.ended() == 1
    error_row = next(number for number, row in enumerate(terminal.rows) if row.startswith("Error: "))
    assert "arrived damaged" in "".join(row.ljust(80) for row in terminal.rows[error_row:])
    shown = [named(row) for row in terminal.rows[:error_row]]
    assert shown[0] == "pulling manifest"
    assert reached(terminal.rows).keys() == set(shown[1:])
    assert len(shown) == len(set(shown))


async def test_after_ctrl_c_the_next_pull_resumes(
    real_ollama: RealOllama, hub: StandInHub, session: aiohttp.ClientSession
) -> None:
    files = tiny_llama(seed=2)
    size, name = len(files["model.safetensors"]), "hf.co/acme/tiny:q4_K_M"
    hub.add("acme/tiny", files)
    hub.line = SLOW
    async with App(config(hub, real_ollama)) as app:
        async with typed(real_ollama, app, "pull", name) as first:
            await first.until(lambda rows: max(reached(rows).values(), default=0) >= 30)
            first.press(CTRL_C)
            assert await first.ended() == -signal.SIGINT
        [before] = reached(first.rows).values()
        assert before < 100
        assert not first.screen.cursor.hidden
        async with typed(real_ollama, app, "pull", name) as second:
            await second.until(reached)
            [after] = reached(second.rows).values()
            assert before <= after < 100
            hub.line = None
            assert await second.ended() == 0, second.rows
        steady(second)
        assert second.rows[-1] == "success"
        assert sum(request.body_bytes for request in fetched(hub)) < 1.2 * size
        assert (await real_ollama.cli(app.address.url, "rm", name))[0] == 0


async def test_run_pulls_a_missing_model_with_bars_and_answers(real_ollama: RealOllama, hub: StandInHub) -> None:
    """The command line itself starts this pull, not `pull.on_demand`: it first checks whether the model exists."""
    hub.add("acme/run", tiny_parrot(seed=3, shards=3))
    hub.line = SLOW
    name = "hf.co/acme/run:q8_0"
    few = {"num_predict": 4, "temperature": 0.0}
    models = {"hf.co/acme/run": {"parameters": few}}
    config = settings(hub.endpoint, real_ollama.url, models=models, pull={"on_demand": True})
    async with App(config) as app:
        async with typed(real_ollama, app, "run", name, "hello") as terminal:
            await terminal.until(is_moving)
            hub.line = None
            assert await terminal.ended() == 0, terminal.rows
        assert (await real_ollama.cli(app.address.url, "rm", name))[0] == 0
    pulled = next(number for number, row in enumerate(terminal.rows) if row.strip(" ⠋") == "success")
    assert terminal.screen.wrapped == []
    assert len(reached(terminal.rows[:pulled])) == 3
    assert terminal.rows[pulled + 1 :] == ["hihihihi"]
