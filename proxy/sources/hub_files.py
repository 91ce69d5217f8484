"""Requests that complete the Hub's description of a repository: files, sizes, digests, and repositories with its GGUF.

The Hub's list of files may be cut, and mirrors leave out sizes and digests. These requests do not use huggingface_hub:
it retries on its own, and it sends the token to the next page of a listing even if that page is on another host.
"""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, MutableMapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from aiohttp import hdrs
from yarl import URL

from proxy.errors import Interrupted, SourceError
from proxy.network_errors import reason_of, translate_failures
from proxy.sources.base import RepositoryFile
from proxy.sources.http_file import REDIRECTS, SHA256, bearer, interruption_of, responses
from proxy.tasks import gather_or_cancel

log = logging.getLogger(__name__)

PUBLIC_ENDPOINT = "https://huggingface.co"
CONCURRENT_HEADS = 8
"""HEAD requests at the same time."""
MAX_PAGES = 100
LARGE_LISTING = 1000
"""The Hub may cut a description that has so many files (huggingface_hub #3565). It is also one page of a tree."""
MAX_HINTS = 3
MAX_PLAIN_BYTES = 10 * 1024 * 1024
"""The Hub keeps larger files in Git LFS only: a larger file without a SHA-256 was left incomplete by a mirror."""
CONNECTION_FAILURES = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError)
GIT_SHA1 = re.compile(r"[0-9a-f]{40}")
WEIGHTS = (".safetensors", ".gguf")
NEEDED = re.compile(
    r"(?:.*/)?(?:[^/]+\.(?:safetensors|gguf|json|jinja|model|txt)|licen[sc]e[^/]*|readme\.md|template|system|params)",
    re.IGNORECASE,
)
"""Files that a model can be made from. The sizes of other files do not matter."""
CONFIGS = {"config.json", "adapter_config.json"}
TOKENIZER_CONFIG = "tokenizer_config.json"
"""transformers writes it for every model. Few files come later in the order of a listing."""
SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})(\.safetensors|\.gguf)", re.DOTALL | re.IGNORECASE)


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
        self._throttled: Interrupted | None = None

    async def list_all(self, described: Sequence[ListedFile]) -> list[ListedFile]:
        """The files that the Hub's description has and, if anything is missing there, those of the tree.

        Raises Interrupted if the tree does not answer now and nothing else can replace it.
        """
        is_cut = may_be_cut([file.path for file in described])
        files = {file.path: file for file in described}
        if is_cut or not all(file.is_complete for file in described):
            try:
                async for file in self._tree():
                    files[file.path] = files.get(file.path, file).completed_by(file)
            except Interrupted as error:
                # HEAD requests find the same sizes and digests, but no files.
                if is_cut or error.wait is not None:
                    raise
                log.info("%s; its files are asked for one by one", error)
        return list(files.values())

    async def complete(
        self, files: Sequence[ListedFile], answered: MutableMapping[str, ListedFile]
    ) -> tuple[RepositoryFile, ...]:
        """`answered` keeps the answers by path, so that a retry asks only for what is missing.

        Raises SourceError, which names the file, if the size of a needed file cannot be found out; Interrupted if a
        retry may help.
        """
        completed = await gather_or_cancel(self._complete(file, answered) for file in files)
        if interruptions := [each for each in completed if isinstance(each, Interrupted)]:
            raise self._throttled or interruptions[0]
        return tuple(each for each in completed if isinstance(each, RepositoryFile))

    async def _complete(
        self, file: ListedFile, answered: MutableMapping[str, ListedFile]
    ) -> RepositoryFile | Interrupted:
        """An Interrupted is returned, because it does not stop the other requests unless it asks to wait."""
        if not file.is_complete:
            async with self._head_slots:
                if self._throttled is not None:
                    return self._throttled
                try:
                    file = answered[file.path] = answered.get(file.path) or await self._head(file)
                except Interrupted as error:
                    if error.wait is not None:
                        self._throttled = error
                    return error
        return RepositoryFile(file.path, file.size or 0, file.sha256, None if file.sha256 else file.git_sha1)

    async def may_be_read(self, path: str) -> bool:
        """Whether the proxy's token opens this file. Raises Interrupted if a retry may help."""
        status = HTTPStatus.OK.value
        what = f"{self._repository}/{path}"
        with translate_failures(partial(self._broken, what)):
            async with aclosing(self._responses("HEAD", self._url(path))) as chain:
                async for response in chain:
                    _check(what, response)
                    status = response.status
        return status not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)

    async def gguf_repositories(self) -> tuple[str, ...]:
        """Repositories that name this one as their base, most downloaded first. Raises errors of any kind."""
        filters = [("filter", "gguf"), ("filter", f"base_model:quantized:{self._repository}")]
        query = urlencode([*filters, ("sort", "downloads"), ("limit", MAX_HINTS)])
        models, _ = await self._page(URL(f"{self._endpoint}/api/models?{query}", encoded=True))
        return tuple(str(model["id"]) for model in models[:MAX_HINTS])

    async def _head(self, file: ListedFile) -> ListedFile:
        from_headers = ListedFile(file.path)
        what, outcome = f"{self._repository}/{file.path}", ""
        with translate_failures(partial(self._broken, what)):
            async with aclosing(self._responses("HEAD", self._url(file.path))) as chain:
                async for response in chain:
                    _check(what, response)
                    from_headers = from_headers.completed_by(self._file_in_headers(file.path, response))
                    outcome = f"it answered {response.status} {response.reason}"
                    if from_headers.size is not None:
                        # Do not follow to the storage: that URL may be signed for GET only, and has its own ETag.
                        break
        completed = file.completed_by(from_headers)
        if completed.size is None:
            raise self._size_unknown(what, outcome)
        return completed

    def _broken(self, what: str, error: Exception) -> Interrupted:
        return Interrupted(f"{what}: the connection to {self._endpoint} failed ({reason_of(error)})")

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
        """The files of the repository's tree, up to the first page that there is not: not every mirror has a tree.

        Raises Interrupted if a page may come later.
        """
        first = f"{self._endpoint}/api/models/{quote(self._repository)}/tree/{self._commit}?recursive=true"
        page: URL | None = URL(first, encoded=True)
        seen: set[URL] = set()
        # olah forwards the Hub's Link header, which leads to the Hub, and ignores cursors itself.
        while page is not None and page not in seen and len(seen) < MAX_PAGES:
            seen.add(page)
            try:
                entries, next_page = await self._page(page)
                files = [_from_tree(entry) for entry in entries if entry["type"] == "file"]
            except (aiohttp.ClientResponseError, ValueError, LookupError, TypeError) as error:
                log.info("%s has no file tree of %s (%s)", self._endpoint, self._repository, reason_of(error))
                return
            except Interrupted as error:
                # That may be the Hub itself, which a user of olah cannot always reach.
                if page.origin() == self._origin or error.wait is not None:
                    raise
                log.info("%s; the list ends before that page", error)
                return
            for file in files:
                yield file
            page = next_page

    async def _page(self, page: URL) -> tuple[list[Any], URL | None]:
        """The entries of one page, and the URL of the next page. Raises Interrupted if a retry may help."""
        what = f"the list of the files of {self._repository}"
        with translate_failures(partial(self._broken, what), CONNECTION_FAILURES):
            async with aclosing(self._responses("GET", page)) as chain:
                async for response in chain:
                    if response.status not in REDIRECTS:
                        _check(what, response)
                        response.raise_for_status()
                        next_page = response.links["next"]["url"] if "next" in response.links else None
                        return orjson.loads(await response.read()), URL(next_page) if next_page else None
        raise ValueError("redirects without an end")

    def _responses(self, method: str, url: URL) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        return responses(self._session(), method, url, self._origin, self._credentials)

    def _url(self, path: str) -> URL:
        return resolve_url(self._endpoint, self._repository, self._commit, path)

    def _size_unknown(self, what: str, reason: str) -> SourceError:
        return SourceError(
            f"{what}: {self._endpoint} does not report its size, which a pull needs ({reason}); "
            "pull again, or set hub.endpoint to another mirror"
        )


def may_be_cut(paths: Collection[str]) -> bool:
    """Whether a repository may have more files than these: there are very many, or what every model has is missing."""
    weights = [path for path in paths if path.lower().endswith(WEIGHTS)]
    if len(paths) >= LARGE_LISTING or not weights:
        return True
    shards = Counter(shard.groups() for path in weights if (shard := SHARD.fullmatch(path)))
    if any(number < int(count) for (_, count, _), number in shards.items()):
        return True
    has_only_gguf = all(path.lower().endswith(".gguf") for path in weights)
    return not has_only_gguf and (TOKENIZER_CONFIG not in paths or CONFIGS.isdisjoint(paths))


def _check(what: str, response: aiohttp.ClientResponse) -> None:
    """Raises Interrupted for a status after which the same request may succeed later."""
    answered = f"{what}: {response.url.host} answered {response.status} {response.reason}"
    if interruption := interruption_of(answered, response.status, response.headers):
        raise interruption


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
