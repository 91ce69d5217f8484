"""A Hub on two local ports, one for the pages and one for the bytes, that a test fills, breaks and reads."""

import gzip
import hashlib
import hmac
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlencode

import orjson
from aiohttp import web

from proxy.standins.delivery import Delivery, Fault, FaultCounter, RequestedRange
from proxy.standins.listener import LoggedRequest, LoggingServer, StandIn
from proxy.standins.listing import described, summary, tree
from proxy.standins.repositories import StandInRepository, StoredFile

__all__ = ["Fault", "LoggedRequest", "StandInHub", "StandInRepository", "StoredFile"]

DISABLED = "Access to this resource is disabled."
INVALID_CREDENTIALS = "Invalid credentials in Authorization header"
SIGNING_KEY = b"known to this hub and its cdn"
MOST_GZIPPED = 16 << 20


class StandInHub(StandIn):
    def __init__(self, *, port: int = 0, cdn_port: int = 0) -> None:
        self.repositories: dict[str, StandInRepository] = {}
        self.requests: list[LoggedRequest] = []
        self.faults: list[Fault] = []
        self.mirror = False  # gives files as olah gives its own: whole, without redirect, length, etag or ranges
        self.branches_only = False  # knows no repository without a revision, as olah its own
        self.listing: Literal["full", "sizes", "names"] = "full"  # what a model's description says of its files
        self.trees = True  # whether a repository's tree can be asked for
        self.tree_page = 1000  # files and folders in one answer
        self.next_pages: str | None = None  # where a tree's next page is said to be, if not here
        self.plain_errors = False  # answers without the Hub's X-Error headers, as mirrors of other makers do
        self.token: str | None = None  # opens what is gated or private; any other is a stranger's
        self.revoked: set[str] = set()  # tokens that no longer belong to anybody
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
        """From now on the addresses that were signed so far are refused."""
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
        lfs: Callable[[str], bool] | None = None,
        gated: bool = False,
        private: bool = False,
        disabled: bool = False,
        quantized_from: str = "",
        downloads: int = 0,
        digests: Mapping[str, str] | None = None,
    ) -> StandInRepository:
        """A `Path` is streamed from disk; `digests` holds the sha256 of files too large to be hashed here."""
        repository = StandInRepository(
            repo_id,
            lfs=lfs,
            gated=gated,
            private=private,
            disabled=disabled,
            quantized_from=quantized_from,
            downloads=downloads,
        )
        repository.update(files, digests=digests)
        self.repositories[repo_id] = repository
        return repository

    def _hub_routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/models", self._list),
            web.get("/api/whoami-v2", self._say_who),
            web.get("/api/models/{org}/{repo}", self._describe),
            web.get("/api/models/{org}/{repo}/revision/{revision}", self._describe),
            web.get("/api/models/{org}/{repo}/auth-check", self._check_access),
            web.get("/api/models/{org}/{repo}/tree/{revision}", self._tree),
            web.get("/api/models/{org}/{repo}/tree/{revision}/", self._tree),  # as olah asks
            web.post("/api/models/{org}/{repo}/paths-info/{revision}", self._paths_info),
            web.get("/{org}/{repo}/resolve/{revision}/{path:.+}", self._resolve),
            web.get("/api/resolve-cache/models/{org}/{repo}/{revision}/{path:.+}", self._plain_file),
        ]

    async def _say_who(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self.token}" or self.token in self.revoked:
            return web.json_response({"error": "Invalid credentials in Authorization header"}, status=401)
        return web.json_response({"name": "someone", "type": "user"})

    async def _list(self, request: web.Request) -> web.StreamResponse:
        trusted = self._trusts(request)
        wanted = set(request.query.getall("filter", []))
        models = [
            model
            for repository in self.repositories.values()
            if (trusted or not repository.private) and wanted <= set((model := summary(repository))["tags"])
        ]
        if request.query.get("sort") == "downloads":
            models.sort(key=lambda model: -int(model["downloads"]))
        return await self._send_json(request, models[: int(request.query.get("limit", 1000))])

    async def _describe(self, request: web.Request) -> web.StreamResponse:
        repository, commit = self._open(request, gate=False)
        measured = request.query.get("blobs", "").lower() in {"true", "1"} and self.listing != "names"
        return await self._send_json(
            request, await described(repository, commit, measured=measured, digests=self.listing == "full")
        )

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
        return await self._send_json(request, entries[start : start + self.tree_page], headers)

    async def _paths_info(self, request: web.Request) -> web.StreamResponse:
        repository, commit = self._open(request, gate=False)
        asked = (await request.post()).getall("paths", [])
        entries = await tree(repository.commits[commit])
        return await self._send_json(request, [entry for entry in entries if entry["path"] in asked])

    async def _check_access(self, request: web.Request) -> web.Response:
        self._open(request)
        return web.json_response({})

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        repository, commit = self._open(request)
        path = request.match_info["path"]
        file = _entry(repository, commit, path)
        fault = self._pages.faults.take(path, request, at="resolve")
        if fault and fault.kind != "told":
            return await self._pages.refuse(request, fault)
        if self.mirror and request.method == "HEAD":
            etag = await (file.sha256() if file.lfs else file.blob_id())
            return web.Response(headers={"Content-Length": str(file.size), "ETag": etag, "X-Repo-Commit": commit})
        if self.mirror:
            return await self._pages.send(request, path, RequestedRange(file, 0, file.size), {}, measured=False)
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
        if _accepts_gzip(request) and file.size <= MOST_GZIPPED and "Range" not in request.headers:
            data = await file.read(0, file.size)
            if b"\0" not in data:  # git's own test for a text
                return await self._send_gzipped(request, path, data, {**headers, "ETag": f"W/{etag}"})
        headers["Content-Type"] = "application/octet-stream" if file.lfs else "text/plain; charset=utf-8"
        return await self._pages.send(request, path, RequestedRange.asked_by(request, file), headers)

    async def _linked_file(self, request: web.Request) -> web.StreamResponse:
        signed, _, signature = request.raw_path.partition("&X-Amz-Signature=")
        if not hmac.compare_digest(signature.encode(), self._signature(signed).encode()):
            return web.Response(status=403, text="<Error><Code>SignatureDoesNotMatch</Code></Error>")
        place = request.match_info
        repository = self.repositories.get(f"{place['org']}/{place['repo']}")
        tree = repository.commits.get(place["commit"], {}) if repository else {}
        file = tree.get(place["path"])
        if file is None:
            return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>")
        # As on S3 the CDN's ETag is of its own making: taken for the file's sha256 it must fail.
        etag = hashlib.md5((await file.sha256()).encode()).hexdigest()
        headers = {"ETag": f'"{etag}-{file.size // (8 << 20) + 1}"', "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        return await self._bytes.send(request, place["path"], RequestedRange.asked_by(request, file), headers)

    async def _signed_url(self, repo_id: str, commit: str, path: str, file: StoredFile) -> str:
        """An address that holds byte for byte: a client that quotes it again breaks its signature."""
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
        """Whether a request's token opens everything here."""
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token in self.revoked:
            raise self._refusal(request, 401, None, INVALID_CREDENTIALS)
        return self.token is not None and token == self.token

    def _open(self, request: web.Request, *, gate: bool = True) -> tuple[StandInRepository, str]:
        """The repository and the commit that a request names, if its token may see them."""
        repo_id = f"{request.match_info['org']}/{request.match_info['repo']}"
        repository = self.repositories.get(repo_id)
        trusted = self._trusts(request)
        token = request.headers.get("Authorization")
        unnamed = self.branches_only and "revision" not in request.match_info
        if repository is None or (repository.private and not trusted) or unnamed:
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
        self, request: web.Request, value: object, headers: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        data = orjson.dumps(value)
        headers = {**(headers or {}), "Content-Type": "application/json; charset=utf-8"}
        if _accepts_gzip(request):
            return await self._send_gzipped(request, "api", data, headers)
        return await self._pages.send(request, "api", RequestedRange(StoredFile(data), 0, len(data)), headers)

    async def _send_gzipped(
        self, request: web.Request, path: str, data: bytes, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        packed = gzip.compress(data, mtime=0)
        headers = {"Content-Type": "text/plain; charset=utf-8", **headers, "Content-Encoding": "gzip"}
        piece = RequestedRange(StoredFile(packed), 0, len(packed))
        return await self._pages.send(request, path, piece, headers, measured=False)

    def _refusal(self, request: web.Request, status: int, code: str | None, message: str) -> web.HTTPException:
        kinds: dict[int, type[web.HTTPException]] = {401: web.HTTPUnauthorized, 403: web.HTTPForbidden}
        headers = {} if self.plain_errors else {"X-Error-Message": message}
        if code is not None and not self.plain_errors:
            headers["X-Error-Code"] = code
        if status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="Authentication required", charset="UTF-8"'
        kind = kinds.get(status, web.HTTPNotFound)
        if request.path.startswith("/api/models/"):
            body = orjson.dumps({"error": message}).decode()
            return kind(headers=headers, text=body, content_type="application/json")
        return kind(headers=headers, text=message)


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
