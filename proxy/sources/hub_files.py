"""What a description does not tell of a repository: sizes and digests, which mirrors leave out, and who has its GGUF.

Not through huggingface_hub, which tries again behind our back, and takes the token along to a next page elsewhere.
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
from proxy.network_errors import reason_of
from proxy.sources.base import RepositoryFile
from proxy.sources.http_file import REDIRECTS, SHA256, answers, bearer

log = logging.getLogger(__name__)

PUBLIC_ENDPOINT = "https://huggingface.co"
HEADS = 8
"""Files that are asked for at once."""
MOST_PAGES = 100
MOST_HINTS = 3
PLAIN_BYTES = 10 * 1024 * 1024
"""The Hub has no larger file outside Git LFS, so a larger one without its digest is a mirror's omission."""
GIT_SHA1 = re.compile(r"[0-9a-f]{40}")
WEIGHTS = (".safetensors", ".gguf")
NEEDED = re.compile(
    r"(?:.*/)?(?:[^/]+\.(?:safetensors|gguf|json|jinja|model|txt)|licen[sc]e[^/]*|readme\.md|template|system|params)",
    re.IGNORECASE,
)
"""What a model can be made of; of other files nobody asks for the size."""


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file as far as it has been told. Digests are plain hex."""

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
        plain = self.git_sha1 is not None or not self.path.lower().endswith(WEIGHTS)
        return self.sha256 is not None or (plain and self.size <= PLAIN_BYTES)

    def completed_by(self, other: "ListedFile") -> "ListedFile":
        size = self.size if self.size is not None else other.size
        return ListedFile(self.path, size, self.sha256 or other.sha256, self.git_sha1 or other.git_sha1)


class HubFiles:
    """Asks about one repository at one commit. `token` goes to the endpoint's origin only."""

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
        self._asking = asyncio.Semaphore(HEADS)

    async def complete(self, files: Sequence[ListedFile]) -> tuple[RepositoryFile, ...]:
        """Raises SourceError, which names the file, where nothing tells the size of one that a model may need."""
        if not all(file.is_complete for file in files):
            tree = {file.path: file async for file in self._tree()}
            files = [file.completed_by(tree.get(file.path, file)) for file in files]
        try:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(self._complete(file)) for file in files]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return tuple(task.result() for task in asked)

    async def may_be_read(self, path: str) -> bool:
        """Whether this file itself is given to whom the proxy is."""
        status = HTTPStatus.OK
        try:
            async with aclosing(self._answers("HEAD", self._address(path))) as asked:
                async for answer in asked:
                    status = HTTPStatus(answer.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._untold(path, reason_of(error)) from error
        return status not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)

    async def gguf_repositories(self) -> tuple[str, ...]:
        """Those that say they were made of this one, the most downloaded first. Raises whatever goes wrong."""
        filters = [("filter", "gguf"), ("filter", f"base_model:quantized:{self._repository}")]
        query = urlencode([*filters, ("sort", "downloads"), ("limit", MOST_HINTS)])
        models, _ = await self._page(URL(f"{self._endpoint}/api/models?{query}", encoded=True))
        return tuple(str(model["id"]) for model in models[:MOST_HINTS])

    async def _complete(self, file: ListedFile) -> RepositoryFile:
        if not file.is_complete:
            async with self._asking:
                file = await self._head(file)
        return RepositoryFile(file.path, file.size or 0, file.sha256, None if file.sha256 else file.git_sha1)

    async def _head(self, file: ListedFile) -> ListedFile:
        said = ListedFile(file.path)
        last = ""
        try:
            async with aclosing(self._answers("HEAD", self._address(file.path))) as asked:
                async for answer in asked:
                    said = said.completed_by(self._told(file.path, answer))
                    last = f"it answered {answer.status} {answer.reason}"
                    if said.size is not None:
                        # On to the bytes' own address: it may be signed for a GET alone, and its ETag is its own.
                        break
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            last = reason_of(error)
        completed = file.completed_by(said)
        if completed.size is None:
            raise self._untold(file.path, last)
        return completed

    def _told(self, path: str, answer: aiohttp.ClientResponse) -> ListedFile:
        headers = answer.headers
        size = headers.get("X-Linked-Size")
        if size is None and answer.status == HTTPStatus.OK and hdrs.CONTENT_ENCODING not in headers:
            size = headers.get(hdrs.CONTENT_LENGTH)
        etag = headers.get("X-Linked-Etag")
        if etag is None and answer.url.origin() == self._origin:
            etag = headers.get(hdrs.ETAG)
        etag = (etag or "").removeprefix("W/").strip('"')
        return ListedFile(
            path,
            int(size) if size is not None and size.isdecimal() else None,
            etag if SHA256.fullmatch(etag) else None,
            etag if GIT_SHA1.fullmatch(etag) else None,
        )

    async def _tree(self) -> AsyncGenerator[ListedFile, None]:
        """As much of the repository's tree as can be had: not every mirror has one."""
        address = f"{self._endpoint}/api/models/{quote(self._repository)}/tree/{self._commit}?recursive=true"
        page: URL | None = URL(address, encoded=True)
        seen: set[URL] = set()
        # olah passes the Link of the Hub on, which then leads there, and takes no cursor itself.
        while page is not None and page not in seen and len(seen) < MOST_PAGES:
            seen.add(page)
            try:
                entries, page = await self._page(page)
                files = [_from_tree(entry) for entry in entries if entry["type"] == "file"]
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError, LookupError, TypeError) as error:
                log.info("%s has no tree of %s (%s)", self._endpoint, self._repository, reason_of(error))
                return
            for file in files:
                yield file

    async def _page(self, page: URL) -> tuple[list[Any], URL | None]:
        async with aclosing(self._answers("GET", page)) as asked:
            async for answer in asked:
                if answer.status not in REDIRECTS:
                    answer.raise_for_status()
                    following = answer.links["next"]["url"] if "next" in answer.links else None
                    return orjson.loads(await answer.read()), URL(following) if following else None
        raise ValueError("redirects without an end")

    def _answers(self, method: str, url: URL) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        return answers(self._session(), method, url, self._origin, self._credentials)

    def _address(self, path: str) -> URL:
        return resolve_address(self._endpoint, self._repository, self._commit, path)

    def _untold(self, path: str, why: str) -> SourceError:
        return SourceError(
            f"{self._repository}/{path}: {self._endpoint} does not tell its size, without which it cannot be pulled "
            f"({why}); pull again, or set hub.endpoint to another mirror"
        )


def resolve_address(endpoint: str, repository: str, commit: str, path: str) -> URL:
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
