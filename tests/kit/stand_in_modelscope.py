"""A stand-in for ModelScope with two local ports: one for lists and small files, one for large files."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import orjson
from aiohttp import web

from proxy.standins.delivery import Delivery, Fault, FaultCounter, RequestedRange
from proxy.standins.hub_repository import StandInRepository, StoredFile
from proxy.standins.listener import LoggedRequest, LoggingServer, StandIn

MASTER = "master"


class StandInModelScope(StandIn):
    """Tests fill it with `add`, break it with `faults` (path "api" for lists) and read `requests`."""

    def __init__(self) -> None:
        self.repositories: dict[str, StandInRepository] = {}
        self.requests: list[LoggedRequest] = []
        self.faults: list[Fault] = []
        self.token: str | None = None  # gives access to private and gated repositories
        self.refusal = 404  # the status for a missing or private repository
        self.range_status = 200  # ModelScope answers 200; other servers answer 206
        self.overrides: dict[str, Any] = {}  # replaces fields of `Data` in a list
        self._signed_for = 0
        counter = FaultCounter(self.faults)
        self._delivery = Delivery(counter)
        base = "/api/v1/models/{org}/{repo}/repo"
        self._api = LoggingServer(
            "api", [web.get(base, self._file), web.get(f"{base}/files", self._list)], self.requests
        )
        self._cdn = LoggingServer(
            "cdn", [web.get("/{number}/{org}/{repo}/{commit}/{path:.+}", self._linked)], self.requests
        )
        super().__init__(self._api, self._cdn)

    @property
    def endpoint(self) -> str:
        return self._api.url

    def add(self, repo_id: str, files: Mapping[str, bytes], **flags: Any) -> StandInRepository:
        repository = self.repositories[repo_id] = StandInRepository(repo_id, **flags)
        repository.update(files)
        return repository

    def expire(self) -> None:
        """Refuse all signed URLs that were issued so far."""
        self._signed_for += 1

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if (fault := self._delivery.faults.take("api", request)) is not None:
            return await self._delivery.refuse(request, fault)
        repository, commit = self._open(request)
        tree = repository.commits[commit]
        # modelscope.cn ignores `recursive` in lower case (others have verified this).
        recursive = request.query.get("Recursive", "") in ("True", "true")
        folders = {path[:cut] for path in tree for cut, letter in enumerate(path) if letter == "/"}
        entries = [{"Path": path, "Name": path.rpartition("/")[2], "Type": "tree", "Size": 0} for path in folders]
        entries += [await _entry(repository, commit, path, file) for path, file in tree.items()]
        data = {
            "Files": [entry for entry in entries if recursive or "/" not in str(entry["Path"])],
            "IsVisual": False,
            "LatestCommitter": {"Id": "", "ShortId": commit[:8], "Name": "acme"},
        }
        return _envelope(200, "success", data | self.overrides)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        repository, commit = self._open(request, gate=True)
        path = request.query["FilePath"]
        file = repository.commits[commit].get(path)
        if file is None:
            return _envelope(404, "file not found")
        if file.lfs:
            name = f"{self._signed_for}/{repository.repo_id}/{commit}/{quote(path)}?auth_key=a%2Fb"
            return web.Response(status=302, headers={"Location": f"{self._cdn.url}/{name}"})
        return await self._send(request, path, file)

    async def _linked(self, request: web.Request) -> web.StreamResponse:
        parts = request.match_info
        if parts["number"] != str(self._signed_for) or not request.raw_path.endswith("?auth_key=a%2Fb"):
            return web.Response(status=403, text="expired")
        files = self.repositories[f"{parts['org']}/{parts['repo']}"].commits[parts["commit"]]
        return await self._send(request, parts["path"], files[parts["path"]])

    async def _send(self, request: web.Request, path: str, file: StoredFile) -> web.StreamResponse:
        piece = RequestedRange.of(request, file)
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **piece.headers}
        if piece.status == 206:
            piece = replace(piece, status=self.range_status)
        return await self._delivery.send(request, path, piece, headers)

    def _open(self, request: web.Request, *, gate: bool = False) -> tuple[StandInRepository, str]:
        repository = self.repositories.get(f"{request.match_info['org']}/{request.match_info['repo']}")
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        trusted = self.token is not None and self.token == bearer == request.cookies.get("m_session_id")
        if repository is None or ((repository.private or (gate and repository.gated)) and not trusted):
            raise _Refused(self.refusal)
        revision = request.query.get("Revision", MASTER)
        commit = repository.resolve({MASTER: "main", "main": MASTER}.get(revision, revision))
        if commit is None:
            raise _Refused(404)
        return repository, commit


class _Refused(web.HTTPException):
    def __init__(self, status: int) -> None:
        self.status_code = status
        super().__init__(text=_text(status, "the stand-in knows no such model"), content_type="application/json")


async def _entry(repository: StandInRepository, commit: str, path: str, file: StoredFile) -> dict[str, Any]:
    changed = next(name for name, tree in repository.commits.items() if tree.get(path) is file)
    return {
        "CommittedDate": 1726842501,
        "InCheck": False,
        "IsLFS": file.lfs,
        "Mode": "33188",
        "Name": path.rpartition("/")[2],
        "Path": path,
        "Revision": changed,
        "Sha256": await file.sha256(),
        "Size": file.size,
        "Type": "blob",
    }


def _text(status: int, message: str, data: object = None) -> str:
    code = status if status == 200 else 10010205001
    return orjson.dumps({"Code": code, "Data": data, "Message": message, "Success": status == 200}).decode()


def _envelope(status: int, message: str, data: object = None) -> web.Response:
    return web.Response(status=status, text=_text(status, message, data), content_type="application/json")
