"""What a source of repositories has to offer, so that a pull does not know where its bytes come from.

A source is a plugin: a class in any installed package, which names it in its pyproject.toml.

    [project.entry-points."ollama_hf_proxy.sources"]
    shelf = "my_package.shelf:Shelf"

A table in the proxy's configuration makes one source of it. `type` is the entry point's name, by default the
table's; `hosts` are the first parts of the names it claims, by default the table's name. The rest is the plugin's own.

    [sources.attic]                  # ollama pull attic/acme/tiny:q4_K_M
    type = "shelf"
    url = "https://attic.example"

The class is imported when a table wants it. It reads its own settings into a frozen struct, so that a key that is
missing, misspelt or of another type is an error that names `sources.attic.KEY`:

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        url: str

    class Shelf:
        @classmethod
        def from_settings(cls, settings: SourceSettings) -> "Shelf":
            own = settings.read(Settings)
            if not own.url.startswith("https://"):
                raise settings.error("url", "must begin with https://")
            return cls(own.url, settings.hosts)

and is otherwise what `Source` below says; what its `open` returns is a `Repository`. Both are protocols: there is
nothing to inherit. All methods run on the event loop, where anything that blocks belongs into a thread, and many
pulls use one source at a time. What goes wrong is raised as one of the errors in proxy/errors.py with a text for the
person who pulls: what happened, to which file, and what to do.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from proxy.config import convert
from proxy.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """One file at a pinned commit.

    `path` comes from outside and is not safe to use as it is. `size` is in bytes; it has to be right for every file
    that a model can be made of, and may be 0 for others where the source does not tell it.
    The digests, both plain hex, are of the content: `sha256`, and `git_sha1` (the blob's object name in git). Either
    is enough. Where a source knows neither, both are None: what comes then is taken for the file as it is, and one
    that is large costs Ollama's `/api/blobs` a detour.
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
    def commit(self) -> str:
        """Another one wherever a file differs."""

    @property
    def files(self) -> tuple[RepositoryFile, ...]: ...

    @property
    def modified(self) -> float | None:
        """When this commit was made, or later, in Unix seconds; None where nobody tells."""

    @property
    def public(self) -> bool:
        """Whether anybody, so also Ollama when it pulls from hf.co by itself, gets these very bytes without a token."""

    def stream(
        self, file: RepositoryFile, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes from offset `start` up to `stop`, in order; without `stop` the whole file, asked for as such.

        The reader counts and hashes. Raises Interrupted where asking again may help, RangesIgnored where the
        source has only whole files to give, SourceError for the rest.
        """

    async def gguf_repositories(self) -> Sequence[str]:
        """Up to three ids of repositories with GGUF of the same model, the best first: a hint inside an error.

        Never raises and answers within about 3 seconds; empty where the source cannot tell.
        """


@runtime_checkable
class Mirrored(Protocol):
    """What a repository may also be: one that reads from places which it does not trust."""

    def damaged(self, file: RepositoryFile) -> str:
        """Says that what came of this file is not the file. The answer names the places that may have damaged it.

        They are asked for this file no more; empty where it came from the source itself.
        """

    def keep_to_source(self, file: RepositoryFile) -> None:
        """Says that what comes of this file is compared with no digest, and must not come from such a place."""


class Source(Protocol):
    """Opens repositories. `hosts`, in lower case, are the first parts of the names that it claims."""

    @property
    def hosts(self) -> tuple[str, ...]: ...

    async def open(self, repository: str, revision: str | None) -> Repository:
        """Resolve ORG/REPO to a commit and list its files; no revision means the default branch.

        Answers within 15 seconds. Raises Refusal where there is no such repository or revision or it may not
        be read, SourceError where the source cannot be reached.
        """

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """What the configuration says about one source.

    `values` are the plugin's own keys as TOML has them. `receive_buffer` is how many bytes of one connection may wait
    in the kernel where pull.bandwidth is to hold, else None.
    """

    name: str
    hosts: tuple[str, ...]
    values: Mapping[str, Any] = field(repr=False)
    receive_buffer: int | None = None

    def read(self, kind: type[T]) -> T:
        """The own keys as a msgspec struct. Raises ConfigError, which names the key."""
        return convert(self.values, kind, f"sources.{self.name}")

    def error(self, key: str, text: str) -> ConfigError:
        """To raise for a value that the struct alone cannot judge."""
        return ConfigError(f"sources.{self.name}.{key}: {text}")


class SourcePlugin(Protocol):
    """What the entry point leads to: the class itself."""

    def from_settings(self, settings: SourceSettings) -> Source: ...
