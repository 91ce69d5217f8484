"""The journal's file: who may open it, its versions, damage, and its path."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from proxy.config.loading import check
from proxy.errors import ConfigError
from proxy.ollama.registry import Blob
from proxy.standins.ollama import StandInOllama
from proxy.store.journal import VERSION, Journal, JournalError, Locked, Record, state_file
from tests.kit.journals import MODEL, RECORD, A, B, C, is_interrupted, unneeded
from tests.kit.support import COMMAND, PATIENCE, serving


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ollama.sqlite"


# ---- one file, one process


WRITES = """
import os, signal, sys
from pathlib import Path
from proxy.store.journal import Journal, Record
journal = Journal(Path(sys.argv[1]))
A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
journal.track(A, 10)
journal.track(B, 20)
journal.track(C, 30)
journal.touch(C)
pull = journal.acquire("running", "temporary", [A])
journal.add(pull, [B])
journal.expire_at(journal.acquire("broken", None, []), 5.0)
journal.remember_digest("recipe", C)
journal.remember("model", Record("d", "request", "weights", "settings", ((A, 10),)))
print("written", flush=True)
if sys.argv[2] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
signal.pause()
"""


@asynccontextmanager
async def writing(file: Path, then: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that has filled the journal. It is killed at once, or runs until the block ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITES, str(file), then, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"written\n"
        if then == "die":
            assert await process.wait() == -signal.SIGKILL
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def test_an_open_file_is_locked_for_all_others(file: Path) -> None:
    with closing(Journal(file)) as first:
        first.track(A, 1)
        with pytest.raises(Locked, match=f"another ollama-hf-proxy serves this Ollama: it has {file}"):
            Journal(file)
        assert unneeded(first) == [A]
    with closing(Journal(file)) as second:
        assert unneeded(second) == [A]


async def test_a_killed_process_leaves_no_lock(file: Path) -> None:
    async with writing(file, "stay") as process:
        with pytest.raises(Locked):
            Journal(file)
        process.kill()
        await process.wait()
        Journal(file).close()


async def test_a_write_survives_a_kill_right_after_it(file: Path) -> None:
    async with writing(file, "die"):
        with closing(Journal(file)) as journal:
            assert journal.temporary_models() == {"temporary"}
            assert is_interrupted(journal, "broken")
            assert unneeded(journal) == []
            journal.release_expired(10.0)
            journal.expire_abandoned_at(20.0)
            journal.release_expired(20.0)
            assert not is_interrupted(journal, "broken")
            assert journal.temporary_models() == set()
            assert journal.unneeded() == [Blob(A, 10), Blob(B, 20)]
            assert journal.digest_of("recipe") == C
            assert journal.record("model") == Record("d", "request", "weights", "settings", ((A, 10),))


async def test_a_second_proxy_of_one_ollama_ends(ollama: StandInOllama) -> None:
    """With one line on stderr."""
    async with serving("--ollama", ollama.url):
        second = await asyncio.create_subprocess_exec(
            *COMMAND, "serve", "--listen", "127.0.0.1:0", "--ollama", ollama.url, stderr=subprocess.PIPE
        )
        _, stderr = await asyncio.wait_for(second.communicate(), PATIENCE)
    assert second.returncode == 1
    [line] = stderr.decode().splitlines()
    assert "another ollama-hf-proxy serves this Ollama" in line
    assert "stop it, or set ollama.url" in line


# ---- files that cannot be used


def test_tables_of_an_unknown_version_are_replaced(file: Path) -> None:
    with closing(Journal(file)) as journal:
        journal.acquire(MODEL, "temporary", [A])
        journal.remember(MODEL, RECORD)
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
        db.execute("CREATE TABLE later (what TEXT)")
    with closing(Journal(file)) as journal:
        assert journal.record(MODEL) is None
        assert journal.temporary_models() == set()
        journal.remember(MODEL, RECORD)
    with closing(Journal(file)) as journal:
        assert journal.record(MODEL) == RECORD
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT name FROM sqlite_master WHERE name = 'later'").fetchall() == []


FIRST_TABLES = """
CREATE TABLE pulls (
    id INTEGER PRIMARY KEY, model TEXT NOT NULL, temporary TEXT, begun_at REAL NOT NULL, keep_until REAL
);
CREATE TABLE needs (
    pull INTEGER NOT NULL REFERENCES pulls ON DELETE CASCADE, digest TEXT NOT NULL, PRIMARY KEY (pull, digest)
) WITHOUT ROWID;
CREATE TABLE blobs (digest TEXT PRIMARY KEY, size INTEGER NOT NULL, wanted_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE recipes (recipe TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE models (
    model TEXT PRIMARY KEY, digest TEXT NOT NULL, asked TEXT NOT NULL, weights TEXT NOT NULL, dressing TEXT NOT NULL,
    bars TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO pulls VALUES (1, 'hf.co/acme/tiny:q4_k_m', 'temporary', 1.0, 1e12);
INSERT INTO models VALUES ('hf.co/acme/tiny:q4_k_m', 'd', 'asked', 'weights', 'dressing', '[["sha256:a", 10]]');
PRAGMA user_version = 1;
"""

SECOND_TABLES = (
    FIRST_TABLES.replace("bars TEXT", "bars TEXT NOT NULL, repository TEXT NOT NULL DEFAULT '', revision TEXT")
    .replace(""" 10]]')""", """ 10]]', '', '')""")
    .replace("user_version = 1", "user_version = 2")
)


@pytest.mark.parametrize("tables", [FIRST_TABLES, SECOND_TABLES])
def test_a_file_of_an_earlier_version_is_upgraded(file: Path, tables: str) -> None:
    file.parent.mkdir()
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.executescript(tables)
    newer = Record("e", "asked", "weights", "dressing", (), "acme/tiny", "c" * 40, "LlamaForCausalLM 1")
    with closing(Journal(file)) as journal:
        assert journal.record(MODEL) == Record("d", "asked", "weights", "dressing", (("sha256:a", 10),), made_by="?")
        assert journal.temporary_models() == {"temporary"}
        journal.remember(MODEL, newer)
    with closing(Journal(file)) as journal:
        assert journal.record(MODEL) == newer


@pytest.mark.parametrize("content", [b"this is no database, and it is not short either. " * 50, b"\xff" * 8192])
def test_a_file_that_is_no_database_is_replaced(file: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The old file is renamed. A lost journal costs one check for each model."""
    file.parent.mkdir()
    file.write_bytes(content)
    with closing(Journal(file)) as journal:
        journal.remember(MODEL, RECORD)
        with pytest.raises(Locked):
            Journal(file)
    with closing(Journal(file)) as journal:
        assert journal.record(MODEL) == RECORD
    assert file.with_suffix(".broken").read_bytes() == content
    assert str(file) in caplog.text


