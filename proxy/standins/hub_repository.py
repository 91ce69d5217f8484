"""A repository of the stand-in Hub: files, commits and branches."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict, Unpack

CHUNK = 512 * 1024
LFS_SUFFIXES = (".safetensors", ".gguf", ".bin")


def lfs_by_default(path: str, size: int) -> bool:
    return path.endswith(LFS_SUFFIXES) or path.rpartition("/")[2] == "tokenizer.model" or size >= 1 << 20


class StoredFile:
    """One version of one file, in memory or on disk. A file on disk is read in pieces."""

    def __init__(self, content: bytes | Path, *, lfs: bool = False, sha256: str | None = None) -> None:
        self.content = content
        self.size = content.stat().st_size if isinstance(content, Path) else len(content)
        self.lfs = lfs
        self._sha256 = sha256
        self._git_sha1: str | None = None
        self._hashing = asyncio.Lock()

    async def read(self, start: int, count: int) -> bytes:
        if isinstance(self.content, Path):
            return await asyncio.to_thread(_read, self.content, start, count)
        return self.content[start : start + count]

    async def sha256(self) -> str:
        async with self._hashing:
            if self._sha256 is None:
                self._sha256 = await asyncio.to_thread(self._hash, hashlib.sha256())
        return self._sha256

    async def pointer(self) -> bytes:
        """The pointer that git stores instead of an LFS file."""
        lines = (
            "version https://git-lfs.github.com/spec/v1",
            f"oid sha256:{await self.sha256()}",
            f"size {self.size}",
        )
        return "".join(line + "\n" for line in lines).encode()

    async def blob_id(self) -> str:
        if self.lfs:
            return _git_sha1(await self.pointer())
        async with self._hashing:
            if self._git_sha1 is None:
                self._git_sha1 = await asyncio.to_thread(self._hash, hashlib.sha1(b"blob %d\0" % self.size))
        return self._git_sha1

    def _hash(self, digest: "hashlib._Hash") -> str:
        if isinstance(self.content, Path):
            with self.content.open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    digest.update(chunk)
        else:
            digest.update(self.content)
        return digest.hexdigest()


def _read(path: Path, start: int, count: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(start)
        return stream.read(count)


def _git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class RepositoryProperties(TypedDict, total=False):
    lfs: Callable[[str], bool] | None  # decides by a path whether a file is in LFS
    gated: bool
    private: bool
    disabled: bool
    quantized_from: str  # id of the repository that this one is a quantization of
    downloads: int


class StandInRepository:
    """A repository. A test may change its flags and branches, and commits files with `update`."""

    def __init__(self, repo_id: str, **properties: Unpack[RepositoryProperties]) -> None:
        self.repo_id = repo_id
        self.quantized_from = properties.get("quantized_from", "")
        self.downloads = properties.get("downloads", 0)
        self.gated = properties.get("gated", False)
        self.private = properties.get("private", False)
        self.disabled = properties.get("disabled", False)
        self.branches: dict[str, str] = {}
        self.commits: dict[str, dict[str, StoredFile]] = {}
        self.dates: dict[str, datetime] = {}
        self._lfs = properties.get("lfs")

    @property
    def commit(self) -> str:
        return self.branches["main"]

    @property
    def files(self) -> dict[str, StoredFile]:
        return self.commits[self.commit]

    def update(self, files: Mapping[str, bytes | Path | None], *, digests: Mapping[str, str] | None = None) -> str:
        """Commit to main and return the commit. A file given as `None` is removed.

        Files whose sha256 is in `digests` are not hashed.
        """
        tree = dict(self.files) if self.branches else {}
        for path, content in files.items():
            if content is None:
                del tree[path]
            else:
                tree[path] = self._store(path, content, (digests or {}).get(path))
        # Large files are hashed late or never, so the commit's hash does not depend on their contents.
        name = f"{self.repo_id} {len(self.commits)} {' '.join(sorted(tree))}"
        commit = hashlib.sha1(name.encode()).hexdigest()
        self.commits[commit] = tree
        self.dates[commit] = datetime.now(UTC)
        self.branches["main"] = commit
        return commit

    def _store(self, path: str, content: bytes | Path, sha256: str | None) -> StoredFile:
        file = StoredFile(content, sha256=sha256)
        file.lfs = self._lfs(path) if self._lfs else lfs_by_default(path, file.size)
        return file

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, or the commit itself; None if there is none."""
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None
