"""The protocols of a source and its repositories, and how to write a source as a plugin.

A plugin is a class in any installed package. The package names it in its pyproject.toml:

    [project.entry-points."ollama_hf_proxy.sources"]
    shelf = "my_package.shelf:Shelf"

A table in the proxy's configuration makes one source from the plugin. `type` is the name of the entry point (default:
the table's name). `hosts` are the first parts of the names that the source serves (default: the table's name). All
other keys belong to the plugin.

    [sources.attic]                  # ollama pull attic/acme/tiny:q4_K_M
    type = "shelf"
    url = "https://attic.example"

The class is imported only if a table needs it. It reads its own keys into a frozen struct, so that a key that is
missing, misspelt or of the wrong type causes an error that names `sources.attic.KEY`:

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        url: str

    class Shelf:
        @classmethod
        def from_settings(cls, settings: SourceSettings) -> "Shelf":
            own = settings.read(Settings)
            if not own.url.startswith("https://"):
                raise settings.error("url", "must begin with https://")
            return cls(own.url, settings.hosts)

The class implements the protocol `Source`, and its `open` returns a `Repository`; there is nothing to inherit. All
methods run on the event loop, so blocking work belongs in a thread. Many pulls use one source at the same time. Raise
the errors of proxy/errors.py, with a text for the user: what happened, to which file, and what to do now.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from proxy.config.loading import convert
from proxy.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """One file at a pinned commit.

    Without a digest the bytes cannot be checked, and a large file has to be spooled before its upload, because
    Ollama's `/api/blobs` needs the digest first.
    """

    path: str
    """Comes from outside: not safe to use as a path or in a URL without a check."""
    size: int
    """In bytes. Must be right for every file that a model can be made from; may be 0 for other files."""
    sha256: str | None = None
    """Of the content, in hex. One of the two digests is enough."""
    git_sha1: str | None = None
    """The object name of the blob in git, in hex."""


class Repository(Protocol):
    """A repository at one commit; its content does not change during a pull."""

    @property
    def id(self) -> str:
        """ORG/REPO in the source's own spelling."""

    @property
    def commit(self) -> str:
        """Changes whenever any file changes."""

    @property
    def files(self) -> tuple[RepositoryFile, ...]: ...

    @property
    def modified(self) -> float | None:
        """Unix time of this commit or of a later one; None if unknown."""

    @property
    def public(self) -> bool:
        """Whether Ollama's own pull from hf.co would get exactly these bytes without a token."""

    def stream(
        self, file: RepositoryFile, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes from offset `start` up to `stop`, in order. Without `stop`: the whole file, without a range.

        The caller counts and hashes the bytes. Raises Interrupted if a retry may help, RangesIgnored if the source
        can only send whole files, SourceError for everything else.
        """

    async def gguf_repositories(self) -> Sequence[str]:
        """Up to three ids of repositories that have the same model as GGUF, best first: a hint for an error text.

        Never raises, and returns within about 3 seconds. Empty if the source does not know any.
        """


@runtime_checkable
class Mirrored(Protocol):
    """An optional addition to `Repository`: it also reads from mirrors, which it does not trust."""

    def report_damaged(self, file: RepositoryFile) -> str:
        """Call this when the received bytes do not match the digest. Returns the mirrors that may have damaged them.

        These mirrors are not used for this file again. Returns "" if all bytes came from the source itself.
        """

    def keep_to_source(self, file: RepositoryFile) -> None:
        """Call this before reading a file that no digest will check: it must not come from a mirror."""


@runtime_checkable
class Derived(Protocol):
    """An optional addition to `Repository`: it knows from which repository its weights were quantized."""

    @property
    def quantized_from(self) -> str | None:
        """ORG/REPO; None if the source does not know any."""


class Source(Protocol):
    """Opens repositories."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The first parts of the names that this source serves, in lower case."""

    async def open(self, repository: str, revision: str | None) -> Repository:
        """Resolve ORG/REPO to a commit and list its files. No revision means the default branch.

        Returns or raises within 15 seconds, and does not wait for a source that throttles. Raises Refusal if there is
        no such repository or revision, or if it may not be read; Interrupted if the source throttles, fails or is
        silent, with the `wait` that it requests: a pull then waits, shows this to its clients, and calls `open` again;
        SourceError for everything else, such as a source that cannot be reached.
        """

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """The configuration of one source."""

    name: str
    """NAME in `[sources.NAME]`."""
    hosts: tuple[str, ...]
    values: Mapping[str, Any] = field(repr=False)
    """The plugin's own keys, as TOML has them; they may hold a token."""
    receive_buffer: int | None = None
    """Bytes of one connection that the kernel may buffer; None without a limit (no pull.bandwidth)."""

    def read(self, struct: type[T]) -> T:
        """The plugin's own keys as a msgspec struct. Raises ConfigError, which names the key."""
        return convert(self.values, struct, f"sources.{self.name}")

    def error(self, key: str, text: str) -> ConfigError:
        """The error to raise for a value that the struct cannot check."""
        return ConfigError(f"sources.{self.name}.{key}: {text}")


class SourcePlugin(Protocol):
    """The class that the entry point names."""

    def from_settings(self, settings: SourceSettings) -> Source: ...
