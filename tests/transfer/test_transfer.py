"""A transfer from a careless source: wrong bytes never become a blob."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field

import pytest

from proxy.errors import Interrupted, ProxyError, RangesIgnored, SourceError
from proxy.ollama.client import Ollama, upstream_session
from proxy.planning.plan import Format, Plan, Upload, small_file, weight_file
from proxy.sources.base import RepositoryFile
from proxy.standins.ollama import StandInOllama
from proxy.store.journal import Journal
from proxy.transfer.bandwidth import Bandwidth
from proxy.transfer.fetch_limits import FetchLimits
from proxy.transfer.progress import Progress
from proxy.transfer.streams import Streams
from proxy.transfer.transfer import Transfer
from proxy.transfer.wait_for_ollama import WaitForOllama
from tests.kit.pauses import SHORT
from tests.kit.support import eventually

CONTENT = bytes(range(256)) * 1024
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = RepositoryFile("model.safetensors", len(CONTENT), sha256=SHA256)
MEMORY = 128 * 1024**2


@dataclass
class Pieces:
    """A repository that sends the same pieces for every file, and then may fail."""

    pieces: list[bytes]
    failure: Exception | None = None
    id: str = "acme/model"
    commit: str = "c" * 40
    files: tuple[RepositoryFile, ...] = (FILE,)
    open_now: int = 0
    most_open: int = field(default=0)
    requests: int = 0
    public: bool = False
    modified: float | None = None

    async def gguf_repositories(self) -> Sequence[str]:
        return ()

    @asynccontextmanager
    async def stream(
        self,
        file: RepositoryFile,
        start: int = 0,  # noqa: ARG002
        stop: int | None = None,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.requests += 1
        if stop is not None:
            raise RangesIgnored(f"{file.path}: no ranges here")
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            yield self._send()
        finally:
            self.open_now -= 1

    async def _send(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            await asyncio.sleep(0)
            yield piece
        if self.failure is not None:
            raise self.failure


def plan(repository: Pieces, *uploads: Upload) -> Plan:
    return Plan("hf.co/acme/model:latest", repository, Format.SAFETENSORS, "a test", uploads)


def upload(digest: str = SHA256, path: str = FILE.path) -> Upload:
    return weight_file(Pieces([]), path, RepositoryFile(path, len(CONTENT), digest))


@asynccontextmanager
async def transferring(ollama: StandInOllama, connections: int = 8, memory: int = MEMORY) -> AsyncIterator[Transfer]:
    streams = Streams(connections, memory)
    async with upstream_session() as session:
        with closing(Journal()) as journal:
            waiting = WaitForOllama(Ollama(ollama.url, session), 1)
            transfer = Transfer(waiting, FetchLimits(streams, Bandwidth(0), SHORT), journal)
            yield transfer
            transfer.close()
    assert streams.idle


@pytest.mark.parametrize(
    ("pieces", "failure", "message"),
    [
        ([CONTENT[:-1]], None, f"model.safetensors: only {len(CONTENT) - 1} of {len(CONTENT)} bytes arrived"),
        ([], None, f"only 0 of {len(CONTENT)} bytes arrived"),
        ([CONTENT[:-1], b"x"], None, "model.safetensors arrived damaged"),
        ([CONTENT[:1000]], SourceError("the source broke"), "the source broke"),
        ([CONTENT[:1000]], Interrupted("the line broke"), "the line broke; given up after 10 tries; pull again"),
    ],
)
async def test_bytes_other_than_announced_are_refused(
    ollama: StandInOllama, pieces: list[bytes], failure: Exception | None, message: str
) -> None:
    """They leave nothing in Ollama."""
    repository = Pieces(pieces, failure)
    async with transferring(ollama) as transfer:
        with pytest.raises(ProxyError, match=message):
            await transfer.run(plan(repository, upload()), set(), Progress())
        with pytest.raises(ProxyError, match=message):
            await transfer.read(repository, [FILE], Progress())
    assert not ollama.blobs
    assert repository.open_now == 0


@pytest.mark.parametrize("repository", [Pieces([CONTENT, b"x"]), Pieces([CONTENT], SourceError("it broke"))])
async def test_bytes_and_errors_after_the_last_byte_are_ignored(ollama: StandInOllama, repository: Pieces) -> None:
    async with transferring(ollama) as transfer:
        await transfer.run(plan(repository, upload()), set(), Progress())
    assert ollama.blobs == {f"sha256:{SHA256}": len(CONTENT)}


async def test_a_small_file_longer_than_announced_is_refused(ollama: StandInOllama) -> None:
    async with transferring(ollama) as transfer:
        with pytest.raises(ProxyError, match=f"more than {len(CONTENT)} bytes arrived"):
            await transfer.read(Pieces([CONTENT, b"x"]), [FILE], Progress())


async def test_a_file_in_pieces_of_any_size_becomes_its_blob(ollama: StandInOllama) -> None:
    pieces = [CONTENT[:1], CONTENT[1:70_000], CONTENT[70_000:]]
    async with transferring(ollama) as transfer:
        await transfer.run(plan(Pieces(pieces), upload()), set(), Progress())
        assert await transfer.read(Pieces(pieces), [FILE], Progress()) == {FILE.path: CONTENT}
    assert ollama.blobs == {f"sha256:{SHA256}": len(CONTENT)}


async def test_small_files_are_checked_when_a_digest_is_known(
    ollama: StandInOllama,
) -> None:
    async with transferring(ollama) as transfer:
        plain = RepositoryFile("config.json", 2)
        assert await transfer.read(Pieces([b"{}"]), [plain], Progress()) == {"config.json": b"{}"}
        damaged = Pieces([b"{}"])
        with pytest.raises(ProxyError, match="config.json arrived damaged"):
            await transfer.read(damaged, [RepositoryFile("config.json", 2, git_sha1="0" * 40)], Progress())
        assert damaged.requests == 2


async def test_small_files_need_no_connection_to_the_source(ollama: StandInOllama) -> None:
    small = small_file("config.json", b"{}")
    async with transferring(ollama, connections=1) as transfer:
        occupied = await transfer._limits.streams.enter("another pull", 0, 1)
        running = asyncio.create_task(transfer.run(plan(Pieces([CONTENT]), upload(), small), set(), Progress()))
        await eventually(lambda: small.digest in ollama.blobs)
        assert not running.done()
        transfer._limits.streams.leave(occupied)
        transfer._limits.streams.free(occupied.size)
        await running


@pytest.mark.parametrize(("connections", "memory", "most"), [(3, 10**9, 3), (8, 2 * len(CONTENT), 2), (8, 1, 1)])
async def test_connections_and_memory_limit_what_runs_at_once(
    ollama: StandInOllama, connections: int, memory: int, most: int
) -> None:
    repository = Pieces([b"x"] * 50)
    uploads = [upload(f"{number:064x}", f"model-{number}.safetensors") for number in range(12)]
    async with transferring(ollama, connections, memory) as transfer:
        with pytest.raises(SourceError):
            await transfer.run(plan(repository, *uploads), set(), Progress())
    assert repository.most_open == most
