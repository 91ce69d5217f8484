"""Sends the bytes of a file or of a range, at a chosen speed and with the faults that a test has set."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from aiohttp import web

from proxy.standins.hub_repository import CHUNK, StoredFile
from proxy.standins.listener import LOGGED, flush, reset


@dataclass(frozen=True, eq=False)
class Fault:
    """Something that goes wrong with the next answers about a file.

    `path` is a file's path in its repository, `"*"` for every file, `"api"` for every call of the API, or one call of
    it: `"api:info"` (a model's description), `"api:tree"`, `"api:auth-check"`, `"api:list"`.
    `after` counts bytes of the answer's body, but for "corrupt" bytes of the file. A range that ends before `after`
    is served correctly.

    - "drop" resets the connection, "hang" stops sending, "short" closes it too early. "drop" and "hang" with `after=0`
      strike before the headers.
    - "corrupt" flips the byte at `after`; "slow" sends the rest at `rate` bytes a second.
    - "whole" answers a range with 200 and the whole file. "misplaced" sends the range one byte further, and says so
      in Content-Range. "cut" sends the first half of the range, with the Content-Length of that half.
    - "status" answers with `status` and `headers`.
    - "headers" adds `headers` to the redirect of an LFS file.

    `at="resolve"` strikes the request for a file's address, `at="bytes"` the request for its bytes.
    """

    path: str
    kind: Literal["drop", "hang", "short", "corrupt", "status", "whole", "misplaced", "cut", "slow", "headers"]
    after: int = 0
    status: int = 503
    rate: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int = 1  # -1: always
    at: Literal["bytes", "resolve"] = "bytes"

    def strikes(self, method: str, start: int, length: int) -> bool:
        if self.kind in {"status", "headers"}:
            return True
        if method == "HEAD":
            return self.after == 0 and self.kind in {"drop", "hang"}
        if self.kind in {"whole", "misplaced", "cut"}:
            return length > max(1, self.after)
        if self.kind == "corrupt":
            return start <= self.after < start + length
        return self.after < length or (self.after == 0 and self.kind != "short")


class FaultCounter:
    """Finds the fault for an answer, and counts how often it struck. A test may change the list at any time."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = faults
        self._fired: dict[Fault, int] = {}

    def take(
        self, path: str, request: web.Request, *, at: str = "bytes", start: int = 0, length: int = 0
    ) -> Fault | None:
        for fault in self._faults:
            every = "api" if path.partition(":")[0] == "api" else "*"
            matches = fault.at == at and fault.path in (path, every)
            strikes = self._fired.get(fault, 0)
            if matches and strikes != fault.times and fault.strikes(request.method, start, length):
                self._fired[fault] = strikes + 1
                return fault
        return None


@dataclass(frozen=True)
class RequestedRange:
    """The part of a file that a request asks for, with the status of the answer."""

    file: StoredFile
    start: int
    end: int
    status: int = 200

    @classmethod
    def of(cls, request: web.Request, file: StoredFile) -> "RequestedRange":
        header = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if header is None:
            return cls(file, 0, file.size)
        start = int(header[1])
        end = min(int(header[2]) + 1, file.size) if header[2] else file.size
        return cls(file, start, end, 206) if start < end else cls(file, 0, 0, 416)

    def altered_by(self, fault: Fault) -> "RequestedRange":
        """The range that the answer has because of this fault."""
        match fault.kind:
            case "whole":
                return RequestedRange(self.file, 0, self.file.size)
            case "misplaced":
                return replace(self, start=self.start + 1, end=min(self.end + 1, self.file.size))
            case _:
                return self

    @property
    def headers(self) -> dict[str, str]:
        if self.status == 206:
            return {"Content-Range": f"bytes {self.start}-{self.end - 1}/{self.file.size}"}
        return {"Content-Range": f"bytes */{self.file.size}"} if self.status == 416 else {}


class Delivery:
    """Sends one server's answers, with its faults and at its speed."""

    def __init__(self, faults: FaultCounter) -> None:
        self.faults = faults
        self.rate: int | None = None  # bytes a second of each connection
        self.line: int | None = None  # bytes a second of all connections together, like a network line
        self._line_free_at = 0.0

    async def refuse(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        """The answer for a fault that strikes before the headers."""
        if fault.kind == "status":
            return web.Response(status=fault.status, headers=fault.headers)
        if fault.kind == "hang":
            await asyncio.Event().wait()  # until the client leaves or the server closes
        reset(request)
        return web.Response()

    async def send(
        self,
        request: web.Request,
        path: str,
        piece: RequestedRange,
        headers: Mapping[str, str],
        *,
        with_length: bool = True,
    ) -> web.StreamResponse:
        """Answer with a piece of a file, with its Content-Length unless `with_length` is false."""
        fault = self.faults.take(path, request, start=piece.start, length=piece.end - piece.start)
        if fault and (fault.kind == "status" or (fault.after == 0 and fault.kind in {"drop", "hang"})):
            return await self.refuse(request, fault)
        if fault:
            piece = piece.altered_by(fault)
        response = web.StreamResponse(status=piece.status, headers={**headers, **piece.headers})
        if fault and fault.kind == "cut":
            piece = replace(piece, end=(piece.start + piece.end) // 2)
        if with_length:
            response.content_length = piece.end - piece.start
        await response.prepare(request)
        if request.method != "HEAD":
            await self._send_body(request, response, piece, fault)
        return response

    async def _send_body(
        self, request: web.Request, response: web.StreamResponse, piece: RequestedRange, fault: Fault | None
    ) -> None:
        if fault is None or fault.kind in {"whole", "misplaced", "cut"}:
            await self._write(request, response, piece)
            return
        if fault.kind == "corrupt":
            await self._write(request, response, piece, flip=fault.after)
            return
        strikes_at = piece.start + fault.after
        await self._write(request, response, replace(piece, end=strikes_at))
        if fault.kind == "slow":
            await self._write(request, response, replace(piece, start=strikes_at), rate=fault.rate)
        else:
            await self._break_off(request, fault)

    async def _write(
        self,
        request: web.Request,
        response: web.StreamResponse,
        piece: RequestedRange,
        *,
        flip: int = -1,
        rate: int | None = None,
    ) -> None:
        offset = piece.start
        rate = self.rate if rate is None else rate
        while offset < piece.end:
            speed = rate or self.line
            step = CHUNK if speed is None else max(1, min(CHUNK, speed // 20))
            chunk = await piece.file.read(offset, min(step, piece.end - offset))
            if not chunk:
                raise EOFError(f"a served file ends at {offset}, before {piece.end}")
            if offset <= flip < offset + len(chunk):
                altered = bytearray(chunk)
                altered[flip - offset] ^= 0xFF
                chunk = bytes(altered)
            if self.line is not None:
                now = asyncio.get_running_loop().time()
                self._line_free_at = max(self._line_free_at, now) + len(chunk) / self.line
                await asyncio.sleep(self._line_free_at - now)
            await response.write(chunk)
            request[LOGGED].body_bytes += len(chunk)
            offset += len(chunk)
            if rate is not None:
                await asyncio.sleep(len(chunk) / rate)

    async def _break_off(self, request: web.Request, fault: Fault) -> None:
        if fault.kind == "hang":
            await asyncio.Event().wait()
        elif fault.kind == "drop":
            await flush(request)
            reset(request)
        elif request.transport is not None:
            request.transport.close()
