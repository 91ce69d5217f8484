"""ModelScope: its own API for lists, files over HTTP."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
import orjson
from aiohttp import hdrs
from yarl import URL

from proxy.config import http_url
from proxy.errors import ProxyError, Refusal, SourceError
from proxy.network_errors import reason_of
from proxy.sources.base import RepositoryFile, SourceSettings
from proxy.sources.http_file import REDIRECTS, SHA256, HttpFile, answers, bearer, source_session

NAME = "modelscope"
"""The table that says more of this source, which is there without one."""
PUBLIC_ENDPOINT = "https://modelscope.cn"
HOSTS = ("modelscope.cn", "www.modelscope.cn")
DEFAULT_BRANCH = "master"
LIST_SECONDS = 12.0
MOST_ENTRIES = 3000
"""Where its lists of a repository end, without a word."""
COMMIT = re.compile(r"[0-9a-f]{40}")
NOT_ALLOWED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    endpoint: str = PUBLIC_ENDPOINT
    token: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "endpoint", http_url("endpoint", self.endpoint))
        msgspec.structs.force_setattr(self, "token", self.token.strip())


class ModelScope:
    """A source over ModelScope's API. `token` goes to `endpoint` and nowhere else; `name` is its table's in [sources].

    Every file is asked for at the commit that last changed it, as the list tells it: a branch that moves in the middle
    of a pull changes nothing.
    """

    def __init__(
        self,
        endpoint: str = PUBLIC_ENDPOINT,
        token: str = "",
        hosts: tuple[str, ...] = HOSTS,
        name: str = NAME,
        *,
        receive_buffer: int | None = None,
    ) -> None:
        self.hosts = hosts
        self._endpoint = endpoint
        self._name = name
        # Its older calls know the cookie only, its newer ones the header only.
        self._credentials = bearer(token) | {str(hdrs.COOKIE): f"m_session_id={token}"} if token else {}
        self._receive_buffer = receive_buffer
        self._opened: aiohttp.ClientSession | None = None

    @classmethod
    def from_settings(cls, settings: SourceSettings) -> "ModelScope":
        own = settings.read(_Settings)
        return cls(own.endpoint, own.token, settings.hosts, settings.name, receive_buffer=settings.receive_buffer)

    async def open(self, repository: str, revision: str | None) -> "ModelScopeRepository":
        try:
            async with asyncio.timeout(LIST_SECONDS):
                status, said = await self._list(repository, revision or DEFAULT_BRANCH)
            if status != HTTPStatus.OK or said["Code"] != HTTPStatus.OK:
                raise self._refused(repository, revision, status, str(said.get("Message") or ""))
            return self._repository(repository, revision, said["Data"])
        except TimeoutError:
            raise SourceError(
                f"{self._endpoint} did not answer within {LIST_SECONDS:.0f} s when asked for {repository}; try again"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise SourceError(
                f"{self._endpoint} cannot be reached ({reason_of(error)}); check the network, or endpoint in "
                f"[sources.{self._name}]"
            ) from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise SourceError(
                f"{self._endpoint} does not answer as ModelScope does when asked for {repository} "
                f"({reason_of(error)}); check endpoint in [sources.{self._name}]"
            ) from error

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    def file(self, repository: "ModelScopeRepository", file: RepositoryFile) -> HttpFile:
        asked = {"Revision": repository.revisions[file.path], "FilePath": file.path}
        return HttpFile(
            self._session(),
            URL(f"{self._address(repository.id)}?{urlencode(asked, quote_via=quote, safe='')}", encoded=True),
            file,
            credentials=self._credentials,
            commit="",
            what=f"{repository.id}/{file.path}",
            denied=self._ask_for_access(repository.id),
        )

    async def _list(self, repository: str, revision: str) -> tuple[int, Mapping[str, Any]]:
        # With `recursive` in lower case it lists the root alone.
        query = urlencode({"Revision": revision, "Recursive": "True"})
        url = URL(f"{self._address(repository)}/files?{query}", encoded=True)
        async with aclosing(answers(self._session(), "GET", url, url.origin(), self._credentials)) as asked:
            async for answer in asked:
                if answer.status not in REDIRECTS:
                    return answer.status, _envelope(answer.status, await answer.read())
        raise ValueError("redirects without an end")

    def _repository(self, repository: str, revision: str | None, data: Mapping[str, Any]) -> "ModelScopeRepository":
        entries: Sequence[Mapping[str, Any]] = data["Files"]
        if len(entries) >= MOST_ENTRIES:
            raise Refusal(
                f"{repository} at {self._endpoint} has more than the {MOST_ENTRIES} files that ModelScope lists; "
                "a repository of one model is wanted"
            )
        listed = [entry for entry in entries if entry["Type"] == "blob"]
        commit = revision if revision and COMMIT.fullmatch(revision) else _commit(data, listed)
        asked = revision or DEFAULT_BRANCH
        return ModelScopeRepository(
            self,
            repository,
            commit,
            tuple(_file(entry) for entry in listed),
            {entry["Path"]: str(entry.get("Revision") or asked) for entry in listed},
        )

    def _refused(self, repository: str, revision: str | None, status: int, message: str) -> ProxyError:
        where = f"{repository} at {self._endpoint}"
        answered = f"it answered {status} {message}".partition("\n")[0].strip()
        if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT) or status >= 500:  # noqa: PLR2004
            return SourceError(f"{where} cannot be read: {answered}; pull again later")
        ask = self._ask_for_access(repository)
        if status in NOT_ALLOWED:
            return Refusal(f"{where} may not be read: {answered}; {ask}")
        missing = f" with the revision {revision!r}" if revision else ""
        return Refusal(
            f"there is no repository {where}{missing}: {answered}; check the spelling; if it is private, {ask}"
        )

    def _ask_for_access(self, repository: str) -> str:
        ask, table = f"ask for access at {self._endpoint}/models/{repository}", f"[sources.{self._name}]"
        if self._credentials:
            return f"{ask} with the account of the `token` in {table}, and check that it has not expired"
        return f"{ask}, then set `token` in {table} and restart the proxy"

    def _address(self, repository: str) -> str:
        return f"{self._endpoint}/api/v1/models/{quote(repository)}/repo"

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = source_session(self._receive_buffer)
        return self._opened


@dataclass(frozen=True, slots=True)
class ModelScopeRepository:
    source: ModelScope
    id: str
    commit: str
    files: tuple[RepositoryFile, ...]
    revisions: Mapping[str, str]
    """The commit of each path."""
    # A commit's own date may be years before it came here.
    modified: float | None = None
    # What Ollama pulls from there by itself comes of another choice of file and template.
    public: bool = False
    _opened: dict[str, HttpFile] = field(default_factory=dict)

    def stream(
        self, file: RepositoryFile, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        if file.path not in self._opened:
            self._opened[file.path] = self.source.file(self, file)
        return self._opened[file.path].stream(start, stop)

    async def gguf_repositories(self) -> Sequence[str]:
        return ()


def _envelope(status: int, body: bytes) -> Mapping[str, Any]:
    """What its answers are wrapped in; a refusal may come from a server before it, which wraps nothing."""
    try:
        said: Mapping[str, Any] = orjson.loads(body)
    except orjson.JSONDecodeError:
        if status == HTTPStatus.OK:
            raise
        return {}
    return said if status == HTTPStatus.OK or isinstance(said, dict) else {}


def _file(entry: Mapping[str, Any]) -> RepositoryFile:
    sha256 = str(entry.get("Sha256") or "").lower()
    return RepositoryFile(entry["Path"], int(entry["Size"]), sha256 if SHA256.fullmatch(sha256) else None)


def _commit(data: Mapping[str, Any], listed: Sequence[Mapping[str, Any]]) -> str:
    """The branch's newest commit, of which the list has the beginning: in full where it left a file behind.

    Where it only removed some, a digest of the list stands for it.
    """
    newest = data.get("LatestCommitter") or {}
    short = str(newest.get("Id") or newest.get("ShortId") or "")
    revisions = {str(entry.get("Revision") or "") for entry in listed}
    found = [revision for revision in revisions if short and revision.startswith(short) and COMMIT.fullmatch(revision)]
    if len(found) == 1:
        return found[0]
    lines = sorted(f"{entry['Path']}\0{entry.get('Revision')}\0{entry.get('Sha256')}" for entry in listed)
    return hashlib.sha1("\n".join(lines).encode(), usedforsecurity=False).hexdigest()
