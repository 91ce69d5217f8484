"""The stand-in Hub. It has two ports: one for the API and small files, and one, the CDN, for LFS files."""

import gzip
import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Unpack
from urllib.parse import quote, urlencode

import orjson
from aiohttp import web

from proxy.standins.delivery import Delivery, Fault, FaultCounter, RequestedRange
from proxy.standins.hub_repository import RepositoryProperties, StandInRepository, StoredFile
from proxy.standins.listener import LoggedRequest, LoggingServer, StandIn
from proxy.standins.listing import commits, model_info, refs, summary, tree

__all__ = ["Fault", "LoggedRequest", "StandInHub", "StandInRepository", "StoredFile"]

DISABLED = "Access to this resource is disabled."
INVALID_CREDENTIALS = "Invalid credentials in Authorization header"
SIGNING_KEY = b"known to this hub and its cdn"
MAX_GZIPPED = 16 << 20


class StandInHub(StandIn):
    def __init__(self, *, port: int = 0, cdn_port: int = 0) -> None:
        self.repositories: dict[str, StandInRepository] = {}
        self.requests: list[LoggedRequest] = []
        self.faults: list[Fault] = []
        self.mirror = False  # sends files like the mirror olah: whole, without redirect, length, ETag or ranges
        self.branches_only = False  # like olah, finds repositories only by revision
        self.listing: Literal["full", "sizes", "names"] = "full"  # what a model's description has about its files
        self.listed: int | None = None  # a model's description has only so many of its files; None: all
        self.trees = True  # False: requests for a tree get 404
        self.tree_page = 1000  # files and folders in one answer
        self.next_pages: str | None = None  # base of the links to a tree's next page, if not this Hub
        self.plain_errors = False  # errors have no X-Error headers, as on some mirrors
        self.token: str | None = None  # has access to gated and private repositories; other tokens have not
        self.revoked: set[str] = set()  # these tokens get 401 everywhere
        self._signed_for = 0
        counter = FaultCounter(self.faults)
        self._pages = Delivery(counter)
        self._bytes = Delivery(counter)
        self._hub = LoggingServer("hub", self._hub_routes(), self.requests, port=port)
        cdn_routes = [web.get("/repos/{org}/{repo}/{commit}/{digest}/{path:.+}", self._linked_file)]
        self._cdn = LoggingServer("cdn", cdn_routes, self.requests, port=cdn_port)
        super().__init__(self._hub, self._cdn)

    @property
    def endpoint(self) -> str:
        return self._hub.url

    @property
    def cdn(self) -> str:
        return self._cdn.url

    @property
    def rate(self) -> int | None:
        """Bytes a second for each connection to the CDN."""
        return self._bytes.rate

    @rate.setter
    def rate(self, rate: int | None) -> None:
        self._bytes.rate = rate

    def expire(self) -> None:
        """Make all addresses that were signed until now invalid."""
        self._signed_for += 1

    @property
    def line(self) -> int | None:
        """Bytes a second for all connections to the CDN together."""
        return self._bytes.line

    @line.setter
    def line(self, rate: int | None) -> None:
        self._bytes.line = rate

    def add(
        self,
        repo_id: str,
        files: Mapping[str, bytes | Path],
        *,
        digests: Mapping[str, str] | None = None,
        **properties: Unpack[RepositoryProperties],
    ) -> StandInRepository:
        """Serve a repository. A `Path` is streamed from disk; `digests` has the sha256 of files too large to hash."""
        repository = StandInRepository(repo_id, **properties)
        repository.update(files, digests=digests)
        self.repositories[repo_id] = repository
        return repository

    def _hub_routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/models", self._list),
            web.get("/api/whoami-v2", self._whoami),
            web.get("/api/models/{org}/{repo}", self._describe),
            web.get("/api/models/{org}/{repo}/revision/{revision}", self._describe),
            web.get("/api/models/{org}/{repo}/auth-check", self._check_access),
            web.get("/api/models/{org}/{repo}/refs", self._refs),
            web.get("/api/models/{org}/{repo}/commits/{revision}", self._commits),
            web.get("/api/models/{org}/{repo}/tree/{revision}", self._tree),
            web.get("/api/models/{org}/{repo}/tree/{revision}/", self._tree),  # as olah asks
            web.post("/api/models/{org}/{repo}/paths-info/{revision}", self._paths_info),
            web.get("/{org}/{repo}/resolve/{revision}/{path:.+}", self._resolve),
            web.get("/api/resolve-cache/models/{org}/{repo}/{revision}/{path:.+}", self._plain_file),
        ]

    async def _whoami(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self.token}" or self.token in self.revoked:
            return web.json_response({"error": INVALID_CREDENTIALS}, status=401)
        return web.json_response({"name": "someone", "type": "user"})

    async def _list(self, request: web.Request) -> web.StreamResponse:
        trusted = self._trusts(request)
        tags = set(request.query.getall("filter", []))
        models = [
            model
            for repository in self.repositories.values()
            if (trusted or not repository.private) and tags <= set((model := summary(repository))["tags"])
        ]
        if request.query.get("sort") == "downloads":
            models.sort(key=lambda model: -int(model["downloads"]))
        return await self._send_json(request, "list", models[: int(request.query.get("limit", 1000))])

    async def _describe(self, request: web.Request) -> web.StreamResponse:
        repository, commit = self._open(request, gate=False)
        sizes = request.query.get("blobs", "").lower() in {"true", "1"} and self.listing != "names"
        info = await model_info(repository, commit, sizes=sizes, digests=self.listing == "full")
        info["siblings"] = info["siblings"][: self.listed]
        return await self._send_json(request, "info", info)

    async def _tree(self, request: web.Request) -> web.StreamResponse:
        repository, commit = self._open(request, gate=False)
        if not self.trees:
            raise web.HTTPNotFound(text="404 page not found")
        start = int(request.query.get("cursor", 0))
        entries = await tree(repository.commits[commit])
        headers = {}
        if start + self.tree_page < len(entries):
            query = urlencode({**request.query, "cursor": start + self.tree_page})
            headers["Link"] = f'<{self.next_pages or self.endpoint}{request.path}?{query}>; rel="next"'
        return await self._send_json(request, "tree", entries[start : start + self.tree_page], headers)

    async def _refs(self, request: web.Request) -> web.StreamResponse:
        repository, _ = self._open(request, gate=False)
        if self.mirror:
            raise web.HTTPNotFound(text="404 page not found")
        return await self._send_json(request, "refs", refs(repository))

    async def _commits(self, request: web.Request) -> web.StreamResponse:
        """All commits, whatever the revision: the stand-in does not know which commit came from which."""
        repository, _ = self._open(request, gate=False)
        return await self._send_json(request, "commits", commits(repository))

    async def _paths_info(self, request: web.Request) -> web.StreamResponse:
        repository, commit = self._open(request, gate=False)
        paths = (await request.post()).getall("paths", [])
        entries = await tree(repository.commits[commit])
        return await self._send_json(request, "paths-info", [entry for entry in entries if entry["path"] in paths])

    async def _check_access(self, request: web.Request) -> web.StreamResponse:
        self._open(request)
        return await self._send_json(request, "auth-check", {})

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        repository, commit = self._open(request)
        path = request.match_info["path"]
        file = _entry(repository, commit, path)
        fault = self._pages.faults.take(path, request, at="resolve")
        if fault and fault.kind != "headers":
            return await self._pages.refuse(request, fault)
        if self.mirror and request.method == "HEAD":
            etag = await (file.sha256() if file.lfs else file.blob_id())
            return web.Response(headers={"Content-Length": str(file.size), "ETag": etag, "X-Repo-Commit": commit})
        if self.mirror:
            return await self._pages.send(request, path, RequestedRange(file, 0, file.size), {}, with_length=False)
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes", "Vary": "Origin"}
        if file.lfs:
            headers["X-Linked-Etag"] = f'"{await file.sha256()}"'
            headers["X-Linked-Size"] = str(file.size)
            headers["Location"] = await self._signed_url(repository.repo_id, commit, path, file)
            headers |= fault.headers if fault else {}
            return web.Response(status=302, headers=headers, text="Found. The bytes are elsewhere.")
        etag = f'"{await file.blob_id()}"'
        cached = f"/api/resolve-cache/models/{repository.repo_id}/{commit}/{quote(path)}"
        headers["ETag"] = etag
        headers["Location"] = f"{cached}?{quote(request.path, safe='')}=&etag={quote(etag)}"
        return web.Response(status=307, headers=headers, text="Temporary Redirect. The bytes are in the cache.")

    async def _plain_file(self, request: web.Request) -> web.StreamResponse:
        repository, commit = self._open(request)
        path = request.match_info["path"]
        file = _entry(repository, commit, path)
        etag = f'"{await file.blob_id()}"'
        headers = {"X-Repo-Commit": commit, "ETag": etag, "Accept-Ranges": "bytes"}
        if _accepts_gzip(request) and file.size <= MAX_GZIPPED and "Range" not in request.headers:
            data = await file.read(0, file.size)
            if b"\0" not in data:  # git decides in the same way what is text
                return await self._send_gzipped(request, path, data, {**headers, "ETag": f"W/{etag}"})
        headers["Content-Type"] = "application/octet-stream" if file.lfs else "text/plain; charset=utf-8"
        return await self._pages.send(request, path, RequestedRange.of(request, file), headers)

    async def _linked_file(self, request: web.Request) -> web.StreamResponse:
        signed, _, signature = request.raw_path.partition("&X-Amz-Signature=")
        if not hmac.compare_digest(signature.encode(), self._signature(signed).encode()):
            return web.Response(status=403, text="<Error><Code>SignatureDoesNotMatch</Code></Error>")
        parts = request.match_info
        repository = self.repositories.get(f"{parts['org']}/{parts['repo']}")
        files = repository.commits.get(parts["commit"], {}) if repository else {}
        file = files.get(parts["path"])
        if file is None:
            return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>")
        # As on S3, this ETag is not the file's sha256; a client that uses it as one must fail.
        etag = hashlib.md5((await file.sha256()).encode()).hexdigest()
        headers = {"ETag": f'"{etag}-{file.size // (8 << 20) + 1}"', "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        return await self._bytes.send(request, parts["path"], RequestedRange.of(request, file), headers)

    async def _signed_url(self, repo_id: str, commit: str, path: str, file: StoredFile) -> str:
        """The CDN's address of a file. Its signature is over the exact bytes: quoting it again breaks it."""
        name = quote(path.rpartition("/")[2])
        target = (
            f"/repos/{repo_id}/{commit}/{await file.sha256()}/{quote(path)}"
            f"?X-Amz-Credential=demo%2F20260101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Expires=3600"
            f"&response-content-disposition=inline%3B%20filename%3D%22{name}%22%3B+attachment&x-id=GetObject"
        )
        return f"{self.cdn}{target}&X-Amz-Signature={self._signature(target)}"

    def _signature(self, target: str) -> str:
        return hmac.new(SIGNING_KEY, f"{self._signed_for} {target}".encode(), hashlib.sha256).hexdigest()

    def _trusts(self, request: web.Request) -> bool:
        """Whether the request's token has access to everything."""
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token in self.revoked:
            raise self._refusal(request, 401, None, INVALID_CREDENTIALS)
        return self.token is not None and token == self.token

    def _open(self, request: web.Request, *, gate: bool = True) -> tuple[StandInRepository, str]:
        """The repository and commit that a request names. Raises the Hub's refusal if its token has no access."""
        repo_id = f"{request.match_info['org']}/{request.match_info['repo']}"
        repository = self.repositories.get(repo_id)
        trusted = self._trusts(request)
        token = request.headers.get("Authorization")
        lacks_revision = self.branches_only and "revision" not in request.match_info
        if repository is None or (repository.private and not trusted) or lacks_revision:
            if not token or self.mirror:
                raise self._refusal(request, 401, "RepoNotFound", "Invalid username or password.")
            raise self._refusal(request, 404, "RepoNotFound", "Repository not found")
        if repository.disabled:
            raise self._refusal(request, 403, None, DISABLED)
        if gate and repository.gated and not trusted:
            text = f"{repo_id} is gated: ask for access at {self.endpoint}/{repo_id}"
            raise self._refusal(request, 403 if token else 401, "GatedRepo", text)
        revision = request.match_info.get("revision", "main")
        commit = repository.resolve(revision)
        if commit is None:
            raise self._refusal(request, 404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit

    async def _send_json(
        self, request: web.Request, call: str, value: object, headers: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        """`call`: as faults name it."""
        path = f"api:{call}"
        data = orjson.dumps(value)
        headers = {**(headers or {}), "Content-Type": "application/json; charset=utf-8"}
        if _accepts_gzip(request):
            return await self._send_gzipped(request, path, data, headers)
        return await self._pages.send(request, path, RequestedRange(StoredFile(data), 0, len(data)), headers)

    async def _send_gzipped(
        self, request: web.Request, path: str, data: bytes, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        packed = gzip.compress(data, mtime=0)
        headers = {"Content-Type": "text/plain; charset=utf-8", **headers, "Content-Encoding": "gzip"}
        piece = RequestedRange(StoredFile(packed), 0, len(packed))
        return await self._pages.send(request, path, piece, headers, with_length=False)

    def _refusal(self, request: web.Request, status: int, code: str | None, message: str) -> web.HTTPException:
        exceptions: dict[int, type[web.HTTPException]] = {401: web.HTTPUnauthorized, 403: web.HTTPForbidden}
        headers = {} if self.plain_errors else {"X-Error-Message": message}
        if code is not None and not self.plain_errors:
            headers["X-Error-Code"] = code
        if status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="Authentication required", charset="UTF-8"'
        exception = exceptions.get(status, web.HTTPNotFound)
        if request.path.startswith("/api/models/"):
            body = orjson.dumps({"error": message}).decode()
            return exception(headers=headers, text=body, content_type="application/json")
        return exception(headers=headers, text=message)


def _accepts_gzip(request: web.Request) -> bool:
    return "gzip" in request.headers.get("Accept-Encoding", "")


def _entry(repository: StandInRepository, commit: str, path: str) -> StoredFile:
    file = repository.commits[commit].get(path)
    if file is None:
        headers = {
            "X-Error-Code": "EntryNotFound",
            "X-Error-Message": "Entry not found",
            "X-Repo-Commit": commit,
        }
        raise web.HTTPNotFound(headers=headers, text="Entry not found")
    return file
