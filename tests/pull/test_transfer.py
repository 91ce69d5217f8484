"""The transfer with a source of its own making: what a careless source sends never becomes a blob."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from proxy.config import NO_SETTINGS, Quantization
from proxy.demo.ollama import StandInOllama
from proxy.errors import ProxyError, SourceError, TransferError
from proxy.ollama import Ollama, upstream_session
from proxy.pull.plan import Plan, Upload
from proxy.pull.progress import Progress
from proxy.pull.transfer import STREAM_BYTES, Transfer
from proxy.sources.base import RepositoryFile
from tests.support import eventually

CONTENT = bytes(range(256)) * 1024
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = RepositoryFile("model.safetensors", len(CONTENT), sha256=SHA256)


@dataclass
class Pieces:
    """A repository that sends the same pieces for every file, and then perhaps fails."""

    pieces: list[bytes]
    failure: Exception | None = None
    id: str = "acme/model"
    commit: str = "c" * 40
    files: tuple[RepositoryFile, ...] = (FILE,)
    open_now: int = 0
    most_open: int = field(default=0)

    @asynccontextmanager
    async def stream(self, file: RepositoryFile) -> AsyncIterator[AsyncIterator[bytes]]:  # noqa: ARG002
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
    return Plan("hf.co/acme/model:latest", repository, Quantization.F16, uploads, "none", NO_SETTINGS)


def upload(digest: str = SHA256, path: str = FILE.path) -> Upload:
    return Upload(path, len(CONTENT), f"sha256:{digest}", RepositoryFile(path, len(CONTENT), digest), is_weights=True)


@pytest.mark.parametrize(
    ("pieces", "failure", "message"),
    [
        ([CONTENT[:-1]], None, f"model.safetensors: only {len(CONTENT) - 1} of {len(CONTENT)} bytes came"),
        ([], None, f"only 0 of {len(CONTENT)} bytes came"),
        ([CONTENT, b"x"], None, f"more than {len(CONTENT)} bytes came"),
        ([CONTENT[:-1], b"x"], None, "model.safetensors arrived damaged"),
        ([CONTENT[:1000]], SourceError("the source broke"), "the source broke"),
        ([CONTENT], SourceError("broke after the last byte"), "broke after the last byte"),
    ],
)
async def test_what_is_not_the_announced_file_is_refused_and_leaves_nothing(
    ollama: StandInOllama, pieces: list[bytes], failure: Exception | None, message: str
) -> None:
    repository = Pieces(pieces, failure)
    async with upstream_session() as session:
        transfer = Transfer(Ollama(ollama.url, session), 8, 128 * 1024**2)
        with pytest.raises(ProxyError, match=message):
            await transfer.run(plan(repository, upload()), Progress())
        with pytest.raises(ProxyError, match=message):
            await transfer.read(repository, [FILE])
        transfer.close()
    assert not ollama.blobs
    assert repository.open_now == 0


async def test_a_file_in_pieces_of_any_size_becomes_its_blob(ollama: StandInOllama) -> None:
    pieces = [CONTENT[:1], CONTENT[1:70_000], CONTENT[70_000:]]
    async with upstream_session() as session:
        transfer = Transfer(Ollama(ollama.url, session), 8, 128 * 1024**2)
        await transfer.run(plan(Pieces(pieces), upload()), Progress())
        assert await transfer.read(Pieces(pieces), [FILE]) == {FILE.path: CONTENT}
        transfer.close()
    assert ollama.blobs == {f"sha256:{SHA256}": len(CONTENT)}


async def test_a_file_without_a_known_digest_is_read_but_one_with_a_wrong_git_name_is_not(
    ollama: StandInOllama,
) -> None:
    async with upstream_session() as session:
        transfer = Transfer(Ollama(ollama.url, session), 8, 128 * 1024**2)
        plain = RepositoryFile("config.json", 2)
        assert await transfer.read(Pieces([b"{}"]), [plain]) == {"config.json": b"{}"}
        with pytest.raises(TransferError, match="config.json arrived damaged"):
            await transfer.read(Pieces([b"{}"]), [RepositoryFile("config.json", 2, git_sha1="0" * 40)])
        transfer.close()


async def test_small_files_do_not_wait_for_the_connections_to_the_source(ollama: StandInOllama) -> None:
    small = Upload(
        "config.json", 2, f"sha256:{hashlib.sha256(b'{}').hexdigest()}", FILE, is_weights=False, content=b"{}"
    )
    repository = Pieces([])
    repository.failure = SourceError("never reached")
    async with upstream_session() as session:
        transfer = Transfer(Ollama(ollama.url, session), 1, 128 * 1024**2)
        async with transfer._streams:
            running = asyncio.create_task(transfer.run(plan(repository, upload(), small), Progress()))
            await eventually(lambda: small.digest in ollama.blobs)
            running.cancel()
        transfer.close()


@pytest.mark.parametrize(("connections", "memory", "most"), [(3, 10**9, 3), (8, 2 * STREAM_BYTES, 2), (8, 1, 1)])
async def test_connections_and_memory_limit_what_runs_at_once(
    ollama: StandInOllama, connections: int, memory: int, most: int
) -> None:
    repository = Pieces([b"x"] * 50)
    uploads = [upload(f"{number:064x}", f"model-{number}.safetensors") for number in range(12)]
    async with upstream_session() as session:
        transfer = Transfer(Ollama(ollama.url, session), connections, memory)
        with pytest.raises(TransferError):
            await transfer.run(plan(repository, *uploads), Progress())
        transfer.close()
    assert repository.most_open == most
