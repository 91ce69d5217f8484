"""A folder of models on this machine: ORG/REPO is the folder ORG/REPO in it, or what huggingface_hub cached there."""

import asyncio
import errno
import hashlib
import os
import re
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import msgspec

from proxy.errors import Refusal, SourceError
from proxy.network_errors import reason_of
from proxy.sources.base import RepositoryFile, SourceSettings
from proxy.sources.threads import in_daemon_thread

OPEN_SECONDS = 12.0
CHUNK = 1024 * 1024
MOST_FILES = 10_000
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # neither is there on Windows
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
BLOB = re.compile(r"[0-9a-f]{64}")


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str


@dataclass(frozen=True, slots=True)
class _State:
    """What a file is recognised by: a listed file with another state is another file."""

    device: int
    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, found: os.stat_result) -> "_State":
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class _Found:
    """A file of a model: where it really is, and as what it was listed."""

    file: RepositoryFile
    place: Path
    state: _State


class Folder:
    """A source over the folder `path`. Nothing outside of it is read, not through links either."""

    def __init__(self, path: Path, hosts: tuple[str, ...], name: str) -> None:
        self.hosts = hosts
        self._root = _real(path)
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
                f"{repository} is a folder of [sources.{self._name}], which has no revision {revision!r}; take "
                "`revision` out of its [models] settings"
            )
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                found = await in_daemon_thread(lambda: self._list(repository))
        except TimeoutError:
            raise SourceError(
                f"{repository} could not be listed within {OPEN_SECONDS:.0f} s; check the disk that "
                f"[sources.{self._name}] is on"
            ) from None
        except OSError as error:
            raise SourceError(
                f"{repository} in the folder of [sources.{self._name}] cannot be listed: {reason_of(error)}"
            ) from error
        return FolderRepository(repository, found)

    async def close(self) -> None:
        """Nothing stays open."""

    def _list(self, repository: str) -> tuple[_Found, ...]:
        folder = self._find(repository)
        found: list[_Found] = []
        for path in _files_below(folder):
            name = path.relative_to(folder).as_posix()
            place = _real(path)
            if not place.is_relative_to(self._root):
                raise Refusal(
                    f"{repository}/{name} is a link to outside of the folder of [sources.{self._name}]; put the file "
                    "itself there"
                )
            if (file := _found(name, place)) is not None:
                found.append(file)
            if len(found) > MOST_FILES:
                raise Refusal(f"{repository} has more than {MOST_FILES} files; one model's folder is wanted")
        return tuple(found)

    def _find(self, repository: str) -> Path:
        parts = repository.split("/")
        if len(parts) == 2 and all(PART.fullmatch(part) for part in parts):  # noqa: PLR2004 - ORG/REPO
            for folder in (self._root.joinpath(*parts), self._cached(*parts)):
                if folder is not None and folder.is_dir() and (place := _real(folder)).is_relative_to(self._root):
                    return place
        raise Refusal(
            f"there is no folder {repository} in that of [sources.{self._name}]; check the spelling, or put the "
            "model's files there"
        )

    def _cached(self, organization: str, name: str) -> Path | None:
        """The snapshot of the default branch in a folder that is huggingface_hub's cache."""
        cache = self._root / f"models--{organization}--{name}"
        try:
            commit = (cache / "refs" / "main").read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
        return cache / "snapshots" / commit if PART.fullmatch(commit) else None


class FolderRepository:
    """A model's folder as it was when it was opened."""

    public = False

    def __init__(self, repository: str, found: Sequence[_Found]) -> None:
        self.id = repository
        self.files = tuple(entry.file for entry in found)
        self._found = {entry.file.path: entry for entry in found}
        self.commit = _commit(found)
        self.modified = max((entry.state.changed for entry in found), default=0) / 1e9

    def stream(
        self, file: RepositoryFile, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._stream(self._found[file.path], start, file.size if stop is None else stop)

    async def gguf_repositories(self) -> Sequence[str]:
        return ()

    @asynccontextmanager
    async def _stream(self, found: _Found, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        what = f"{self.id}/{found.file.path}"
        try:
            opened = await in_daemon_thread(lambda: _open(found, start))
        except OSError as error:
            raise SourceError(f"{what} cannot be read: {reason_of(error)}; check it, and pull again") from error
        with opened:
            yield self._chunks(opened, what, found, stop - start)

    async def _chunks(self, opened: FileIO, what: str, found: _Found, left: int) -> AsyncIterator[bytes]:
        while left > 0:
            size = min(left, CHUNK)
            try:
                chunk, state = await in_daemon_thread(lambda size=size: _read(opened, size))  # type: ignore[misc]
            except OSError as error:
                raise SourceError(f"{what} cannot be read: {reason_of(error)}; check it, and pull again") from error
            if state != found.state or not chunk:
                raise SourceError(f"{what} has changed since the pull began; pull again when it is written to no more")
            left -= len(chunk)
            yield chunk


def _real(path: Path) -> Path:
    # Path.resolve raises for links that lead in a circle, before Python 3.13.
    return Path(os.path.realpath(path))


def _open(found: _Found, start: int) -> FileIO:
    """A link that took the place of the file since it was listed is not followed."""
    opened = FileIO(found.place, opener=lambda path, flags: os.open(path, flags | NO_LINK))
    opened.seek(start)
    return opened


def _read(opened: FileIO, size: int) -> tuple[bytes, _State]:
    chunk = opened.read(size)
    return chunk, _State.of(os.fstat(opened.fileno()))


def _files_below(folder: Path) -> Iterator[Path]:
    """Files and links to files; what is hidden (.git, .cache) and links to folders are left out."""

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(parent, name)


def _found(name: str, place: Path) -> _Found | None:
    try:
        state = place.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise
    if not stat.S_ISREG(state.st_mode):
        return None
    # huggingface_hub's cache names the blobs of LFS files by their SHA-256.
    sha256 = place.name if place.parent.name == "blobs" and BLOB.fullmatch(place.name) else None
    return _Found(RepositoryFile(name, state.st_size, sha256), place, _State.of(state))


def _commit(found: Sequence[_Found]) -> str:
    digest = hashlib.sha256()
    for entry in found:
        state = entry.state
        digest.update(os.fsencode(f"{entry.file.path}\0{state.size}\0{state.changed}\0"))
    return digest.hexdigest()
