"""The Hugging Face Hub and its mirrors: metadata through huggingface_hub, files over HTTP."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp

from proxy.config.sections import HubConfig
from proxy.errors import Interrupted, ProxyError, Refusal, SourceError
from proxy.sources.base import RepositoryFile, SourceSettings
from proxy.sources.http_file import CHECK_TOKEN, SHA256, HttpFile, Location, bearer, source_session
from proxy.sources.hub_files import PUBLIC_ENDPOINT, HubFiles, ListedFile, resolve_url
from proxy.sources.hub_revisions import NOT_FOUND, resolve
from proxy.sources.mirrors import Endpoint, MirroredFile, failure_of_all
from proxy.sources.threads import in_daemon_thread

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

log = logging.getLogger(__name__)

_QUANTIZED_FROM = re.compile(r"base_model:quantized:([\w.-]+/[\w.-]+)", re.ASCII)
"""A tag that the Hub makes from `base_model` in the model card."""
METADATA_SECONDS = 12.0
HINT_SECONDS = 3.0


class HuggingFace:
    """A source that uses the Hub's API, at huggingface.co or at a compatible server.

    `token` goes to `endpoint` only. Without `token`, the token of `hf auth login` is used, for huggingface.co only.

    If the endpoint fails or does not answer, the `mirrors` are asked in order. Their bytes need no trust: they are
    asked for the commit that the endpoint reported, and the bytes are compared with the digest that it reported. A file
    without a digest never comes from a mirror. There are two exceptions:

    - If the endpoint cannot even describe a repository, a mirror does, and its commit, list and digests are trusted.
    - The plan reads the header of a weight file before the file; the header is compared when the file is converted.
    """

    def __init__(
        self,
        endpoint: str,
        token: str,
        hosts: tuple[str, ...],
        *,
        mirrors: tuple[str, ...] = (),
        receive_buffer: int | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.hosts = hosts
        self._endpoints = [Endpoint(url) for url in (endpoint, *mirrors)]
        self._token = token or None
        self._receive_buffer = receive_buffer
        self._opened: aiohttp.ClientSession | None = None
        self._answered: dict[tuple[str, str, str], dict[str, ListedFile]] = {}
        """What `HubFiles.complete` keeps for a retry, by endpoint, repository and commit."""

    @classmethod
    def from_settings(cls, settings: SourceSettings) -> "HuggingFace":
        """A second Hub: its table has the same keys as `[hub]`."""
        hub = settings.read(HubConfig)
        buffer = settings.receive_buffer
        return cls(hub.endpoint, hub.token, settings.hosts, mirrors=hub.mirrors, receive_buffer=buffer)

    async def open(self, repository: str, revision: str | None) -> "HubRepository":
        """As `Source.open`. The endpoints share the time that one answer may take."""
        began, failures = time.monotonic(), list[ProxyError]()
        for number, endpoint in enumerate(self._endpoints):
            seconds = (METADATA_SECONDS - (time.monotonic() - began)) / (len(self._endpoints) - number)
            try:
                opened = await self._open_at(endpoint, repository, revision, seconds)
            except (SourceError, Refusal) as error:
                if len(self._endpoints) == 1 or (not failures and isinstance(error, Refusal)):
                    raise
                failures.append(error)
            else:
                if failures:
                    log.warning("%s; using the description of %s by %s instead", failures[0], repository, endpoint.url)
                return opened
        raise failure_of_all("; ".join(str(error) for error in failures), failures)

    async def _open_at(
        self, endpoint: Endpoint, repository: str, revision: str | None, seconds: float
    ) -> "HubRepository":
        try:
            async with asyncio.timeout(seconds):
                info, access_checked = await in_daemon_thread(lambda: self._describe(endpoint, repository, revision))
                return await self._list(endpoint, info, access_checked=access_checked, pinned=revision is not None)
        except TimeoutError:
            text = f"{endpoint.url} did not answer within {seconds:.0f} s to a request for {repository}"
            raise Interrupted(text) from None

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    def file(self, repository: "HubRepository", file: RepositoryFile) -> HttpFile | MirroredFile:
        files = {endpoint: self._file_at(endpoint, repository, file) for endpoint in self._endpoints}
        if len(files) == 1:
            return files[self._endpoints[0]]
        return MirroredFile(f"{repository.id}/{file.path}", file, files, repository.described_by)

    def _file_at(self, endpoint: Endpoint, repository: "HubRepository", file: RepositoryFile) -> HttpFile:
        is_mirror = endpoint is not self._endpoints[0]
        location = Location(
            resolve_url(endpoint.url, repository.id, repository.commit, file.path),
            bearer(self._token_for(endpoint)),
            repository.commit,
            f"mirrors do not get the token of {self.endpoint}" if is_mirror else CHECK_TOKEN,
        )
        return HttpFile(self._session(), f"{repository.id}/{file.path}", file, location)

    def _token_for(self, endpoint: Endpoint) -> str | None:
        return self._token if endpoint is self._endpoints[0] else None

    async def gguf_of(self, repository: "HubRepository") -> Sequence[str]:
        """As `Repository.gguf_repositories`."""
        try:
            async with asyncio.timeout(HINT_SECONDS):
                return await self._files(repository.described_by, repository.id, repository.commit).gguf_repositories()
        except Exception as error:  # noqa: BLE001 - the pull goes on without the hint
            log.info("%s did not list GGUF repositories of %s: %r", repository.described_by.url, repository.id, error)
            return ()

    def _files(self, endpoint: Endpoint, repository: str, commit: str) -> HubFiles:
        return HubFiles(self._session, endpoint.url, self._token_for(endpoint), repository, commit)

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = source_session(self._receive_buffer)
        return self._opened

    def _describe(self, endpoint: Endpoint, repository: str, revision: str | None) -> "tuple[ModelInfo, bool]":
        """The Hub's description, and whether the proxy's access to the files is already checked.

        Blocking: huggingface_hub is synchronous, and slow to import.
        """
        from huggingface_hub import HfApi, get_session, get_token

        from proxy.sources.hub_errors import explain

        if self._token is None and self.endpoint == PUBLIC_ENDPOINT:
            self._token = get_token()
        # By default it has no limit, and `auth_check` has no parameter for one.
        get_session().timeout = METADATA_SECONDS
        token = self._token_for(endpoint)
        # Not None: with None the library would send the user's own token.
        api = HfApi(endpoint=endpoint.url, token=token or False, library_name="ollama-hf-proxy")
        try:
            info = self._info(api, repository, revision)
            # The Hub lists the files of a gated repository also to users without access.
            return info, not info.gated or self._check_gate(api, repository)
        except Exception as error:
            raise explain(error, endpoint.url, repository, revision, with_token=token is not None) from error

    def _check_gate(self, api: "HfApi", repository: str) -> bool:
        """Raises GatedRepoError if access is denied. False if the server has no such check, as olah."""
        from huggingface_hub import errors

        try:
            api.auth_check(repository)
        except errors.GatedRepoError:
            raise
        except errors.HfHubHTTPError as error:
            if error.response.status_code not in (*NOT_FOUND, HTTPStatus.FORBIDDEN):
                raise
            return False
        return True

    def _info(self, api: "HfApi", repository: str, revision: str | None) -> "ModelInfo":
        from huggingface_hub import errors

        try:
            return api.model_info(repository, revision=revision, files_metadata=True, timeout=METADATA_SECONDS)
        except errors.HfHubHTTPError as error:
            if revision is not None and isinstance(error, errors.RevisionNotFoundError):
                known = resolve(api, repository, revision)
                return api.model_info(repository, revision=known, files_metadata=True, timeout=METADATA_SECONDS)
            status = error.response.status_code
            if revision is not None or api.endpoint == PUBLIC_ENDPOINT or status not in NOT_FOUND:
                raise
            try:
                # olah 0.5.4 finds its own repositories only with a branch.
                return api.model_info(repository, revision="main", files_metadata=True, timeout=METADATA_SECONDS)
            except errors.HfHubHTTPError as second:
                raise (error if second.response.status_code in NOT_FOUND else second) from None

    async def _list(
        self, endpoint: Endpoint, info: "ModelInfo", *, access_checked: bool, pinned: bool
    ) -> "HubRepository":
        if info.sha is None:
            raise SourceError(
                f"{endpoint.url} names no commit of {info.id}; pull again, or set hub.endpoint to another mirror"
            )
        hub_files = self._files(endpoint, info.id, info.sha)
        listed = await hub_files.list_all([_listed(sibling) for sibling in info.siblings or ()])
        if not access_checked:
            await self._check_access(endpoint, hub_files, info.id, listed)
        key = (endpoint.url, info.id, info.sha)
        files = await hub_files.complete(listed, self._answered.setdefault(key, {}))
        self._answered.pop(key, None)
        # Ollama's own pull uses no mirrors.
        is_public_hub = self.endpoint == PUBLIC_ENDPOINT and len(self._endpoints) == 1
        public = is_public_hub and not info.private and not info.gated
        # `last_modified` is of the default branch, also in the description of another revision.
        modified = info.last_modified.timestamp() if info.last_modified and not pinned else None
        return HubRepository(
            self, endpoint, info.id, info.sha, files, public, modified, _quantized_from(info.tags or ())
        )

    async def _check_access(
        self, endpoint: Endpoint, hub_files: HubFiles, repository: str, files: Sequence[ListedFile]
    ) -> None:
        for path in [file.path for file in files if file.is_needed][:1]:
            if not await hub_files.may_be_read(path):
                from proxy.sources.hub_errors import gated

                raise gated(endpoint.url, repository, with_token=self._token_for(endpoint) is not None)


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A `Repository` that is also `Mirrored` and `Derived`."""

    source: HuggingFace
    described_by: Endpoint
    """The endpoint or mirror whose commit, list and digests are used."""
    id: str
    commit: str
    files: tuple[RepositoryFile, ...]
    public: bool
    modified: float | None
    quantized_from: str | None = None
    _opened: dict[str, HttpFile | MirroredFile] = field(default_factory=dict)

    def stream(
        self, file: RepositoryFile, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._file(file).stream(start, stop)

    def report_damaged(self, file: RepositoryFile) -> str:
        opened = self._file(file)
        return opened.report_damaged() if isinstance(opened, MirroredFile) else ""

    def keep_to_source(self, file: RepositoryFile) -> None:
        opened = self._file(file)
        if isinstance(opened, MirroredFile):
            opened.keep_to_source()

    def _file(self, file: RepositoryFile) -> HttpFile | MirroredFile:
        if file.path not in self._opened:
            self._opened[file.path] = self.source.file(self, file)
        return self._opened[file.path]

    async def gguf_repositories(self) -> Sequence[str]:
        return await self.source.gguf_of(self)


def _quantized_from(tags: Iterable[str]) -> str | None:
    return next((found[1] for tag in tags if (found := _QUANTIZED_FROM.fullmatch(tag))), None)


def _listed(sibling: "RepoSibling") -> ListedFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs else None
    return ListedFile(
        sibling.rfilename,
        sibling.size if sibling.size is not None else sibling.lfs.size if sibling.lfs else None,
        sha256 if sha256 and SHA256.fullmatch(sha256) else None,
        None if sibling.lfs else sibling.blob_id,
    )
