"""What was made of a blob survives a restart: any recipe, stopped and damaged anywhere, becomes the same blob."""

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import RawIOBase
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import Damaged
from proxy.planning.recipe import Literal, Position, Range, Recipe
from proxy.sources.base import RepositoryFile
from proxy.transfer import assembly as assembly_module
from proxy.transfer import checkpoints as module
from proxy.transfer.assembly import Assembly
from proxy.transfer.checkpoints import (
    DATA,
    RECORD,
    Checkpoint,
    CheckpointFile,
    Checkpoints,
    CheckpointWriter,
    Kept,
    NotKept,
    write_all,
)
from tests.kit.support import digest_of
from tests.planning.random_recipes import CONTENTS, SUMMED, blob_of, content_of, recipes

WHAT = "acme/tiny/model.gguf"
STEP = 4
LARGEST_PAIR = 36
"""Bytes of the longest range with the range beside it."""
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
WHOLE = [RepositoryFile(path, len(CONTENTS[path]), hashlib.sha256(CONTENTS[path]).hexdigest()) for path in "ab"]
folders = count()


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly_module, "SLICE", 2)
    monkeypatch.setattr(assembly_module, "CHECKPOINT_BYTES", STEP)
    monkeypatch.setattr(module, "MIN_BYTES", 0)


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


def keep(writer: CheckpointWriter, content: bytes) -> None:
    """Write it now; the second call waits for the first one's bytes."""
    writer.write(content)
    writer.flush()
    writer.flush()


class Tries:
    """One recipe, made in several tries: each may stop, and the next one goes on with what is kept."""

    def __init__(self, folder: Path, pool: ThreadPoolExecutor, recipe: Recipe) -> None:
        self._checkpoints = Checkpoints(folder / str(next(folders)), 3600)
        self._pool = pool
        self._recipe = recipe
        self.file = self.open()

    def open(self) -> CheckpointFile:
        file = self._checkpoints.open("sha256:" + 64 * "0", WHAT, 1 << 20)
        assert file is not None
        return file

    def restart(self) -> None:
        self.file.close()
        self.file = self.open()

    def missing(self, kept: Kept | None) -> bytes:
        parts = [part for _, part in self._recipe.after(kept.checkpoint.position)] if kept else self._recipe.parts
        return b"".join(content_of(part) for part in parts if isinstance(part, Range))

    def make(self, kept: Kept | None, content: bytes, chunk: int) -> tuple[Assembly, bytes]:
        return self.make_with(self.file.begin(kept), kept, content, chunk)

    def make_with(
        self, writer: CheckpointWriter, kept: Kept | None, content: bytes, chunk: int
    ) -> tuple[Assembly, bytes]:
        assembly = Assembly(self._recipe, self._pool, "acme/tiny", writer, kept)
        chunks = [content[start : start + chunk] for start in range(0, len(content), chunk)]
        return assembly, b"".join(assembly.join(assembly.cut(())) + assembly.join(assembly.cut(chunks)))

    def finish(self) -> tuple[bytes, str]:
        """The whole blob, and its digest."""
        kept = self.file.last_good()
        assembly, rest = self.make(kept, self.missing(kept), 5)
        return b"".join(self.file.read(kept.checkpoint.size if kept else 0)) + rest, assembly.digest()


@patient
@given(recipes(), st.lists(st.tuples(st.integers(0, 200), st.integers(1, 9)), max_size=4))
def test_any_recipe_stopped_anywhere_becomes_its_blob(
    tmp_path: Path, pool: ThreadPoolExecutor, recipe: Recipe, stops: list[tuple[int, int]]
) -> None:
    """And each stop costs only the bytes since the last checkpoint."""
    tries = Tries(tmp_path, pool, recipe)
    for stop, chunk in stops:
        kept = tries.file.last_good()
        content = tries.missing(kept)
        tries.make(kept, content[:stop], chunk)
        tries.restart()
        again = len(tries.missing(tries.file.last_good())) - len(content[stop:])
        assert again <= STEP + LARGEST_PAIR
    assert tries.finish() == (blob_of(recipe.parts), digest_of(blob_of(recipe.parts)))
    tries.file.remove()


