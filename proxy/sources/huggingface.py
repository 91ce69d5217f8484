"""The Hugging Face Hub and its mirrors: metadata through huggingface_hub, files over HTTP."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp

from proxy.config import HubConfig
from proxy.errors import ProxyError, Refusal, SourceError
from proxy.sources.base import RepositoryFile, SourceSettings
from proxy.sources.http_file import CHECK_TOKEN, SHA256, HttpFile, bearer, source_session
from proxy.sources.hub_files import PUBLIC_ENDPOINT, HubFiles, ListedFile, resolve_address
from proxy.sources.mirrors import Endpoint, MirroredFile
from proxy.sources.threads import in_daemon_thread

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

log = logging.getLogger(__name__)

METADATA_SECONDS = 12.0
UNKNOWN = (HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND)
HINT_SECONDS = 3.0


class HuggingFace:
    """A source over the Hub's API, at huggingface.co or at a server of its shape.

    `token` goes to `endpoint` and nowhere else. Without one, the token that `hf auth login` left is used for
    huggingface.co only. `receive_buffer` (bytes) is how much of a file may wait in the kernel.

    Where the endpoint fails or does not answer, the `mirrors` are asked in order. Their bytes need no trust: they are
    asked for the commit that the endpoint told, and compared with the digest that it told; of a file without one they
    are not asked. But where the endpoint cannot even describe a repository, a mirror does, and is then trusted for its
    commit, its list and its digests. Also a weight file's header, which a plan reads alone, is compared only when the
    file itself is converted.
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
        self._places = [Endpoint(url) for url in (endpoint, *mirrors)]
        self._token = token or None
        self._receive_buffer = receive_buffer
        self._opened: aiohttp.ClientSession | None = None

    @classmethod
    def from_settings(cls, settings: SourceSettings) -> "HuggingFace":
        """Another Hub beside that of `[hub]`, with the same keys."""
        own = settings.read(HubConfig)
        buffer = settings.receive_buffer
        return cls(own.endpoint, own.token, settings.hosts, mirrors=own.mirrors, receive_buffer=buffer)

    async def open(self, repository: str, revision: str | None) -> "HubRepository":
        began, failures = time.monotonic(), list[ProxyError]()
        for number, place in enumerate(self._places):
            seconds = (METADATA_SECONDS - (time.monotonic() - began)) / (len(self._places) - number)
            try:
                opened = await self._open_at(place, repository, revision, seconds)
            except (SourceError, Refusal) as error:
                if len(self._places) == 1 or (not failures and isinstance(error, Refusal)):
                    raise
                failures.append(error)
            else:
                if failures:
                    log.warning("%s; what %s says of %s is taken instead", failures[0], place.url, repository)
                return opened
        raise SourceError("; ".join(str(error) for error in failures))

    async def _open_at(self, place: Endpoint, repository: str, revision: str | None, seconds: float) -> "HubRepository":
        try:
            async with asyncio.timeout(seconds):
                info, access_is_known = await in_daemon_thread(lambda: self._describe(place, repository, revision))
                return await self._list(place, info, access_is_known=access_is_known, pinned=revision is not None)
        except TimeoutError:
            raise SourceError(
                f"{place.url} did not answer within {seconds:.0f} s when asked for {repository}; "
                "try again, or set hub.endpoint to a mirror that you can reach"
            ) from None

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    def file(self, repository: "HubRepository", file: RepositoryFile) -> HttpFile | MirroredFile:
        files = {place: self._file_at(place, repository, file) for place in self._places}
        if len(files) == 1:
            return files[self._places[0]]
        return MirroredFile(f"{repository.id}/{file.path}", file, files, repository.described_by)

    def _file_at(self, place: Endpoint, repository: "HubRepository", file: RepositoryFile) -> HttpFile:
        return HttpFile(
            self._session(),
            resolve_address(place.url, repository.id, repository.commit, file.path),
            file,
            credentials=bearer(self._token_for(place)),
            commit=repository.commit,
            what=f"{repository.id}/{file.path}",
            denied=CHECK_TOKEN if place is self._places[0] else f"mirrors get no token, which is {self.endpoint}'s",
        )

    def _token_for(self, place: Endpoint) -> str | None:
        return self._token if place is self._places[0] else None

    async def gguf_of(self, repository: "HubRepository") -> Sequence[str]:
        """What `Repository.gguf_repositories` promises."""
        try:
            async with asyncio.timeout(HINT_SECONDS):
                return await self._files(repository.described_by, repository.id, repository.commit).gguf_repositories()
        except Exception as error:  # noqa: BLE001 - a hint that cannot be had is no failure
            log.info("%s names no GGUF of %s: %r", repository.described_by.url, repository.id, error)
            return ()

    def _files(self, place: Endpoint, repository: str, commit: str) -> HubFiles:
        return HubFiles(self._session, place.url, self._token_for(place), repository, commit)

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = source_session(self._receive_buffer)
        return self._opened

    def _describe(self, place: Endpoint, repository: str, revision: str | None) -> "tuple[ModelInfo, bool]":
        """Blocking: huggingface_hub is synchronous, and slow to import. Also says whether access is out of question."""
        from huggingface_hub import HfApi, get_token

        from proxy.sources.hub_errors import explain

        if self._token is None and self.endpoint == PUBLIC_ENDPOINT:
            self._token = get_token()
        token = self._token_for(place)
        # `False`, not None: None would let the library add the user's own token by itself.
        api = HfApi(endpoint=place.url, token=token or False, library_name="ollama-hf-proxy")
        try:
            info = self._info(api, repository, revision)
            # A gated repository still lists its files to those who may not read them.
            return info, not info.gated or self._knows_access(api, repository)
        except Exception as error:
            raise explain(error, place.url, repository, revision, with_token=token is not None) from error

    def _knows_access(self, api: "HfApi", repository: str) -> bool:
        """Raises where access is denied. False where the server knows nothing of it, as olah."""
        from huggingface_hub import errors

        try:
            api.auth_check(repository)
        except errors.GatedRepoError:
            raise
        except errors.HfHubHTTPError as error:
            if error.response.status_code not in (*UNKNOWN, HTTPStatus.FORBIDDEN):
                raise
            return False
        return True

    def _info(self, api: "HfApi", repository: str, revision: str | None) -> "ModelInfo":
        from huggingface_hub import errors

        try:
            return api.model_info(repository, revision=revision, files_metadata=True, timeout=METADATA_SECONDS)
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            if revision is not None or api.endpoint == PUBLIC_ENDPOINT or status not in UNKNOWN:
                raise
            try:
                # olah 0.5.4 knows the repositories of its own by a branch only.
                return api.model_info(repository, revision="main", files_metadata=True, timeout=METADATA_SECONDS)
            except errors.HfHubHTTPError:
                raise error from None

    async def _list(
        self, place: Endpoint, info: "ModelInfo", *, access_is_known: bool, pinned: bool
    ) -> "HubRepository":
        if info.sha is None:
            raise SourceError(f"{place.url} names no commit for {info.id}; it cannot be pinned")
        hub_files = self._files(place, info.id, info.sha)
        listed = [_listed(sibling) for sibling in info.siblings or ()]
        if not access_is_known:
            await self._check_access(place, hub_files, info.id, listed)
        files = await hub_files.complete(listed)
        # Ollama knows no mirrors.
        alone = self.endpoint == PUBLIC_ENDPOINT and len(self._places) == 1
        public = alone and not info.private and not info.gated
        # The Hub tells of its default branch, whatever revision was asked for.
        modified = info.last_modified.timestamp() if info.last_modified and not pinned else None
        return HubRepository(self, place, info.id, info.sha, files, public, modified)

    async def _check_access(
        self, place: Endpoint, hub_files: HubFiles, repository: str, files: Sequence[ListedFile]
    ) -> None:
        for path in [file.path for file in files if file.is_needed][:1]:
            if not await hub_files.may_be_read(path):
                from proxy.sources.hub_errors import gated

                raise gated(place.url, repository, with_token=self._token_for(place) is not None)


@dataclass(frozen=True, slots=True)
class HubRepository:
    source: HuggingFace
    described_by: Endpoint
    id: str
    commit: str
    files: tuple[RepositoryFile, ...]
    public: bool
    modified: float | None
    _opened: dict[str, HttpFile | MirroredFile] = field(default_factory=dict)

    def stream(
        self, file: RepositoryFile, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._file(file).stream(start, stop)

    def damaged(self, file: RepositoryFile) -> str:
        opened = self._file(file)
        return opened.damaged() if isinstance(opened, MirroredFile) else ""

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


def _listed(sibling: "RepoSibling") -> ListedFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs else None
    return ListedFile(
        sibling.rfilename,
        sibling.size if sibling.size is not None else sibling.lfs.size if sibling.lfs else None,
        sha256 if sha256 and SHA256.fullmatch(sha256) else None,
        None if sibling.lfs else sibling.blob_id,
    )
