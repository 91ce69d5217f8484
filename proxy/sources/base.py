"""What a source of repositories has to offer, so that a pull does not know where its bytes come from."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """One file at a pinned commit.

    `path` comes from outside and is not safe to use as it is. `size` is in bytes.
    One of the two digests, both plain hex, is known: `sha256` of the content for files in Git LFS,
    `git_sha1` (the blob's object name) for the others.
    """

    path: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None


class Repository(Protocol):
    """A repository at one commit, which does not move while it is pulled."""

    @property
    def id(self) -> str:
        """ORG/REPO as the source spells it."""

    @property
    def commit(self) -> str: ...

    @property
    def files(self) -> tuple[RepositoryFile, ...]: ...

    def stream(
        self, file: RepositoryFile, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes from offset `start` up to `stop`, in order; without `stop` the whole file, asked for as such.

        The reader counts and hashes. Raises Interrupted where asking again may help, RangesIgnored where the
        source has only whole files to give, SourceError for the rest.
        """


class Source(Protocol):
    """A plugin that claims host names: `hosts` are lower-case."""

    @property
    def hosts(self) -> tuple[str, ...]: ...

    async def open(self, repository: str, revision: str | None) -> Repository:
        """Resolve ORG/REPO to a commit and list its files; no revision means the default branch.

        Answers within 15 seconds. Raises Refusal where there is no such repository or revision or it may not
        be read, SourceError where the source cannot be reached.
        """

    async def close(self) -> None: ...
