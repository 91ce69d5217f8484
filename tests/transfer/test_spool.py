"""The spool returns what was written, checks for room, and deletes its file."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from proxy.errors import TransferError
from proxy.transfer import spool as module
from proxy.transfer.spool import Spool, open_spool

WHAT = "acme/model/model.safetensors"


@pytest.fixture
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def set_free(monkeypatch: pytest.MonkeyPatch, folder: Path, free: int) -> None:
    """`free` bytes in that folder, and none elsewhere."""
    monkeypatch.setattr(
        "proxy.transfer.spool.shutil.disk_usage",
        lambda asked: SimpleNamespace(free=free if asked == str(folder) else 0),
    )


async def everything(spool: Spool) -> list[bytes]:
    return [piece async for piece in spool.read()]


@pytest.mark.parametrize(
    "pieces", [[], [b""], [b"x"], [b"0123", b"", b"4567", b"89"], [b"0123456789" * 10, b"end"], [b"x", b"y" * 100_000]]
)
async def test_a_spool_returns_all_that_was_written(
    monkeypatch: pytest.MonkeyPatch, threads: Executor, pieces: list[bytes]
) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 1000)
    written = b"".join(pieces)
    with open_spool(WHAT, len(written), threads) as spool:
        for piece in pieces:
            await spool.write(piece)
        back = await everything(spool)
        assert b"".join(back) == written
        assert all(0 < len(piece) <= 1000 for piece in back)
        assert b"".join(await everything(spool)) == written


def test_an_error_says_how_much_room_is_needed_where(
    monkeypatch: pytest.MonkeyPatch, folder: Path, threads: Executor
) -> None:
    set_free(monkeypatch, folder, 99)
    with pytest.raises(TransferError) as error, open_spool(WHAT, 100, threads):
        pass
    assert str(error.value).startswith(f"{WHAT} needs 100 bytes in {folder} before its digest is known, and 99 are")
    assert "TMPDIR" in str(error.value)


async def test_just_enough_room_is_enough(monkeypatch: pytest.MonkeyPatch, folder: Path, threads: Executor) -> None:
    set_free(monkeypatch, folder, 100)
    with open_spool(WHAT, 100, threads) as spool:
        await spool.write(b"x" * 100)
        assert await everything(spool) == [b"x" * 100]


@pytest.mark.parametrize("failure", [None, TransferError("it broke")])
async def test_the_file_is_deleted_after_the_block(
    folder: Path, threads: Executor, failure: TransferError | None
) -> None:
    try:
        with open_spool(WHAT, 3, threads) as spool:
            await spool.write(b"abc")
            if failure:
                raise failure
    except TransferError as error:
        assert error is failure  # noqa: PT017
    with pytest.raises(ValueError, match="closed file"):
        await spool.write(b"d")
    assert not list(folder.iterdir())


async def test_a_disk_that_fills_during_a_write_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        ThreadPoolExecutor(1) as threads,
        monkeypatch.context() as patch,
    ):
        patch.setattr("proxy.transfer.spool.tempfile.TemporaryFile", lambda **_: full)
        with (
            open_spool("acme/tiny/made", 5, threads) as spool,
            pytest.raises(TransferError, match=r"acme/tiny/made cannot be kept in .* \(No space left on device\)"),
        ):
            await spool.write(b"bytes")
