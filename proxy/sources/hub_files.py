"""Requests that complete the Hub's description of a repository: sizes, digests, and repositories with its GGUF.

Mirrors leave out sizes and digests. These requests do not use huggingface_hub: it retries on its own, and it sends the
token to the next page of a listing even if that page is on another host.
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from aiohttp import hdrs
from yarl import URL

from proxy.errors import SourceError
from proxy.network_errors import NETWORK_FAILURES, reason_of, translate_failures
from proxy.sources.base import RepositoryFile
from proxy.sources.http_file import REDIRECTS, SHA256, bearer, responses

log = logging.getLogger(__name__)

PUBLIC_ENDPOINT = "https://huggingface.co"
CONCURRENT_HEADS = 8
"""HEAD requests at the same time."""
MAX_PAGES = 100
MAX_HINTS = 3
MAX_PLAIN_BYTES = 10 * 1024 * 1024
"""The Hub keeps larger files in Git LFS only: a larger file without a SHA-256 was left incomplete by a mirror."""
GIT_SHA1 = re.compile(r"[0-9a-f]{40}")
WEIGHTS = (".safetensors", ".gguf")
NEEDED = re.compile(
    r"(?:.*/)?(?:[^/]+\.(?:safetensors|gguf|json|jinja|model|txt)|licen[sc]e[^/]*|readme\.md|template|system|params)",
    re.IGNORECASE,
)
"""Files that a model can be made from. The sizes of other files do not matter."""


@dataclass(frozen=True, slots=True)
class ListedFile:
    """What is known about a file so far. Digests are plain hex."""

    path: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def is_needed(self) -> bool:
        return NEEDED.fullmatch(self.path) is not None

    @property
    def is_complete(self) -> bool:
        if not self.is_needed:
            return True
        if self.size is None:
            return False
        may_be_plain = self.git_sha1 is not None or not self.path.lower().endswith(WEIGHTS)
        return self.sha256 is not None or (may_be_plain and self.size <= MAX_PLAIN_BYTES)

    def completed_by(self, other: "ListedFile") -> "ListedFile":
        size = self.size if self.size is not None else other.size
        return ListedFile(self.path, size, self.sha256 or other.sha256, self.git_sha1 or other.git_sha1)


class HubFiles:
    """Requests about one repository at one commit. `token` goes to the origin of `endpoint` only."""

    def __init__(
        self,
        session: Callable[[], aiohttp.ClientSession],
        endpoint: str,
        token: str | None,
        repository: str,
        commit: str,
    ) -> None:
        self._session = session
        self._endpoint = endpoint
        self._origin = URL(endpoint).origin()
        self._credentials = bearer(token)
        self._repository = repository
        self._commit = commit
        self._head_slots = asyncio.Semaphore(CONCURRENT_HEADS)

    async def complete(self, files: Sequence[ListedFile]) -> tuple[RepositoryFile, ...]:
        """Raises SourceError, which names the file, if the size of a needed file cannot be found out."""
        if not all(file.is_complete for file in files):
            tree = {file.path: file async for file in self._tree()}
            files = [file.completed_by(tree.get(file.path, file)) for file in files]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._complete(file)) for file in files]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return tuple(task.result() for task in tasks)

    async def may_be_read(self, path: str) -> bool:
        """Whether the proxy's token opens this file."""
        status = HTTPStatus.OK

        def access_unknown(error: Exception) -> SourceError:
            return SourceError(
                f"{self._repository}/{path}: {self._endpoint} does not say whether the proxy may read it "
                f"({reason_of(error)}); pull again"
            )

        with translate_failures(access_unknown):
            async with aclosing(self._responses("HEAD", self._url(path))) as chain:
                async for response in chain:
                    status = HTTPStatus(response.status)
        return status not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)

    async def gguf_repositories(self) -> tuple[str, ...]:
        """Repositories that name this one as their base, most downloaded first. Raises errors of any kind."""
        filters = [("filter", "gguf"), ("filter", f"base_model:quantized:{self._repository}")]
        query = urlencode([*filters, ("sort", "downloads"), ("limit", MAX_HINTS)])
        models, _ = await self._page(URL(f"{self._endpoint}/api/models?{query}", encoded=True))
        return tuple(str(model["id"]) for model in models[:MAX_HINTS])

    async def _complete(self, file: ListedFile) -> RepositoryFile:
        if not file.is_complete:
            async with self._head_slots:
                file = await self._head(file)
        return RepositoryFile(file.path, file.size or 0, file.sha256, None if file.sha256 else file.git_sha1)

    async def _head(self, file: ListedFile) -> ListedFile:
        from_headers = ListedFile(file.path)
        outcome = ""
        try:
            async with aclosing(self._responses("HEAD", self._url(file.path))) as chain:
                async for response in chain:
                    from_headers = from_headers.completed_by(self._file_in_headers(file.path, response))
                    outcome = f"it answered {response.status} {response.reason}"
                    if from_headers.size is not None:
                        # Do not follow to the storage: that URL may be signed for GET only, and has its own ETag.
                        break
        except NETWORK_FAILURES as error:
            # A digest is optional: without a size the error is raised below.
            outcome = reason_of(error)
        completed = file.completed_by(from_headers)
        if completed.size is None:
            raise self._size_unknown(file.path, outcome)
        return completed

    def _file_in_headers(self, path: str, response: aiohttp.ClientResponse) -> ListedFile:
        headers = response.headers
        size = headers.get("X-Linked-Size")
        if size is None and response.status == HTTPStatus.OK and hdrs.CONTENT_ENCODING not in headers:
            size = headers.get(hdrs.CONTENT_LENGTH)
        etag = headers.get("X-Linked-Etag")
        if etag is None and response.url.origin() == self._origin:
            etag = headers.get(hdrs.ETAG)
        etag = (etag or "").removeprefix("W/").strip('"')
        return ListedFile(
            path,
            int(size) if size is not None and size.isdecimal() else None,
            etag if SHA256.fullmatch(etag) else None,
            etag if GIT_SHA1.fullmatch(etag) else None,
        )

    async def _tree(self) -> AsyncGenerator[ListedFile, None]:
        """The files of the repository's tree, up to the first page that fails: not every mirror has a tree."""
        first = f"{self._endpoint}/api/models/{quote(self._repository)}/tree/{self._commit}?recursive=true"
        page: URL | None = URL(first, encoded=True)
        seen: set[URL] = set()
        # olah forwards the Hub's Link header, which leads to the Hub, and ignores cursors itself.
        while page is not None and page not in seen and len(seen) < MAX_PAGES:
            seen.add(page)
            try:
                entries, page = await self._page(page)
                files = [_from_tree(entry) for entry in entries if entry["type"] == "file"]
            except (*NETWORK_FAILURES, ValueError, LookupError, TypeError) as error:
                log.info("%s has no file tree of %s (%s)", self._endpoint, self._repository, reason_of(error))
                return
            for file in files:
                yield file

    async def _page(self, page: URL) -> tuple[list[Any], URL | None]:
        """The entries of one page, and the URL of the next page."""
        async with aclosing(self._responses("GET", page)) as chain:
            async for response in chain:
                if response.status not in REDIRECTS:
                    response.raise_for_status()
                    next_page = response.links["next"]["url"] if "next" in response.links else None
                    return orjson.loads(await response.read()), URL(next_page) if next_page else None
        raise ValueError("redirects without an end")

    def _responses(self, method: str, url: URL) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        return responses(self._session(), method, url, self._origin, self._credentials)

    def _url(self, path: str) -> URL:
        return resolve_url(self._endpoint, self._repository, self._commit, path)

    def _size_unknown(self, path: str, reason: str) -> SourceError:
        return SourceError(
            f"{self._repository}/{path}: {self._endpoint} does not report its size, which a pull needs ({reason}); "
            "pull again, or set hub.endpoint to another mirror"
        )


def resolve_url(endpoint: str, repository: str, commit: str, path: str) -> URL:
    return URL(f"{endpoint}/{quote(repository)}/resolve/{commit}/{quote(path)}", encoded=True)


def _from_tree(entry: dict[str, Any]) -> ListedFile:
    lfs = entry.get("lfs") or {}
    sha256, git = str(lfs.get("oid") or ""), str(entry.get("oid") or "")
    return ListedFile(
        entry["path"],
        int(lfs.get("size") or entry["size"]),
        sha256 if SHA256.fullmatch(sha256) else None,
        git if GIT_SHA1.fullmatch(git) and not lfs else None,
    )
