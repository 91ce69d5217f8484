"""ModelScope: lists through its own API, files over HTTP."""

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

from proxy.config.values import http_url
from proxy.errors import Interrupted, ProxyError, Refusal, SourceError
from proxy.network_errors import may_pass, reason_of, translate_failures
from proxy.sources.base import RepositoryFile, SourceSettings
from proxy.sources.http_file import (
    REDIRECTS,
    SHA256,
    HttpFile,
    Location,
    bearer,
    interruption_of,
    responses,
    source_session,
)

NAME = "modelscope"
"""The table in `[sources]` that may configure this source. It exists without a table too."""
PUBLIC_ENDPOINT = "https://modelscope.cn"
HOSTS = ("modelscope.cn", "www.modelscope.cn")
DEFAULT_BRANCH = "master"
LIST_SECONDS = 12.0
MAX_ENTRIES = 3000
"""ModelScope cuts longer lists off without saying so."""
COMMIT = re.compile(r"[0-9a-f]{40}")
NOT_ALLOWED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    endpoint: str = PUBLIC_ENDPOINT
    token: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "endpoint", http_url("endpoint", self.endpoint))
        msgspec.structs.force_setattr(self, "token", self.token.strip())


class ModelScope:
    """A source that uses ModelScope's API. `token` goes to `endpoint` only; `name` is its table in `[sources]`.

    Each file is requested at the commit that last changed it, according to the list. So a branch that moves during a
    pull changes nothing.
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
        # The older API calls read only the cookie, the newer ones only the header.
        self._credentials = bearer(token) | {str(hdrs.COOKIE): f"m_session_id={token}"} if token else {}
        self._receive_buffer = receive_buffer
        self._opened: aiohttp.ClientSession | None = None

    @classmethod
    def from_settings(cls, settings: SourceSettings) -> "ModelScope":
        table = settings.read(_Settings)
        return cls(table.endpoint, table.token, settings.hosts, settings.name, receive_buffer=settings.receive_buffer)

    async def open(self, repository: str, revision: str | None) -> "ModelScopeRepository":
        def unreachable(error: Exception) -> SourceError:
            if isinstance(error, TimeoutError):
                return Interrupted(
                    f"{self._endpoint} did not answer within {LIST_SECONDS:.0f} s to a request for {repository}"
                )
            if may_pass(error):
                return Interrupted(f"{repository} at {self._endpoint}: the connection failed ({reason_of(error)})")
            return SourceError(
                f"{self._endpoint} cannot be reached ({reason_of(error)}); check the network, or endpoint in "
                f"[sources.{self._name}]"
            )

        try:
            with translate_failures(unreachable):
                async with asyncio.timeout(LIST_SECONDS):
                    status, answer = await self._list(repository, revision or DEFAULT_BRANCH)
            if status != HTTPStatus.OK or answer["Code"] != HTTPStatus.OK:
                raise self._refused(repository, revision, status, str(answer.get("Message") or ""))
            return self._repository(repository, revision, answer["Data"])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise SourceError(
                f"{self._endpoint} does not answer as ModelScope does to a request for {repository} "
                f"({reason_of(error)}); check endpoint in [sources.{self._name}]"
            ) from error

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    def file(self, repository: "ModelScopeRepository", file: RepositoryFile) -> HttpFile:
        parameters = {"Revision": repository.revisions[file.path], "FilePath": file.path}
        query = urlencode(parameters, quote_via=quote, safe="")
        url = URL(f"{self._api_url(repository.id)}?{query}", encoded=True)
        location = Location(url, self._credentials, if_denied=self._access_hint(repository.id))
        return HttpFile(self._session(), f"{repository.id}/{file.path}", file, location)

    async def _list(self, repository: str, revision: str) -> tuple[int, Mapping[str, Any]]:
        # ModelScope ignores `recursive` in lower case and lists only the top folder.
        query = urlencode({"Revision": revision, "Recursive": "True"})
        url = URL(f"{self._api_url(repository)}/files?{query}", encoded=True)
        async with aclosing(responses(self._session(), "GET", url, url.origin(), self._credentials)) as chain:
            async for response in chain:
                if response.status not in REDIRECTS:
                    answered = f"{repository} at {self._endpoint}: it answered {response.status} {response.reason}"
                    if interruption := interruption_of(answered, response.status, response.headers):
                        raise interruption
                    return response.status, _envelope(response.status, await response.read())
        raise ValueError("redirects without an end")

    def _repository(self, repository: str, revision: str | None, data: Mapping[str, Any]) -> "ModelScopeRepository":
        entries: Sequence[Mapping[str, Any]] = data["Files"]
        if len(entries) >= MAX_ENTRIES:
            raise Refusal(
                f"{repository} at {self._endpoint} has more than the {MAX_ENTRIES} files that ModelScope lists; "
                "pull a repository that holds one model"
            )
        listed = [entry for entry in entries if entry["Type"] == "blob"]
        commit = revision if revision and COMMIT.fullmatch(revision) else _commit(data, listed)
        branch = revision or DEFAULT_BRANCH
        return ModelScopeRepository(
            self,
            repository,
            commit,
            tuple(_file(entry) for entry in listed),
            {entry["Path"]: str(entry.get("Revision") or branch) for entry in listed},
        )

    def _refused(self, repository: str, revision: str | None, status: int, message: str) -> ProxyError:
        where = f"{repository} at {self._endpoint}"
        answered = f"it answered {status} {message}".partition("\n")[0].strip()
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return SourceError(f"{where} cannot be read: {answered}; pull again later")
        hint = self._access_hint(repository)
        if status in NOT_ALLOWED:
            return Refusal(f"{where} may not be read: {answered}; {hint}")
        with_revision = f" with the revision {revision!r}" if revision else ""
        return Refusal(
            f"there is no repository {where}{with_revision}: {answered}; check the spelling; if it is private, {hint}"
        )

    def _access_hint(self, repository: str) -> str:
        ask, table = f"ask for access at {self._endpoint}/models/{repository}", f"[sources.{self._name}]"
        if self._credentials:
            return f"{ask} with the account of the `token` in {table}, and check that it has not expired"
        return f"{ask}, then set `token` in {table} and restart the proxy"

    def _api_url(self, repository: str) -> str:
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
    """The commit that last changed each path."""
    # The date of a commit may be years before its upload.
    modified: float | None = None
    # Ollama's own pull from ModelScope chooses the file and the template differently.
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
    """The JSON object around each answer. A refusal may come from a server in front of the API, without that object."""
    try:
        envelope: Mapping[str, Any] = orjson.loads(body)
    except orjson.JSONDecodeError:
        if status == HTTPStatus.OK:
            raise
        return {}
    return envelope if status == HTTPStatus.OK or isinstance(envelope, dict) else {}


def _file(entry: Mapping[str, Any]) -> RepositoryFile:
    sha256 = str(entry.get("Sha256") or "").lower()
    return RepositoryFile(entry["Path"], int(entry["Size"]), sha256 if SHA256.fullmatch(sha256) else None)


def _commit(data: Mapping[str, Any], listed: Sequence[Mapping[str, Any]]) -> str:
    """The newest commit of the branch. The list has its first digits only.

    They are completed from the files that this commit changed. If it only removed files, the result is a digest of the
    list.
    """
    newest = data.get("LatestCommitter") or {}
    prefix = str(newest.get("Id") or newest.get("ShortId") or "")
    revisions = {str(entry.get("Revision") or "") for entry in listed}
    matches = [one for one in revisions if prefix and one.startswith(prefix) and COMMIT.fullmatch(one)]
    if len(matches) == 1:
        return matches[0]
    lines = sorted(f"{entry['Path']}\0{entry.get('Revision')}\0{entry.get('Sha256')}" for entry in listed)
    return hashlib.sha1("\n".join(lines).encode(), usedforsecurity=False).hexdigest()
