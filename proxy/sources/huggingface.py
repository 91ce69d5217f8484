"""The Hugging Face Hub: metadata through huggingface_hub, files over HTTP."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import aiohttp
from yarl import URL

from proxy.errors import ProxyError, Refusal, SourceError
from proxy.reasons import reason
from proxy.sources.base import RepositoryFile
from proxy.sources.http_file import HttpFile, source_session

if TYPE_CHECKING:
    from huggingface_hub import HfApi

METADATA_SECONDS = 12.0
PUBLIC_ENDPOINT = "https://huggingface.co"

T = TypeVar("T")


class HuggingFace:
    """A source over the Hub's API, at huggingface.co or at a server of its shape.

    `token` goes to `endpoint` and nowhere else. Without one, the token that `hf auth login` left is used for
    huggingface.co only. `receive_buffer` (bytes) is how much of a file may wait in the kernel.
    """

    def __init__(self, endpoint: str, token: str, hosts: tuple[str, ...], *, receive_buffer: int | None = None) -> None:
        self.endpoint = endpoint
        self.hosts = hosts
        self._token = token or None
        self._receive_buffer = receive_buffer
        self._session: aiohttp.ClientSession | None = None

    async def open(self, repository: str, revision: str | None) -> "HubRepository":
        try:
            async with asyncio.timeout(METADATA_SECONDS):
                return await _in_daemon_thread(lambda: self._describe(repository, revision))
        except TimeoutError:
            raise SourceError(
                f"{self.endpoint} did not answer within {METADATA_SECONDS:.0f} s when asked for {repository}; "
                "try again, or set hub.endpoint to a mirror that you can reach"
            ) from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _describe(self, repository: str, revision: str | None) -> "HubRepository":
        """Blocking: huggingface_hub is synchronous, and slow to import."""
        from huggingface_hub import HfApi, get_token

        if self._token is None and self.endpoint == PUBLIC_ENDPOINT:
            self._token = get_token()
        # `False`, not None: None would let the library add the user's own token by itself.
        api = HfApi(endpoint=self.endpoint, token=self._token or False, library_name="ollama-hf-proxy")
        try:
            return self._ask(api, repository, revision)
        except Exception as error:
            raise self._explain(error, repository, revision) from error

    def _ask(self, api: "HfApi", repository: str, revision: str | None) -> "HubRepository":
        info = api.model_info(repository, revision=revision, files_metadata=True, timeout=METADATA_SECONDS)
        if info.gated:
            # A gated repository still lists its files to those who may not read them.
            api.auth_check(repository)
        if info.sha is None:
            raise SourceError(f"{self.endpoint} names no commit for {repository}; it cannot be pinned")
        files = tuple(
            RepositoryFile(
                path=sibling.rfilename,
                size=sibling.size or 0,
                sha256=sibling.lfs.sha256 if sibling.lfs else None,
                git_sha1=sibling.blob_id,
            )
            for sibling in info.siblings or ()
        )
        return HubRepository(self, info.id, info.sha, files)

    def _explain(self, error: Exception, repository: str, revision: str | None) -> ProxyError:
        from huggingface_hub import errors

        where = f"{repository} at {self.endpoint}"
        match error:
            case ProxyError():
                return error
            case errors.GatedRepoError() if self._token:
                return Refusal(
                    f"{where} is gated and the proxy's token has no access to it; "
                    f"ask for access at {self.endpoint}/{repository} with the account that the token belongs to"
                )
            case errors.GatedRepoError():
                return Refusal(
                    f"{where} is gated; ask for access at {self.endpoint}/{repository}, then set HF_TOKEN for the "
                    "proxy (not for the client) and restart it"
                )
            case errors.DisabledRepoError():
                return Refusal(f"{where} has been disabled by the Hub")
            case errors.RepositoryNotFoundError():
                hint = (
                    "if it is private, give the proxy a token that may read it"
                    if self._token
                    else "if it is private, set HF_TOKEN for the proxy (not for the client) and restart it"
                )
                return Refusal(f"there is no repository {where}; check the spelling; {hint}")
            case errors.RevisionNotFoundError():
                return Refusal(f"{where} has no revision {revision!r}; check [models] revision in the configuration")
            case errors.HFValidationError():
                return Refusal(f"{repository} cannot be a repository's name on the Hub: {error}")
            case errors.HfHubHTTPError():
                return SourceError(f"{where} cannot be read: the Hub answered {error}")
            case _:
                return SourceError(
                    f"{self.endpoint} cannot be reached ({reason(error)}); check the network, or "
                    "hub.endpoint in the configuration"
                )

    def file(self, repository: "HubRepository", file: RepositoryFile) -> HttpFile:
        if self._session is None:
            self._session = source_session(self._receive_buffer)
        path = f"/{quote(repository.id)}/resolve/{repository.commit}/{quote(file.path)}"
        return HttpFile(
            self._session,
            URL(self.endpoint + path, encoded=True),
            file,
            token=self._token,
            commit=repository.commit,
            what=f"{repository.id}/{file.path}",
        )


@dataclass(frozen=True, slots=True)
class HubRepository:
    source: HuggingFace
    id: str
    commit: str
    files: tuple[RepositoryFile, ...]
    _opened: dict[str, HttpFile] = field(default_factory=dict)

    def stream(
        self, file: RepositoryFile, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        if file.path not in self._opened:
            self._opened[file.path] = self.source.file(self, file)
        return self._opened[file.path].stream(start, stop)


async def _in_daemon_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread that cannot keep the process alive, as a pool's would while the Hub hangs."""
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001 - it is raised again where the result is awaited
            future.set_exception(error)

    threading.Thread(target=run, name="hub-metadata", daemon=True).start()
    return await asyncio.wrap_future(future)
