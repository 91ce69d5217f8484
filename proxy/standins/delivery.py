"""Sends a file's bytes: whole or a range, at a chosen pace, and with the faults that a test asked for."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from aiohttp import web

from proxy.standins.listener import LOGGED, flush, reset
from proxy.standins.repositories import CHUNK, StoredFile


@dataclass(frozen=True, eq=False)
class Fault:
    """Something that goes wrong with the next answers about a file.

    `path` is a file's path in its repository, `"*"` for every file, or `"api"` for a model's description.
    `after` counts the bytes of the answer's body, for "corrupt" those of the file; a range that ends before
    it is left alone. "drop" and "hang" at 0 strike before the headers. "whole" answers a range with 200 and the
    whole file, "misplaced" with the bytes and the Content-Range of its neighbour, "cut" with half of it in good
    order; "slow" goes on at `rate` bytes a second. `at` tells the question where a file is ("resolve") from its
    bytes; "told" changes the headers of its answer.
    """

    path: str
    kind: Literal["drop", "hang", "short", "corrupt", "status", "whole", "misplaced", "cut", "slow", "told"]
    after: int = 0
    status: int = 503
    rate: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int = 1  # -1: always
    at: Literal["bytes", "resolve"] = "bytes"

    def strikes(self, method: str, start: int, length: int) -> bool:
        if self.kind in {"status", "told"}:
            return True
        if method == "HEAD":
            return self.after == 0 and self.kind in {"drop", "hang"}
        if self.kind in {"whole", "misplaced", "cut"}:
            return length > max(1, self.after)
        if self.kind == "corrupt":
            return start <= self.after < start + length
        return self.after < length or (self.after == 0 and self.kind != "short")


class FaultCounter:
    """Finds the fault for an answer in a list that a test may change at any time."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = faults
        self._fired: dict[Fault, int] = {}

    def take(
        self, path: str, request: web.Request, *, at: str = "bytes", start: int = 0, length: int = 0
    ) -> Fault | None:
        for fault in self._faults:
            named = fault.path == path or (fault.path == "*" and path != "api")
            fired = self._fired.get(fault, 0)
            if named and fault.at == at and fired != fault.times and fault.strikes(request.method, start, length):
                self._fired[fault] = fired + 1
                return fault
        return None


@dataclass(frozen=True)
class RequestedRange:
    """What one answer carries: a file, or the range of it that was asked for."""

    file: StoredFile
    start: int
    end: int
    status: int = 200

    @classmethod
    def asked_by(cls, request: web.Request, file: StoredFile) -> "RequestedRange":
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if asked is None:
            return cls(file, 0, file.size)
        start = int(asked[1])
        end = min(int(asked[2]) + 1, file.size) if asked[2] else file.size
        return cls(file, start, end, 206) if start < end else cls(file, 0, 0, 416)

    def bent(self, kind: str) -> "RequestedRange":
        """What is sent in the place of a range."""
        match kind:
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
    """How one server answers with bytes: its faults and its pace."""

    def __init__(self, faults: FaultCounter) -> None:
        self.faults = faults
        self.rate: int | None = None
        self.line: int | None = None
        self._line_free_at = 0.0

    async def refuse(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        """The whole answer of a fault that strikes before the headers."""
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
        measured: bool = True,
    ) -> web.StreamResponse:
        """Answer with a piece; one that is not `measured` has no Content-Length."""
        fault = self.faults.take(path, request, start=piece.start, length=piece.end - piece.start)
        if fault and (fault.kind == "status" or (fault.after == 0 and fault.kind in {"drop", "hang"})):
            return await self.refuse(request, fault)
        if fault:
            piece = piece.bent(fault.kind)
        response = web.StreamResponse(status=piece.status, headers={**headers, **piece.headers})
        if fault and fault.kind == "cut":
            piece = replace(piece, end=(piece.start + piece.end) // 2)
        if measured:
            response.content_length = piece.end - piece.start
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        if fault is None or fault.kind in {"whole", "misplaced", "cut"}:
            await self._write(request, response, piece, piece.end)
        elif fault.kind == "slow":
            await self._write(request, response, piece, piece.start + fault.after)
            await self._write(
                request, response, replace(piece, start=piece.start + fault.after), piece.end, rate=fault.rate
            )
        elif fault.kind == "corrupt":
            await self._write(request, response, piece, piece.end, flip=fault.after)
        else:
            await self._write(request, response, piece, piece.start + fault.after)
            await self._break_off(request, fault)
        return response

    async def _write(
        self,
        request: web.Request,
        response: web.StreamResponse,
        piece: RequestedRange,
        end: int,
        *,
        flip: int = -1,
        rate: int | None = None,
    ) -> None:
        offset = piece.start
        rate = self.rate if rate is None else rate
        while offset < end:
            pace = rate or self.line
            step = CHUNK if pace is None else max(1, min(CHUNK, pace // 20))
            chunk = await piece.file.read(offset, min(step, end - offset))
            if not chunk:
                raise EOFError(f"a served file ends at {offset}, before {end}")
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
