"""A folder of models on this machine: ORG/REPO is a subfolder, or a repository in a cache of huggingface_hub."""

import asyncio
import errno
import hashlib
import os
import re
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import msgspec

from proxy.errors import Refusal, SourceError
from proxy.network_errors import reason_of, translate_failures
from proxy.sources.base import RepositoryFile, SourceSettings
from proxy.sources.threads import in_daemon_thread

OPEN_SECONDS = 12.0
CHUNK_BYTES = 1024 * 1024
MAX_FILES = 10_000
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # Windows has neither
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
BLOB = re.compile(r"(?:sha256-)?([0-9a-f]{64})")


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str


@dataclass(frozen=True, slots=True)
class _FileState:
    """If any of these differ, the file has changed since it was listed."""

    device: int
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "_FileState":
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class _LocalFile:
    """A listed file; `real_path` has no links in it."""

    file: RepositoryFile
    real_path: Path
    state: _FileState


class Folder:
    """A source that reads the folder `path`, and nothing outside of it, not even through links."""

    def __init__(self, path: Path, hosts: tuple[str, ...], name: str) -> None:
        self.hosts = hosts
        self._root = _real_path(path)
        self._name = name

    @classmethod
    def from_settings(cls, settings: SourceSettings) -> "Folder":
        path = Path(settings.read(_Settings).path).expanduser()
        if not path.is_absolute():
            raise settings.error("path", f"must begin with / or ~, not {str(path)!r}")
        if not path.is_dir():
            raise settings.error("path", f"{str(path)!r} is not a folder that the proxy can see")
        return cls(path, settings.hosts, settings.name)

    async def open(self, repository: str, revision: str | None) -> "FolderRepository":
        if revision is not None:
            raise Refusal(
                f"{repository} is a folder of [sources.{self._name}], which has no revision {revision!r}; remove it "
                "from the tag, or `revision` from its [models] settings"
            )

        def unreadable(error: Exception) -> SourceError:
            where = f"the folder of [sources.{self._name}]"
            if isinstance(error, TimeoutError):
                return SourceError(
                    f"{repository} could not be listed within {OPEN_SECONDS:.0f} s; check the disk of {where}"
                )
            return SourceError(f"{repository} in {where} cannot be listed: {reason_of(error)}; check the disk")

        with translate_failures(unreadable):
            async with asyncio.timeout(OPEN_SECONDS):
                return FolderRepository(repository, await in_daemon_thread(lambda: self._list(repository)))

    async def close(self) -> None:
        """Nothing stays open."""

    def _list(self, repository: str) -> tuple[_LocalFile, ...]:
        folder = self._find(repository)
        listed: list[_LocalFile] = []
        for path in _files_below(folder):
            name = path.relative_to(folder).as_posix()
            real_path = _real_path(path)
            if not real_path.is_relative_to(self._root):
                raise Refusal(
                    f"{repository}/{name} is a link to outside of the folder of [sources.{self._name}]; put the file "
                    "itself there"
                )
            if (file := _local_file(name, real_path)) is not None:
                listed.append(file)
            if len(listed) > MAX_FILES:
                raise Refusal(f"{repository} has more than {MAX_FILES} files; pull a folder that holds one model")
        return tuple(listed)

    def _find(self, repository: str) -> Path:
        parts = repository.split("/")
        if len(parts) == 2 and all(PART.fullmatch(part) for part in parts):  # noqa: PLR2004 - ORG/REPO
            for folder in (self._root.joinpath(*parts), self._cached(*parts)):
                if folder is None or not folder.is_dir():
                    continue
                if (real_path := _real_path(folder)).is_relative_to(self._root):
                    return real_path
        raise Refusal(
            f"there is no folder {repository} in that of [sources.{self._name}]; check the spelling, or put the "
            "model's files there"
        )

    def _cached(self, organization: str, name: str) -> Path | None:
        """The snapshot of the default branch in a cache of huggingface_hub."""
        cache = self._root / f"models--{organization}--{name}"
        try:
            commit = (cache / "refs" / "main").read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
        return cache / "snapshots" / commit if PART.fullmatch(commit) else None


class FolderRepository:
    """The folder of a model. A file that changes after `open` is an error when it is read."""

    public = False

    def __init__(self, repository: str, listed: Sequence[_LocalFile]) -> None:
        self.id = repository
        self.files = tuple(local.file for local in listed)
        self._local_files = {local.file.path: local for local in listed}
        self.commit = _commit(listed)
        self.modified = max((local.state.modified_ns for local in listed), default=0) / 1e9

    def stream(
        self, file: RepositoryFile, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._stream(self._local_files[file.path], start, file.size if stop is None else stop)

    async def gguf_repositories(self) -> Sequence[str]:
        return ()

    @asynccontextmanager
    async def _stream(self, local: _LocalFile, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        label = f"{self.id}/{local.file.path}"
        with _read_errors(label):
            opened = await in_daemon_thread(lambda: _open(local, start))
        with opened:
            yield self._chunks(opened, label, local.state, stop - start)

    async def _chunks(self, opened: FileIO, label: str, expected: _FileState, left: int) -> AsyncIterator[bytes]:
        while left > 0:
            size = min(left, CHUNK_BYTES)
            with _read_errors(label):
                chunk, state = await in_daemon_thread(lambda size=size: _read(opened, size))  # type: ignore[misc]
            if state != expected or not chunk:
                raise SourceError(f"{label} has changed since the pull began; pull again when it no longer changes")
            left -= len(chunk)
            yield chunk


def one_file(path: Path) -> FolderRepository | None:
    """A repository with this file alone; None if there is no such file. Blocking."""
    local = _local_file(path.name, _real_path(path))
    return FolderRepository(str(path.parent), [local]) if local is not None else None


def _read_errors(label: str) -> AbstractContextManager[None]:
    return translate_failures(
        lambda error: SourceError(f"{label} cannot be read: {reason_of(error)}; check it, and pull again")
    )


def _real_path(path: Path) -> Path:
    # Before Python 3.13 Path.resolve raises for links that form a circle.
    return Path(os.path.realpath(path))


def _open(local: _LocalFile, start: int) -> FileIO:
    """Does not follow a link that has replaced the file since it was listed."""
    opened = FileIO(local.real_path, opener=lambda path, flags: os.open(path, flags | NO_LINK))
    opened.seek(start)
    return opened


def _read(opened: FileIO, size: int) -> tuple[bytes, _FileState]:
    chunk = opened.read(size)
    return chunk, _FileState.of(os.fstat(opened.fileno()))


def _files_below(folder: Path) -> Iterator[Path]:
    """Files and links to files, without hidden ones (.git, .cache) and without links to folders."""

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(parent, name)


def _local_file(name: str, real_path: Path) -> _LocalFile | None:
    """None for a broken link, and for anything but a regular file."""
    try:
        status = real_path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise
    if not stat.S_ISREG(status.st_mode):
        return None
    # huggingface_hub's cache names the blobs of LFS files by their SHA-256, and so does Ollama.
    named = BLOB.fullmatch(real_path.name) if real_path.parent.name == "blobs" else None
    sha256 = named[1] if named else None
    return _LocalFile(RepositoryFile(name, status.st_size, sha256), real_path, _FileState.of(status))


def _commit(listed: Sequence[_LocalFile]) -> str:
    digest = hashlib.sha256()
    for local in listed:
        digest.update(os.fsencode(f"{local.file.path}\0{local.state.size}\0{local.state.modified_ns}\0"))
    return digest.hexdigest()