def test_a_damaged_database_is_replaced_too(file: Path) -> None:
    with closing(Journal(file)) as journal:
        journal.remember(MODEL, RECORD)
    content = bytearray(file.read_bytes())
    content[100:4096] = b"\xff" * 3996
    file.write_bytes(content)
    with closing(Journal(file)) as journal:
        assert journal.record(MODEL) is None
        journal.remember(MODEL, RECORD)
        assert journal.record(MODEL) == RECORD
    assert file.with_suffix(".broken").read_bytes() == content


def test_a_failed_write_is_an_error_with_the_file(file: Path) -> None:
    with closing(Journal(file)) as journal:
        journal._db.execute("PRAGMA query_only = ON")
        for write in (
            lambda: journal.track(A, 1),
            lambda: journal.untrack([A]),
            lambda: journal.touch(A),
            lambda: journal.acquire(MODEL, None, [A]),
            lambda: journal.add(1, [A]),
            lambda: journal.remember_digest("recipe", A),
            lambda: journal.remember(MODEL, RECORD),
        ):
            with pytest.raises(JournalError, match=f"^{file} cannot be used .*server.state"):
                write()
        journal._db.execute("PRAGMA query_only = OFF")
        assert journal.acquire(MODEL, None, [A])


def test_a_lease_is_written_whole_or_not_at_all(journal: Journal) -> None:
    journal.track(A, 1)

    def digests() -> Iterator[str]:
        yield A
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        journal.acquire(MODEL, "temporary", digests())
    assert (unneeded(journal), journal.temporary_models()) == ([A], set())