@patient
@given(recipes(), st.binary(min_size=1, max_size=9), st.integers(0, 400), st.booleans(), st.booleans())
def test_damaged_files_never_make_another_blob(
    tmp_path: Path, pool: ThreadPoolExecutor, recipe: Recipe, junk: bytes, at: int, cut: bool, in_record: bool
) -> None:
    """Bytes that were changed or lost, in what was kept or in its record, cost only what comes after them."""
    tries = Tries(tmp_path, pool, recipe)
    tries.make(None, tries.missing(None), 7)
    tries.file.close()
    [path] = tmp_path.glob(f"{next(folders) - 1}/*{RECORD if in_record else DATA}")
    content = path.read_bytes()
    path.write_bytes(content[:at] if cut else content[:at] + junk + content[at + len(junk) :])
    tries.file = tries.open()
    assert tries.finish() == (blob_of(recipe.parts), digest_of(blob_of(recipe.parts)))
    tries.file.remove()


@pytest.mark.parametrize("stop", range(0, 48, 3))
def test_a_file_that_spans_the_stop_is_checked(tmp_path: Path, pool: ThreadPoolExecutor, stop: int) -> None:
    """Its first bytes came before the stop: damage there, or after it, is noticed at the file's end."""
    ranges = [Range(file, at, at + 12, SUMMED if at else None) for file in WHOLE for at in (0, 12)]
    recipe = Recipe((Literal(b"<"), *ranges))
    for damage in (2, 20, 30, 46):
        tries = Tries(tmp_path, pool, recipe)
        spoilt = bytearray(tries.missing(None))
        spoilt[damage] ^= 1
        with pytest.raises(Damaged, match=r"acme/tiny/[ab] arrived damaged"):  # noqa: PT012 - either try may notice
            tries.make(None, bytes(spoilt[:stop]), 5)
            tries.restart()
            kept = tries.file.last_good()
            missing = len(tries.missing(kept))
            tries.make(kept, bytes(spoilt[len(spoilt) - missing :]), 5)
        tries.file.remove()


def test_without_the_kernel_the_checkpoints_lie_between_checked_files(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashlib cannot save the hash of a file that is half read."""
    monkeypatch.setattr("proxy.transfer.sha256._sha256", None)
    tries = Tries(tmp_path, pool, Recipe(tuple(Range(file, 0, file.size) for file in WHOLE)))
    tries.make(None, tries.missing(None)[:40], 5)
    kept = tries.file.last_good()
    assert kept is not None
    assert kept.checkpoint.size == WHOLE[0].size
    assert tries.finish()[0] == CONTENTS["a"] + CONTENTS["b"]
    tries.file.remove()


def test_a_hash_saved_by_the_kernel_is_not_used_without_it(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = Tries(tmp_path, pool, Recipe(tuple(Range(file, 0, file.size) for file in WHOLE)))
    tries.make(None, tries.missing(None)[:20], 5)
    monkeypatch.setattr("proxy.transfer.sha256._sha256", None)
    assert tries.file.last_good() is None
    tries.file.remove()


def test_a_full_disk_ends_the_keeping_and_not_the_blob(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = Recipe((Range(WHOLE[0], 0, 24), Range(WHOLE[1], 0, 24)))
    tries = Tries(tmp_path, pool, recipe)
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    writer = tries.file.begin(None)
    with full.open("wb", buffering=0) as device, monkeypatch.context() as patch:
        patch.setattr(tries.file, "_data", device)
        assembly, made = tries.make_with(writer, None, tries.missing(None), 5)
        assert tries.file.last_good() is None
    assert made == blob_of(recipe.parts)
    assert assembly.digest() == digest_of(made)
    assert "is not kept any more" in caplog.text
    tries.file.remove()


def test_a_writer_of_an_earlier_try_writes_nothing_more(tmp_path: Path) -> None:
    """Its thread may still be at work when the next try has begun."""
    checkpoints = Checkpoints(tmp_path, 3600)
    file = checkpoints.open("00", WHAT, 1 << 20)
    assert file is not None
    early = file.begin(None)
    late = file.begin(None)
    keep(early, b"early")
    keep(late, b"late")
    file.close()
    assert (tmp_path / f"00{DATA}").read_bytes() == b"late"


def test_nothing_stays_of_a_finished_blob(tmp_path: Path) -> None:
    """The names are gone before `remove` returns: a next pull of the blob begins with new files."""
    checkpoints = Checkpoints(tmp_path, 3600)
    file = checkpoints.open("00", WHAT, 1 << 20)
    assert file is not None
    keep(file.begin(None), b"123")
    file.remove()
    assert list(tmp_path.iterdir()) == []


def slow_down(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Each write takes so long."""

    def slowly(file: RawIOBase, content: bytes) -> None:
        time.sleep(seconds)
        write_all(file, content)

    monkeypatch.setattr(module, "write_all", slowly)


def test_a_slow_disk_holds_no_upload_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was kept before stays. Most of the bytes are still to come when the disk has cost its part of the time."""
    checkpoints = Checkpoints(tmp_path, 3600)
    file = checkpoints.open("00", WHAT, 1 << 20)
    assert file is not None
    monkeypatch.setattr(module, "MIN_WAIT_SECONDS", 0.01)
    writer = file.begin(None)
    writer.write(b"123")
    writer.mark(Checkpoint(3, hashlib.sha256(b"123").hexdigest(), Position(0)))
    slow_down(monkeypatch, 0.1)
    monkeypatch.setattr(module, "MAX_WAIT", 0)
    for _ in range(5):
        writer.write(b"456")
        writer.flush()
    kept = file.last_good()
    assert kept is not None
    assert kept.checkpoint.size == len(b"123")
    assert caplog.text.count(f"{WHAT} is not kept any more: the disk of {tmp_path} is slower than the pull") == 1
    file.remove()


def test_a_short_wait_for_the_disk_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Checkpoints(tmp_path, 3600).open("00", WHAT, 1 << 20)
    assert file is not None
    monkeypatch.setattr(module, "MIN_WAIT_SECONDS", 60)
    slow_down(monkeypatch, 0.05)
    writer = file.begin(None)
    for _ in range(5):
        writer.write(b"123")
        writer.flush()
    file.close()
    assert (tmp_path / f"00{DATA}").read_bytes() == 5 * b"123"


def test_bytes_that_disappear_while_they_are_read_are_damage(tmp_path: Path) -> None:
    """The upload is then begun again without them: a shorter body would be another blob."""
    file = Checkpoints(tmp_path, 3600).open("00", WHAT, 1 << 20)
    assert file is not None
    keep(file.begin(None), b"123")
    with pytest.raises(Damaged, match="was cut off"):
        b"".join(file.read(4))
    [path] = tmp_path.glob(f"*{DATA}")
    path.unlink()
    with pytest.raises(Damaged, match="cannot be read"):
        b"".join(file.read(3))
    assert file.last_good() is None
    file.remove()


def test_one_upload_at_a_time_has_the_files(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 3600)
    file = checkpoints.open("00", WHAT, 1 << 20)
    assert file is not None
    assert checkpoints.open("00", WHAT, 1 << 20) is None
    file.close()
    again = checkpoints.open("00", WHAT, 1 << 20)
    assert again is not None
    again.remove()


def test_small_blobs_and_full_disks_keep_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotKept, match=rf"{WHAT} starts again after an interruption: {tmp_path} has only .* free"):
        Checkpoints(tmp_path, 3600).open("00", WHAT, 1 << 60)
    (tmp_path / "file").touch()
    with pytest.raises(NotKept, match="set pull.spool to a writable folder"):
        Checkpoints(tmp_path / "file", 3600).open("00", WHAT, 1 << 20)
    (tmp_path / "file").unlink()
    monkeypatch.setattr(module, "MIN_BYTES", 64)
    assert Checkpoints(tmp_path, 3600).open("00", WHAT, 63) is None
    assert Checkpoints(None, 3600).open("00", WHAT, 1 << 20) is None
    assert list(tmp_path.iterdir()) == []


def test_old_files_are_removed_unless_an_upload_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, 3600)
    old, used = (checkpoints.open(name, WHAT, 1 << 20) for name in ("00", "11"))
    assert old is not None
    assert used is not None
    for file in (old, used):
        keep(file.begin(None), b"123")
    old.close()
    assert checkpoints.size() == 2 * len(b"123")
    assert checkpoints.remove_old(dry_run=False) == 0
    expired = Checkpoints(tmp_path, -1)
    assert expired.remove_old(dry_run=True) == 2 * len(b"123")
    monkeypatch.setattr(checkpoints, "_keep", -1)
    assert checkpoints.remove_old(dry_run=False) == len(b"123")
    assert checkpoints.size() == len(b"123")
    used.remove()