def test_a_locked_out_proxy_learns_the_others_url(file: Path) -> None:
    with closing(Journal(file)) as journal:
        with pytest.raises(Locked) as silent:
            Journal(file)
        journal.publish_url("http://127.0.0.1:5")
        with pytest.raises(Locked, match="and listens at http://127.0.0.1:5") as published:
            Journal(file)
    assert [silent.value.url, published.value.url] == ["", "http://127.0.0.1:5"]


def test_an_empty_file_is_a_new_journal(file: Path) -> None:
    file.parent.mkdir()
    file.touch()
    with closing(Journal(file)) as journal:
        journal.remember(MODEL, RECORD)
        assert journal.record(MODEL) == RECORD


@pytest.mark.parametrize("place", ["taken/ollama.sqlite", "taken/below/ollama.sqlite", "folder"])
def test_an_unwritable_path_names_the_setting(tmp_path: Path, place: str) -> None:
    (tmp_path / "taken").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(
        ConfigError, match=f"^{tmp_path / place} cannot be used .*; set server.state to a writable folder"
    ):
        Journal(tmp_path / place)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_names_the_setting(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match=r"set server.state to a writable folder"):
        Journal(tmp_path / "ollama.sqlite")
    tmp_path.chmod(0o700)


async def test_a_proxy_without_a_usable_journal_ends(tmp_path: Path, ollama: StandInOllama) -> None:
    """With one line on stderr."""
    blocker = tmp_path / "taken"
    blocker.touch()
    environment = os.environ | {"OLLAMA_HF_PROXY_SERVER_STATE": str(blocker)}
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "serve", "--ollama", ollama.url, "--listen", "127.0.0.1:0", stderr=subprocess.PIPE, env=environment
    )
    _, stderr = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 1
    [line] = stderr.decode().splitlines()
    assert line.startswith(f"ollama-hf-proxy: {blocker}/")
    assert "set server.state to a writable folder" in line


# ---- its path


def place(url: str, state: str = "/state") -> Path:
    return state_file(check({"ollama": {"url": url}, "server": {"state": state}}))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://127.0.0.1:11434", "127.0.0.1-11434.sqlite"),
        ("http://localhost:11434", "127.0.0.1-11434.sqlite"),
        ("http://LOCALHOST:11434/", "127.0.0.1-11434.sqlite"),
        ("http://localhost:11435", "127.0.0.1-11435.sqlite"),
        ("http://gpu.example:11434", "gpu.example-11434.sqlite"),
        ("http://gpu.example", "gpu.example-http.sqlite"),
        ("https://gpu.example", "gpu.example-https.sqlite"),
        ("http://[::1]:11434", "--1-11434.sqlite"),
        ("http://[fe80::2]:11434", "fe80--2-11434.sqlite"),
    ],
)
def test_each_ollama_has_a_file_of_its_own(url: str, name: str) -> None:
    assert place(url) == Path("/state") / name


def test_the_file_is_in_the_users_state_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert place("http://127.0.0.1:1", "~/mine") == tmp_path / "home" / "mine" / "127.0.0.1-1.sqlite"
    if sys.platform == "linux":
        assert place("http://127.0.0.1:1", "") == tmp_path / "state" / "ollama-hf-proxy" / "127.0.0.1-1.sqlite"


def test_a_journal_without_a_file_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before: list[Any] = list(tmp_path.iterdir())
    with closing(Journal()) as first, closing(Journal()) as second:
        first.remember(MODEL, RECORD)
        assert second.record(MODEL) is None
    assert list(tmp_path.iterdir()) == before
